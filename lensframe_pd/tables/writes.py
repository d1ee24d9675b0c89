"""Operations that write entries of a tensor: what is written brings its numbers along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lensframe_pd.tables.case import Case, Operand, Ruled, aligned, of_spread, without_order
from lensframe_pd.tables.indexing import Basic, Unknown, basic_part, front, items, picks
from lensframe_pd.tables.order import (
    MIXED,
    NONE,
    OF_ALL,
    Numbers,
    carries,
    named,
    numbers,
    of_all,
    of_both,
    plain,
    together,
)
from lensframe_pd.tables.selection import picked
from lensframe_pd.tape.tape import SLOT


def setitem(case: Case) -> Ruled | None:
    """What is written brings its numbers to where it is written."""
    values = picks(case)
    try:
        basic = basic_part(case, items(case), values)
    except Unknown:
        return _spoilt(case)
    value = case.operands[-1] if list(case.arguments.values())[-1] is SLOT else None
    return _steered(case, value, basic)


def _steered(case: Case, value: Operand | None, basic: Basic) -> Ruled | None:
    """A tensor after a write to where other tensors said: what is where comes from these, too.

    Along an axis that carries stimuli by now, the numbers of what was written say all of it; what
    has none says nothing of whom it came to stand in the place of.
    """
    numbered = value is not None and _tells(value)
    after = written(case, value, _places(basic), basic.fixed)
    if after is not None:
        after = after._replace(whole=of_both(after.whole, basic.whole))
    masked = {axis + k for axis, mask in basic.masks for k in range(len(mask.shape))}
    unlike: dict[int, Operand] = {}
    over: list[Operand] = []
    for k, said in basic.by.items():
        axis = basic.axes[k].axis
        if after is None or axis is None or axis in masked or 0 in said.shape:
            continue
        ordered = any(map(carries, said.names))
        index = said._replace(whole=NONE) if ordered else said
        if ordered and not (numbered and carries(after.names[axis])):
            after = after._replace(whole=of_both(after.whole, said.whole))
        if not carries(after.names[axis]):
            unlike[axis] = index
        elif not numbered and index.whole != NONE:
            return _spoilt(case)
        elif not numbered:
            over.append(index)
    unlike = {axis: index for axis, index in unlike.items() if _tells(index)}
    # The axis along which stimuli said the place does not tell which of them did.
    told = [[(axis, part) for axis, part in place if axis not in unlike]
            for place in _places(basic)]  # fmt: skip
    behind = _behind(basic)
    for index in (*unlike.values(), *over):
        said = Operand(
            (*index.names, *(None,) * behind), (*index.shape, *(1,) * behind), index.whole
        )
        after = _said(case, after, said, told, basic.fixed)
    for axis, mask in basic.masks:
        ordered = after is not None and carries(after.names[axis])
        if len(mask.shape) > 1 or not (ordered and numbered) or carries(mask.names[0]):
            after = _said(case, after, mask, [[(axis + k, slice(None))]
                                              for k in range(len(mask.shape))], [])  # fmt: skip
    return after


def _behind(basic: Basic) -> int:
    """How many axes of an indexed region come after those that tensors make."""
    if not basic.advanced:
        return 0
    before = front(basic.advanced)
    return len(basic.axes) - len(basic.advanced) - before


def _said(
    case: Case,
    after: Ruled | None,
    said: Operand,
    places: list[list[tuple[int, Any]]],
    fixed: list[tuple[int, int]],
) -> Ruled | None:
    """A tensor whose entries depend on another that stands in these places."""
    if after is None:
        return None
    target = Operand(after.names, case.first.shape, after.whole)
    return written(case._replace(operands=[target, said]), said, places, fixed)


def _places(basic: Basic) -> list[list[tuple[int, Any]]]:
    """For each axis of an indexed region, the axes of the whole and the entries there."""
    advanced = basic.advanced
    rest = [
        [(p.axis, p.index)] if p.axis is not None else []
        for k, p in enumerate(basic.axes)
        if k not in advanced
    ]
    if not advanced:
        return rest
    at = front(advanced)
    rank = len(np.broadcast_shapes(*[entries.shape for entries in advanced.values()]))
    made: list[list[tuple[int, Any]]] = [[] for _ in range(rank)]
    for k, entries in advanced.items():
        axis = basic.axes[k].axis
        wide = [j for j in range(entries.ndim) if entries.shape[j] != 1 or entries.ndim == 1]
        if axis is not None and len(wide) == 1:
            said = k in basic.by and _tells(basic.by[k])
            place = made[rank - entries.ndim + wide[0]]
            # Last where stimuli say which entries: of a pair, the other axis tells them.
            place.insert(len(place) if said else 0, (axis, entries.reshape(-1)))
    return [*rest[:at], *made, *rest[at:]]


def written(
    case: Case,
    value: Operand | None,
    places: list[list[tuple[int, Any]]],
    fixed: list[tuple[int, int]],
) -> Ruled | None:
    """A tensor after a value was written into a region of it.

    `places` says for each axis of the region which axis of the tensor it is, and the entries
    there; `fixed` is the entry along each axis that the region has not.
    """
    target = case.first
    if value is not None and value.whole in OF_ALL and _some(target, places, fixed):
        return _spoilt(case)  # of some stimuli only what is the same for all is left
    if value is None or not _tells(value):
        return Ruled(target.names, of_both(target.whole, NONE if value is None else value.whole))
    if not places and target.shape and len(fixed) < len(target.shape):
        return _spoilt(case)
    along = {k: target.number(k) if carries(target.names[k]) else np.full(n, NONE)
             for k, n in enumerate(target.shape)}  # fmt: skip
    lead = len(places) - len(value.shape)
    told: set[int] = set()
    for k, name in enumerate(value.names):
        here = places[lead + k] if lead + k >= 0 else []
        if not carries(name):
            unknown = value.whole == MIXED and value.shape[k] != 1
            if unknown and any([carries(target.names[axis]) for axis, _ in here]):
                return _spoilt(case)
            continue
        if not _place(along, here, numbers(name, value.shape[k]), target):
            return _spoilt(case)
        told |= {axis for axis, _ in here}
    whole = target.whole
    if value.whole >= 0:
        singles = [(axis, np.array([entry])) for axis, entry in fixed]
        if not singles:
            singles = [p for place in places for p in place if _is_one(p[1])]
        if not _place(along, singles, np.array([value.whole]), target):
            if any(map(carries, target.names)):
                return _spoilt(case)
            whole = of_both(whole, value.whole)
        told |= {axis for axis, _ in singles}
    elif value.whole != NONE:
        whole = of_both(whole, value.whole)
    if any([carries(name) and k not in told for k, name in enumerate(target.names)]):
        return _spoilt(case)  # stimuli come to stand along another axis than those before
    names = [named(along[k], case.n, target.names[k]) for k in range(len(target.shape))]
    return Ruled(tuple(names), whole)


def _some(
    target: Operand, places: list[list[tuple[int, Any]]], fixed: list[tuple[int, int]]
) -> bool:
    """Whether a region has some of the stimuli of a tensor, but not all of them."""
    cuts = [*fixed, *[part for place in places for part in place]]
    for axis, entries in cuts:
        if carries(target.names[axis]):
            extent = target.shape[axis]
            if isinstance(entries, int) or len(np.unique(np.arange(extent)[entries])) < extent:
                return True
    return False


def _is_one(entries: Any) -> bool:
    return isinstance(entries, np.ndarray) and entries.size == 1


def _place(
    along: dict[int, Numbers], places: Sequence[tuple[int, Any]], brought: Numbers, target: Operand
) -> bool:
    """Put numbers to where a write is for: along the axis that carries stimuli already, else one
    along which no entry gets those of several."""
    carrying = [place for place in places if carries(target.names[place[0]])]
    for axis, entries in carrying[:1] or places:
        here = _landed(entries, brought, len(along[axis]))
        if carrying or len(places) == 1 or not (here == MIXED).any():
            along[axis] = together(along[axis], here)
            return True
    return False


def _landed(entries: Any, brought: Numbers, extent: int) -> Numbers:
    """The numbers at the entries of an axis; where several go to one, it has all of theirs."""
    spots = np.arange(extent)[entries]
    brought = np.broadcast_to(brought, spots.shape)
    told = brought != NONE
    least, most = np.full(extent, NONE), np.full(extent, NONE)
    least[spots[told]] = most[spots[told]] = brought[told]
    np.minimum.at(least, spots[told], brought[told])
    np.maximum.at(most, spots[told], brought[told])
    return np.where(least == most, least, MIXED)


def _spoilt(case: Case) -> Ruled:
    """What was written where is not known: no axis is in a known order any more."""
    names = without_order(case.first.names, range(len(case.first.names)))
    spoils = any(map(_tells, case.operands))
    return Ruled(names, MIXED if spoils else of_all([o.whole for o in case.operands]))


def _tells(operand: Operand) -> bool:
    """Whether it makes a difference in what order the stimuli are."""
    return operand.whole not in (NONE, *OF_ALL) or any(map(carries, operand.names))


def index_put(case: Case) -> Ruled | None:
    given = list(case.arguments.values())[1]
    if any([item is not SLOT for item in given]):
        return _spoilt(case)
    values = picks(case)
    try:
        basic = basic_part(case, [SLOT] * len(given), values)
    except Unknown:
        return _spoilt(case)
    return _steered(case, case.operands[-1], basic)


def index_copy(case: Case) -> Ruled | None:
    """`index_copy`, `index_add`, `index_reduce`: a source, and along one axis where it goes."""
    axis = case.axis()
    if axis is None or len(case.operands) < 3 or 1 not in case.values:
        return _spoilt(case)
    places: list[list[tuple[int, Any]]] = [[(k, slice(None))] for k in range(len(case.first.shape))]
    places[axis] = [(axis, case.values[1].reshape(-1))]
    after = written(case, case.operands[2], places, [])
    index = case.operands[1]
    if after is None or not index.has_stimuli():
        return after
    if carries(after.names[axis]):
        return after if _tells(case.operands[2]) else _spoilt(case)
    if any(map(carries, index.names)):
        return _spoilt(case)
    return after._replace(whole=of_both(after.whole, index.whole))


def scatter(case: Case) -> Ruled | None:
    """Along one axis entries go where an index says, one by one; along the others they stay."""
    axis = case.axis()
    first = case.first
    source = case.operands[2] if len(case.operands) > 2 else None
    if axis is None or not first.shape:
        return _spoilt(case)
    index = case.operands[1]
    if len(index.shape) != len(first.shape):
        return _spoilt(case)
    after: Ruled | None = Ruled(first.names, first.whole)
    if source is not None:
        after = _scattered(case, source, axis)
    if after is not None and carries(after.names[axis]):
        # Which stimuli are where is in their numbers, if what was written has any.
        numbered = source is not None and _tells(source)
        return after if numbered or not index.has_stimuli() else _spoilt(case)
    # Where entries go within each stimulus is what the index says.
    said = Operand(index.names, index.shape, MIXED if carries(index.names[axis]) else index.whole)
    places: list[list[tuple[int, Any]]] = [[(k, slice(0, n))] for k, n in enumerate(index.shape)]
    return _said(case, after, said, places, [])


def _scattered(case: Case, source: Operand, axis: int) -> Ruled | None:
    first = case.first
    if len(source.shape) != len(first.shape):
        return _spoilt(case)
    extents = case.operands[1].shape
    ordered = carries(first.names[axis]) or carries(source.names[axis]) or source.whole >= 0
    where: Any = slice(0, extents[axis])
    if ordered:
        chosen = case.values.get(1)
        if chosen is None or not chosen.size:
            return _spoilt(case)
        line = chosen[
            tuple([slice(None) if k == axis else slice(0, 1) for k in range(chosen.ndim)])
        ]
        if not bool((chosen == line).all()):
            return _spoilt(case)
        where = line.reshape(-1)
    cut = Operand(
        tuple([picked(case._replace(operands=[source]), name, k, slice(0, extents[k]))
               for k, name in enumerate(source.names)]),
        tuple(extents), source.whole,
    )  # fmt: skip
    places: list[list[tuple[int, Any]]] = [
        [(k, where if k == axis else slice(0, extents[k]))] for k in range(len(first.shape))
    ]
    if not ordered:
        return written(case, cut._replace(names=(*cut.names[:axis], None, *cut.names[axis + 1 :])),
                        places, [])  # fmt: skip
    return written(case, cut, places, [])


def slice_scatter(case: Case) -> Ruled | None:
    axis = case.axis(0)
    if axis is None or len(case.operands) < 2:
        return _spoilt(case)
    part = slice(*(case.argument(name) for name in ("start", "end", "step")))
    places: list[list[tuple[int, Any]]] = [
        [(k, part if k == axis else slice(None))] for k in range(len(case.first.shape))
    ]
    return written(case, case.operands[1], places, [])


def select_scatter(case: Case) -> Ruled | None:
    axis, entry = case.axis(), case.argument("index")
    if axis is None or type(entry) is not int or len(case.operands) < 2:
        return _spoilt(case)
    places: list[list[tuple[int, Any]]] = [
        [(k, slice(None))] for k in range(len(case.first.shape)) if k != axis
    ]
    return written(case, case.operands[1], places, [(axis, entry)])


def copied(case: Case) -> Ruled | None:
    """All of the first tensor is written anew."""
    if len(case.operands) < 2:
        return Ruled(case.first.names, case.first.whole)
    source = case.operands[1]
    spread = aligned(case, [source])
    names = [
        name if carries(name) else plain(old) or name
        for name, old in zip(spread, case.first.names, strict=True)
    ]
    return Ruled(tuple(names), source.whole)


def masked_scatter(case: Case) -> Ruled | None:
    """Entries of a source, one after the other, go to where a mask is true."""
    target, mask, source = case.operands[0], case.operands[1], case.operands[-1]
    after = Ruled(target.names, of_both(target.whole, source.whole))
    if _tells(source):
        filled = _filled(case, target, source)
        if filled is None:
            return _spoilt(case)
        after = filled
    read = [Operand(after.names, target.shape, after.whole), mask]
    names = aligned(case, read)
    return Ruled(names, of_spread(read, names))


def _filled(case: Case, target: Operand, source: Operand) -> Ruled | None:
    """Where stimuli stand along the first axis, and the source has them along its own."""
    chosen = case.values.get(1)
    others = (*target.names[1:], *source.names[1:])
    if chosen is None or not target.shape or not source.shape or any(map(carries, others)):
        return None
    per_row = math.prod(source.shape[1:])
    counts = np.broadcast_to(chosen, target.shape).reshape(target.shape[0], -1).sum(1)
    if source.whole == MIXED or not per_row:
        return None
    along = source.number(0)
    ends = np.cumsum(counts)
    brought = np.full(len(counts), NONE)
    for k in np.flatnonzero(counts):
        first, last = (ends[k] - counts[k]) // per_row, (ends[k] - 1) // per_row
        brought[k] = of_all(along[first : last + 1].tolist())
    before = numbers(target.names[0], target.shape[0])
    names = (named(together(before, brought), case.n, target.names[0]), *target.names[1:])
    return Ruled(names, of_both(target.whole, source.whole if source.whole in OF_ALL else NONE))
