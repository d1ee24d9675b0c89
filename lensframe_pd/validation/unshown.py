"""Values that no replay shows to be right: those of a new run of the model are compared.

A row may lack what its replay takes: its parents were not saved, it ran inside a transform of
`torch.func`, it took a gradient that a hook changed. The same model gives the same value again.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from lensframe_pd.replay.recording import Saved
from lensframe_pd.tape.compare import difference
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.descent import below, random_rows
from lensframe_pd.validation.evidence import Evidence
from lensframe_pd.validation.replayed import Replayed
from lensframe_pd.validation.retraced import Another, Retraced, as_given
from lensframe_pd.validation.verdicts import Verdicts


def check_unshown(
    evidence: Evidence,
    reference: Tape,
    grouped: Passes,
    saved: Saved,
    replayed: Replayed,
    verdicts: Verdicts,
    tolerance: float | None,
) -> None:
    """Fail the rows of which a new run gives another value, and gives that again.

    Where the trace itself is judged only those that a replay gave another: its values are nobody's
    to change, and the model may have gone on since.
    """
    rows = {*(replayed.unshown if evidence.tape is None else replayed.other)}
    if not rows:  # as most often
        return
    if evidence.tape is None:  # what the run wrote of the model is not what it was
        rows -= below(reference, _readers_of_written(reference))
    if not evidence.replays_random_numbers:
        rows -= below(reference, random_rows(reference))
    if not rows:
        return
    ops = grouped.labels()
    with as_given(evidence, reference) as runs:
        try:
            unlike = _unlike(runs, saved, ops, rows)
            for fills in (False, True):
                unlike = _again(runs, unlike, fills)
        except Another:  # how it parts is told where its rows are compared
            return
    for row, value in unlike.items():
        apart = saved.apart(ops[row], value)
        reason = f"traced again, it is another: {apart.reason}"
        if tolerance is not None and apart.largest <= tolerance:
            verdicts.could_not(ops[row], f"within the tolerance of {tolerance}: {reason}")
        else:
            verdicts.fails("replay", ops[row], reason)


def _readers_of_written(tape: Tape) -> set[int]:
    """The rows that read parameters or buffers which the run writes."""
    written, calls = {-1 - k for k in tape.before}, tape.calls
    return {i for i, row in enumerate(tape.rows) if not written.isdisjoint(calls[row.call].sources)}


def _unlike(
    runs: Retraced, saved: Saved, ops: list[str], rows: Collection[int]
) -> dict[int, Tensor]:
    """The rows of which a new run gives other values, and those."""
    found: dict[int, Tensor] = {}

    def look(row: int, value: Tensor) -> None:
        if not saved.apart(ops[row], value).same:
            found[row] = value.clone()

    runs.run((), rows, look)
    return found


def _again(runs: Retraced, values: dict[int, Tensor], fills: bool) -> dict[int, Tensor]:
    """Those values that a further run gives again."""
    found: dict[int, Tensor] = {}

    def look(row: int, value: Tensor) -> None:
        if difference(value, values[row]).same:
            found[row] = values[row]

    if values:
        runs.run((), values, look, fills=fills)
    return found
