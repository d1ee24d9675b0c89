"""A value given for a row or module call, made to fit the tensor that it stands for."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from lensframe_pd.errors import LensTypeError, LensValueError, shown
from lensframe_pd.schema import STIMULUS
from lensframe_pd.tape.storage import holders

_NUMBERS = (bool, int, float, complex, np.generic)


def is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, (Tensor, xr.DataArray))


def joined(key: str, value: Any, ids: pd.Index | None) -> Any:
    """A value as it was given, its stimuli those of the run and in their order.

    Parameters
    ----------
    ids
        Of the stimuli of the run; None where it has none.

    Raises
    ------
    LensValueError
        It has no value for some of them.
    """
    if not isinstance(value, xr.DataArray):
        return value
    if ids is None or STIMULUS not in value.coords or STIMULUS not in value.dims:
        return value.values
    there = value.get_index(STIMULUS)
    missing = [i for i in ids if i not in there]
    if missing:
        raise LensValueError(
            f"values: {key!r} has no value for the stimuli {shown(missing)}; it has "
            f"{shown(there)}: give all stimuli of the run, or drop the coordinate to go by position"
        )
    if not there.is_unique:
        raise LensValueError(
            f"values: {key!r} has stimuli twice: {shown(there[there.duplicated()])}"
        )
    return value.isel({STIMULUS: there.get_indexer(ids)}).values


def is_told_by_shape(value: Any) -> bool:
    """Whether a value whose axes are in another order than its row's does not fit, or has none."""
    return not isinstance(value, xr.DataArray) or len({*value.shape}) == value.ndim


def misplaced(value: xr.DataArray, dims: Sequence[str]) -> str | None:
    """What is wrong with axes that are called as the row's are, in another order; None if nothing.

    Parameters
    ----------
    dims
        Of the row.
    """
    given = [_EXTENT.sub(r"\1", str(dim)) for dim in value.dims]
    named = [_EXTENT.sub(r"\1", dim) for dim in dims]
    if given == named or sorted(given) != sorted(named):
        return None
    return f"was given axes {value.dims}, and the row has {tuple(dims)}: transpose the value"


_EXTENT = re.compile(r"_\d+(_*)$")
"""Of a dimension's name: `channel_64`, and `token_9_` where there is a `token_9` before."""


def fitted(key: str, value: Any, tensor: Tensor) -> Tensor:
    """The value as a tensor of its own that can take the place of `tensor`.

    Parameters
    ----------
    key
        What it was given for, for errors.
    value
        A number (filled), a tensor, an array, or a function of the tensor that gives one.

    Raises
    ------
    LensTypeError
        It is none of these, or numbers that the dtype cannot hold exactly.
    LensValueError
        It has another shape.
    """
    is_own = False
    if is_function(value):
        value = _called(key, value, tensor)
        is_own = type(value) is Tensor and _is_held_here_alone(value)
    if isinstance(value, _NUMBERS) or (_is_one(value) and tensor.dim()):
        return _filled(key, value, tensor)
    given = _as_tensor(key, value)
    if tuple(given.shape) != tuple(tensor.shape):
        raise LensValueError(
            f"values: {key!r} was given shape {tuple(given.shape)}, and the tensor has "
            f"{tuple(tensor.shape)}"
        )
    cast = _cast(key, given, tensor)
    return cast if is_own and cast is given else cast.clone()


def _references(tensor: Tensor) -> int:
    return sys.getrefcount(tensor)


def _references_to_given(given: Tensor) -> int:
    return _references(given)


def _references_to_new() -> int:
    new = torch.empty(0, device="cpu")
    return _references_to_given(new)


_ALONE = _references_to_new()
"""How often Python refers to a tensor that one variable and an argument hold."""


def _is_held_here_alone(given: Tensor) -> bool:
    """Whether a tensor is in nobody else's hands, and lies in memory as its copy would."""
    return (
        _references(given) == _ALONE
        and not given.requires_grad
        and given.layout is torch.strided
        and given.is_contiguous()
        and not (given.is_inference() or given._is_view())
        and holders(given) == 1
    )


def _called(key: str, function: Callable[[Tensor], Any], tensor: Tensor) -> Any:
    """What a function gives for a copy: the tensor itself is kept as it was made."""
    try:
        return function(tensor.clone())
    except Exception as error:
        error.add_note(f"lf.trace: raised by the function given in values= for {key!r}")
        raise


def _is_one(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, xr.DataArray)) and value.ndim == 0


def _as_tensor(key: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise LensTypeError(f"values: {key!r} was given a tensor that is not dense")
        return value
    if np.ma.is_masked(value):
        raise LensTypeError(
            f"values: {key!r} was given an array with masked entries, which have no number: fill "
            "them, as by .filled(0)"
        )
    try:
        array = np.asarray(value)
        if not (array.flags.c_contiguous and array.flags.writeable):  # others torch may not take
            array = np.array(array, copy=True, order="K")
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise LensTypeError(
            f"values: {key!r} was given a {type(value).__name__}, which is no numbers; give a "
            "number, an array, a tensor, or a function of the tensor"
        ) from error


def _filled(key: str, value: Any, tensor: Tensor) -> Tensor:
    """The number in every place; a tensor with a gradient passes it on to that one number."""
    if isinstance(value, Tensor):
        return _cast(key, value, tensor).expand(tensor.shape).clone()
    number = value.item() if hasattr(value, "item") else value
    try:
        full = torch.full_like(tensor, number, requires_grad=False)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise _unfit(key, f"{number!r}", tensor) from error
    if full.numel() and not _holds(full, number):
        raise _unfit(key, f"{number!r}", tensor)
    return full


def _holds(full: Tensor, number: Any) -> bool:
    """Whether what a tensor was filled with is that number, but for rounding of floats."""
    if full.dtype.is_floating_point and abs(number) < _SMALL:
        return True  # almost always, and to ask the tensor takes several operations
    held = full.flatten()[0].item()
    if full.dtype.is_floating_point or full.dtype.is_complex:
        return bool(np.isfinite(held)) or not np.isfinite(number)
    return bool(held == number)


_SMALL = 200
"""Every type of floats has numbers as large."""


def _cast(key: str, given: Tensor, tensor: Tensor) -> Tensor:
    """The given tensor in the dtype and on the device of `tensor`, if that changes no number."""
    given = given.to(tensor.device)
    if given.dtype is tensor.dtype:
        return given
    if given.is_complex() and not tensor.is_complex():
        raise _unfit(key, str(given.dtype), tensor)
    cast = given.to(tensor.dtype)
    with torch.no_grad():
        back = cast.to(given.dtype)
        same = (back == given) | ((back != back) & (given != given))
    if not bool(same.all()):
        raise _unfit(key, f"numbers of {given.dtype}", tensor)
    return cast


def _unfit(key: str, what: str, tensor: Tensor) -> LensTypeError:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return LensTypeError(
        f"values: {key!r} was given {what}, which {dtype} does not hold exactly: round it first, "
        f"as by .astype({dtype!r}) or .to(torch.{dtype})"
    )
