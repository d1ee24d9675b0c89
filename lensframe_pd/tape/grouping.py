"""Rows in groups, as they are split into layers, and what each row reads in terms of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lensframe_pd.tape.readings import Readings, Roles, Source, each
from lensframe_pd.tape.tape import Tape

Signature = tuple[Roles, tuple[Any, ...]]
"""The arguments of a row that hold tensors, and for each the layer of its parent (or layers)."""

_CLOSE = 50
"""How far apart two rows may be for a walk from one to the other, rather than a look-up."""


class Grouping:
    """The groups as they stand.

    Attributes
    ----------
    rows
        Group to its rows, in order: several. Of a row that is alone the group is the row itself.
    of
        Row to its group; what is negative, since no row made it, to itself.
    roles, read
        Of each row that may move, as in `Readings`.
    begins
        Rows that begin a loop which was cut from another; their starts descend from that one.
    """

    def __init__(self, tape: Tape, readings: Readings, groups: Sequence[list[int]]) -> None:
        self.tape = tape
        self._n = self._next = len(tape.row_log)
        self.rows: dict[int, list[int]] = {}
        self.of = [*range(self._n), *range(readings.outside, 0)]  # of[-2] is -2
        self.begins: set[int] = set()
        self.sources, self._edges = readings.sources, readings.edges
        self.roles, self.read = readings.roles, readings.read
        self._growing, self._by_parameter = readings.growing, readings.by_parameter
        #: Rows whose signature may have changed, by group.
        self._unread: dict[int, Collection[int]] = {}
        #: Groups of which it is known what some row reads; of the others all is unread.
        self._known: set[int] = set()
        self._signature_of = [-1] * self._n
        self._numbers: dict[Signature, int] = {}
        self.signatures: list[Signature] = []
        for rows in groups:
            g = self.new(rows)
            if readings.add(rows):
                self._unread[g] = rows
        self._known.clear()  # nothing is read as yet

    def splits(self) -> list[int]:
        """The groups whose rows may turn out to be of several layers."""
        return [*self._unread]

    def several(self, g: int) -> bool:
        return g >= self._n

    def rows_of(self, g: int) -> list[int]:
        return self.rows[g] if g >= self._n else [g]

    def new(self, rows: list[int]) -> int:
        """Make a group of these rows."""
        if len(rows) == 1:
            g = rows[0]
        else:
            g, self._next = self._next, self._next + 1
            self.rows[g] = rows
            self._known.add(g)
        for row in rows:
            self.of[row] = g
        return g

    def reduce(self, g: int, rows: list[int]) -> int:
        """Leave a group these of its rows, the others being in new groups."""
        self.rows[g] = rows
        return self.part_all(g)[0] if len(rows) == 1 else g

    def part_all(self, g: int) -> list[int]:
        """Have each row of a group alone; gives the rows."""
        rows = self.rows.pop(g)
        for row in rows:
            self.of[row] = row
        self._known.discard(g)
        return rows

    def mark_readers(self, moved: Iterable[int]) -> Collection[int]:
        """The groups that read rows whose layer is another now; their rows are read anew."""
        marked: dict[int, set[int]] = {}
        for row in moved if self._known else ():
            for reader in self.readers(row):
                g = self.of[reader]
                if g >= self._n and self.read[reader]:
                    marked.setdefault(g, set()).add(reader)
        for g, readers in marked.items():
            unread = self._unread.get(g, ())
            if len(unread) < len(self.rows[g]):
                self._unread[g] = readers.union(unread)
        return marked.keys()

    def parts(self, g: int) -> dict[int, list[int]]:
        """The rows of a group by the number of their signature; none if each is alone."""
        rows, numbers = self.rows[g], self._signature_of
        unread = self._unread.pop(g, ())
        found = self.read_anew(unread, len(unread) == len(rows)) if unread else ()
        if unread and not found:
            return {}
        self._known.add(g)
        if len(found) == 1 and len(unread) == len(rows):  # most are one layer at the first look
            return dict.fromkeys(found, rows)
        parts: dict[int, list[int]] = {}
        for row in rows:
            parts.setdefault(numbers[row], []).append(row)
        return parts

    def read_anew(self, rows: Collection[int], are_all: bool) -> Collection[int]:
        """Number the signatures of rows as they are now; gives the numbers.

        None where these are all rows of a group, and each is seen to be alone.
        """
        of, roles = self.of.__getitem__, [*map(self.roles.__getitem__, rows)]
        special = self._growing or self._by_parameter
        signatures: list[Any]
        if not special and roles.count(roles[0]) == len(roles):  # most are; argument by argument
            read = zip(*map(self.read.__getitem__, rows), strict=True)
            columns = [[*map(of, sources)] for sources in read]
            if all([column.count(column[0]) == len(roles) for column in columns]):
                number = self._number((roles[0], tuple([column[0] for column in columns])))
                for row in rows:
                    self._signature_of[row] = number
                return (number,)
            if are_all and any(map(self._tells_apart, columns)):
                return ()
            signatures = [*zip(*columns, strict=True)]
            numbers = {v: self._number((roles[0], v)) for v in dict.fromkeys(signatures)}
        else:
            signatures = [*map(self.signature, rows)]
            numbers = {s: self._number(s) for s in dict.fromkeys(signatures)}
        for row, signature in zip(rows, signatures, strict=True):
            self._signature_of[row] = numbers[signature]
        return numbers.values()

    def _tells_apart(self, layers: Sequence[int]) -> bool:
        """Whether each row reads another layer in this argument, all of one row.

        As in a stack of layers. What is carried round a loop is of several rows, so that the passes
        of one agree here.
        """
        return max(layers) < self._n and len({*layers}) == len(layers)

    def part_of(self, row: int) -> int:
        """The number of a row's signature."""
        return self._signature_of[row]

    def signature(self, row: int) -> Signature:
        held = self._by_parameter.get(row)
        return ((), held) if held else self.plain_signature(row)

    def plain_signature(self, row: int) -> Signature:
        """The signature as if no parameter outranked the other parents."""
        sources: Any = self.read[row]
        layers = self._layers_of if row in self._growing else self.of.__getitem__
        return self.roles[row], tuple(map(layers, sources))

    def _layers_of(self, source: Source) -> Any:
        """The layers in a list that grows, where every one counts once."""
        layers = tuple(dict.fromkeys(map(self.of.__getitem__, each(source))))
        return layers if type(source) is tuple else layers[0]

    def _number(self, signature: Signature) -> int:
        number = self._numbers.setdefault(signature, len(self.signatures))
        if number == len(self.signatures):
            self.signatures.append(signature)
        return number

    def readers(self, row: int) -> list[int]:
        """The rows that read a row."""
        readers, begins = self._readers
        return readers[begins[row] : begins[row + 1]]

    @cached_property
    def _readers(self) -> tuple[list[int], list[int]]:
        """The readers of each row, one after the other, and where those of each begin."""
        readers, read = self._edges()
        in_order = read.argsort(kind="stable")
        begins = read[in_order].searchsorted(np.arange(self._n + 1))
        return readers[in_order].tolist(), begins.tolist()

    def readers_alike(self, row: int) -> set[tuple[str, int]]:
        tape = self.tape
        return {(tape.calls[tape.rows[r][0]].function.name, self.of[r]) for r in self.readers(row)}

    def descends(self, starts: Iterable[int], found: Callable[[int], bool], lowest: int) -> bool:
        """Whether a row for which `found` is true is among these or above them.

        Rows before `lowest` are not looked at.
        """
        waiting = [row for row in starts if row >= lowest]
        seen = set(waiting)
        while waiting:
            row = waiting.pop()
            if found(row):
                return True
            for source in self.sources(row):
                if source >= lowest and source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return False

    def descends_from(self, row: int, ancestor: int) -> bool:
        """Whether one row descends from another."""
        if row <= ancestor + _CLOSE:
            return self.descends([row], lambda r: r == ancestor, ancestor)
        entered, left = self._stretches
        if entered[ancestor] <= entered[row] < left[ancestor]:
            return True
        return self.descends([row], lambda r: r == ancestor, ancestor)

    @cached_property
    def _stretches(self) -> tuple[list[int], list[int]]:
        """Of the tree in which each row hangs on the latest it read: where a row's branch is.

        In a long chain this tells descent without a walk along it.
        """
        n = self._n
        latest = [max(self.sources(row), default=-1) for row in range(n)]
        size = [1] * n
        for row in range(n - 1, -1, -1):
            if latest[row] >= 0:
                size[latest[row]] += size[row]
        entered, free, roots = [0] * n, [0] * n, 0
        for row, above in enumerate(latest):
            if above < 0:
                entered[row], roots = roots, roots + size[row]
            else:
                entered[row] = free[above]
                free[above] += size[row]
            free[row] = entered[row] + 1
        return entered, [begin + rows for begin, rows in zip(entered, size, strict=True)]

    def follows(self, row: int, cause: int) -> bool:
        """Whether a row's layer must change as soon as that of an earlier row does.

        Where there is no such row, as after the last of a loop, it need not.
        """
        waiting, seen = [row] if row < len(self.read) else [], {row}
        while waiting:
            reader = waiting.pop()
            if reader in self._by_parameter:
                continue
            read = self.read[reader]  # nothing of what ran once: it stays itself
            for source in (s for sources in read for s in each(sources)):
                if source == cause:
                    return True
                if source > cause and source not in seen:
                    seen.add(source)
                    if self.several(self.of[source]):
                        waiting.append(source)
        return False
