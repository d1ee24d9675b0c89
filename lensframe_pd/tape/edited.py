"""The tape of a run with other values, as that of the run without them.

An edit stands between the row it replaces and that row's readers. For layers and passes it counts
as that row, so that all others have the labels they have without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from lensframe_pd.tape.tape import Call, Tape

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
    rows, calls = tape.rows, tape.calls
    kept: list[int] = []
    number: list[int] = []  # of each row of the tape; of an edit, that of what it replaces
    for row in range(len(rows)):
        if tape.kinds.get(row) == EDIT:
            source = calls[rows[row].call].sources[0]
            number.append(number[source] if source >= 0 else source)
        else:
            number.append(len(kept))
            kept.append(row)
    first = rows[next((row for row, to in enumerate(number) if row != to), 0)].call
    plain = tape.altered(
        calls=[*calls[:first], *[_renumbered(call, number) for call in calls[first:]]],
        rows=[rows[row] for row in kept],
        kinds={number[row]: kind for row, kind in tape.kinds.items() if kind != EDIT},
    )
    return plain, kept


def _renumbered(call: Call, number: Sequence[int]) -> Call:
    """A call that reads the same rows, by their numbers."""
    sources = tuple([number[source] if source >= 0 else source for source in call.sources])
    if sources == call.sources:
        return call
    # Most calls of a tape are made anew, and `_replace` takes thrice as long.
    return Call._make((*call[:3], sources, *call[4:]))
