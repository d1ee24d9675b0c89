"""Executions of one layer or module as one array: side by side, or one behind the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensValueError
from lensframe_pd.schema import (
    AXIS,
    REORDERED,
    SEQUENCE,
    SPACING,
    START,
    STEP,
    STIMULUS,
    TOKEN_DIM,
    TOKEN_START,
)

PASS = "pass_num"
TOKEN = "token"
_EXTENT = re.compile(r"_(\d+)_*$")
_OF_A_PASS = (PASS, SEQUENCE, STEP, TOKEN_DIM, TOKEN_START, REORDERED)


def plain(array: xr.DataArray) -> xr.DataArray:
    """`array` with the extents taken off its dimensions: `channel_64` becomes `channel`.

    A name that would come twice gets `_`: `(head_3, token_5, token_7)` becomes
    `(head, token, token_)`.
    """
    names: dict[Any, str] = {}
    taken = {str(name) for name in array.coords} - {str(dim) for dim in array.dims}
    for dim in array.dims:
        name = _EXTENT.sub("", str(dim))
        while name in taken:
            name += "_"
        taken.add(name)
        names[dim] = name
    return array.rename({dim: name for dim, name in names.items() if dim != name})


def as_one(key: str, arrays: Mapping[int, xr.DataArray], tidy: bool = True) -> xr.DataArray:
    """All executions of `key`, by number: along `token` those that continue one another, and
    along a first dimension `pass_num` those that do not; not `tidy`: dimensions have extents."""
    if not all(map(has_tokens, arrays.values())):
        return _stack(key, {k: plain(a) if tidy else a for k, a in arrays.items()})
    parts = sequences([*arrays.values()])
    if any([len(of) > 1 and REORDERED in one.attrs for of in parts for one in of]):
        raise LensValueError(
            f"the passes of {key!r} continue one another, but between them the sequences changed "
            "places, as beams do: a row is not one text. Ask for .lens.tokens"
            f"({key!r}, beams=output.beam_indices), or for one pass, as {parts[0][0].name!r}"
        )
    joined = [join(key, [with_tokens(array) for array in of]) for of in parts]
    one = joined[0] if len(joined) == 1 else _stack(key, dict(enumerate(joined, 1)))
    return one if tidy else _with_extents(one)


def _with_extents(array: xr.DataArray) -> xr.DataArray:
    """What `plain` gave, with the extents in its dimensions again."""
    names: dict[Any, str] = {}
    for dim in [str(d) for d in array.dims if d not in (STIMULUS, PASS)]:
        bare = dim.rstrip("_")
        names[dim] = f"{bare}_{array.sizes[dim]}{dim[len(bare) :]}"
    return array.rename(names)


def has_tokens(array: xr.DataArray) -> bool:
    """Whether a variable is known to have tokens of a sequence, all that the pass had there."""
    dim = array.attrs.get(TOKEN_DIM)
    found = _EXTENT.search(str(dim))
    return dim in array.dims and (found is None or int(found[1]) == array.sizes[dim])


def with_tokens(array: xr.DataArray) -> xr.DataArray:
    """One variable as `plain` gives it; where its tokens are known they are numbered."""
    return _numbered(array) if has_tokens(array) else plain(array)


def with_centres(array: xr.DataArray, dims: Sequence[Any]) -> xr.DataArray:
    """What an array's attrs say of its axes over space and time as coordinates.

    Parameters
    ----------
    dims
        Those of the variable it was made of, with their extents.
    """
    told = array.attrs
    if AXIS not in told:
        return array
    array = array.assign_attrs({})  # the variable of the Dataset keeps its own
    array.attrs = {k: v for k, v in told.items() if k not in (AXIS, START, SPACING)}
    names = str(told[AXIS]).split()
    starts, steps = (np.atleast_1d(told.get(k, ())) for k in (START, SPACING))
    plainly = dict(zip(map(str, dims), array.dims[array.ndim - len(dims) :], strict=True))
    found = {}
    for name, start, step in zip(names, starts, steps, strict=False):
        extent, dim = _EXTENT.search(name), plainly.get(name)
        whole = dim is not None and extent and int(extent[1]) == array.sizes[dim]
        if whole and dim not in array.coords:  # of some entries it is not known which they are
            found[dim] = start + step * np.arange(array.sizes[dim])
    return array.assign_coords(found) if found else array


def sequences(arrays: Sequence[xr.DataArray]) -> list[list[xr.DataArray]]:
    """Executions by the sequence that they are of; of a module that each pass calls several times,
    by which of these calls they are, too."""
    counts: dict[tuple[Any, Any], int] = {}
    found: dict[tuple[Any, int], list[xr.DataArray]] = {}
    for array in arrays:
        of = array.attrs[SEQUENCE]
        step = (of, array.attrs[STEP])
        counts[step] = counts.get(step, 0) + 1
        found.setdefault((of, counts[step]), []).append(array)
    return [*found.values()]


def _numbered(array: xr.DataArray) -> xr.DataArray:
    """A variable whose axis of tokens has that name, and their numbers as its coordinate."""
    start, axis = int(array.attrs[TOKEN_START]), array.dims.index(array.attrs[TOKEN_DIM])
    made = plain(array)
    dim = str(made.dims[axis])
    taken = {str(name) for name in (*made.dims, *made.coords)} - {dim}
    if TOKEN in taken:  # the tokens that are read there, as keys, are another axis
        other = TOKEN
        while other in taken:
            other += "_"
        made = made.rename({TOKEN: other})
    if dim != TOKEN:
        made = made.rename({dim: TOKEN})
    return made.assign_coords({TOKEN: range(start, start + made.sizes[TOKEN])})


def join(key: str, arrays: Sequence[xr.DataArray]) -> xr.DataArray:
    """Passes, as `with_tokens` gives them, one behind the other along their tokens."""
    arrays = sorted(arrays, key=lambda array: int(array[TOKEN][0]))
    axes = {array.dims.index(TOKEN) for array in arrays}
    around = {tuple(n for d, n in a.sizes.items() if d != TOKEN) for a in arrays}
    if len(axes) > 1 or len(around) > 1:
        raise LensValueError(
            f"the passes of {key!r} continue one another, but differ in more than their tokens, as "
            "where each looks at all tokens before it: they are no one array; ask for one of "
            f"{shapes(arrays)}"
        )
    (axis,) = axes
    dims = [*_agreed([a.dims for a in arrays])]
    dims[axis] = TOKEN
    coords = {k: v for k, v in _coords(arrays, dims).items() if k != TOKEN}
    numbers = [n for array in arrays for n in array[TOKEN].values.tolist()]
    joined = xr.concat(_bare(arrays, dims), dim=TOKEN, combine_attrs="drop_conflicts")
    return _whole(joined.assign_coords({**coords, TOKEN: numbers}), key)


def _stack(key: str, arrays: dict[int, xr.DataArray]) -> xr.DataArray:
    """The executions along a new first dimension, their numbers as its coordinate."""
    if len({a.shape for a in arrays.values()}) > 1:
        raise LensValueError(
            f"the passes of {key!r} have unequal shapes and are no one array; ask for one of "
            f"{shapes([*arrays.values()])}"
        )
    dims = _agreed([a.dims for a in arrays.values()])
    bare = _bare([*arrays.values()], dims)
    stacked = xr.concat(bare, pd.Index(list(arrays), name=PASS), combine_attrs="drop_conflicts")
    return _whole(stacked.assign_coords(_coords([*arrays.values()], dims)), key)


def shapes(arrays: Iterable[xr.DataArray]) -> str:
    """Names and shapes, for a message."""
    return ", ".join(f"{a.name} ({'x'.join(map(str, a.shape))})" for a in arrays)


def _bare(arrays: Sequence[xr.DataArray], dims: Sequence[str]) -> list[xr.DataArray]:
    """The values alone, with these dimensions."""
    return [
        a.drop_vars(list(a.coords)).rename(
            {old: new for old, new in zip(a.dims, dims, strict=True) if old != new}
        )
        for a in arrays
    ]


def _coords(arrays: Sequence[xr.DataArray], dims: Sequence[str]) -> dict[Any, xr.Variable]:
    """What is said of the dimensions that remain, by any of the arrays and against none."""
    found: dict[Any, xr.Variable] = {}
    unlike: set[Any] = set()
    for array in arrays:
        for name, coord in array.coords.items():
            if {*coord.dims} <= {*dims}:
                known = found.setdefault(name, coord.variable)
                if known is not coord.variable and not known.equals(coord.variable):
                    unlike.add(name)
    return {name: variable for name, variable in found.items() if name not in unlike}


def _whole(array: xr.DataArray, key: str) -> xr.DataArray:
    """An array of all executions, which says nothing that is true of one of them only."""
    for name in _OF_A_PASS:
        array.attrs.pop(name, None)
    return array.rename(key)


def _agreed(found: list[tuple[Any, ...]]) -> tuple[str, ...]:
    """The name of each axis: what the passes that know it agree on, else `dim1`.

    The first pass of a loop often starts from zeros whose axes nobody named.
    """
    dims = []
    for k, axis in enumerate(zip(*found, strict=True)):
        known = {str(name) for name in axis} - {f"dim{k}"}
        dims.append(known.pop() if len(known) == 1 else f"dim{k}")
    return tuple(dims)
