"""Which operations go into which total: pairs of a group and a row, both by number.

By module a row is in as many groups as there are modules around it, so a deep model has many times
as many pairs as rows: as texts they would be all of its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lensframe_pd.cells import names
from lensframe_pd.labels import path_of

Numbers = np.ndarray[Any, np.dtype[np.int32]]


class Members(NamedTuple):
    """Groups, and the rows of each."""

    groups: list[Any]
    """By number: in the order in which the rows come to them."""
    group: Numbers
    row: Numbers
    """Positions, which do not fall from pair to pair."""
    holders: Sequence[int] = ()
    """Of each module the number of the one around it; of other groups there are none."""

    def of(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> Members:
        """The pairs of these rows, which do not fall, once more for each time a row is there."""
        starts = np.searchsorted(self.row, rows, "left")
        counts = np.searchsorted(self.row, rows, "right") - starts
        ends = counts.cumsum()
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
        of = np.repeat(np.arange(len(counts), dtype="int32"), counts)
        return self._replace(group=self.group[places], row=of)


def members(ops: pd.DataFrame, by: str, depth: int | None) -> Members:
    """Each row in its one group, or in every module around it of at most so many names."""
    if by != "module":
        numbers, groups = pd.factorize(np.asarray(ops.index if by == "op" else ops[by], object))
        group: Numbers = numbers.astype("int32")
        return Members([*groups], group, np.arange(len(ops), dtype="int32"))
    modules = Modules(depth)
    around = [modules.around(cell) for cell in ops["module_stack"]]
    counts = np.fromiter(map(len, around), "int64", len(around))
    group = np.fromiter(chain.from_iterable(around), "int32", int(counts.sum()))
    rows = np.repeat(np.arange(len(ops), dtype="int32"), counts)
    return Members(modules.paths if len(ops) else [], group, rows, modules.holders)


class Modules:
    """The tree of modules by number, as far as rows have come to it; 0 is the model.

    Parameters
    ----------
    depth
        How many names a path may have; None for any.
    """

    def __init__(self, depth: int | None = None) -> None:
        self.paths = [""]
        self.holders = [0]
        """Of each module the one around it; a container that only its path names is one too."""
        self._depth = depth
        self._numbers = {"": 0}
        self._of_call: dict[str, int] = {}
        self._around: dict[tuple[int, ...], tuple[int, ...]] = {}

    def around(self, stack: Iterable[str]) -> tuple[int, ...]:
        """The model, the modules called, and the containers their paths name, each once."""
        calls = stack if type(stack) is tuple else names("module_stack", stack)
        called = tuple([self._called(call) for call in calls])
        known = self._around.get(called)  # calls of a loop differ in their numbers only
        if known is None:
            known = self._around[called] = self._found(called)
        return known

    def _called(self, call: str) -> int:
        number = self._of_call.get(call)
        if number is None:
            number = self._of_call[call] = self._number(path_of(call))
        return number

    def _found(self, called: Iterable[int]) -> tuple[int, ...]:
        found = {0: None}
        for number in called:
            inner = []
            while number not in found:  # what holds one that is there is there too
                inner.append(number)
                number = self.holders[number]
            found |= dict.fromkeys(reversed(inner))
        return tuple(found)

    def _number(self, path: str) -> int:
        """The number of a module, or of what holds it where it is too deep."""
        if self._depth is not None:
            path = ".".join(path.split(".")[: self._depth])
        new = []
        while path not in self._numbers:
            new.append(path)
            path = path.rpartition(".")[0]
        number = self._numbers[path]
        for inner in reversed(new):  # holders come first
            self.holders.append(number)
            number = self._numbers[inner] = len(self.paths)
            self.paths.append(inner)
        return number


def tree_order(holders: Sequence[int]) -> list[int]:
    """Modules by number, each followed by what it holds, siblings by number."""
    inside: dict[int, list[int]] = {}
    for number in range(len(holders) - 1, 0, -1):
        inside.setdefault(holders[number], []).append(number)
    order, waiting = [], [0]
    while waiting:
        order.append(waiting.pop())
        waiting += inside.get(order[-1], ())
    return order
