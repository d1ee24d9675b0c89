"""Layers and passes: which executions of a function are one layer.

Two executions are passes of one layer when they are the same place in the program (`places`), in
the same repeated structure: same function, module and call site (or the same contracted
parameter), and parents that are passes of the same layers (`refinement`). The first passes of a
loop may differ where the others read what an earlier pass carried round (`openings`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from lensframe_pd.labels import labels_of
from lensframe_pd.tape.edited import EDIT, edited_row, has_edits, without_edits
from lensframe_pd.tape.places import Places
from lensframe_pd.tape.readings import Readings
from lensframe_pd.tape.refinement import refined
from lensframe_pd.tape.tape import Tape


@dataclass
class Passes:
    """For each row of a tape: its layer, its pass and how many passes that layer has."""

    layers: list[str]
    pass_nums: list[int]
    n_passes: list[int]
    _labels: list[str] | None = None

    def labels(self) -> list[str]:
        """The label of each row; not to be changed, as each table asks."""
        if self._labels is None:
            self._labels = labels_of(self.layers, self.pass_nums, self.n_passes)
        return self._labels


def passes(tape: Tape) -> Passes:
    """Group the rows of a tape into layers, number the layers by function and first execution."""
    return _with_edits(tape) if has_edits(tape) else _passes(tape)


def _with_edits(tape: Tape) -> Passes:
    """The passes of a run with other values: all as without them, edits of one layer one layer."""
    plain, kept = without_edits(tape)
    found = _passes(plain)
    layers, pass_nums, n_passes = [""] * len(tape.rows), [0] * len(tape.rows), [0] * len(tape.rows)
    for k, row in enumerate(kept):
        layers[row] = found.layers[k]
        pass_nums[row], n_passes[row] = found.pass_nums[k], found.n_passes[k]
    edits: dict[str | int, list[int]] = {}
    for row in [row for row, kind in tape.kinds.items() if kind == EDIT]:
        above = edited_row(tape, row)
        edits.setdefault(layers[above] if above >= 0 else above, []).append(row)
    for n, rows in enumerate(edits.values(), 1):
        for p, row in enumerate(rows, 1):
            layers[row], pass_nums[row], n_passes[row] = f"{EDIT}_{n}", p, len(rows)
    return Passes(layers, pass_nums, n_passes)


def _passes(tape: Tape) -> Passes:
    places = Places(tape)
    groups = places.shared()
    if groups:
        readings = Readings(tape, places)
        groups = refined(tape, readings, groups)
        groups = _without_bookkeeping(tape, readings, groups)
    calls, made = tape.call_log.entries, tape.row_log.entries  # by number, for speed
    n = len(made)
    layers, pass_nums, n_passes = [""] * n, [1] * n, [1] * n
    several = {rows[0]: rows for rows in groups}
    counts: dict[str, int] = defaultdict(int)
    for i, row in enumerate(made):
        if layers[i]:  # a later pass
            continue
        func = calls[row[0]][0].name  # row.call, call.function
        counts[func] += 1
        layers[i] = layer = f"{func}_{counts[func]}"
        if i in several:
            n_passes[i] = k = len(several[i])
            for p, later in enumerate(several[i][1:], 2):
                layers[later], pass_nums[later], n_passes[later] = layer, p, k
    return Passes(layers, pass_nums, n_passes)


#: They read of their argument only what kind of tensor it is.
FACTORIES = frozenset(
    """new_zeros new_ones new_full new_empty new_tensor zeros_like ones_like full_like empty_like
    rand_like randn_like randint_like""".split()
)


def _without_bookkeeping(
    tape: Tape, readings: Readings, groups: list[list[int]]
) -> list[list[int]]:
    """A loop of constants (a mask filled row by row) is no recurrence of the model by itself.

    It is one where at least half of its passes are read, through other constants or not, by
    layers with several passes that do depend on the input: the steps of a time grid.
    """
    begin = [rows[0] for rows in groups]
    informed = bytearray(len(tape.row_log))
    _inform(tape, informed, range(max(begin, default=-1) + 1))
    if all([informed[row] for row in begin]):  # the first passes most often tell
        return groups
    _inform(tape, informed, range(max(begin) + 1, len(informed)))
    constants = [rows for rows in groups if not any(informed[row] for row in rows)]
    if not constants:
        return groups
    of = [*range(len(tape.rows))]
    for rows in groups:
        for row in rows:
            of[row] = rows[0]
    repeated = {rows[0] for rows in groups}
    used = bytearray(len(of))
    for i in range(len(of) - 1, -1, -1):  # readers come after what they read
        for source in readings.sources(i):
            if informed[i]:
                used[source] |= of[i] in repeated
            elif of[i] != of[source]:  # a mask that only goes on being filled is not used
                used[source] |= used[i]
    unused = {rows[0] for rows in constants if 2 * sum(used[row] for row in rows) < len(rows)}
    return [rows for rows in groups if rows[0] not in unused]


def _inform(tape: Tape, informed: bytearray, rows: range) -> None:
    """Mark what depends on the input, a constant, what the model holds, or random numbers.

    All rows before these are marked already.
    """
    calls, made, kinds = tape.call_log.entries, tape.row_log.entries, tape.kinds
    for i in rows:
        call = calls[made[i][0]]  # by number, for speed: row.call, call.function, call.sources
        kind, function = kinds.get(i), call[0]
        if kind == "input" or kind == "constant" or function.random:
            informed[i] = 1
        elif function.name not in FACTORIES:
            for s in call[3]:
                if s < 0 or informed[s]:
                    informed[i] = 1
                    break
