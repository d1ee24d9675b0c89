"""Which rows of unequal signatures are one loop all the same: its first passes, and its restarts.

A role (an argument) is *carried* by a loop if what its later passes read there comes from a layer
with several passes that still runs after the first pass began. First passes may read a start
instead: as many as later passes look back, each start made without the loop. A loop entered again
from such a start goes on counting. Rows of one signature join as a whole or not at all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from lensframe_pd.tape.grouping import Grouping
from lensframe_pd.tape.parts import (
    NEAR,
    NEVER,
    Arrangement,
    Difference,
    Loops,
    Opening,
    Part,
    differences_by_role,
    differences_in_number,
    last_row,
    merged,
    next_row,
    rows_between,
)
from lensframe_pd.tape.readings import each

_COURSE = 64
"""How many of the next executions tell which of two loops a set is more like."""


def arranged(grouping: Grouping, g: int, parts: dict[int, list[int]]) -> list[Arrangement]:
    """The loops (and single sets) that the rows of a group are, as far as can be told now.

    `parts` are those rows by the number of their signature.
    """
    return _Sets(grouping, g, parts).arranged()


class _Sets:
    """The rows of one group by signature, as they are put together."""

    def __init__(self, grouping: Grouping, g: int, parts: dict[int, list[int]]) -> None:
        self.grouping = grouping
        self.g = g
        self.rows = grouping.rows[g]
        self.parts = {n: self._part(n, rows) for n, rows in parts.items()}

    def _part(self, number: int, rows: list[int]) -> Part:
        roles, values = self.grouping.signatures[number]
        if roles:
            return Part(number, rows, roles, values, False)
        # A parameter outranks the other parents; a first pass may read one for all that.
        plain = {self.grouping.plain_signature(row) for row in rows}
        roles, values = plain.pop() if len(plain) == 1 else ((), ())
        return Part(number, rows, roles, values, True)

    def arranged(self) -> list[Arrangement]:
        parts = [*self.parts.values()]
        if len(parts) == 1:
            return [Arrangement(parts[0])]
        loops = Loops(self.grouping, parts)
        if not loops:
            return [*map(Arrangement, parts)]
        stale: list[tuple[Part, Part, Opening]] = []
        for part in sorted(parts, key=lambda p: (p.size, -p.first)):
            stale += self._join(part, loops)
        self._let_go_of_what_does_not_hold()
        return self._together(stale)

    def _join(self, part: Part, loops: Loops) -> list[tuple[Part, Part, Opening]]:
        """Let a set open the loop it is most like; gives those it cannot open as yet."""
        fresh: dict[Part, Opening] = {}
        stale = []
        for near in loops.near(part):
            loop = near.home or near
            if loop is part or loop in fresh:
                continue
            opening = self._opening(part, loop)
            if opening is not None and opening.fresh:
                fresh[loop] = opening
            elif opening is not None:
                stale.append((part, loop, opening))
        if len(fresh) > 1:
            self._open(part, *max(fresh.items(), key=lambda found: self._rank(part, *found)))
        elif fresh:
            self._open(part, *fresh.popitem())
        return stale

    def _open(self, part: Part, loop: Part, opening: Opening) -> None:
        """Let a set, with all that opens it, open a loop; unless one of them may not."""
        openings = {opener: self._opening(opener, loop) for opener in part.openers}
        openings[part] = opening
        may = {opener: o for opener, o in openings.items() if o is not None and o.fresh}
        if len(may) == len(openings):
            part.let_all_go()
            for opener, how in may.items():
                loop.take(opener, how)

    def _let_go_of_what_does_not_hold(self) -> None:
        """A set may rely on another to open the same loop, which then did not."""
        for opened in self.parts.values():
            for part in self._started_from(opened):
                opened.let_go(part)
        doubtful = [p for p in self.parts.values() if p.home is not None]
        while doubtful:
            part = doubtful.pop()
            loop = part.home
            if loop is not None and not self._holds(part, loop):
                loop.let_go(part)
                doubtful += loop.openers

    def _started_from(self, loop: Part) -> list[Part]:
        """Sets of first passes from which the starts of others descend, which they must not."""
        if len(loop.openers) < 2:
            return []
        openers = {part.number: part for part in loop.openers}
        starts = [
            start
            for part, opening in loop.openers.items()
            for start in self._all_starts(part, loop, opening.differences)
        ]
        found: dict[Part, None] = {}

        def note(row: int) -> bool:
            if self.grouping.of[row] == self.g:
                opener = openers.get(self.grouping.part_of(row))
                if opener is not None:
                    found[opener] = None
            return False

        self.grouping.descends(starts, note, loop.layer[0])
        return [*found]

    def _holds(self, part: Part, loop: Part) -> bool:
        after = loop.row_after(part.first)
        read = [q for d in loop.openers[part].differences for q in self._read(after, loop, d)]
        return all(self._carried(q, part, loop, settled=True) for q in read)

    def _together(self, stale: list[tuple[Part, Part, Opening]]) -> list[Arrangement]:
        found = {p: Arrangement(p) for p in self.parts.values() if p.home is None}
        of = {part: part for part in found}
        for part, near, opening in sorted(stale, key=lambda s: (len(s[0].layer), s[0].first)):
            loop = near.home or near
            while of[loop] is not loop:
                loop = of[loop]
            free = part.home is None and of[part] is part and loop is not part
            if free and len(loop.layer) >= len(part.layer):
                part.waits = opening
                of[part] = loop
                found[loop].undecided += [part, *found.pop(part).undecided]
        for arrangement in found.values():
            arrangement.undecided.sort(key=lambda p: p.layer[0])
        return [*found.values()]

    def _rank(self, part: Part, loop: Part, opening: Opening) -> tuple[int, ...]:
        """How well a set would open a loop: its readers are alike, and what runs next."""
        rows = loop.rows[:2]
        mine = self.grouping.readers_alike(part.first)
        alike = max(len(mine & self.grouping.readers_alike(row)) for row in rows)
        ahead = max(self._common_course(part.first, row) for row in rows)
        return alike, -len(opening.places), ahead, loop.size, -loop.first

    def _common_course(self, a: int, b: int) -> int:
        """In how many of the next executions these two go on alike."""
        i, j, n = bisect_right(self.rows, a), bisect_right(self.rows, b), 0
        part_of = self.grouping.part_of
        while n < _COURSE and max(i, j) + n < len(self.rows):
            if part_of(self.rows[i + n]) != part_of(self.rows[j + n]):
                break
            n += 1
        return n

    def _opening(self, part: Part, loop: Part) -> Opening | None:
        """How a set may open a loop; None if it may not."""
        after = loop.row_after(part.first)
        if after == NEVER or self._between_others(part, loop, after) > NEAR:
            return None
        for differences in (differences_in_number(part, loop), differences_by_role(part, loop)):
            if not differences:
                continue
            read = {d: self._read(after, loop, d) for d in differences}
            sources = [q for d in differences for q in read[d]]
            if not all(self._carried(q, part, loop) for q in sources):
                continue
            if not all(self._goes_round(read[d], d, part, loop, after) for d in differences):
                continue
            reach = {
                place: self._looks_back(read[d], after) if d.starts else 1
                for d in differences
                for place in d.places
            }
            fresh = self._fresh(part, loop, differences, sources)
            opening = Opening(differences, reach, fresh)
            if self._in_reach(part, loop, opening, sources):
                return opening
        return None

    def _between_others(self, part: Part, loop: Part, after: int) -> int:
        """How many executions between a first pass and the loop belong to neither."""
        everything, *own = (
            bisect_left(rows, after) - bisect_right(rows, part.first)
            for rows in (self.rows, part.rows, loop.layer)
        )
        return everything - sum(own)

    def _read(self, row: int, loop: Part, difference: Difference) -> list[int]:
        """What a later pass reads where a first one differs."""
        sources = self.grouping.read[row]
        of = self.grouping.of
        return [
            s
            for place in difference.places
            for s in each(sources[place])
            if s >= 0 and of[s] in difference.layers
        ]

    def _carried(self, source: int, part: Part, loop: Part, settled: bool = False) -> bool:
        """Whether what a later pass reads comes from a layer that still runs after `part` began."""
        g = self.grouping.of[source]
        if g != self.g:
            rows = self.grouping.rows_of(g)
            return len(rows) > 1 and rows[-1] > part.first
        made_by = self.parts[self.grouping.part_of(source)]
        if made_by is part or (made_by.home or made_by) is loop:
            return True
        if not settled and source < part.first:  # it may open the loop too, before this one
            return True
        return made_by.size > 1 and made_by.rows[-1] > part.first

    def _goes_round(
        self, sources: list[int], difference: Difference, part: Part, loop: Part, after: int
    ) -> bool:
        """Whether the passes follow one another in a loop.

        Without this, `for x in views: for layer in layers: x = relu(layer(x))` were a loop over
        the layers, since each runs several times.
        """
        again = loop.row_after(after)
        until = min(part.row_after(after), next_row(loop.opening_rows, after))
        begun = [part.first, *self._starts(part.first, part, loop, difference)]
        made = [q for q in sources if q >= part.first]
        if not all(self._descends(q, begun) for q in made):
            return False
        if again < until:
            following = self._read(again, loop, difference)
            second = min(part.row_after(part.first), next_row(loop.layer, part.first))
            begun = [part.first, second, *made]
            return not made or any(self._descends(q, begun) for q in following)
        return all(self._comes_again(q, part, after, until) for q in sources)

    def _comes_again(self, source: int, part: Part, after: int, until: int) -> bool:
        """Whether what made a parent of the second pass runs again for a next one."""
        g = self.grouping.of[source]
        rows = self.grouping.rows_of(g)
        if g == self.g:
            return True
        if source < part.first:
            return next_row(rows, source) < until
        # from this second pass, or from its own last pass, as the time that is counted up
        from_pass, from_source = next_row(rows, max(source, after)), next_row(rows, source)
        return (from_pass < until and self._descends(from_pass, [after])) or (
            from_source < until and self._descends(from_source, [source])
        )

    def _descends(self, row: int, ancestors: Iterable[int]) -> bool:
        return any(self.grouping.descends_from(row, ancestor) for ancestor in ancestors)

    def _looks_back(self, sources: list[int], after: int) -> int:
        """How many passes back a later pass reads."""
        here = bisect_left(self.rows, after)
        return max((1 + here - bisect_right(self.rows, q) for q in sources), default=1)

    def _in_reach(self, part: Part, loop: Part, opening: Opening, sources: list[int]) -> bool:
        """Whether no first pass is further from its start than later passes look back."""
        every = {place for reach in loop.reach.values() for place in reach}
        doubtful = part.rows
        if not every >= opening.places:
            every |= opening.places
            doubtful = merged(loop.opening_rows, part.rows)
        last = -1
        for row in doubtful:
            if row > last:
                run = self._first_passes_around(row, part, loop)
                last = run[-1]
                reaches = [self._reach(r, part, opening, loop) for r in run]
                if not _all_in_reach(reaches, set()) and not (
                    # what goes round the loop may start anew at any time
                    self._feeds_itself(part, sources) and _all_in_reach(reaches, every)
                ):
                    return False
        return True

    def _feeds_itself(self, part: Part, sources: list[int]) -> bool:
        """Whether what a later pass reads descends from an earlier pass of the same layer."""
        return any(
            self.grouping.of[q] == self.g or self.grouping.descends_from(q, part.first)
            for q in sources
            if q >= part.first
        )

    def _first_passes_around(self, row: int, part: Part, loop: Part) -> list[int]:
        """The first passes that would follow one another, this row among them."""
        begin, end = last_row(loop.rows, row), next_row(loop.rows, row)
        return merged(
            rows_between(loop.opening_rows, begin, end), rows_between(part.rows, begin, end)
        )

    def _reach(self, row: int, part: Part, opening: Opening, loop: Part) -> dict[int, int]:
        number = self.grouping.part_of(row)
        return opening.reach if number == part.number else loop.reach[number]

    def _fresh(
        self, part: Part, loop: Part, differences: Iterable[Difference], sources: list[int]
    ) -> bool:
        """Whether no start descends from the loop, or from what it carries round."""
        grouping, g = self.grouping, self.g
        starts = self._all_starts(part, loop, differences)
        carried = {layer for d in differences for layer in d.layers if layer != g}
        numbers = {part.number, loop.number, *(p.number for p in loop.openers)}
        numbers |= {grouping.part_of(q) for q in sources if grouping.of[q] == g}
        lowest = min(part.first, loop.layer[0], *(grouping.rows_of(c)[0] for c in carried))

        def of_the_loop(row: int) -> bool:
            own = grouping.of[row]
            return own in carried or (own == g and grouping.part_of(row) in numbers)

        return not grouping.descends(starts, of_the_loop, lowest)

    def _all_starts(self, part: Part, loop: Part, differences: Iterable[Difference]) -> list[int]:
        return [
            source
            for row in part.rows
            if row not in self.grouping.begins
            for d in differences
            if d.starts
            for source in self._starts(row, part, loop, d)
        ]

    def _starts(self, row: int, part: Part, loop: Part, difference: Difference) -> Iterator[int]:
        """What a first pass reads where the later ones read something else."""
        of, sources = self.grouping.of, self.grouping.read[row]
        for place in difference.places:
            role = loop.roles[place]
            if role in part.roles:
                others = each(loop.values[place])
                for source in each(sources[part.roles.index(role)]):
                    if source >= 0 and of[source] not in others:
                        yield source


def _all_in_reach(reaches: list[dict[int, int]], every: set[int]) -> bool:
    """Whether passes that follow one another differ, in each argument, in no more than may.

    One that differs in `every` argument starts anew.
    """
    passed: dict[int, int] = {}
    for reach in reaches:
        if reach.keys() == every:
            passed = {}
        passed = {place: passed.get(place, 0) + 1 for place in reach}
        if any(n > reach[place] for place, n in passed.items()):
            return False
    return True
