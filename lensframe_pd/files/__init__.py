"""Tables to disk and back: `files` (lf.write and lf.read) first, then one module a format.

`arrow` and `stores` (netCDF, zarr) are the formats, `names` what a file system can call a
variable, `atomic` how a write is whole or absent.
"""
