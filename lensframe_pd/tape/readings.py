"""What each row reads, argument by argument, as the layers of its parents are compared."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from lensframe_pd.tape.functions import CONTRACTIONS
from lensframe_pd.tape.places import Places, held_by
from lensframe_pd.tape.tape import SLOT, Call, Tape

Source = int | tuple[int, ...]

Roles = tuple[Any, ...]
"""The names of the arguments that hold tensors."""


def each(source: Source) -> tuple[int, ...]:
    """The sources (or layers) of one argument."""
    return source if type(source) is tuple else (source,)  # type: ignore[return-value]


class Readings:
    """What the rows read that have candidates for their layer: by row, for speed.

    Attributes
    ----------
    roles
        The names of the arguments that hold tensors.
    read
        Where the tensor of each came from: the first row of the call that made it, `-1 - k` for
        the k-th held parameter or buffer, or `outside`; of a list that grows, all together.
    growing
        Rows of which an argument is a list that grows.
    by_parameter
        Of rows that read a parameter, all they read that is held. This alone decides their layer.
    outside
        Stands for every tensor that was made outside the module call a row belongs to.
    """

    def __init__(self, tape: Tape, places: Places) -> None:
        n = len(tape.row_log)
        self.roles: list[Roles] = [()] * n
        self.read: list[tuple[Source, ...]] = [()] * n
        self.growing: set[int] = set()
        self.by_parameter: dict[int, tuple[tuple[int, int], ...]] = {}
        self.outside = -1 - len(tape.held)
        self._tape = tape
        #: By number, for speed: of few the names are asked.
        self._calls, self._rows = tape.call_log.entries, tape.row_log.entries
        self._anchors = places.anchors
        self._anchored = any(places.anchors)
        self._parameters = {-1 - k for k, held in enumerate(tape.held) if held.is_parameter}
        #: By the types of the arguments, where none of them is nested: their slots, their roles.
        self._plain: dict[Any, tuple[list[_Slots], Roles]] = {}
        self.first_slot = _first_slots(tape)

    def add(self, rows: Sequence[int]) -> bool:
        """Read candidates for one layer; whether what they read is more than is known to agree.

        Tensors in a list are an argument each where all candidates read equally many; where the
        list grows, they are one argument together.
        """
        made = self._calls
        calls = [made[number] for number in self._numbers_of(rows)]
        first = calls[0]
        function, read = first[0], first[3]  # call.function, call.sources
        if function.name in CONTRACTIONS and not self._parameters.isdisjoint(read):
            return False  # candidates share their parameters, which alone decide
        sources = self._seen_by(calls)
        if _of_one_kind(calls):
            _, roles = self._slots(first)
            for row, read in zip(rows, sources, strict=True):
                self.roles[row], self.read[row] = roles, read
        else:
            slots = [*map(self._slots, calls)]
            distinct = {id(of_call): of_call for of_call, _ in slots}  # most are one list
            growing = _growing(distinct.values()) if len(distinct) > 1 else ()
            for i, (row, (of_call, roles)) in enumerate(zip(rows, slots, strict=True)):
                if growing:
                    self.growing.add(row)
                    roles, sources[i] = _together(of_call, roles, sources[i], growing)
                self.roles[row], self.read[row] = roles, sources[i]
        for row, call in zip(rows, calls, strict=True) if self._parameters else ():
            if not self._parameters.isdisjoint(call[3]):  # call.sources
                self.by_parameter[row] = held_by(call[3])
        return True

    def _numbers_of(self, rows: Sequence[int]) -> Sequence[int]:
        """The numbers of the calls that made these rows."""
        made = self._rows
        return [made[row][0] for row in rows] if self.first_slot else rows  # row.call, for speed

    def sources(self, row: int) -> list[int]:
        """The rows a row reads, wherever they were made; of a call, the first row it made."""
        first = self.first_slot
        sources = self._calls[self._rows[row][0]][3]  # by number, for speed: row.call, call.sources
        return [first[s] if first else s for s in sources if s >= 0]

    def edges(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Rows, and of each the row it reads: the `sources` of all."""
        calls, first = self._calls, self.first_slot
        sources = [calls[row[0]][3] for row in self._rows]  # as in `sources`
        n_read = np.fromiter(map(len, sources), np.intp, len(sources))
        read = np.fromiter(chain.from_iterable(sources), np.intp)
        rows = np.arange(len(sources)).repeat(n_read)
        made = read >= 0  # and not held
        rows, read = rows[made], read[made]
        return rows, np.array(first)[read] if first else read

    def _slots(self, call: Call) -> tuple[list[_Slots], Roles]:
        """Which tensors are in which argument, and the names of these, one for each tensor."""
        _, args, kwargs, sources, *_ = call
        kinds: tuple[Any, ...] = tuple(map(type, args))
        if kwargs:
            kinds = (*kinds, *kwargs, *map(type, kwargs.values()))
        known = self._plain.get((len(sources), kinds))
        if known is None:
            known = _slots_of(args, kwargs, len(sources))
            if _tell(kinds, len(sources)):
                self._plain[len(sources), kinds] = known
        return known

    def _seen_by(self, calls: Sequence[Call]) -> list[tuple[Source, ...]]:
        """The sources of each call, as the module call that it belongs to sees them."""
        first = self.first_slot
        found: list[tuple[Source, ...]] = [call[3] for call in calls]  # sources: for speed
        if first:
            found = [tuple([s if s < 0 else first[s] for s in call[3]]) for call in calls]
        if self._anchored:
            for i, call in enumerate(calls):
                anchor = self._anchors[call[5]]  # call.module
                if anchor:
                    inside = range(anchor, self._ends[anchor])
                    found[i] = tuple(
                        [
                            seen if s < 0 or self._module_of(s) in inside else self.outside
                            for s, seen in zip(call[3], found[i], strict=True)
                        ]
                    )
        return found

    def _module_of(self, row: int) -> int:
        return int(self._calls[self._rows[row][0]][5])

    @cached_property
    def _ends(self) -> list[int]:
        """For each module call, where the calls inside it end: they follow it in `Tape.modules`."""
        modules = self._tape.modules
        ends = [i + 1 for i in range(len(modules))]
        for i in range(len(ends) - 1, 0, -1):
            around = modules[i].parent
            ends[around] = max(ends[around], ends[i])
        return ends


