"""What a tensor is after a write through another tensor in the same storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lensframe_pd.tables.case import Case, Operand, Ruled, without_order
from lensframe_pd.tables.order import MIXED, Name, carries, named, plain
from lensframe_pd.tables.writes import written as written_into
from lensframe_pd.tape.tape import Row


def after_write(
    case: Case, before: Operand, written: Operand, here: Row, other: Row, bytes_on: int
) -> Ruled:
    """A tensor after a write, by where the two lie in memory.

    Parameters
    ----------
    case
        Of the tensor, whose shape it has.
    before, here
        The tensor as it was, and its row.
    written, other
        The tensor that was written, and its row.
    bytes_on
        How many bytes after the tensor the one that was written begins.
    """
    offset = bytes_on // other.dtype.itemsize
    inside = _place(here.shape, here.stride, other.shape, other.stride, offset)
    if inside is not None:
        places, fixed = inside
        after = written_into(case._replace(operands=[before]), written, places, fixed)
        return after or Ruled((None,) * len(case.shape), MIXED)
    around = _place(other.shape, other.stride, here.shape, here.stride, -offset)
    if around is None:
        return Ruled(without_order(before.names, range(len(before.names))), MIXED)
    return _seen(written, around, before, case.n)


Where = tuple[list[list[tuple[int, Any]]], list[tuple[int, int]]]
"""For each axis of a part, the axis of the whole and the slice of it; and the other axes of the
whole, with the entry where the part is."""


def _place(
    shape: Sequence[int],
    stride: Sequence[int],
    part_shape: Sequence[int],
    part_stride: Sequence[int],
    offset: int,
) -> Where | None:
    """Where a tensor lies in another of the same storage; None where that is not so simple.

    Examples
    --------
    >>> _place((4, 6), (6, 1), (2,), (1,), 13)
    ([[(1, slice(1, 3, None))]], [(0, 2)])
    >>> _place((4, 6), (6, 1), (4,), (6,), 5)
    ([[(0, slice(0, 4, None))]], [(1, 5)])
    """
    if offset < 0 or len(stride) != len(shape) or len(part_stride) != len(part_shape):
        return None
    begins: dict[int, int] = {}
    for axis in sorted(range(len(shape)), key=lambda k: -stride[k]):
        if stride[axis] > 0 and shape[axis] > 1:
            begins[axis], offset = divmod(offset, stride[axis])
    if offset:
        return None
    places: list[list[tuple[int, Any]]] = []
    for n, step in zip(part_shape, part_stride, strict=True):
        fitting = [k for k in begins if stride[k] == step] if n > 1 else []
        if n > 1 and len(fitting) != 1:
            return None
        places.append([(k, slice(begins[k], begins[k] + n)) for k in fitting])
    used = {k: cut.stop for place in places for k, cut in place}
    if any([stop > shape[k] for k, stop in used.items()]):
        return None
    return places, [(k, begins.get(k, 0)) for k in range(len(shape)) if k not in used]


def _seen(written: Operand, where: Where, before: Operand, n: int) -> Ruled:
    """What a part is of a tensor that is known."""
    places, fixed = where
    names: list[Name] = []
    for name, place in zip(before.names, places, strict=True):
        along = [named(written.number(k)[cut], n) for k, cut in place if carries(written.names[k])]
        names.append(along[0] if along else plain(name))
    whole = written.whole
    for axis, entry in fixed:
        if carries(written.names[axis]):
            whole = int(written.number(axis)[entry])
    return Ruled(tuple(names), whole)
