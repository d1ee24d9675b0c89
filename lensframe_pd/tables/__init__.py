"""A tape as tables: `layers` (the DataFrame) and `activations` (the Dataset).

`stimuli` reads the table of the stimuli; `axes` says what an operation does to named axes, `dims`
follows the names along a tape.
"""