def _of_one_kind(calls: Sequence[Call]) -> bool:
    """Whether the tensors of all calls are in the same arguments, as their types tell."""
    args = [call[1] for call in calls]  # by number, for speed: call.args, sources and kwargs
    read = {len(call[3]) for call in calls}
    if len(read) > 1 or len({*map(len, args)}) > 1 or any([call[2] for call in calls]):
        return False
    types = [{*map(type, column)} for column in zip(*args, strict=True)]
    return all([len(found) == 1 for found in types]) and _tell(
        [kind for found in types for kind in found], read.pop()
    )


def _tell(kinds: Sequence[Any], n: int) -> bool:
    """Whether the types of arguments tell where `n` tensors are: none is in a list."""
    return kinds.count(type(SLOT)) == n or _NESTED.isdisjoint(kinds)


class _Slots(NamedTuple):
    """Tensors of one argument: a stretch of `Call.sources`."""

    role: Any
    begin: int
    end: int
    in_list: bool


def _slots_of(args: Sequence[Any], kwargs: Mapping[str, Any], n: int) -> tuple[list[_Slots], Roles]:
    """Where the `n` tensors of a call are."""
    found: list[_Slots] = []
    k = 0
    for role, value in chain(enumerate(args), kwargs.items()):
        if value is SLOT:
            found.append(_Slots(role, k, k + 1, False))
            k += 1
        elif type(value) in _NESTED:
            inside = _count(value)
            if inside:
                found.append(_Slots(role, k, k + inside, type(value) is not slice))
            k += inside
    if k < n:  # what it reads beside its arguments
        found.append(_Slots("", k, n, True))
    roles: list[Any] = []
    for role, begin, end, in_list in found:
        roles += [(role, k) for k in range(end - begin)] if in_list or end > begin + 1 else [role]
    return found, tuple(roles)


def _together(
    slots: list[_Slots], roles: Roles, sources: tuple[Any, ...], growing: Collection[Any]
) -> tuple[Roles, tuple[Source, ...]]:
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


def _first_slots(tape: Tape) -> list[int]:
    """For each row, the first row of its call; nothing if every call made one row."""
    rows = tape.row_log.entries
    if len(rows) == len(tape.call_log):
        return []
    first: list[int] = []
    for i, row in enumerate(rows):
        first.append(first[i - 1] if i and rows[i - 1][0] == row[0] else i)  # row.call
    return first
