"""A tape as tables, with the labels that `tape/passes` gives its rows.

`layers` is the frame of operations, made of `columns`; `activations` the Dataset of values, with
the ids of `stimuli`; `gradients` that of the gradients of a loss, and `without` why a row has none.
`nonfinite` says what each value was made of.
The axes: `order` says which stimulus each entry of an axis is, `case` what a rule on axes may look
at; the rules, by what an operation does, are in `pointwise`, `reshape`, `selection`, `indexing`,
`writes`, `sequences`, `space`, `norms`, `products`, `reductions` and `axes`, which has the table of
them; `aliases` is for writes through views, `readers` for inputs; `dims` follows all of it along
the tape and gives dimensions their names.
`continued` finds the passes that continue one another, as where text is generated with a cache, and
by `tokens` along which axes their rows have the tokens; `centres` where in the input the entries of
an axis over space or time look.
"""
