"""What the output would be, if one row after the other had another value.

`sharing` (operations whose results may be others' memory), `recomputed` (what depends on a row,
from the saved values, and when that is not certain), `forwards` (the model itself, with the value)
and `patch` (the frame of it all).
"""
