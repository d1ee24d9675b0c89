"""Run a recorded call again, on any values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lensframe_pd.tape.contents import ATOMS
from lensframe_pd.tape.objects import tensors_of
from lensframe_pd.tape.storage import (
    PLAIN,
    Bits,
    Performed,
    bits_of,
    faithful_clone,
    may_write,
    misalignment,
    perform,
    placed,
    through,
    with_bits,
    write,
    written_arguments,
)
from lensframe_pd.tape.switches import Switches, standing
from lensframe_pd.tape.tape import SLOT, Array, Call, Opaque, Row
from lensframe_pd.tape.targets import is_accessor


class Unreplayable(Exception):
    """This call cannot be run again by itself; the text says why."""


class Rerun:
    """Runs a recorded call again: called with tensors for its slots, gives what its rows hold.

    The tensors are not written: a call that writes gets copies.

    Parameters
    ----------
    call
        From a tape, or read from a row.
    rows
        Its rows on the tape; those of an alias say how it lies in memory.
    bits
        Through which bits an alias sees its memory.
    switches
        How they stand while it runs; None for as they are.

    Raises
    ------
    Unreplayable
        When called: the record does not hold all that the call depends on.
    """

    def __init__(
        self,
        call: Call,
        rows: Sequence[Row] = (),
        bits: Bits = PLAIN,
        switches: Switches | None = None,
    ) -> None:
        self.call = call
        self.rows = rows
        self.bits = bits
        self.switches = switches
        self._writes_nothing = switches is None and _writes_nothing(call)
        self._only_computes = self._writes_nothing and _is_of_atoms(call)

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        call, function = self.call, self.call.function
        if self._only_computes:  # as most are: in few steps, since each call is run several times
            given = iter(tensors)
            return tensors_of(function.func(*[next(given) if v is SLOT else v for v in call.args]))
        if self._writes_nothing:
            args, kwargs = filled(call, tensors)
            return tensors_of(function.func(*args, **kwargs))
        if not function.target:  # a row no torch function made
            if function.name == "alias":
                return [overlay(call, tensors, self.rows[0], self.bits)]
            return list(tensors)  # an output is its parent
        if function.name == "grad":
            raise Unreplayable(
                "backward() left this gradient, and is no row"
                if is_accessor(function.func)
                else "it differentiates other rows, so it depends on more than its parents"
            )
        if function.name in _OF_TANGENTS:
            raise Unreplayable("what goes forward beside a value is no row, and its level is left")
        if function.name == "deepcopy":
            return [copy.deepcopy(tensors[0].detach())]
        return self.on(self._spared(tensors)).made

    def writes(self, tensors: Sequence[Tensor]) -> set[int]:
        """In which slots it writes, run on copies of these tensors."""
        copies = self._spared(tensors)
        if all(a is b for a, b in zip(copies, tensors, strict=True)):
            return set()
        ids = {id(t) for t in self.on(copies).written}
        return {slot for slot, t in enumerate(copies) if id(t) in ids}

    def on(self, tensors: Sequence[Tensor]) -> Performed:
        """Run it on these very tensors, which it may write."""
        call, function = self.call, self.call.function
        args, kwargs = filled(call, tensors)
        writable = written_arguments(args, kwargs, function)
        if call.generator is not None and kwargs.get("generator") is None:
            torch.set_rng_state(call.generator)
        if self.switches is None:
            return perform(function, args, kwargs, writable)
        with standing(self.switches):
            return perform(function, args, kwargs, writable)

    def _spared(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors, copied where the call may write."""
        if not may_write(self.call.function, self.call.kwargs):
            return tensors
        args, kwargs = filled(self.call, tensors)
        ids = {id(t) for t in written_arguments(args, kwargs, self.call.function)}
        copies = {id(t): copied(t) for t in tensors if id(t) in ids}
        return [copies.get(id(t), t) for t in tensors]


def _writes_nothing(call: Call) -> bool:
    """Whether a call is one of a function that writes nothing and draws no random numbers."""
    function = call.function
    if not function.target or call.generator is not None or function.name in _OF_MORE:
        return False
    return not may_write(function, call.kwargs)


