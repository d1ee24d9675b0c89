"""What the output would be, if one row after the other had another value.

What the recomputation relies on: all that the program does with a value, it does through the object
that a call gave, and by calls and reads that the tape has. `sharing` (operations whose results may
be others' memory), `inputs` (those that the model holds by another name) and `apart` (what reads an
object that was handed back by its new name) tell where that holds. Then `recomputed` (what depends
on a row, from the saved values, and when that is not certain), `outputs` (what the model returns,
with other tensors in it), `forwards` (the model itself, with the value) and `patch` (the frame).
"""
