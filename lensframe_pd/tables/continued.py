"""The rows of passes that continue one another, and which tokens of the text each of them has.

Text is generated token by token: every forward pass reads the new tokens alone, and of the earlier
ones the keys and values that are kept in a cache. `joins` says which passes those are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from lensframe_pd.schema import REORDERED, SEQUENCE, STEP, TOKEN_DIM, TOKEN_START
from lensframe_pd.tables.joins import Pass, sequences
from lensframe_pd.tables.order import Names
from lensframe_pd.tables.tokens import Followed, Places, numbered, places_of
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Tape


class Continued(NamedTuple):
    """Of a row: the tokens it has, of a sequence that several passes read."""

    sequence: int
    """Which sequence, from 1."""
    step: int
    """Which of the forward passes over it, from 1."""
    axis: int
    start: int
    """Number of the first token along the axis; the others follow it."""
    reordered: bool
    """Whether between passes the sequences changed places in the cache, as beams do."""

    def attrs(self, dims: tuple[str, ...]) -> dict[str, Any]:
        """What the variable of the row says of it."""
        found = {SEQUENCE: self.sequence, STEP: self.step}
        reordered = {REORDERED: 1} if self.reordered else {}
        return {**found, TOKEN_DIM: dims[self.axis], TOKEN_START: self.start, **reordered}


def continued(tape: Tape, grouped: Passes) -> dict[int, Continued]:
    """The rows of passes that continue one another, and the tokens they have.

    A layer is there with all of its passes or not at all.
    """
    passes = sequences(tape, grouped)
    return _agreed(grouped, _followed(tape, grouped, passes)) if passes else {}


class _Found(NamedTuple):
    """Of a row that has tokens: where the pass belongs, its first token, and which the row has."""

    sequence: int
    step: int
    first: int
    reordered: bool
    places: Places


def _followed(tape: Tape, grouped: Passes, of_sequences: list[list[Pass]]) -> dict[int, _Found]:
    found: dict[int, _Found] = {}
    steps = sorted(
        (of.call, s, k, of)
        for s, passes in enumerate(of_sequences, 1)
        for k, of in enumerate(passes, 1)
    )
    starts = _starts(tape, [call for call, *_ in steps])
    reordered = [any([one.reordered for one in passes]) for passes in of_sequences]
    follow = Followed(tape, grouped.layers)
    like: dict[tuple[int, tuple[str, ...]], tuple[int, dict[int, Places]]] = {}
    for (_, s, k, of), rows in zip(steps, starts, strict=True):
        key = (len(of.tokens), _what_ran(tape, grouped, rows))
        if key not in like:  # what does the same has its tokens along the same axes
            like[key] = rows.start, _places(follow, of, rows)
        begun, places = like[key]
        for row, along in places.items():
            here = row - begun + rows.start
            same = here == row or grouped.layers[here] == grouped.layers[row]
            if same and _has(tape.rows[here].shape, along):
                found[here] = _Found(s, k, of.tokens.start, reordered[s - 1], along)
    return found


def _has(shape: Sequence[int], along: Places) -> bool:
    """Whether a tensor has an entry for each of these tokens."""
    return all([axis < len(shape) and shape[axis] == len(n) for axis, n in along.items()])


def _what_ran(tape: Tape, grouped: Passes, rows: range) -> tuple[str, ...]:
    """The layers of rows; of what ran once only what it did."""
    return tuple(
        [
            grouped.layers[i] if grouped.n_passes[i] > 1 else tape.calls[tape.rows[i][0]][0].name
            for i in rows
        ]
    )


def _starts(tape: Tape, calls: Sequence[int]) -> list[range]:
    """The rows from the beginning of each of these module calls to that of the next."""
    starts: list[int] = []
    for i, row in enumerate(tape.rows):
        if len(starts) == len(calls):
            break
        if tape.calls[row[0]][5] >= calls[len(starts)]:  # row.call, call.module
            starts.append(i)
    ends = [*starts[1:], len(tape.rows)]
    return [range(a, b) for a, b in zip(starts, ends, strict=True)]


def _places(follow: Followed, of: Pass, rows: range) -> dict[int, Places]:
    """The tokens of rows that were made of those that went into a pass."""
    for last in (False, True):
        entries = _entries(follow, of, rows, last)
        if entries:
            made = follow(rows, entries, last)
            if len(of.tokens) > 1:
                follow.tell(made)
            return {row: places for row, names in made.items()
                    if row in rows and (places := places_of(names))}  # fmt: skip
    return {}


def _entries(follow: Followed, of: Pass, rows: range, last: bool) -> dict[int, Names]:
    """Where tokens go into a pass: the rows and axes from which they come to its cache."""
    tape, n = follow.tape, len(of.tokens)
    entries: dict[int, Names] = {}
    way = range(rows.start, of.new + 1)
    read = dict.fromkeys([s for i in way for s in tape.calls[tape.rows[i].call].sources])
    for s in [s for s in read if 0 <= s < rows.start]:
        shape = tape.rows[s].shape
        for axis in [k for k, extent in enumerate(shape) if extent == n]:
            names = tuple([numbered(range(n)) if k == axis else None for k in range(len(shape))])
            made = follow(way, {s: names}, last).get(of.new, ())
            if places_of(made) == {of.axis: range(n)}:
                entries[s] = names
                break
    return entries


def _agreed(grouped: Passes, found: dict[int, _Found]) -> dict[int, Continued]:
    """The rows of layers that have tokens along one and the same axis in all their passes."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row in found:
        rows[grouped.layers[row]].append(row)
    agreed: dict[int, Continued] = {}
    for of in rows.values():
        axes = set.intersection(*[{*found[row].places} for row in of])
        if len(of) == grouped.n_passes[of[0]] and len(axes) == 1:
            (axis,) = axes
            for row in of:
                sequence, step, first, reordered, places = found[row]
                start = first + places[axis].start
                agreed[row] = Continued(sequence, step, axis, start, reordered)
    return agreed
