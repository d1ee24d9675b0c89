"""Activations as one netCDF-4 file, through xarray and h5netcdf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from lensframe_pd.errors import LensTypeError, LensValueError, needs
from lensframe_pd.files.atomic import new_file
from lensframe_pd.files.damage import refused
from lensframe_pd.files.steady import Steady
from lensframe_pd.files.stores import AS_STORED, as_it_is, as_stored, sealed, unpacked


def write_netcdf(dataset: xr.Dataset, path: Path, write: str) -> None:
    """Write one netCDF-4 file, through h5netcdf."""
    needs("h5netcdf", "netCDF files")
    import h5netcdf

    packed = as_stored(dataset, narrow=True)
    for name, coord in packed.coords.items():
        if coord.dtype == object and any("\0" in text for text in coord.values.flat):
            raise LensTypeError(
                f"coordinate {name!r} holds a NUL character, where netCDF ends its texts; write "
                ".zarr or .arrows"
            )
    with new_file(path) as temporary:
        with Steady(temporary) as file:
            packed.to_netcdf(file, engine="h5netcdf", encoding=as_it_is(packed))
        attrs = sealed(packed, lambda: _opened_netcdf(temporary), write, {})
        with Steady(temporary) as file, h5netcdf.File(file, "r+") as group:
            group.attrs.update(attrs)


def read_netcdf(path: Path, write: str | None = None) -> xr.Dataset:
    """Open such a file; values are read when they are used."""
    needs("h5netcdf", "netCDF files")
    with refused(path, "netCDF-4 file"):
        _check_holds_all(path)
        opened = _opened_netcdf(path)
        try:
            return unpacked(opened, path, path, write)
        except BaseException:
            opened.close()
            raise


def _opened_netcdf(path: Path) -> xr.Dataset:
    from xarray.backends import H5NetCDFStore

    store = H5NetCDFStore.open(path)
    try:
        _name_dimensions(store.ds)
        return xr.open_dataset(store, **AS_STORED)
    except BaseException:
        store.close()
        raise


def _name_dimensions(file: Any) -> None:
    """Tell an open file of h5netcdf the dimensions of its variables.

    It asks HDF5 for the name of what a variable refers to, which HDF5 finds by a search through the
    whole file: of thousands of variables that takes minutes. What it is not told it asks itself.
    """
    found = getattr(file, "_h5file", None)
    if found is None:  # another version, which keeps it elsewhere
        return
    scales = {found[name].id: name for name in file.dimensions}
    for name, variable in file.variables.items():
        references = found[name].attrs.get("DIMENSION_LIST", ())
        dims = [scales.get(found[end[-1]].id) for end in references if len(end)]
        if dims and None not in dims and len(dims) == len(references):
            variable._dimensions = tuple(dims)


def _check_holds_all(path: Path) -> None:
    """Raise unless all that a file names is in it: HDF5 would open other files without a word."""
    import h5py

    with h5py.File(path, "r") as file:
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise LensValueError(f"{path}: {name} leads out of the file and is not followed")
            entry = file[name]
            if isinstance(entry, h5py.Group):
                raise LensValueError(
                    f"{path} has a group {name}: it holds no activations that lensframe_pd wrote; "
                    "open it with xarray"
                )
            if isinstance(entry, h5py.Dataset) and (entry.external or entry.is_virtual):
                raise LensValueError(f"{path}: {name} has its values in another file")
