"""What each row reads, argument by argument, as the layers of its parents are compared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from lensframe_pd.tape.functions import CONTRACTIONS
from lensframe_pd.tape.places import Places, held_by
from lensframe_pd.tape.tape import SLOT, Call, Tape

OUTSIDE = -(1 << 62)
"""Stands for every tensor that was made outside the module call a row belongs to."""


Source = int | tuple[int, ...]


class Reading(NamedTuple):
    """The tensors one row reads: for each argument its name, and where its tensor came from.

    A source is the first row of the call that made it, `-1 - k` for the k-th held parameter or
    buffer, or `OUTSIDE`; of a list that grows, all sources together.
    """

    roles: tuple[Any, ...]
    sources: tuple[Source, ...]
    grows: bool = False
    """Whether an argument is a list that grows."""
    by_parameter: tuple[tuple[int, int], ...] = ()
    """Where it reads a parameter: all it reads that is held. This alone decides its layer."""

    def each(self) -> Iterator[int]:
        """Every source by itself."""
        for source in self.sources:
            yield from each(source)


def each(source: Source) -> tuple[int, ...]:
    """The sources (or layers) of one argument."""
    return source if type(source) is tuple else (source,)  # type: ignore[return-value]


class Readings:
    """The readings of the rows that have candidates for their layer."""

    def __init__(self, tape: Tape, places: Places) -> None:
        self._tape = tape
        self._anchors = places.anchors
        self._ends = _ends(tape)
        self._parameters = {-1 - k for k, held in enumerate(tape.held) if held.is_parameter}
        #: By the types of the arguments, where none of them is nested: their slots, their roles.
        self._plain: dict[Any, tuple[list[_Slots], tuple[Any, ...]]] = {}
        self.first_slot = _first_slots(tape)

    def of(self, rows: Sequence[int]) -> dict[int, Reading]:
        """The readings of candidates for one layer.

        Tensors in a list are an argument each where all candidates read equally many; where the
        list grows, they are one argument together.
        """
        calls = [self._tape.calls[self._tape.rows[row][0]] for row in rows]
        first = calls[0]
        if first.function.name in CONTRACTIONS and self._by_parameter(first.sources):
            return {}  # candidates share their parameters, which alone decide
        slots = [self._slots(call) for call in calls]
        distinct = {id(of_call): of_call for of_call, _ in slots}  # most are the very same list
        growing = _growing(distinct.values()) if len(distinct) > 1 else ()
        return {
            row: self._reading(call, of_call, roles, growing)
            for row, call, (of_call, roles) in zip(rows, calls, slots, strict=True)
        }

    def sources(self, row: int) -> list[int]:
        """The rows a row reads, wherever they were made; of a call, the first row it made."""
        first = self.first_slot
        sources = self._tape.calls[self._tape.rows[row][0]].sources
        return [first[s] if first else s for s in sources if s >= 0]

    def _slots(self, call: Call) -> tuple[list[_Slots], tuple[Any, ...]]:
        """Which tensors are in which argument, and the names of these, one for each tensor."""
        kinds: tuple[Any, ...] = tuple(map(type, call.args))
        if call.kwargs:
            kinds = (*kinds, *call.kwargs, *map(type, call.kwargs.values()))
        known = self._plain.get((len(call.sources), kinds))
        if known is None:
            known = _slots_of(call)
            if _NESTED.isdisjoint(kinds):
                self._plain[len(call.sources), kinds] = known
        return known

    def _reading(
        self, call: Call, slots: list[_Slots], roles: tuple[Any, ...], growing: Collection[Any]
    ) -> Reading:
        sources: tuple[Source, ...] = call.sources
        if self._anchors[call.module] or self.first_slot:
            sources = tuple([self._seen(s, call.module) for s in call.sources])
        if growing:
            roles, sources = _together(slots, roles, sources, growing)
        elif not call.sources or min(call.sources) >= 0:
            return Reading(roles, sources)  # most are of this kind
        return Reading(roles, sources, bool(growing), self._by_parameter(call.sources))

    def _by_parameter(self, sources: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        if not sources or min(sources) >= 0 or self._parameters.isdisjoint(sources):
            return ()
        return held_by(sources)

    def _seen(self, source: int, module: int) -> int:
        """A source as the module call that a row belongs to sees it."""
        if source < 0:
            return source
        anchor = self._anchors[module]
        if anchor:
            maker = self._tape.calls[self._tape.rows[source][0]].module
            if not anchor <= maker < self._ends[anchor]:
                return OUTSIDE
        return self.first_slot[source] if self.first_slot else source


class _Slots(NamedTuple):
    """Tensors of one argument: a stretch of `Call.sources`."""

    role: Any
    begin: int
    end: int
    in_list: bool


def _slots_of(call: Call) -> tuple[list[_Slots], tuple[Any, ...]]:
    found: list[_Slots] = []
    k = 0
    for role, value in _arguments(call):
        if value is SLOT:
            found.append(_Slots(role, k, k + 1, False))
            k += 1
        elif type(value) in _NESTED:
            n = _count(value)
            if n:
                found.append(_Slots(role, k, k + n, type(value) is not slice))
            k += n
    if k < len(call.sources):  # what it reads beside its arguments
        found.append(_Slots("", k, len(call.sources), True))
    roles: list[Any] = []
    for role, begin, end, in_list in found:
        roles += [(role, k) for k in range(end - begin)] if in_list or end > begin + 1 else [role]
    return found, tuple(roles)


def _together(
    slots: list[_Slots], roles: tuple[Any, ...], sources: tuple[Any, ...], growing: Collection[Any]
) -> tuple[tuple[Any, ...], tuple[Source, ...]]:
    """Roles and sources with each growing list as one argument."""
    names: list[Any] = []
    parts: list[Source] = []
    for role, begin, end, _ in slots:
        if role in growing:
            names.append(role)
            parts.append(sources[begin:end])
        else:
            names += roles[begin:end]
            parts += sources[begin:end]
    return tuple(names), tuple(parts)


_NESTED = frozenset((tuple, list, dict, slice))


def _arguments(call: Call) -> Iterator[tuple[Any, Any]]:
    yield from enumerate(call.args)
    yield from call.kwargs.items()


def _count(value: Any) -> int:
    """How many tensors stood in an argument."""
    if value is SLOT:
        return 1
    kind = type(value)  # a plain one, as recorded; a named tuple is one of the tape's own records
    if kind is tuple or kind is list:
        return sum(map(_count, value))
    if kind is dict:
        return sum(map(_count, value.values()))
    if kind is slice:
        return _count(value.start) + _count(value.stop) + _count(value.step)
    return 0


def _growing(candidates: Iterable[list[_Slots]]) -> set[Any]:
    """Arguments that are lists of unequal lengths."""
    lengths: dict[Any, int] = {}
    growing = set()
    for slots in candidates:
        for role, begin, end, in_list in slots:
            if in_list and lengths.setdefault(role, end - begin) != end - begin:
                growing.add(role)
    return growing


def _ends(tape: Tape) -> list[int]:
    """For each module call, where the calls inside it end: they follow it in `Tape.modules`."""
    ends = [i + 1 for i in range(len(tape.modules))]
    for i in range(len(ends) - 1, 0, -1):
        around = tape.modules[i].parent
        ends[around] = max(ends[around], ends[i])
    return ends


def _first_slots(tape: Tape) -> list[int]:
    """For each row, the first row of its call; nothing if every call made one row."""
    rows = tape.rows
    if len(rows) == len(tape.calls):
        return []
    first: list[int] = []
    for i, row in enumerate(rows):
        first.append(first[i - 1] if i and rows[i - 1].call == row.call else i)
    return first
