"""The tape of a run with other values, as that of the run without them.

An edit stands between the row it replaces and that row's readers. For layers and passes it counts
as that row, so that all others have the labels they have without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lensframe_pd.tape.tape import Tape

EDIT = "edit"


def has_edits(tape: Tape) -> bool:
    return EDIT in tape.kinds.values()


def edited_row(tape: Tape, row: int) -> int:
    """The row that an edit replaces, through edits of edits; `-1 - k` for a held tensor."""
    while tape.kinds.get(row) == EDIT:
        row = tape.calls[tape.rows[row].call].sources[0]
    return row


def without_edits(tape: Tape) -> tuple[Tape, list[int]]:
    """The calls and rows as they are without edits, and the number that each of its rows has here.

    What else a tape holds by row is left out.
    """
    kept = [row for row in range(len(tape.rows)) if tape.kinds.get(row) != EDIT]
    number = {row: i for i, row in enumerate(kept)}

    def as_without(sources: Sequence[int]) -> tuple[int, ...]:
        found = [edited_row(tape, source) for source in sources]
        return tuple([number[source] if source >= 0 else source for source in found])

    plain = replace(
        tape,
        calls=[call._replace(sources=as_without(call.sources)) for call in tape.calls],
        rows=[tape.rows[row] for row in kept],
        kinds={number[row]: kind for row, kind in tape.kinds.items() if row in number},
    )
    return plain, kept
