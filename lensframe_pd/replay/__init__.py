"""Recorded calls run again, on any values.

`call` runs one call again; `recording` is a whole trace with its values; `onward` carries changed
values on along it.
"""
