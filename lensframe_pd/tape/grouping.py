"""Rows in groups, as they are split into layers, and what each row reads in terms of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, cast

from lensframe_pd.tape.readings import Reading, Readings, Source, each
from lensframe_pd.tape.tape import Tape

Signature = tuple[tuple[Any, ...], tuple[Any, ...]]
"""The arguments of a row that hold tensors, and for each the layer of its parent (or layers)."""

_CLOSE = 50
"""How far apart two rows may be for a walk from one to the other, rather than a look-up."""


class Grouping:
    """The groups as they stand.

    Attributes
    ----------
    rows
        Group to its rows, in order.
    of
        Row to its group.
    begins
        Rows that begin a loop which was cut from another; their starts descend from that one.
    """

    def __init__(self, tape: Tape, readings: Readings, groups: Sequence[list[int]]) -> None:
        self.tape = tape
        self.rows: dict[int, list[int]] = dict(enumerate(groups))
        self.of = [0] * len(tape.rows)
        self.begins: set[int] = set()
        self.sources = readings.sources
        self.reading: dict[int, Reading] = {}
        #: Rows whose signature may have changed, by group.
        self._unread: dict[int, Collection[int]] = {}
        self._signature_of: dict[int, int] = {}
        self._numbers: dict[Signature, int] = {}
        self.signatures: list[Signature] = []
        for g, rows in self.rows.items():
            for row in rows:
                self.of[row] = g
            found = readings.of(rows) if len(rows) > 1 else {}
            if found:
                self.reading.update(found)
                self._unread[g] = found.keys()

    def splits(self) -> list[int]:
        """The groups whose rows may turn out to be of several layers."""
        return [*self._unread]

    def several(self, g: int) -> bool:
        return g >= 0 and len(self.rows[g]) > 1

    def new(self, rows: list[int]) -> int:
        """Make a group of these rows."""
        g = len(self.rows)
        self.rows[g] = rows
        for row in rows:
            self.of[row] = g
        return g

    def mark_readers(self, moved: Iterable[int]) -> Collection[int]:
        """The groups that read rows whose layer is another now; their rows are read anew."""
        marked: dict[int, set[int]] = {}
        for row in moved:
            for reader in self.readers[row]:
                g = self.of[reader]
                if len(self.rows[g]) > 1 and reader in self.reading:
                    marked.setdefault(g, set()).add(reader)
        for g, readers in marked.items():
            self._unread[g] = readers.union(self._unread.get(g, ()))
        return marked.keys()

    def parts(self, g: int) -> dict[int, list[int]]:
        """The rows of a group by the number of their signature."""
        numbers, known = self._signature_of, self._numbers
        for row in self._unread.pop(g, ()):
            signature = self.signature(row)
            number = known.get(signature)
            numbers[row] = self._number(signature) if number is None else number
        parts: dict[int, list[int]] = {}
        for row in self.rows[g]:
            parts.setdefault(numbers[row], []).append(row)
        return parts

    def part_of(self, row: int) -> int:
        """The number of a row's signature."""
        return self._signature_of[row]

    def signature(self, row: int) -> Signature:
        reading = self.reading[row]
        if reading.by_parameter:
            return (), reading.by_parameter
        if reading.grows:
            return self.plain_signature(row)
        of, sources = self.of, cast("tuple[int, ...]", reading.sources)
        return reading.roles, tuple([of[s] if s >= 0 else s for s in sources])

    def plain_signature(self, row: int) -> Signature:
        """The signature as if no parameter outranked the other parents."""
        of = self.of
        reading = self.reading[row]
        if reading.grows:  # every layer counts once
            values: Iterable[Any] = map(self._layers_of, reading.sources)
        else:
            plain: Any = reading.sources  # of one row each
            values = [of[s] if s >= 0 else s for s in plain]
        return reading.roles, tuple(values)

    def _layers_of(self, source: Source) -> Any:
        layers = tuple(dict.fromkeys([self.of[s] if s >= 0 else s for s in each(source)]))
        return layers if type(source) is tuple else layers[0]

    def _number(self, signature: Signature) -> int:
        number = self._numbers.setdefault(signature, len(self.signatures))
        if number == len(self.signatures):
            self.signatures.append(signature)
        return number

    @cached_property
    def readers(self) -> list[list[int]]:
        """For each row, the rows that read it."""
        readers: list[list[int]] = [[] for _ in self.of]
        for i in range(len(self.of)):
            for source in self.sources(i):
                readers[source].append(i)
        return readers

    def readers_alike(self, row: int) -> set[tuple[str, int]]:
        tape = self.tape
        return {(tape.calls[tape.rows[r][0]].function.name, self.of[r]) for r in self.readers[row]}

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
        n = len(self.of)
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
        """Whether a row's layer must change as soon as that of an earlier row does."""
        waiting, seen = [row], {row}
        while waiting:
            reading = self.reading.get(waiting.pop())  # None for what ran once: it stays itself
            if reading is None or reading.by_parameter:
                continue
            for source in reading.each():
                if source == cause:
                    return True
                if source > cause and source not in seen:
                    seen.add(source)
                    if self.several(self.of[source]):
                        waiting.append(source)
        return False
