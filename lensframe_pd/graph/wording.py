"""Whether two calls of one function were given the same options, in whichever words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

_BY_SHAPE = frozenset(
    "view reshape flatten unflatten ravel squeeze unsqueeze expand view_as reshape_as expand_as"
    " _unsafe_view".split()
)
"""What they do is said by the shapes of what goes in and comes out."""
_AXES = frozenset("dim dims dim0 dim1 axis axis0 axis1".split())
_MISSING = object()


def same_options(func: str, configs: Sequence[Any], n_dims: Sequence[int | None]) -> bool:
    """Whether two cells of `config` say the same, of calls whose shapes are the same.

    Axes may be counted from the end, and what is not said is torch's default.

    Parameters
    ----------
    n_dims
        Of the first tensor each call was given; None where it is not known.

    Examples
    --------
    >>> same_options("softmax", ['{"dim": -1}', '{"dim": 2, "dtype": null}'], [3, 3])
    True
    """
    one, other = map(_parsed, configs)
    if one == other or (func in _BY_SHAPE and not _is_unknown(one, other)):
        return True
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return False
    extra = 1 if func == "stack" else 0  # it counts the axis it makes
    one, other = (
        {name: _axes(value, n, extra) if name in _AXES else value for name, value in of.items()}
        for of, n in zip((one, other), n_dims, strict=True)
    )
    return all(_same(func, name, one, other) for name in one.keys() | other.keys())


def _parsed(config: Any) -> Any:
    try:
        return json.loads(config, object_hook=_slice_in_full)
    except (TypeError, ValueError):
        return config


def _slice_in_full(value: dict[str, Any]) -> dict[str, Any]:
    """`[:n]` as `[0:n:1]`."""
    if "$slice" not in value:
        return value
    start, stop, step = value["$slice"]
    step = 1 if step is None else step
    backwards = not isinstance(step, int) or step < 0
    return {"$slice": [start if start is not None or backwards else 0, stop, step]}


def _is_unknown(one: Any, other: Any) -> bool:
    return not (isinstance(one, dict) and isinstance(other, dict))


def _axes(value: Any, n_dims: int | None, extra: int) -> Any:
    """Axes as a list, counted from the first."""
    axes = value if isinstance(value, list) else [value]
    if n_dims is None or not all(type(axis) is int for axis in axes):
        return axes
    return [axis + n_dims + extra if axis < 0 else axis for axis in axes]


def _same(func: str, name: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = one.get(name, _MISSING), other.get(name, _MISSING)
    if a is _MISSING or b is _MISSING:
        told = b if a is _MISSING else a
        return any(told == default for default in _defaults(func).get(name, ()))
    return bool(a == b)


@cache
def _defaults(func: str) -> dict[str, list[Any]]:
    """What torch's operators of this name take an argument to be that is not given."""
    import torch

    packet = getattr(torch.ops.aten, func, None)
    found: dict[str, list[Any]] = {}
    for overload in packet.overloads() if packet is not None else ():
        for argument in getattr(packet, overload)._schema.arguments:
            if argument.has_default_value():
                found.setdefault(argument.name, []).append(argument.default_value)
    return found
