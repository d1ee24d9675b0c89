"""Frame to frame: the verbs on the graph that a frame of rows is.

`edges` reads and rewires edges; `select` finds and keeps rows; `fold` puts rows together (roll and
collapse), both by `contract`; `parameters` counts each parameter once. `diff`
compares two frames: `align` says which rows are one step, under names from `renamed`; `compared` in
what they differ, and `apart` how far their values are.
"""
