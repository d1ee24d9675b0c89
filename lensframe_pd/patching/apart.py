"""What reads a result of a call that handed its argument back: by that name, or by the old one?

In a run both are one object, and no call shows which name it was read by. A run in which each such
call gives a copy instead tells: who reads the copy has it by its new name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lensframe_pd.tape.tape import Array, Call, Row, Tape


def read_apart(plain: Tape, copied: Tape, rows: set[int]) -> set[int]:
    """Those of `rows` that are read by their new name wherever a run says that they are read.

    Parameters
    ----------
    plain
        The run, in which they are handed back.
    copied
        The same with copies of these rows, which are rows of kind "edit".
    """
    numbers = _numbers(copied)
    calls, again = [*_calls(plain)], [*_calls(copied)]
    same_course = len(calls) == len(again) and all(map(_is_same, calls, again))
    if not same_course or _learned(plain, range(len(plain.rows))) != _learned(copied, numbers):
        return set()
    apart = {*rows}
    for (call, _), (other, _) in zip(calls, again, strict=True):
        for source, copy in zip(call.sources, other.sources, strict=True):
            number = numbers[copy] if copy >= 0 else copy
            if number != source:
                said, seen = _objects(plain, source), _objects(plain, number)
                if said.isdisjoint(seen):
                    return set()
                apart -= said | seen  # the run did not say by which name
            elif copied.kinds.get(copy) != "edit":
                apart.discard(source)  # by the old one
    return apart


def _objects(tape: Tape, row: int) -> set[int]:
    """The rows that the object of a row may have been before."""
    found, waiting = {row}, [row]
    while waiting:
        row = waiting.pop()
        if row in tape.handed:
            new = {*tape.calls[tape.rows[row].call].sources} - found
            found |= new
            waiting += new
    return found


def _numbers(copied: Tape) -> list[int]:
    """Which row of the run without copies each row is, or is a copy of."""
    numbers: list[int] = []
    n = 0
    for row, made in enumerate(copied.rows):
        if copied.kinds.get(row) == "edit":
            numbers.append(numbers[copied.calls[made.call].sources[0]])
        else:
            numbers.append(n)
            n += 1
    return numbers


def _calls(tape: Tape) -> Iterator[tuple[Call, list[Row]]]:
    """The calls in order with their rows, without those that gave copies."""
    rows: dict[int, list[Row]] = {}
    for row, made in enumerate(tape.rows):
        if tape.kinds.get(row) != "edit":
            rows.setdefault(made.call, []).append(made)
    for call, made_by in rows.items():
        yield tape.calls[call], made_by


def _is_same(plain: tuple[Call, list[Row]], copied: tuple[Call, list[Row]]) -> bool:
    """Whether two calls are one, but for the tensors that they are given."""
    (call, made), (other, again) = plain, copied
    return bool(
        other.function is call.function
        and len(other.sources) == len(call.sources)
        and _alike(other.args, call.args)
        and _alike(other.kwargs, call.kwargs)
        and [row[1:] for row in again] == [row[1:] for row in made]
    )


def _alike(a: Any, b: Any) -> bool:
    """Whether recorded arguments are the same."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all([_alike(a[key], b[key]) for key in a])
    if isinstance(a, slice):
        return _alike((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if isinstance(a, Array):
        return repr(a) == repr(b)
    return bool(a is b or a == b or (a != a and b != b))


def _learned(tape: Tape, numbers: Sequence[int]) -> list[set[int]]:
    """What the program learned, by the rows of the run without copies."""
    return [
        {numbers[row] for row in rows if row >= 0}
        for rows in (tape.reads, tape.told, tape.placed, tape.followed, tape.guessed)
    ]
