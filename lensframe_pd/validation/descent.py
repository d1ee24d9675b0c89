"""Which rows of a tape others descend from."""

from __future__ import annotations

from collections.abc import Collection

from lensframe_pd.tape.tape import Tape


def random_rows(tape: Tape) -> set[int]:
    """Those of calls that drew random numbers."""
    calls = tape.calls
    return {i for i, row in enumerate(tape.rows) if calls[row.call].generator is not None}


def below(tape: Tape, rows: Collection[int]) -> set[int]:
    """These rows and all that descends from them."""
    calls, found = tape.calls, set[int]()
    for i, row in enumerate(tape.rows):
        if i in rows or not found.isdisjoint(calls[row.call].sources):
            found.add(i)
    return found


def inputs(tape: Tape) -> set[int]:
    """Those of tensors that the model was given."""
    return {i for i, kind in tape.kinds.items() if kind == "input"}


def mixing_above(tape: Tape, row: int, local: Collection[int]) -> bool:
    """Whether an ancestor descends from an input and is not shown to be of one stimulus."""
    given = below(tape, inputs(tape))
    calls, rows = tape.calls, tape.rows
    waiting, seen = [row], {row}
    while waiting:
        for source in calls[rows[waiting.pop()].call].sources:
            if source >= 0 and source not in seen:
                if source in given and source not in local:
                    return True
                seen.add(source)
                waiting.append(source)
    return False
