"""A tape as tables: `layers` (the DataFrame) and `activations` (the Dataset).

`axes` says what an operation does to named axes, `dims` follows the names along a tape.
"""
