"""Operations that pick entries by whole numbers, slices, masks and other tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lensframe_pd.tables.case import (
    Case,
    Operand,
    Ruled,
    aligned,
    elementwise,
    meets_places,
    of_spread,
    shared,
)
from lensframe_pd.tables.order import (
    MIXED,
    NONE,
    PLACED,
    Name,
    Names,
    Numbers,
    by_axis,
    carries,
    named,
    numbers,
    of_all,
    of_both,
    together,
)
from lensframe_pd.tables.selection import along_axis, picked
from lensframe_pd.tape.tape import SLOT, Array


class Unknown(Exception):
    """Which entries are picked was not recorded."""


class Picked(NamedTuple):
    """An axis of what an index leaves: where it comes from."""

    axis: int | None
    """Of the indexed tensor; None where the index makes the axis."""
    index: Any
    """The slice along it, or the entries that are picked."""


class Basic(NamedTuple):
    """A tensor after the slices and whole numbers of an index; tensors in it are left over."""

    axes: list[Picked]
    fixed: list[tuple[int, int]]
    """Axes that are gone, and the entry that was picked there."""
    advanced: dict[int, Any]
    """Of the axes that are left, by position: the entries picked by tensors and lists."""
    by: dict[int, Operand]
    """By position, too: the tensors that pick them, along the axes that these make."""
    masks: list[tuple[int, Operand]]
    """Those of them that are masks, and the first axis that they pick along."""
    whole: int
    """The number of the tensors that bound its slices."""


Given = Iterator[tuple[Any, Operand]]
"""The tensors of an index, in turn: what each picks, and what is known of it."""


def picks(case: Case) -> Given:
    for position in range(1, len(case.operands)):
        if position not in case.values:
            raise Unknown
        yield case.values[position], case.operands[position]


class _Item(NamedTuple):
    """An item of an index, with the numbers in its tensors."""

    item: Any
    entries: Any = None
    """What a tensor, a list or an array picks; None for all other items."""
    operand: Operand | None = None
    bounds: int = NONE


def basic_part(case: Case, items: Sequence[Any], given: Given) -> Basic:
    """Whole numbers, slices, None and ... of an index, which torch applies before tensors."""
    rank = len(case.first.shape)
    read = [_read(item, given) for item in items]
    used = sum([_takes(one.item, one.entries) for one in read])
    found = Basic([], [], {}, {}, [], of_all([one.bounds for one in read]))
    axis = 0
    for item, entries, operand, _ in read:
        if item is Ellipsis:
            for _ in range(rank - used):
                found.axes.append(Picked(axis, slice(None)))
                axis += 1
        elif item is None:
            found.axes.append(Picked(None, None))
        elif isinstance(item, slice):
            found.axes.append(Picked(axis, item))
            axis += 1
        elif entries is None:
            found.fixed.append((axis, int(item)))
            axis += 1
        else:
            parts = _parts(entries)
            if operand is not None and entries.dtype == np.bool_:
                found.masks.append((axis, operand))
            for part in parts:
                if operand is not None:
                    found.by[len(found.axes)] = _made_by(operand, entries, parts, case.n)
                found.advanced[len(found.axes)] = part
                found.axes.append(Picked(axis, part))
                axis += 1
    found.axes.extend([Picked(k, slice(None)) for k in range(axis, rank)])
    return found


def _read(item: Any, given: Given) -> _Item:
    if item is SLOT:
        return _Item(item, *next(given))
    if isinstance(item, slice):
        ends = [next(given) if part is SLOT else (part, None)
                for part in (item.start, item.stop, item.step)]  # fmt: skip
        numbers = [operand.whole for _, operand in ends if operand is not None]
        cut = [part if operand is None else int(part) for part, operand in ends]
        return _Item(slice(*cut), bounds=of_all(numbers))
    if isinstance(item, Array):
        return _Item(item, item.value)
    if isinstance(item, (list, tuple)):
        if _holds_slot(item):
            raise Unknown
        return _Item(item, np.asarray(item))
    return _Item(item, np.asarray(item) if isinstance(item, bool) else None)


def _made_by(operand: Operand, entries: Any, parts: Sequence[Any], n: int) -> Operand:
    """An index along the axes that it makes: a mask makes one, of the entries where it is true."""
    if entries.dtype != np.bool_:
        return operand
    along = np.full(len(parts[0]), NONE)
    for k, name in enumerate(operand.names):
        if carries(name):
            along = together(along, operand.number(k)[parts[k]])
    return Operand((named(along, n),), (len(along),), operand.whole)


def _holds_slot(item: Any) -> bool:
    if isinstance(item, (list, tuple)):
        return any([_holds_slot(part) for part in item])
    return item is SLOT


def _takes(item: Any, entries: Any) -> int:
    """How many axes an item of an index is for."""
    if item is None or item is Ellipsis:
        return 0
    if isinstance(entries, np.ndarray) and entries.dtype == np.bool_:
        return entries.ndim
    return 1


def _parts(entries: Any) -> list[Any]:
    """A mask over several axes picks along each of them."""
    if isinstance(entries, np.ndarray) and entries.dtype == np.bool_:
        if not entries.ndim:
            raise Unknown  # a new axis of extent 0 or 1
        return list(np.nonzero(entries))
    return [entries]


def _sliced(case: Case, basic: Basic) -> Operand:
    """The first tensor after the slices and whole numbers of an index."""
    first = case.first
    names: list[Name] = []
    shape: list[int] = []
    for place, (axis, index) in enumerate(basic.axes):
        if axis is None:
            names.append(None)
            shape.append(1)
        elif place in basic.advanced:
            names.append(first.names[axis])
            shape.append(first.shape[axis])
        else:
            names.append(picked(case, first.names[axis], axis, index))
            shape.append(len(range(*index.indices(first.shape[axis]))))
    whole = of_both(first.whole, basic.whole)
    for axis, entry in basic.fixed:
        if carries(first.names[axis]):
            number = int(numbers(first.names[axis], first.shape[axis])[entry])
            whole = of_both(whole, number)
    return Operand(tuple(names), tuple(shape), whole)


def indexed(
    case: Case, operand: Operand, advanced: dict[int, Any], by: dict[int, Operand]
) -> Ruled:
    """A tensor indexed by others along some of its axes, as `aten::index` does it."""
    if not advanced:
        return Ruled(operand.names, operand.whole)
    at = front(advanced)
    rest = [name for k, name in enumerate(operand.names) if k not in advanced]
    rank = len(case.shape) - len(rest)
    whole = operand.whole
    if any([carries(operand.names[k]) for k in advanced]):
        decided = by_axis(_grid(operand, advanced), case.n)
        made: Sequence[Name] = decided or [None] * rank
        whole = MIXED if decided is None else whole
        # Which stimuli are picked is in their numbers; what is picked of them depends on the rest.
        rest_of = [index for k, index in by.items() if not carries(operand.names[k])]
        if rest_of and decided is not None:
            extents = tuple(_grid(operand, advanced).shape)
            told = Operand(tuple(decided), extents)
            made = aligned(case._replace(shape=extents), [told, *rest_of])
            whole = of_both(whole, of_spread([told, *rest_of], tuple(made)))
    else:
        others = list(by.values())
        made = _axes_of_indices(case, others, rank)
        whole = of_both(whole, of_spread(others, tuple(made)))
        if len(advanced) == rank == 1 and not any(made):
            made = [operand.names[next(iter(advanced))]]
    return Ruled((*rest[:at], *made, *rest[at:]), whole)


def front(advanced: Iterable[int]) -> int:
    """Where the axes that tensors pick come to stand: first, if those are apart."""
    places = sorted(advanced)
    return places[0] if places[-1] - places[0] == len(places) - 1 else 0


def _grid(operand: Operand, advanced: dict[int, Any]) -> Numbers:
    """The number of each entry that tensors pick."""
    shape = np.broadcast_shapes(*[entries.shape for entries in advanced.values()])
    grid = np.full(shape, NONE)
    for k, entries in advanced.items():
        if carries(operand.names[k]):
            grid = together(grid, np.broadcast_to(operand.number(k)[entries], shape))
    return grid


def _axes_of_indices(case: Case, others: Sequence[Operand], rank: int) -> list[Name]:
    """Entries of a table that has no order stand in that of the indices."""
    fitting = [o for o in others if len(o.shape) <= rank]
    extents = [max([o.shape[-k] for o in fitting if len(o.shape) >= k], default=1)
               for k in range(rank, 0, -1)]  # fmt: skip
    return list(aligned(case._replace(shape=tuple(extents)), fitting))


def items(case: Case) -> list[Any]:
    arguments = list(case.arguments.values())
    index = arguments[1] if len(arguments) > 1 else SLOT
    return list(index) if isinstance(index, tuple) else [index]


def getitem(case: Case) -> Ruled | None:
    try:
        basic = basic_part(case, items(case), picks(case))
    except Unknown:
        return None
    return indexed(case, _sliced(case, basic), basic.advanced, basic.by)


def index(case: Case) -> Ruled | None:
    """`aten::index`: along each axis a tensor, or None where it is left alone."""
    given = list(case.arguments.values())[1]
    items = [slice(None) if item is None else item for item in given]
    try:
        basic = basic_part(case, items, picks(case))
    except Unknown:
        return None
    return indexed(case, _sliced(case, basic), basic.advanced, basic.by)


def index_select(case: Case) -> Ruled | None:
    axis = case.axis()
    if axis is None or not case.first.shape:
        return None
    name = case.first.names[axis]
    if not carries(name):
        order = case.operands[-1].names
        made = order[0] if order and carries(order[0]) else name
        names = (*case.first.names[:axis], made, *case.first.names[axis + 1 :])
        return Ruled(names, of_both(case.first.whole, of_spread([case.operands[-1]], (made,))))
    if 1 not in case.values:
        return None
    names = along_axis(case, axis, case.values[1].reshape(-1))
    return Ruled(names, case.first.whole)


def gather(case: Case) -> Ruled | None:
    """Along one axis entries are picked, one by one; along the others they stay where they are."""
    axis = case.axis()
    if axis is None or len(case.operands) < 2 or len(case.first.shape) != len(case.shape):
        return None
    first, chosen = case.first, case.operands[-1]
    placed = NONE
    names: list[Name] = []
    for k, extent in enumerate(case.shape):
        if k == axis:
            names.append(None if carries(first.names[k]) else first.names[k])
            continue
        name = picked(case, first.names[k], k, slice(0, extent))
        pair = (
            (name, extent, first.elsewhere()),
            (chosen.names[k], chosen.shape[k], chosen.elsewhere()),
        )
        names.append(shared(pair, extent, case.n))
        if carries(names[-1]) and meets_places(pair):
            placed = PLACED
    if carries(first.names[axis]) and 1 in case.values:
        grid = np.broadcast_to(first.number(axis)[case.values[1]], case.shape)
        decided = by_axis(grid, case.n)
        if decided is None:
            return None
        both = zip(names, decided, case.shape, strict=True)
        names = [shared(((a, n, NONE), (b, n, NONE)), n, case.n) for a, b, n in both]
    whole = of_all([first.whole, chosen.whole, placed])
    if not _told(first, names, axis if 1 in case.values else None):
        whole = MIXED
    return Ruled(tuple(names), MIXED if not _told(chosen, names, None) else whole)


def _told(operand: Operand, names: Sequence[Name], but: int | None) -> bool:
    """Whether the stimuli along each axis are told along the same one."""
    return all([carries(names[k]) or k == but or not carries(name)
                for k, name in enumerate(operand.names)])  # fmt: skip


def take(case: Case) -> Names | None:
    return None if any(map(carries, case.first.names)) else case.operands[-1].names


def chosen(case: Case) -> Ruled | None:
    """`where`: of a mask alone its places, else entries of one tensor or another."""
    return elementwise(case) if len(case.arguments) > 1 else places(case)


def places(case: Case) -> Ruled | None:
    """`nonzero`, `where` of a mask: where it is true, an axis each.

    An entry is of the stimulus of the entry of the mask: its place, among the stimuli or in it.
    """
    mask = case.first
    ordered = [k for k, name in enumerate(mask.names) if carries(name)]
    if not ordered:
        return Ruled((None,) * len(case.shape), mask.whole)
    if 0 not in case.values:
        return None
    found = np.nonzero(case.values[0])
    along = np.full(len(found[0]), NONE)
    for k in ordered:
        along = together(along, mask.number(k)[found[k]])
    return Ruled((named(along, case.n), *(None,) * (len(case.shape) - 1)), mask.whole)


def masked_select(case: Case) -> Ruled | None:
    mask = case.values.get(1)
    if mask is None or mask.shape != case.first.shape:
        return None
    advanced = dict(enumerate(np.nonzero(mask)))
    by = _made_by(case.operands[1], mask, list(advanced.values()), case.n)
    return indexed(case, case.first, advanced, dict.fromkeys(advanced, by))
