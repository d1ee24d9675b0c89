"""Operations that cut, repeat and reorder entries along an axis: their numbers go along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lensframe_pd.tables.case import (
    Case,
    Ruled,
    shared,
    without_order,
)
from lensframe_pd.tables.order import (
    MIXED,
    NONE,
    OF_ALL,
    Name,
    Names,
    carries,
    named,
    numbers,
    of_all,
    of_both,
    together,
)


def picked(case: Case, name: Name, axis: int, index: Any) -> Name:
    """What an axis of the first tensor is after a selection along it alone."""
    extent = case.first.shape[axis]
    if not carries(name):
        return name
    return named(numbers(name, extent)[index], case.n)


def along_axis(case: Case, axis: int, index: Any) -> Names:
    """The axes of the first tensor after a selection along one."""
    names = case.first.names
    return (*names[:axis], picked(case, names[axis], axis, index), *names[axis + 1 :])


def narrow(case: Case) -> Ruled | None:
    start, axis = case.argument("start"), case.axis()
    if axis is None:
        return None
    whole = of_all([o.whole for o in case.operands])
    if not carries(case.first.names[axis]):
        return Ruled(case.first.names, whole)
    if type(start) is not int:
        return None
    start = start % max(1, case.first.shape[axis]) if start < 0 else start
    return Ruled(along_axis(case, axis, slice(start, start + case.shape[axis])), whole)


def piece(case: Case) -> Names | None:
    """One of the slices that `aten::slice` takes."""
    axis = case.axis(0)
    start, end, step = (case.argument(name) for name in ("start", "end", "step"))
    return None if axis is None else along_axis(case, axis, slice(start, end, step))


def select(case: Case) -> Ruled | None:
    axis, entry = case.axis(), case.argument("index")
    if axis is None or type(entry) is not int:
        return None
    return _without(case, axis, entry)


def unbind(case: Case) -> Ruled | None:
    axis = case.axis(0)
    return None if axis is None else _without(case, axis, case.slot)


def _without(case: Case, axis: int, entry: int) -> Ruled:
    first = case.first
    whole = first.whole
    if carries(first.names[axis]):
        number = int(numbers(first.names[axis], first.shape[axis])[entry])
        whole = of_both(whole, number)
    return Ruled((*first.names[:axis], *first.names[axis + 1 :]), whole)


def split(case: Case) -> Names | None:
    """Operations that cut along an axis: a result begins where those before it end."""
    axis = case.argument("dim", "axis", default=0)
    if type(axis) is not int or not case.first.shape:
        return None
    return cut(case, axis % len(case.first.shape))


def columns(case: Case) -> Names | None:
    """`hsplit`: along the second axis, or the only one."""
    return cut(case, min(1, len(case.first.shape) - 1)) if case.first.shape else None


def cut(case: Case, axis: int) -> Names | None:
    if not carries(case.first.names[axis]):
        return case.first.names
    if len(case.shapes) <= case.slot:
        return None
    start = sum([shape[axis] for shape in case.shapes[: case.slot]])
    return along_axis(case, axis, slice(start, start + case.shape[axis]))


def repeat(case: Case) -> Names | None:
    first = case.first
    lead = len(case.shape) - len(first.shape)
    if lead < 0:
        return None
    names: list[Name] = [None] * lead
    for k, name in enumerate(first.names):
        n, extent = first.shape[k], case.shape[lead + k]
        times = extent // n if n else 1
        tiled = named(np.tile(numbers(name, n), times), case.n) if carries(name) else name
        names.append(tiled)
    return tuple(names)


def repeat_interleave(case: Case) -> Ruled | None:
    axis = case.argument("dim")
    if axis is None and len(case.first.shape) != 1:
        return None
    axis = int(axis or 0) % len(case.first.shape)
    repeats = case.argument("repeats", default=case.values.get(1))
    if repeats is None:
        return None
    names, extent = list(case.first.names), case.first.shape[axis]
    whole = of_all([o.whole for o in case.operands])
    along = case.first.number(axis) if carries(names[axis]) else np.full(extent, NONE)
    for times in case.operands[1:]:
        if times.shape == (extent,) and carries(times.names[0]):
            along = together(along, times.number(0))
        elif any(map(carries, times.names)):
            return None
    names[axis] = named(np.repeat(along, repeats), case.n, names[axis])
    return Ruled(tuple(names), whole)


def expand(case: Case) -> Names:
    lead = len(case.shape) - len(case.first.shape)
    names: list[Name] = [None] * lead
    for name, n, extent in zip(case.first.names, case.first.shape, case.shape[lead:], strict=True):
        if n == extent:
            names.append(name)
        else:
            names.append(named(np.repeat(numbers(name, n), extent), case.n))
    return tuple(names)


def broadcast(case: Case) -> Ruled:
    """`broadcast_tensors`: each by itself."""
    one = case.operands[case.slot]
    return Ruled(expand(case._replace(operands=[one])), one.whole)


def flip(case: Case) -> Names:
    rank = len(case.first.shape)
    axes = {int(d) % rank for d in _flat(case.given())} if rank else set()
    return _reversed(case, axes)


def _flat(given: Any) -> Iterator[int]:
    for item in given:
        if isinstance(item, (tuple, list)):
            yield from _flat(item)
        elif type(item) is int:
            yield item


def _reversed(case: Case, axes: set[int]) -> Names:
    return tuple(
        [
            picked(case, name, k, slice(None, None, -1)) if k in axes else name
            for k, name in enumerate(case.first.names)
        ]
    )


def flipped(axis: int) -> Callable[[Case], Names]:
    """`fliplr`, `flipud`."""
    return lambda case: _reversed(case, {axis})


def roll(case: Case) -> Names | Ruled | None:
    shifts, axes = case.argument("shifts"), case.argument("dims")
    if axes is None or axes == ():
        return Ruled(without_order(case.first.names, range(len(case.shape))), MIXED)
    shifts, axes = ([a] if type(a) is int else list(a) for a in (shifts, axes))
    names = list(case.first.names)
    for shift, axis in zip(shifts, axes, strict=True):
        extent = case.shape[axis]
        if carries(names[axis]):
            names[axis] = named(np.roll(numbers(names[axis], extent), int(shift)), case.n)
    return tuple(names)


def rot90(case: Case) -> Names | None:
    axes = case.argument("dims", default=(0, 1))
    a, b = (int(d) % len(case.first.shape) for d in axes)
    names = list(case.first.names)
    for _ in range(int(case.argument("k", default=1)) % 4):
        # A quarter turn: the second axis, from its end, comes to stand first.
        far = names[b]
        turned = named(numbers(far, case.n)[::-1], case.n) if carries(far) else far
        names[a], names[b] = turned, names[a]
    return tuple(names)


def pad(case: Case) -> Names | None:
    """Constant padding: what is added comes from no stimulus."""
    widths = case.argument("pad")
    if widths is None:
        widths = next((a for a in case.given() if isinstance(a, (tuple, list))), None)
    if widths is None or any([type(w) is not int for w in widths]):
        return None
    constant = case.argument("mode", default="constant") == "constant"
    rank = len(case.first.shape)
    names = list(case.first.names)
    for k in range(len(widths) // 2):
        axis, (before, after) = rank - 1 - k, widths[2 * k : 2 * k + 2]
        if carries(names[axis]) and (before or after):
            if not constant:
                return None
            along = case.first.number(axis)
            along = along[max(0, -before) : len(along) - max(0, -after)]
            padding = (max(0, before), max(0, after))
            names[axis] = named(np.pad(along, padding, constant_values=NONE), case.n)
    return tuple(names)


def diag(case: Case) -> Names | Ruled | None:
    """Of a matrix its diagonal, of a vector the matrix that has it there."""
    offset = case.argument("diagonal", default=0)
    if len(case.first.shape) == 2:
        return _diagonal(case, offset, 0, 1)
    return _embedded(case, offset, 0, 1)


def diag_embed(case: Case) -> Names | Ruled | None:
    a, b = (case.argument(name, default=k) for name, k in (("dim1", -2), ("dim2", -1)))
    return _embedded(case, case.argument("offset", default=0), a, b)


def _embedded(case: Case, offset: int, a: int, b: int) -> Names | Ruled | None:
    rank = len(case.shape)
    a, b = a % rank, b % rank
    *lead, last = case.first.names
    if offset and carries(last):
        return None  # the places of an entry are not the same along both axes
    rest = iter(lead)
    made = last if carries(last) else None
    names = tuple([made if k in (a, b) else next(rest) for k in range(rank)])
    return Ruled(names, case.first.whole)


def diagonal(first: int, second: int) -> Callable[[Case], Ruled | None]:
    """Along two axes, by default these."""

    def rule(case: Case) -> Ruled | None:
        a, b = (case.argument(n, default=k) for n, k in (("dim1", first), ("dim2", second)))
        return _diagonal(case, case.argument("offset", default=0), a, b)

    return rule


def _diagonal(case: Case, offset: int, a: int, b: int) -> Ruled | None:
    rank = len(case.first.shape)
    if rank < 2:
        return None
    a, b = a % rank, b % rank
    extent = case.shape[-1]
    first, second = (
        picked(case, case.first.names[axis], axis, slice(begin, begin + extent))
        for axis, begin in ((a, max(0, -offset)), (b, max(0, offset)))
    )
    along = shared(((first, extent, NONE), (second, extent, NONE)), extent, case.n)
    names = (*[n for k, n in enumerate(case.first.names) if k not in (a, b)], along)
    # Each stimulus at a place of its own: among what all went into, that is another for each.
    uneven = case.first.whole in OF_ALL and carries(first) != carries(second)
    return Ruled(names, MIXED if uneven else case.first.whole)
