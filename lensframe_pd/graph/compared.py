"""Two frames side by side: which of their rows are one step, and in what those differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr

from lensframe_pd.cells import plain_cells
from lensframe_pd.graph.align import Pair, Steps, aligned
from lensframe_pd.graph.apart import Apart, apart, rounding
from lensframe_pd.graph.wording import same_options
from lensframe_pd.labels import distinct_labels
from lensframe_pd.schema import UNWRITTEN, require

NAMED = ("params", "buffers")
"""Columns of names that go along with a renamed module."""
_FACTS = (
    "shape", "dtype", "config", "inplace", "param_shapes", "param_dtypes", "param_args", "params",
    "buffer_shapes", "buffer_dtypes", "buffer_args", "buffers",
)  # fmt: skip
"""Columns that two implementations of one step share, besides their parents."""
_ROLES = ("param_args", "buffer_args")
_GIVEN = ("input", "constant", "output")
"""Rows that no module made, whichever it was that first read them."""
_COMMUTE = frozenset(
    "add mul maximum minimum fmax fmin eq ne and or xor logical_and logical_or logical_xor".split()
)
"""Of which the order of two tensors says nothing."""
_ALIKE = 100
"""What equal values count, beside facts, for which of two rows a row is."""


class Values(NamedTuple):
    """What both computed, by label."""

    mine: xr.Dataset
    theirs: xr.Dataset


class Side:
    """One of the two frames, column by column, under the names that both have."""

    def __init__(self, frame: pd.DataFrame, renamed: Callable[[str], str]) -> None:
        require(frame, "diff", "kind", "func", "module", "parents", "parent_args", "shape")
        if "step" in frame.columns and not frame["step"].is_monotonic_increasing:
            frame = frame.sort_values("step", kind="stable")
        self.frame = frame
        self.ops = distinct_labels(frame, "diff")
        self.place = {op: k for k, op in enumerate(self.ops)}
        self.columns = {
            name: plain_cells(frame[name])
            for name in ("kind", "func", "parents", "parent_args", *_FACTS)
            if name in frame.columns
        }
        for name in NAMED:
            if name in self.columns:
                self.columns[name] = [tuple(map(renamed, cell)) for cell in self.columns[name]]
        self.modules = [
            "" if kind in _GIVEN else renamed(path)
            for kind, path in zip(self.columns["kind"], plain_cells(frame["module"]), strict=True)
        ]
        self.steps = Steps(
            [*zip(self.modules, self.columns["func"], self._arguments(), strict=True)],
            self.columns["func"],
            [*zip(self.columns["shape"], self.columns["kind"], strict=True)],
        )

    def _arguments(self) -> list[str]:
        """Of inputs the argument they were: models may take them in any order."""
        paths = self.frame["path"] if "path" in self.frame.columns else [""] * len(self.ops)
        kinds = self.columns["kind"]
        return [str(p) if k == "input" else "" for k, p in zip(kinds, paths, strict=True)]

    def n_dims_in(self, row: int) -> int | None:
        """How many axes the first parent of a row has."""
        first = next(iter(self.parents[row]), None)
        return None if first is None else len(self.columns["shape"][first])

    @cached_property
    def parents(self) -> list[list[int | None]]:
        """Places of the parents; None of those that are not in the frame."""
        return [[self.place.get(p) for p in cell] for cell in self.columns["parents"]]

    def rounding(self) -> list[float]:
        """Of each row how far rounding may take its value, on the whole way to it."""
        there = [[p for p in made_of if p is not None] for made_of in self.parents]
        return rounding(self.dtypes, there)

    @cached_property
    def dtypes(self) -> list[tuple[str, ...]]:
        """Of each row its own type, and those of the parameters and buffers it read."""
        read = [self.columns[c] for c in ("param_dtypes", "buffer_dtypes") if c in self.columns]
        own = self.columns.get("dtype", [""] * len(self.ops))
        return [
            (d, *(t for cell in cells for t in cell)) for d, *cells in zip(own, *read, strict=True)
        ]


class Compared:
    """Two frames side by side, and the values of both if they are given."""

    def __init__(self, mine: Side, theirs: Side, values: Values | None) -> None:
        self.mine, self.theirs, self.values = mine, theirs, values
        self.facts = [c for c in _FACTS if c in mine.columns and c in theirs.columns]
        self._apart: dict[tuple[int, int], Apart] = {}

    @cached_property
    def pairs(self) -> list[Pair]:
        return aligned(self.mine.steps, self.theirs.steps, self._score, self._same)

    def what(self, pairs: Sequence[Pair]) -> list[str]:
        """What differs, of each pair; '' if nothing does."""
        known = {i: j for i, j in pairs if i is not None and j is not None}
        found = []
        for i, j in pairs:
            if i is None or j is None:
                found.append("only other" if i is None else "only this")
            elif self.mine.columns["func"][i] != self.theirs.columns["func"][j]:
                found.append("func")
            else:
                found.append(", ".join(self._differing(i, j, known)))
        return found

    def apart(self, pair: Pair) -> Apart:
        """How far the values of a pair are apart; NaN where one is not there."""
        i, j = pair
        if self.values is None or i is None or j is None:
            return Apart()
        if (i, j) not in self._apart:
            # not by dataset[name], which looks through all variables for each
            mine, theirs = (side.variables for side in self.values)
            a, b = self.mine.ops[i], self.theirs.ops[j]
            there = a in mine and b in theirs and self.mine.columns["func"][i] not in UNWRITTEN
            self._apart[i, j] = apart(mine[a].data, theirs[b].data) if there else Apart()
        return self._apart[i, j]

    def allowed(self, pairs: Sequence[Pair], rtol: float | None) -> list[float]:
        """How far apart each pair may be."""
        if rtol is not None:
            return [rtol] * len(pairs)
        mine, theirs = self.mine.rounding(), self.theirs.rounding()
        return [max(0 if i is None else mine[i], 0 if j is None else theirs[j]) for i, j in pairs]

    def _score(self, i: int, j: int) -> int:
        """In how many facts two rows agree, which may be the same step; most of all in value."""
        mine, theirs = self.mine, self.theirs
        score = 2 * sum(self._agree(name, i, j) for name in self.facts)
        made_of = [
            [None if p is None else side.steps.keys[p] for p in side.parents[k]]
            for side, k in ((mine, i), (theirs, j))
        ]
        score += made_of[0] == made_of[1]
        if self.values is not None and self.apart(Pair(i, j)).rel_diff <= self._close(i, j):
            score += _ALIKE
        return score

    def _close(self, i: int, j: int) -> float:
        """How far apart rounding in these two rows alone takes them."""
        return max(rounding([self.mine.dtypes[i], self.theirs.dtypes[j]], [[], []]))

    def _both(self, column: str, i: int, j: int, missing: str) -> list[Any]:
        cells = [side.columns.get(column) for side in (self.mine, self.theirs)]
        return [missing if c is None else c[k] for c, k in zip(cells, (i, j), strict=True)]

    def _same(self, i: int, j: int, known: dict[int, int]) -> bool:
        return not self._differing(i, j, known)

    def _differing(self, i: int, j: int, known: dict[int, int]) -> list[str]:
        """The columns in which two rows of one function differ."""
        mine, theirs = self.mine, self.theirs
        moved = mine.modules[i] != theirs.modules[j]
        found = ["module"] if moved else []
        commutes = mine.columns["func"][i] in _COMMUTE
        commutes = commutes and self._both("config", i, j, "{}") == ["{}", "{}"]
        for name in self.facts:
            named = name in NAMED and moved  # the module is another, and so are its parameters
            if not (named or (commutes and name in _ROLES) or self._agree(name, i, j)):
                found.append(name)
        if not self._same_parents(i, j, known, commutes):
            found.append("parents")
        return found

    def _agree(self, name: str, i: int, j: int) -> bool:
        a, b = self.mine.columns[name][i], self.theirs.columns[name][j]
        if name != "config" or a == b:
            return bool(a == b)
        n_dims = self.mine.n_dims_in(i), self.theirs.n_dims_in(j)
        return same_options(self.mine.columns["func"][i], (a, b), n_dims)

    def _same_parents(self, i: int, j: int, known: dict[int, int], commutes: bool) -> bool:
        mine, theirs = self.mine, self.theirs
        there = [None if p is None else known.get(p, -1) for p in mine.parents[i]]
        if commutes:
            return sorted(map(_number, there)) == sorted(map(_number, theirs.parents[j]))
        roles = mine.columns["parent_args"][i], theirs.columns["parent_args"][j]
        return there == theirs.parents[j] and bool(roles[0] == roles[1])


def _number(place: int | None) -> int:
    return -2 if place is None else place
