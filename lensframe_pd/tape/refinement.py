"""Candidates for one layer split until they are one: the parents' layers must agree.

The signature of a row is, argument by argument, the layer of its parents. Candidates of unequal
signatures part, and then the readers of what moved are looked at again, until nothing changes.
Two things hold together what has unequal signatures:

- The first passes of a loop may read a start where later ones read what the loop carries round
  (`openings`). They join as whole sets of one signature, or not at all.
- A loop that an operation cuts in two is two loops. Where that is so is known only when nothing
  else can be split: a start that descends from the loop so far may turn out to be one of a loop
  of its own. Such rows wait until then, the first in the run first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from lensframe_pd.tape.cuts import cut_where_a_set_begins, cut_where_rows_begin
from lensframe_pd.tape.grouping import Grouping
from lensframe_pd.tape.openings import arranged
from lensframe_pd.tape.parts import Arrangement
from lensframe_pd.tape.readings import Readings
from lensframe_pd.tape.tape import Tape


def refined(tape: Tape, readings: Readings, groups: Sequence[list[int]]) -> list[list[int]]:
    """Groups of candidates, each several rows in order, split into layers.

    A row that is in none of those is a layer by itself.
    """
    refinement = _Refinement(Grouping(tape, readings, groups))
    refinement.run()
    return [*refinement.grouping.rows.values()]


class _Refinement:
    """Splits groups, and knows which are to be looked at again."""

    def __init__(self, grouping: Grouping) -> None:
        self.grouping = grouping
        self._waiting = dict.fromkeys(grouping.splits())
        #: First row and group of what is decided only when nothing waits.
        self._undecided: list[tuple[int, int]] = []
        #: Layer to the groups whose first passes joined because it is carried round.
        self._relying: dict[int, set[int]] = {}

    def run(self) -> None:
        while self._waiting or self._undecided:
            if self._waiting:
                g = next(iter(self._waiting))
                del self._waiting[g]
                self._look_at(g)
            else:
                row, g = heapq.heappop(self._undecided)
                if self.grouping.of[row] == g:
                    self._decide(g)

    def _look_at(self, g: int) -> None:
        """Split a group into what may still be one layer."""
        by_signature = self.grouping.parts(g)
        if not by_signature:
            self._part_all(g)
            return
        found = arranged(self.grouping, g, by_signature)
        parts = self._split(g, [a.rows for a in found])
        for part, arrangement in zip(parts, found, strict=True):
            if arrangement.undecided:
                heapq.heappush(self._undecided, (arrangement.undecided[0].first, part))
            for carried in arrangement.relies_on:
                self._relying.setdefault(carried, set()).add(part)

    def _decide(self, g: int) -> None:
        """Nothing else moves: part a group at the first row that fits in no other way."""
        found = arranged(self.grouping, g, self.grouping.parts(g))
        if len(found) == 1 and found[0].undecided:
            self._split(g, self._cut(found[0]))
        self._wake([g])

    def _cut(self, arrangement: Arrangement) -> list[list[int]]:
        """The rows before the cut, and each loop that begins anew; or a set that stands apart."""
        first = arrangement.undecided[0]
        if len(first.layer) == 1:
            loops = cut_where_rows_begin(self.grouping, arrangement)
        else:
            loops = cut_where_a_set_begins(self.grouping, arrangement)
        loops = loops or [first.layer]
        taken = {row for loop in loops for row in loop}
        before = [row for row in arrangement.rows if row not in taken]
        return [rows for rows in (before, *loops) if rows]

    def _split(self, g: int, parts: Sequence[list[int]]) -> list[int]:
        """Make groups of the parts; the largest keeps its number, so that fewest rows move."""
        if len(parts) == 1:
            return [g]
        grouping = self.grouping
        largest = max(range(len(parts)), key=lambda k: len(parts[k]))
        numbers = []
        for k, rows in enumerate(parts):
            numbers.append(grouping.reduce(g, rows) if k == largest else grouping.new(rows))
        moved = (row for k, rows in enumerate(parts) if k != largest for row in rows)
        self._wake(grouping.mark_readers(moved))
        if len(parts[largest]) == 1:  # no longer a loop: what was carried round it is not
            self._wake(grouping.mark_readers(parts[largest]))
        self._wake(self._relying.pop(g, ()))
        self._wake(numbers)
        return numbers

    def _part_all(self, g: int) -> None:
        """Have each row of a group alone: as `_split`, without lists of one row."""
        grouping = self.grouping
        rows = grouping.part_all(g)
        for moved in (rows[1:], rows[:1]):
            self._wake(grouping.mark_readers(moved))
        self._wake(self._relying.pop(g, ()))

    def _wake(self, groups: Iterable[int]) -> None:
        for g in groups:
            if g in self.grouping.rows:
                self._waiting[g] = None
