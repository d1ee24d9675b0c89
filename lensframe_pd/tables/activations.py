"""Kept values as an xarray Dataset, and the accessor's view of one layer with all its passes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lensframe_pd.files.assembled import variable_of
from lensframe_pd.labels import call_text, calls_text
from lensframe_pd.schema import MODULE_ALIASES, RENAMED_DIMS
from lensframe_pd.tables.centres import Centres, centres
from lensframe_pd.tables.continued import continued
from lensframe_pd.tables.dims import dimensions
from lensframe_pd.tables.nonfinite import made_of, masks_of
from lensframe_pd.tape.alike import Findings
from lensframe_pd.tape.facts import dtype_name
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.storage import CPU, widened
from lensframe_pd.tape.tape import Tape

_NUMPY_HOLDS = frozenset(
    (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
     torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
     torch.complex64, torch.complex128)
)  # fmt: skip


def unsaved_reasons(tape: Tape) -> dict[int, str]:
    """Rows whose value was wanted and that is lost or that NumPy cannot hold, with the reason."""
    reasons = {**tape.lost}
    for i, (value, row) in enumerate(zip(tape.values, tape.row_log.entries, strict=False)):
        if value is None:
            continue
        # Most are known to be one array, by number for speed: row.stride, row.dtype, row.device.
        if row[3] and row[5] is CPU and row[4] in _NUMPY_HOLDS and type(value) is Tensor:
            continue
        reason = _reason(value)
        if reason:
            reasons[i] = reason
    return reasons


def _reason(value: Tensor) -> str:
    if value.is_nested:
        return "a nested tensor is not one array"
    if value.dtype not in _NUMPY_HOLDS:
        return f"NumPy has no {dtype_name(value.dtype)}"
    if value.layout is not torch.strided:
        kind = str(value.layout).removeprefix("torch.")
        return f"the {kind} layout is not one array"
    if value.is_meta:
        return "a meta tensor has no data"
    if type(value) is not Tensor:  # a subclass may have its values anywhere, or nowhere
        try:
            value.numpy()
        except Exception as error:
            return f"a {type(value).__name__} gives no array: {error}"
    return ""


def to_numpy(value: Tensor) -> np.ndarray[Any, Any]:
    """The value as a read-only array: zero-copy on CPU, bfloat16 as float32 (exact)."""
    value = widened(value)
    try:
        array: np.ndarray[Any, Any] = value.numpy()
    except (RuntimeError, TypeError):  # another device, a conjugate or negative view, no memory
        array = value.resolve_conj().resolve_neg().cpu().numpy(force=True)
    array.setflags(False)  # type: ignore[call-arg]  # write=, and quicker
    return array


def to_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """An array as of a Dataset, zero-copy where torch can: not backwards or in other byte order."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array if _lies_forwards(array) else array.copy())


def _lies_forwards(array: np.ndarray[Any, Any]) -> bool:
    return min(array.strides, default=0) >= 0


def tensor_of(variable: xr.Variable) -> tuple[Tensor, bool]:
    """The values of a variable, and whether they are seen in its memory, so that none is taken."""
    array = variable._data
    if not isinstance(array, np.ndarray):  # in a file, or to be computed
        return to_tensor(np.asarray(variable.values)), False
    if array.dtype.isnative and _lies_forwards(array):
        return torch.from_numpy(array), True
    return to_tensor(array), False


def variables_of(activations: xr.Dataset) -> Mapping[Any, xr.Variable]:
    """The variables by name, to be read: xarray's wrapper takes longer than to look one up."""
    return activations._variables


def has_tensors(dtype: np.dtype[Any]) -> bool:
    """Whether torch has tensors of this element type."""
    try:
        to_tensor(np.empty(0, dtype))
    except TypeError:
        return False
    return True