def _is_of_atoms(call: Call) -> bool:
    """Whether none of its arguments has to be looked into for tensors."""
    if call.kwargs:
        return False
    return all([value is SLOT or id(type(value)) in ATOMS for value in call.args])


_OF_TANGENTS = frozenset(("_make_dual", "_unpack_dual"))
_OF_MORE = _OF_TANGENTS | {"grad", "deepcopy"}  # they depend on more than their arguments


def filled(call: Call, tensors: Sequence[Tensor]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call with `tensors` in its slots."""
    remaining = iter(tensors)
    args = [_fill(value, remaining, call) for value in call.args]
    if not call.kwargs:
        return args, {}
    return args, {name: _fill(value, remaining, call) for name, value in call.kwargs.items()}


def _fill(value: Any, tensors: Iterator[Tensor], call: Call) -> Any:
    if value is SLOT:
        return next(tensors)
    if id(type(value)) in ATOMS:
        return value
    if isinstance(value, Array):
        return value.value
    if isinstance(value, Opaque):
        if value.description == "torch._C.Generator":  # the model's own has moved on
            return _generator(call, value.value)
        if value.value is not None:
            return value.value
        raise Unreplayable(f"an argument is a {value.description}, which the record does not hold")
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_fill(v, tensors, call) for v in value])
    if kind is dict:
        return {k: _fill(v, tensors, call) for k, v in value.items()}
    if kind is slice:
        return slice(
            *(_fill(part, tensors, call) for part in (value.start, value.stop, value.step))
        )
    return value


def _generator(call: Call, original: torch.Generator | None) -> torch.Generator:
    generator = torch.Generator("cpu" if original is None else original.device)
    if call.generator is not None:
        generator.set_state(call.generator)
    return generator


def overlay(call: Call, tensors: Sequence[Tensor], row: Row, bits: Bits = PLAIN) -> Tensor:
    """One storage laid over with the parents of an alias row, read as the alias sees it."""
    config = call.kwargs
    if "offsets" not in config:
        raise Unreplayable(
            "a tensor subclass made it of its parts, or is made of it, as only that class knows"
        )
    offsets: tuple[int, ...] = config["offsets"]
    start = min(config["offset"], *offsets) // 16 * 16
    ends = [o + _reach(t.shape, t.stride(), t.dtype) for o, t in zip(offsets, tensors, strict=True)]
    end = max(config["offset"] + _reach(row.shape, row.stride, row.dtype), *ends)
    storage = torch.zeros((end - start + 15) // 16 * 16, dtype=torch.uint8, device=row.device)
    for offset, tensor in zip(offsets, tensors, strict=True):
        place = _placed(storage, tensor.shape, tensor.stride(), tensor.dtype, offset - start)
        write(through(place, bits_of(tensor)), tensor.detach())
    alias = _placed(storage, row.shape, row.stride, row.dtype, config["offset"] - start)
    return through(alias, bits)


def _reach(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> int:
    if 0 in shape:
        return 0
    return (1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))) * dtype.itemsize


def _placed(
    storage: Tensor, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype, offset: int
) -> Tensor:
    return storage.view(dtype).as_strided(tuple(shape), tuple(stride), offset // dtype.itemsize)


def copied(tensor: Tensor) -> Tensor:
    """A copy with the same layout, which autograd follows if it followed the tensor."""
    if tensor.requires_grad and torch.is_grad_enabled():
        copy = tensor.clone()  # no leaf, so it may be written
    else:
        copy = faithful_clone(tensor.detach())
    if tensor.layout is not torch.strided:
        return copy
    return laid_out(copy, tensor.stride(), bits_of(tensor))


def laid_out(value: Tensor, stride: Sequence[int], bits: Bits = PLAIN) -> Tensor:
    """`value` with these strides and bits, as the operation saw it: layouts choose kernels."""
    value = with_bits(value, bits)
    stride = tuple(stride)
    if value.stride() == stride or not value.numel() or len(stride) != value.dim():
        return value
    return placed(value, stride, misalignment(value))
