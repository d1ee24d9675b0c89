"""Which executions are passes of one layer.

Two executions are passes of one layer when they are the same place in the program, in the same
repeated structure: same function, module and call site (or the same contracted parameter), and
parents that are passes of the same layers. Candidates that agree in the former are split, by
partition refinement, until they agree in the latter; the first pass of a loop may differ where
the others read what an earlier pass carried round.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import Any, NamedTuple

from lensframe_pd.schema import label
from lensframe_pd.tape.functions import CONTRACTIONS
from lensframe_pd.tape.tape import Tape

_Signature = tuple[Any, ...]


class Passes(NamedTuple):
    """For each row of a tape: its layer, its pass and how many passes that layer has."""

    layers: list[str]
    pass_nums: list[int]
    n_passes: list[int]

    def labels(self) -> list[str]:
        return [*map(label, self.layers, self.pass_nums, self.n_passes)]


def passes(tape: Tape) -> Passes:
    """Group the rows of a tape into layers, number the layers by function and first execution."""
    groups = list(candidates(tape).values())
    if any(len(rows) > 1 for rows in groups):
        groups = _without_bookkeeping(tape, _Refinement(tape, groups).run())
        groups.sort(key=lambda rows: rows[0])
    n = len(tape.rows)
    layers, pass_nums, n_passes = [""] * n, [0] * n, [0] * n
    counts: dict[str, int] = defaultdict(int)
    for rows in groups:
        func = tape.calls[tape.rows[rows[0]].call].function.name
        counts[func] += 1
        layer = f"{func}_{counts[func]}"
        for p, row in enumerate(rows, 1):
            layers[row], pass_nums[row], n_passes[row] = layer, p, len(rows)
    return Passes(layers, pass_nums, n_passes)


def candidates(tape: Tape) -> dict[Any, list[int]]:
    """Rows that agree in function, output slot, module and call site, in order of execution."""
    groups: dict[Any, list[int]] = {}
    for i in range(len(tape.rows)):
        key = candidate_key(tape, i)
        group = groups.get(key)
        if group is None:
            groups[key] = [i]
        else:
            group.append(i)
    return groups


def candidate_key(tape: Tape, i: int) -> Any:
    """What two rows must share to be passes of one layer, before their parents are looked at."""
    if i in tape.kinds and tape.kinds[i] != "alias":
        return i
    row = tape.rows[i]
    call = tape.calls[row.call]
    name, path = call.function.name, tape.modules[call.module].path
    if name in CONTRACTIONS:
        params = held_by(call.sources)
        if params:
            return name, row.slot, path, params
    return name, row.slot, path, call.site


# They read of their argument only what kind of tensor it is.
_FACTORIES = frozenset(
    """new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like full_like empty_like
    rand_like randn_like randint_like""".split()
)


def _without_bookkeeping(tape: Tape, groups: list[list[int]]) -> list[list[int]]:
    """A loop whose every pass computes constants (a mask, a grid) is no recurrence of the model."""
    informed = bytearray(len(tape.rows))
    for i, row in enumerate(tape.rows):
        call = tape.calls[row[0]]  # row.call: by number, for speed
        kind = tape.kinds.get(i)
        if kind == "input" or kind == "constant" or call.function.random:
            informed[i] = 1
        elif call.function.name not in _FACTORIES:
            for s in call.sources:
                if s < 0 or informed[s]:
                    informed[i] = 1
                    break
    kept: list[list[int]] = []
    for rows in groups:
        if len(rows) == 1 or any(informed[row] for row in rows):
            kept.append(rows)
        else:
            kept += [[row] for row in rows]
    return kept


def held_by(sources: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Which argument read which held parameter or buffer."""
    return tuple((role, source) for role, source in enumerate(sources) if source < 0)