def dataset(
    tape: Tape,
    grouped: Passes,
    unsaved: dict[int, str],
    dims: Sequence[tuple[str, ...]] | None = None,
    known: Findings | None = None,
) -> xr.Dataset:
    """One variable per kept row, named by its label; no coordinates.

    `dims` is `dimensions(tape)`, and `known` what was found out of tapes like this one, where that
    is known.
    """
    known, dims = known or Findings(), dims or dimensions(tape)
    kept = tuple([i for i, v in enumerate(tape.values) if v is not None and i not in unsaved])
    given = kept, masks_of(tape, kept)
    of_rows, sizes = known.once(_of_rows, tape, grouped, dims, *given, given=given)
    variables: dict[str, Any] = {}
    are_kept = known.are_kept
    for i, (label, found, attrs) in zip(kept, of_rows, strict=True):
        value = tape.values[i]
        assert value is not None
        # whoever has the Dataset may write into them
        own = {**attrs} if are_kept else attrs
        variables[label] = variable_of(found, to_numpy(value), own)
    # The public constructor compares every variable with every other's dims: 8 times the cost.
    aliases = {MODULE_ALIASES: json.dumps(tape.aliases)} if tape.aliases else {}
    renamed = {RENAMED_DIMS: json.dumps(tape.renamed)} if tape.renamed else {}
    attrs = {**tape.attrs(), **aliases, **renamed}
    return xr.Dataset._construct_direct(variables, set(), {**sizes}, attrs, {})


def _of_rows(
    tape: Tape,
    grouped: Passes,
    dims: Sequence[tuple[str, ...]],
    rows: Sequence[int],
    masks: frozenset[int],
) -> tuple[list[tuple[str, tuple[str, ...], dict[str, Any]]], dict[str, int]]:
    """Of each of these rows its label, dimensions and attrs; and how long the dimensions are."""
    labels, made = grouped.labels(), tape.row_log.entries
    found = [(labels[i], of, attrs) for i, of, attrs in described(tape, grouped, rows, dims, masks)]
    sizes: dict[str, int] = {}
    sized = {id(dims[i]): i for i in rows}  # many rows have the same
    for i in sized.values():
        sizes.update(zip(dims[i], made[i][2], strict=True))  # row.shape
    return found, sizes


def described(
    tape: Tape,
    grouped: Passes,
    rows: Sequence[int],
    dims: Sequence[tuple[str, ...]] | None = None,
    masks: frozenset[int] | None = None,
) -> Iterator[tuple[int, tuple[str, ...], dict[str, Any]]]:
    """Of each of these rows its dimensions and the attrs of its variable.

    `dims` is `dimensions(tape)` and `masks` is `masks_of(tape, rows)`, where these are known.
    """
    found = dimensions(tape) if dims is None else dims
    masks = masks_of(tape, rows) if masks is None else masks
    made, calls = tape.row_log.entries, tape.call_log.entries  # by number, for speed
    returned, keys = tape.returned(), tape.module_keys()
    paths = [module[0] for module in tape.module_log.entries]  # module.path
    layers, pass_nums = grouped.layers, grouped.pass_nums
    dtypes = {dtype: dtype_name(dtype) for dtype in {row[4] for row in made}}
    of = made_of(tape, grouped.labels(), rows, masks)
    of_sequence, centred, places = continued(tape, grouped), centres(tape), Centres(tape.renamed)
    placed = of_sequence.keys() | centred.keys()
    for i, (parents, nonfinite) in zip(rows, of, strict=True):
        row = made[i]
        call = calls[row[0]]  # row.call
        attrs: dict[str, Any] = {
            "layer": layers[i],
            "pass_num": pass_nums[i],
            "func": call[0].name,  # call.function.name
            "module": paths[call[5]],  # call.module
            "torch_dtype": dtypes[row[4]],  # row.dtype
            "returned_by": _keys(keys, returned[i]) if i in returned else "",
            "parents": parents,
            "nonfinite_args": nonfinite,
        }
        if i in placed:
            if i in of_sequence:
                attrs.update(of_sequence[i].attrs(found[i]))
            if i in centred:
                attrs.update(places.of(centred[i], found[i]))
        yield i, found[i], attrs


def _keys(keys: list[str], indices: list[int]) -> str:
    if len(indices) == 1:  # as most are
        return call_text(keys[indices[0]])
    return calls_text(dict.fromkeys([keys[i] for i in indices]))
