"""Frame to frame: the verbs on the graph that a frame of rows is.

`edges` gives and rewires edges; `select` finds and keeps rows; `fold` puts rows together (roll and
collapse); `diff` compares two frames.
"""
