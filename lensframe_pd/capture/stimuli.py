"""Where the stimuli are among the arguments of a model, and which stimulus each entry is."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from lensframe_pd.errors import LensValueError
from lensframe_pd.tape.objects import tensors_of

Start = int | range | np.ndarray[Any, Any]
"""The number of the stimulus that a tensor is, or those of the entries along its axis 0.

A range is all of them, from first to last.
"""


def stimuli(given: Mapping[str, Any], n: int | None) -> tuple[int, list[tuple[Tensor, Start]]]:
    """How many stimuli there are, and the tensors that are or hold them.

    They are along axis 0 of the first tensor that has `n` there, and of every further one of its
    shape, such as the other of two views or a mask; or a list of n tensors, one of each; or the n
    sequences of a PackedSequence. A tensor of another shape may have `n` along axis 0 by chance, as
    the layers of a recurrent state.

    Parameters
    ----------
    given
        The arguments of the model, by parameter.
    n
        How many ids were given. None without ids: then the first tensor with an axis has them.

    Raises
    ------
    LensValueError
        There is no place for n stimuli, or a list that can be read in two ways.
    """
    extents: list[int] = []
    parts = [*_parts(given.values())]
    for i, value in enumerate(parts):
        if isinstance(value, PackedSequence):
            extents.append(int(value.batch_sizes[0]))
            if n in (None, extents[-1]):
                return extents[-1], [(value.data, _packed(value))]
        elif isinstance(value, list):
            if len(value) == n:
                _check_one_reading(value, n)
                return n, [(tensor, k) for k, tensor in enumerate(value)]
            extents.append(len(value))
        elif value.dim() and not _is_shapeless(value):
            extents.append(value.shape[0])
            if n in (None, extents[-1]):
                like = [t for t in parts[i:] if isinstance(t, Tensor) and _is_like(t, value)]
                return extents[-1], [(tensor, range(extents[-1])) for tensor in like]
    if n is None:
        return 0, []
    found = f"axis 0 of the input has {extents[0]}" if extents else "there is no tensor with axis 0"
    ids = f"{n} id{'s' * (n != 1)}"
    raise LensValueError(f"stimulus gives {ids}, but {found}; give one id per item")


def _is_like(tensor: Tensor, first: Tensor) -> bool:
    return not _is_shapeless(tensor) and tensor.shape == first.shape


def _is_shapeless(value: Tensor) -> bool:
    return value.is_nested and value.layout is torch.strided


def by_parameter(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by the parameter that each is passed to, in the order of these."""
    function = model.forward if isinstance(model, nn.Module) else model
    known = _parameters(function)
    if known is not None:
        by_place, by_name = known
        rest = {*by_place[len(args) :], *by_name}
        if len(args) <= len(by_place) and kwargs.keys() <= rest:
            given = {**dict(zip(by_place, args, strict=False)), **kwargs}
            return {name: given[name] for name in (*by_place, *by_name) if name in given}
    try:
        return inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # the model's own error will say it better
        return {str(i): value for i, value in enumerate(args)} | kwargs


def _parameters(function: Any) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The parameters of a method or function that take a place, and those that take a name.

    None where there is something special about it: `inspect.signature`, which this says the same
    as, knows all kinds, and takes a tenth of a millisecond where decorators stand around a forward.
    What gathers further arguments is left out: it has none where all given are named here.
    """
    own = 0
    if type(function) is MethodType:
        function, own = function.__func__, 1
    for _ in range(_DECORATORS):
        if type(function) is not FunctionType or not _SPECIAL.isdisjoint(vars(function)):
            break
        if "__wrapped__" not in vars(function):
            code = function.__code__
            if code.co_posonlyargcount or code.co_argcount < own:
                return None
            n = code.co_argcount
            return code.co_varnames[own:n], code.co_varnames[n : n + code.co_kwonlyargcount]
        function = vars(function)["__wrapped__"]
    return None


_DECORATORS = 16
#: Attributes of a function that say more of its signature than its code does.
_SPECIAL = frozenset(("__signature__", "_partialmethod", "__partialmethod__"))


_END = object()


def _parts(values: Iterable[Any]) -> Iterator[PackedSequence | list[Tensor] | Tensor]:
    """Packed sequences, lists of tensors and tensors, in order; a list before what is in it."""
    entered: set[int] = set()
    waiting: list[Iterator[Any]] = [
        iter(values)
    ]  # containers may hold themselves, and be nested as deep as they like
    while waiting:
        value: Any = next(waiting[-1], _END)
        kind = type(value)  # compared by identity: a metaclass may have an __eq__
        if value is _END:
            waiting.pop()
        elif issubclass(kind, PackedSequence):
            yield value
        elif not (kind is list or kind is tuple or kind is dict):
            yield from tensors_of(value)
        elif id(value) not in entered:
            entered.add(id(value))
            held = value.values() if kind is dict else value
            waiting.append(iter(held))
            tensors = all([issubclass(type(v), Tensor) for v in held])
            if tensors and kind is list and value:
                yield value


def _check_one_reading(tensors: list[Tensor], n: int) -> None:
    if n > 1 and all([tensor.dim() and tensor.shape[0] == n for tensor in tensors]):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[:3])
        raise LensValueError(
            f"{n} ids for a list of {n} tensors whose axis 0 is {n} too ({shapes}): either each "
            f"tensor is one stimulus, or each has all {n} along axis 0. Give no stimulus=, and the "
            "ids to the result with .assign_coords; or, of the second, the tensors as a tuple"
        )


def _packed(sequences: PackedSequence) -> np.ndarray[Any, Any]:
    """The number of the sequence that each entry of packed data is of."""
    sizes = sequences.batch_sizes.tolist()
    order = np.arange(sizes[0])
    if sequences.sorted_indices is not None:
        order = sequences.sorted_indices.cpu().numpy()
    return np.concatenate([order[:size] for size in sizes])