class _Refinement:
    """Splits candidate groups until parents agree, re-examining only what a split may change."""

    def __init__(self, tape: Tape, groups: list[list[int]]) -> None:
        self.tape = tape
        self.groups: dict[int, list[int]] = dict(enumerate(groups))
        self.of = [0] * len(tape.rows)
        first_slot = self._first_slots()
        calls = tape.calls
        #: What each row read; slots of one multi-output call count as one parent.
        self.sources: list[tuple[int, ...]] = [calls[row[0]].sources for row in tape.rows]
        if first_slot:
            self.sources = [
                tuple([s if s < 0 else first_slot[s] for s in sources]) for sources in self.sources
            ]
        for g, rows in self.groups.items():
            for row in rows:
                self.of[row] = g

    def run(self) -> list[list[int]]:
        waiting = {g: None for g, rows in self.groups.items() if len(rows) > 1}
        while waiting:
            g = next(iter(waiting))
            del waiting[g]
            for changed in self._split(g):
                rows = self.groups[changed]
                if len(rows) > 1:
                    waiting[changed] = None
                for row in rows:
                    for reader in self.readers[row]:
                        h = self.of[reader]
                        if len(self.groups[h]) > 1:
                            waiting[h] = None
        return list(self.groups.values())

    def _split(self, g: int) -> list[int]:
        """Split one group by the layers of its parents; the groups that came out changed."""
        rows = self.groups[g]
        parts: dict[_Signature, list[int]] = {}
        for row in rows:
            key = self._signature(row)
            if key in parts:
                parts[key].append(row)
            else:
                parts[key] = [row]
        if len(parts) > 1:
            self._let_first_pass_join(parts)
        return self._replace(g, parts) if len(parts) > 1 else []

    def _let_first_pass_join(self, parts: dict[_Signature, list[int]]) -> None:
        """A first pass that stands alone may open the loop of the later ones."""
        signature, (first, *others) = next(iter(parts.items()))
        if others:
            return
        joins = [s for s in parts if s != signature and self._opens(first, parts[s][0])]
        if not joins:
            return
        joined = joins[0]
        if len(joins) > 1:
            joined = max(joins, key=lambda s: self._likeness(first, parts[s]))
        parts[joined] = [first, *parts[joined]]
        del parts[signature]

    def _replace(self, g: int, parts: dict[_Signature, list[int]]) -> list[int]:
        """Make groups of the parts; the largest keeps its number, so that fewest rows change."""
        largest = max(parts, key=lambda s: len(parts[s]))
        changed = []
        for s, members in parts.items():
            if s == largest:
                self.groups[g] = members
                if len(members) == 1:  # no longer a loop: what was carried round it is not
                    changed.append(g)
            else:
                new = len(self.groups)
                self.groups[new] = members
                for row in members:
                    self.of[row] = new
                changed.append(new)
        return changed

    def _signature(self, row: int) -> _Signature:
        """The parents' layers, argument by argument; a parameter it reads outranks them."""
        sources, of = self.sources[row], self.of
        if sources and min(sources) < 0:
            held = held_by(sources)
            if any(self.tape.held[-1 - s].is_parameter for _, s in held):
                return held
            return tuple([s if s < 0 else of[s] for s in sources])
        return tuple([of[s] for s in sources])

    def _opens(self, first: int, later: int) -> bool:
        """Whether `first` may be pass one of `later`'s layer: all they differ in is carried round.

        A value is loop-carried if a multi-pass layer made it after the first pass began.
        """
        mine, theirs = self.sources[first], self.sources[later]
        if len(mine) != len(theirs):
            return False
        for a, b in zip(mine, theirs, strict=True):
            agree = a == b or (a >= 0 and b >= 0 and self.of[a] == self.of[b])
            if not agree and (b < first or len(self.groups[self.of[b]]) < 2):
                return False
        return True

    def _likeness(self, first: int, others: list[int]) -> tuple[int, int]:
        """How well the readers of the first pass match those of a group it could open."""
        mine = self._readers_of(first)
        return max(len(mine & self._readers_of(row)) for row in others[:2]), -others[0]

    def _readers_of(self, row: int) -> set[tuple[str, int]]:
        return {
            (self.tape.calls[self.tape.rows[r].call].function.name, self.of[r])
            for r in self.readers[row]
        }

    def _first_slots(self) -> list[int]:
        """For each row, the first row of its call; nothing if every call made one row."""
        rows = self.tape.rows
        if len(rows) == len(self.tape.calls):
            return []
        first: list[int] = []
        for i, row in enumerate(rows):
            first.append(first[i - 1] if i and rows[i - 1].call == row.call else i)
        return first

    @cached_property
    def readers(self) -> list[list[int]]:
        """For each row, the rows that read it."""
        readers: list[list[int]] = [[] for _ in self.tape.rows]
        for i, sources in enumerate(self.sources):
            for source in sources:
                if source >= 0:
                    readers[source].append(i)
        return readers
