"""Tables to disk and back: `files` (lf.write and lf.read) first, then one module a format.

`frames` (Parquet, Feather, Arrow), `arrow` and `stores` (netCDF, zarr) are formats, `names` what
a file system can call a variable. `places` says where to write and read, `atomic` how a write is
whole or absent, `steady` how a full disk ends it. `checksums` are of what is in a file, `checked`
arrays are compared with them before they are used, and by `damage` no file is trusted.
"""
