"""A row of `layers` as the call it was, on tensors without data.

A row and its parents' rows are enough: `target` names the function, `config` the plain
arguments, `parent_args`, `param_args` and `buffer_args` say which argument each tensor was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lensframe_pd.tape.functions import Unreadable, describe

_META = torch.device("meta")
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d+)?$")


class Given(NamedTuple):
    """One tensor among the arguments of a call."""

    role: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    """None: contiguous."""
    dtypes: tuple[str, ...]
    """The possible element types, the likeliest first: a frame does not hold those of buffers."""
    followed: bool
    """Whether autograd follows it."""
    same: int
    """Position of the first argument that is this very tensor; its own if there is none before."""


class Question(NamedTuple):
    """All that a call's cost depends on; calls that ask alike cost alike."""

    target: str
    func: str
    config: str
    given: tuple[Given, ...]
    grad: bool
    autocast: tuple[tuple[str, str], ...]
    """Pairs of device type and element type."""
    device: str
    inplace: bool
    results: tuple[tuple[tuple[int, ...], str], ...]
    """Shape and element type of each row of the call, to see that the replay is right."""


def arguments(
    func: Any, question: Question, tensors: Sequence[Tensor]
) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """The arguments of a call, positional and by name, in each way the frame can be read.

    The frame names every argument and does not say which were positional. Of a method with
    several signatures a name may be that of another one; and it writes `x[1, 2]` like `x[[1, 2]]`.
    """
    names = describe(func).arg_names
    by_role = dict(zip([g.role for g in question.given], tensors, strict=True))
    config = json.loads(question.config)
    for sequence in (tuple, list):
        named = {name: decode(value, by_role, name, sequence) for name, value in config.items()}
        named |= {role: t for role, t in by_role.items() if "." not in role}
        outside = {"out"} if question.inplace else set()  # by name only, if it is what it says
        places = {_place(name, names): name for name in named if name not in outside}
        positional: list[str] = []
        while len(positional) in places:
            positional.append(places[len(positional)])
        for count in (len(positional), _leading_tensors(positional, named)):
            rest = {k: v for k, v in named.items() if k not in positional[:count]}
            if not any(name.isdigit() for name in rest):
                yield [named[name] for name in positional[:count]], rest


def decode(
    value: Any,
    tensors: Mapping[str, Tensor],
    path: str = "",
    sequence: Callable[[list[Any]], Any] = tuple,
) -> Any:
    """The value that `config.encode` wrote as JSON; devices become `meta`.

    Parameters
    ----------
    tensors
        By role (`"tensors.1"`): what stands where JSON says `{"$tensor": true}`.
    sequence
        What a JSON list becomes.

    Raises
    ------
    Unreadable
        The JSON only describes the value.

    Examples
    --------
    >>> decode({"$slice": [0, {"$float": "inf"}, None]}, {})
    slice(0, inf, None)
    """
    if isinstance(value, list):
        return sequence([decode(v, tensors, f"{path}.{i}", list) for i, v in enumerate(value)])
    if isinstance(value, str):
        return _META if _DEVICE.match(value) else value
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("$"):
        return {k: decode(v, tensors, f"{path}.{k}", sequence) for k, v in value.items()}
    content = value[tag]
    if tag == "$tensor":
        if path not in tensors:
            raise Unreadable(f"the frame does not say which tensor {path!r} was")
        return tensors[path]
    if tag == "$tuple":
        return tuple(decode(v, tensors, f"{path}.{i}", list) for i, v in enumerate(content))
    if tag == "$slice":
        parts = zip(("start", "stop", "step"), content, strict=True)
        return slice(*(decode(v, tensors, f"{path}.{name}") for name, v in parts))
    if tag == "$object":
        if content == "torch._C.Generator":
            return None
        raise Unreadable(f"an argument is a {content}, which the frame only describes")
    return _SCALARS[tag](value)


_SCALARS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "$float": lambda v: float(v["$float"]),
    "$complex": lambda v: complex(*(decode(part, {}) for part in v["$complex"])),
    "$ellipsis": lambda v: ...,
    "$dtype": lambda v: getattr(torch, v["$dtype"]),
    "$layout": lambda v: getattr(torch, v["$layout"]),
    "$memory_format": lambda v: getattr(torch, v["$memory_format"]),
    "$device": lambda v: _META,
    "$array": lambda v: np.array(v["$array"], v["dtype"]),
}


def _place(name: str, names: tuple[str, ...]) -> int | str:
    if name.isdigit():
        return int(name)
    return names.index(name) if name in names else name


def _leading_tensors(positional: list[str], named: Mapping[str, Any]) -> int:
    count = 0
    while count < len(positional) and isinstance(named[positional[count]], (Tensor, list, tuple)):
        count += 1
    return count


def without_data(question: Question, device: str) -> Iterator[list[Tensor]]:
    """Tensors without data for the arguments, in each choice of element types for those unknown."""
    for k in range(max([len(g.dtypes) for g in question.given], default=1)):
        tensors: list[Tensor] = []
        for i, given in enumerate(question.given):
            if given.same < i:
                tensors.append(tensors[given.same])
                continue
            dtype = getattr(torch, given.dtypes[min(k, len(given.dtypes) - 1)])
            stride = given.stride
            if stride is None or len(stride) != len(given.shape):
                tensor = torch.empty(given.shape, dtype=dtype, device=device)
            else:
                tensor = torch.empty_strided(given.shape, stride, dtype=dtype, device=device)
            if given.followed and (dtype.is_floating_point or dtype.is_complex):
                tensor.requires_grad_()
                if question.inplace and question.grad:
                    with torch.enable_grad():
                        tensor = tensor.clone()  # a leaf refuses to be written
            tensors.append(tensor)
        yield tensors
