"""Rows of one group that have one signature, and how one set of them can open another's loop."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lensframe_pd.tape.grouping import Grouping
from lensframe_pd.tape.readings import each

NEAR = 8
"""How many executions at the same place may come between a first pass and its loop that belong to
neither; and how many loops are tried, the nearest in the run, to either side."""

NEVER = 1 << 62
"""A row after all rows."""


class Difference(NamedTuple):
    """Arguments in which a first pass differs from the later ones."""

    places: tuple[int, ...]
    """Their positions in the later passes' signature."""
    layers: frozenset[int]
    """What the later passes read there, and the first one does not."""
    starts: bool
    """Whether the first pass reads something else there, or nothing."""


class Opening(NamedTuple):
    """How one set of rows opens the loop of another."""

    differences: tuple[Difference, ...]
    reach: dict[int, int]
    """For each argument, how many passes may differ in it: as far as later ones look back."""
    fresh: bool
    """Whether the starts are made without the loop."""

    @property
    def places(self) -> frozenset[int]:
        return frozenset(self.reach)

    @property
    def carried(self) -> frozenset[int]:
        return frozenset(layer for d in self.differences for layer in d.layers)


@dataclass(eq=False, slots=True)
class Part:
    """Rows of one group that have one signature."""

    number: int
    rows: list[int]
    roles: tuple[Any, ...]
    values: tuple[Any, ...]
    by_parameter: bool
    first: int = field(init=False)
    size: int = field(init=False)
    home: Part | None = field(init=False, default=None)
    """The loop it opens, once that is found."""
    waits: Opening | None = field(init=False, default=None)
    """How it would open a loop from which its starts descend."""
    openers: dict[Part, Opening] = field(init=False, default_factory=dict)
    """Of a loop: the sets that open it."""
    opening_rows: list[int] = field(init=False, default_factory=list)
    """Of a loop: the rows of the sets that open it, in order."""
    layer: list[int] = field(init=False)
    """Of a loop: its own rows and those, in order."""
    reach: dict[int, dict[int, int]] = field(init=False, default_factory=dict)
    """By the number of a set that opens it: how many passes may differ in which argument."""

    def __post_init__(self) -> None:
        self.first, self.size, self.layer = self.rows[0], len(self.rows), self.rows

    def row_after(self, row: int) -> int:
        return next_row(self.rows, row)

    def take(self, part: Part, opening: Opening) -> None:
        """Let a set open this loop."""
        part.home = self
        self.openers[part] = opening
        self.reach[part.number] = opening.reach
        if self.layer is self.rows:
            self.layer = [*self.rows]
        for rows in (self.layer, self.opening_rows):
            _insert(rows, part.rows)

    def let_go(self, part: Part) -> None:
        """That set does not open this loop after all."""
        del self.openers[part], self.reach[part.number]
        part.home = None
        gone = {*part.rows}
        self.layer = [row for row in self.layer if row not in gone]
        self.opening_rows = [row for row in self.opening_rows if row not in gone]

    def let_all_go(self) -> None:
        self.openers, self.reach = {}, {}
        self.layer, self.opening_rows = self.rows, []


@dataclass(slots=True)
class Arrangement:
    """One loop of a group, with what opens it and what may yet belong to it."""

    loop: Part
    undecided: list[Part] = field(default_factory=list)
    """Sets that differ from it as first passes may, but whose starts descend from the loop."""

    @property
    def rows(self) -> list[int]:
        if not self.undecided:
            return self.loop.layer
        return sorted(row for part in (self.loop, *self.undecided) for row in part.layer)

    @property
    def relies_on(self) -> set[int]:
        """The layers but for which the sets in it would not be together."""
        parts = (self.loop, *self.undecided)
        return {g for p in parts for opening in p.openers.values() for g in opening.carried}


class Loops:
    """The sets of a group that could be the later passes of a loop, found by what they fix."""

    def __init__(self, grouping: Grouping, parts: Iterable[Part]) -> None:
        #: By arguments, and which of them could be carried round: by the rest, the sets.
        self._found: dict[Any, dict[Any, list[Part]]] = {}
        for part in sorted(parts, key=lambda p: p.first):
            if part.by_parameter:
                continue
            carried = tuple(
                k
                for k, value in enumerate(part.values)
                if any(grouping.several(layer) for layer in each(value))
            )
            if carried:
                alike = self._found.setdefault((part.roles, carried), {})
                for key in (_fixed(part.values, carried), None):
                    alike.setdefault(key, []).append(part)

    def __bool__(self) -> bool:
        return bool(self._found)

    def near(self, part: Part) -> Iterator[Part]:
        """Loops that a set may open, those that run soon after it began first."""
        for (roles, carried), alike in self._found.items():
            if roles == part.roles:
                loops = alike.get(_fixed(part.values, carried), [])
            elif part.roles and len(part.roles) < len(roles):
                loops = alike[None]
            else:
                continue
            here = bisect_right(loops, part.first, key=lambda p: p.first)
            yield from loops[here : here + NEAR]
            for loop in loops[max(0, here - NEAR) : here]:
                if loop.rows[-1] > part.first:
                    yield loop


def differences_by_role(part: Part, loop: Part) -> tuple[Difference, ...]:
    """The arguments in which a set differs from a loop; nothing if it reads some of its own."""
    mine = dict(zip(part.roles, part.values, strict=True))
    if not mine.keys() <= {*loop.roles}:
        return ()
    found = []
    for place, (role, value) in enumerate(zip(loop.roles, loop.values, strict=True)):
        if mine.get(role) != value:
            layers = frozenset(each(value))
            layers = layers.difference(each(mine.get(role, ()))) or layers
            if min(layers) < 0:  # held, or from outside: not of the loop
                return ()
            found.append(Difference((place,), layers, True))
    return tuple(found)


def differences_in_number(part: Part, loop: Part) -> tuple[Difference, ...]:
    """A first pass that reads fewer tensors (`0 + x`), whichever arguments they are."""
    if len(part.roles) >= len(loop.roles):
        return ()
    mine = Counter(layer for value in part.values for layer in each(value))
    theirs = Counter(layer for value in loop.values for layer in each(value))
    layers = frozenset(theirs - mine)
    if mine - theirs or not layers or min(layers) < 0:
        return ()
    return (Difference((*range(len(loop.roles)),), layers, False),)


def _fixed(values: tuple[Any, ...], carried: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(v for k, v in enumerate(values) if k not in carried)


def next_row(rows: list[int], row: int) -> int:
    """The first of sorted rows after one; `NEVER` if there is none."""
    k = bisect_right(rows, row)
    return rows[k] if k < len(rows) else NEVER


def last_row(rows: list[int], row: int) -> int:
    """The last of sorted rows before one; -1 if there is none."""
    k = bisect_left(rows, row)
    return rows[k - 1] if k else -1


def rows_between(rows: list[int], begin: int, end: int) -> list[int]:
    """Those of sorted rows that are between two."""
    return rows[bisect_right(rows, begin) : bisect_left(rows, end)]


def merged(rows: list[int], more: list[int]) -> list[int]:
    """Both, in order."""
    return sorted([*rows, *more])


def _insert(rows: list[int], more: list[int]) -> None:
    if len(more) < NEAR:  # one by one, since many sets of one row may open one loop
        for row in more:
            insort(rows, row)
    else:
        rows += more
        rows.sort()
