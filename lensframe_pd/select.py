"""`activations.lens[key]`: one op, layer or module as one array with plain dimension names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lensframe_pd.errors import LensValueError, unknown_names

PASS = "pass_num"


def select(dataset: xr.Dataset, key: str) -> xr.DataArray:
    """What `key` names, as one array.

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.
    key
        An op label (`"relu_3"`, `"linear_1:2"`), a layer (`"linear_1"`), or the path of a module
        (`"layer1.0"`): what a forward hook on it receives. A label goes before a layer, and a
        layer before a module of the same name.

    Returns
    -------
    xarray.DataArray
        Dimensions without their extents: `(stimulus, channel, y, x)`. A layer or module that ran
        more than once has its passes, or calls, along a first dimension `pass_num`.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has this name.
    LensValueError
        A module that returns several tensors, or passes of unequal shapes: no one array. The
        error names the labels to choose from.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> _, activations = lf.trace(torch.nn.Conv2d(3, 8, 3).eval(), torch.ones(2, 3, 6, 6))
    >>> select(activations, "conv2d_1").sizes
    Frozen({'stimulus': 2, 'channel': 8, 'y': 4, 'x': 4})
    """
    if key in dataset.data_vars:
        return plain(dataset[key])
    passes = _layer(dataset, key) or _module(dataset, key)
    if not passes:
        raise unknown_names([key], _known(dataset), "op, layer or module")
    return _stack(key, passes)


def plain(array: xr.DataArray) -> xr.DataArray:
    """`array` with the extents taken off its dimensions: `channel_64` becomes `channel`.

    A name that would come twice gets `_`: `(head_3, token_5, token_7)` becomes
    `(head, token, token_)`.
    """
    names: dict[Any, str] = {}
    for dim, size in array.sizes.items():
        name = re.sub(rf"_{size}_*$", "", str(dim))
        while name in names.values():
            name += "_"
        names[dim] = name
    return array.rename({dim: name for dim, name in names.items() if dim != name})


def _layer(dataset: xr.Dataset, key: str) -> dict[int, xr.DataArray]:
    """Pass to array. Only a layer of several passes has a name that is no label."""
    found = (v for v in dataset.data_vars.values() if v.attrs.get("layer") == key)
    return {int(v.attrs[PASS]): v for v in found}


def _module(dataset: xr.Dataset, key: str) -> dict[int, xr.DataArray]:
    """Call number to the array that this call of the module returned."""
    found: dict[int, list[xr.DataArray]] = {}
    for array in dataset.data_vars.values():
        for path, number in _returned_by(array):
            if path == key:
                found.setdefault(number, []).append(array)
    several = [str(v.name) for arrays in found.values() if len(arrays) > 1 for v in arrays]
    if several:
        raise LensValueError(
            f"module {key!r} returns several tensors in one call, which are no one array; "
            f"ask for one of {', '.join(several)}"
        )
    return {number: arrays[0] for number, arrays in found.items()}


def _returned_by(array: xr.DataArray) -> Iterable[tuple[str, int]]:
    for call in str(array.attrs.get("returned_by", "")).split(","):
        path, colon, number = call.rpartition(":")
        if colon:
            yield path, int(number)


def _known(dataset: xr.Dataset) -> Iterable[str]:
    for name, array in dataset.data_vars.items():
        yield str(name)
        yield str(array.attrs.get("layer", name))
        yield from (path for path, _ in _returned_by(array))


def _stack(key: str, passes: dict[int, xr.DataArray]) -> xr.DataArray:
    """The passes, in order, along a new first dimension; the only pass as it is."""
    numbers = sorted(passes)
    arrays = [plain(passes[n]) for n in numbers]
    first = arrays[0]
    if numbers == [1] and first.attrs.get("layer", key) != key:
        return first  # a module called once
    if any(a.shape != first.shape for a in arrays):
        shapes = ", ".join(
            f"{passes[n].name}: {'x'.join(map(str, a.shape))}"
            for n, a in zip(numbers, arrays, strict=True)
        )
        raise LensValueError(
            f"the passes of {key!r} have unequal shapes and are no one array; ask for one of "
            f"{shapes}"
        )
    dims = _common(arrays)
    return xr.DataArray(
        np.stack([a.values for a in arrays]),
        dims=(PASS, *dims),
        coords={PASS: numbers, **{n: c for n, c in first.coords.items() if set(c.dims) <= set(dims)}},
        name=key,
        attrs={k: v for k, v in first.attrs.items() if all(a.attrs.get(k) == v for a in arrays)},
    )


def _common(arrays: Sequence[xr.DataArray]) -> tuple[str, ...]:
    """Dimension names that all passes give an axis, `dim1` where they differ."""
    axes = zip(*(a.dims for a in arrays), strict=True)
    return tuple(str(axis[0]) if len(set(axis)) == 1 else f"dim{k}" for k, axis in enumerate(axes))
