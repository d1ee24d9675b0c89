"""`values=` of an extraction: the same for every batch, or by the ids of its stimuli."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import CodeType
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from lensframe_pd.capture.given import is_function
from lensframe_pd.capture.sites import Sites, asked
from lensframe_pd.errors import LensValueError
from lensframe_pd.extract.fingerprint import sha256
from lensframe_pd.schema import STIMULUS


def check_by_ids(sites: Sites, size: int, n: int) -> None:
    """Refuse values that stand for the stimuli of one batch, by their places in it.

    Parameters
    ----------
    size, n
        How many stimuli the batch has, and there are in all.

    Raises
    ------
    LensValueError
        There is such a value, and more than one batch.
    """
    for site in (*sites.rows.values(), *sites.modules.values()):
        value = site.value
        if isinstance(value, xr.DataArray) and STIMULUS in value.coords:
            continue
        shape = () if is_function(value) else np.shape(value)
        if size < n and shape and shape[0] == size:
            raise LensValueError(
                f"values: {site.key!r} was given an array of {size} stimuli without ids, which "
                "would stand for others in each batch: give a DataArray with the coordinate "
                f"{STIMULUS!r} and all {n} ids, as of a trace's activations"
            )


def told(values: Any) -> Mapping[str, str]:
    """What is given, so that it can be compared: by key, checksums of what is no number."""
    if values is None:
        return {}
    return {key: _told(value) for key, value in asked(values).values.items()}


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return sha256(value)
    if is_function(value):
        return _of_function(value)
    if isinstance(value, xr.DataArray) and STIMULUS in value.coords:
        ids = hashlib.sha256(repr(value[STIMULUS].values.tolist()).encode()).hexdigest()
        return hashlib.sha256(f"{ids} {_of_array(value.values)}".encode()).hexdigest()
    array = np.asarray(value)
    return repr(array.item()) if array.ndim == 0 else _of_array(array)


def _of_array(array: np.ndarray[Any, Any]) -> str:
    found = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _of_function(function: Any) -> str:
    """Its name and code; what it reads from elsewhere is not known."""
    code = getattr(function, "__code__", None)
    name = str(getattr(function, "__qualname__", type(function).__qualname__))
    if not isinstance(code, CodeType):
        return name
    said = f"{code.co_code.hex()} {[c for c in code.co_consts if type(c) is not CodeType]}"
    return f"{name} {hashlib.sha256(said.encode()).hexdigest()[:16]}"
