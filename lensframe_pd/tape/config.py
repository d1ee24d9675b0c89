"""Arguments by name, and those that are no tensors as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from lensframe_pd.tape.tape import SLOT, Array, Opaque


def arg_name(names: tuple[str, ...], position: int) -> str:
    """The name of a positional argument, its number where the function does not name it."""
    return names[position] if position < len(names) else str(position)


def config_json(
    names: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    gathers: int | None = None,
) -> str:
    """The arguments that are no tensors, by name; JSON with tags for what JSON lacks.

    From position `gathers` on, numbers that were given one by one become one sequence.
    """
    if gathers is not None and len(args) > gathers and {type(a) for a in args[gathers:]} == {int}:
        args = (*args[:gathers], [*args[gathers:]])
    config = {_name(names, i, a): encode(a) for i, a in enumerate(args) if a is not SLOT}
    config.update((k, encode(v)) for k, v in kwargs.items() if v is not SLOT)
    return json.dumps(config, allow_nan=False)


def _name(names: tuple[str, ...], position: int, value: Any) -> str:
    """`x.to("cpu")` and `x.to(torch.int8)` have the same place for a device and for a dtype."""
    name = arg_name(names, position)
    if name == "dtype" and isinstance(value, (torch.device, str)):
        return "device"
    return name


def encode(value: Any) -> Any:
    """`value` as JSON: `{"$slice": [0, 5, null]}`, `{"$dtype": "float32"}`, `{"$float": "inf"}`.

    A tensor inside a container is `{"$tensor": true}`: it is among the row's parents.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if value is SLOT:
        return {"$tensor": True}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, complex):
        return {"$complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, slice):
        return {"$slice": [encode(value.start), encode(value.stop), encode(value.step)]}
    if value is Ellipsis:
        return {"$ellipsis": True}
    if isinstance(value, (tuple, torch.Size)) and not isinstance(value, (Opaque, Array)):
        return {"$tuple": [encode(v) for v in value]} if _nested(value) else [*map(encode, value)]
    if isinstance(value, (list, range)):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    for kind, tag in _TAGS:
        if isinstance(value, kind):
            return {tag: str(value).removeprefix("torch.")}
    if isinstance(value, Opaque):
        return {"$object": value.description}
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, Array):
        return {"$array": value.value.tolist(), "dtype": str(value.value.dtype)}
    return {"$object": repr(value)[:200]}


_TAGS = (
    (torch.dtype, "$dtype"),
    (torch.device, "$device"),
    (torch.layout, "$layout"),
    (torch.memory_format, "$memory_format"),
)


def _nested(value: Iterable[Any]) -> bool:
    """Whether a tuple is an index, in which a tuple and a list mean different things."""
    return any(
        v is SLOT or v is None or isinstance(v, (slice, list, type(Ellipsis))) for v in value
    )
