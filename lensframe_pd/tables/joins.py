"""Passes that continue one another: each reads the cache that the one before it wrote.

That a pass continues another is seen by what is joined: in it, a value of a layer is put behind, or
written beside, the value that the same layer had in the earlier pass. Where each token stands in
the cache is followed by number, so a pass before which tokens were taken back continues nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lensframe_pd.tables.case import Operand
from lensframe_pd.tables.dims import case_of
from lensframe_pd.tables.order import NONE, Name, Names, Order
from lensframe_pd.tables.tokens import NEVER, names_of, numbered
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import SLOT, Tape

#: They put a tensor behind another, or write it to its place in another.
_JOINING = frozenset("cat concat concatenate index_copy setitem slice_scatter".split())
#: By tensors of numbers they give that of other stimuli (beams).
_CHOOSING = frozenset("index_select getitem repeat_interleave".split())
#: They give of what a cache holds the same, or a part, or that of other stimuli.
_MOVING = frozenset(
    """getitem index_select slice narrow to contiguous clone detach view alias repeat_interleave
    float half bfloat16 double type transpose permute""".split()
)


class _Join(NamedTuple):
    """A row in which a value of a layer is put to that of an earlier pass."""

    row: int
    new: int
    """The row of the value."""
    moves: tuple[int, ...]
    """The rows that gave the cache, from the one that wrote it to the one that was read."""
    into: int
    """The module call that continues another."""
    of: int
    """That other call of the module."""


class Pass(NamedTuple):
    """A forward pass: a call of the module that all of it happens in."""

    call: int
    tokens: range
    new: int
    """A row that has exactly the tokens, on their way to the cache."""
    axis: int
    """The axis along which it has them."""
    reordered: bool = False
    """Whether the sequences in the cache changed places before."""


def sequences(tape: Tape, grouped: Passes) -> list[list[Pass]]:
    """The passes that continue one another, those of one sequence together."""
    again = _repeated(tape)
    if True not in again:  # no module was called twice
        return []
    return _in_order(tape, _joins(tape, grouped, again))


def _repeated(tape: Tape) -> list[bool]:
    """Whether a module call, or one that it is within, is not the first of its module."""
    again: list[bool] = []
    for _, number, parent, *_ in tape.module_log.entries:
        again.append(number > 1 or (parent >= 0 and again[parent]))
    return again


def _joins(tape: Tape, grouped: Passes, again: Sequence[bool]) -> dict[str, list[_Join]]:
    """The rows in which a pass adds to what an earlier one wrote, by the layer of what is added."""
    found: dict[str, list[_Join]] = {}
    if _JOINING.isdisjoint(tape.names()):
        return found
    for i, row in enumerate(tape.rows):
        call = tape.calls[row[0]]  # by number, for speed: row.call
        if call[0].name in _JOINING and again[call[5]] and len(call[3]) > 1:
            for old, new in _pairs(tape, call[3], len(row.shape)):
                moves = _back(tape, grouped, old, grouped.layers[new])
                calls = _calls(tape, i, moves[0]) if moves else None
                if calls and calls[0] in _stack(tape, new):
                    found.setdefault(grouped.layers[new], []).append(_Join(i, new, moves, *calls))
                    break
    return found


def _pairs(tape: Tape, sources: Sequence[int], rank: int) -> Iterator[tuple[int, int]]:
    """What may be a cache, and what may be put to it: among the tensors with as many axes."""
    rows = [s for s in sources if s >= 0 and len(tape.rows[s].shape) == rank]
    yield from ((old, new) for old in rows for new in rows if new > old)


def _back(tape: Tape, grouped: Passes, row: int, layer: str) -> tuple[int, ...]:
    """From what was read back to the row of a layer, or to the one that this was joined in."""
    layers = grouped.layers
    moves = [row]
    while layers[row] != layer:
        call = tape.calls[tape.rows[row].call]
        if call.function.name in _JOINING:
            joined = layer in [layers[s] for s in call.sources if s >= 0]
            return tuple(moves[::-1]) if joined else ()
        written = tape.kinds.get(row) == "alias"
        if not call.sources or not (written or call.function.name in _MOVING):
            return ()
        row = call.sources[-1 if written else 0]
        if row < 0:
            return ()
        moves.append(row)
    return tuple(moves[::-1])


def _calls(tape: Tape, late: int, early: int) -> tuple[int, int] | None:
    """The outermost two calls of one module, in which these two rows were made."""
    pairs = zip(_stack(tape, late), _stack(tape, early), strict=False)
    into, of = next(((a, b) for a, b in pairs if a != b), (0, 0))
    one, other = tape.modules[into], tape.modules[of]
    return (into, of) if one.path == other.path and other.number < one.number else None


def _stack(tape: Tape, row: int) -> list[int]:
    """The module calls around a row, outermost first."""
    stack = [tape.calls[tape.rows[row].call].module]
    while tape.modules[stack[-1]].parent >= 0:
        stack.append(tape.modules[stack[-1]].parent)
    return stack[::-1]


def _in_order(tape: Tape, joins: dict[str, list[_Join]]) -> list[list[Pass]]:
    """Passes that are shown to continue one another, by the first cache that shows it."""
    wanted = {join.into for found in joins.values() for join in found}
    shown: list[list[Pass]] = []
    known: set[int] = set()
    for found in joins.values():  # those of a model's first block come first
        for passes in _chains(tape, found):
            calls = {of.call for of in passes}
            if not calls & known:  # a pass may be gone on with in two ways, but not in one text
                shown.append(passes)
                known |= calls
        if wanted <= known:
            break
    return sorted(shown, key=lambda passes: passes[0].call)


class _Chain:
    """A cache as it grows: the passes so far, and the tokens that are in it after each."""

    def __init__(self, tape: Tape, axis: int, first: _Join, new: int) -> None:
        self.tape, self.axis = tape, axis
        n = tape.rows[new].shape[axis]
        self.passes = [Pass(first.of, range(n), new, axis)]
        start = first.moves[0]
        self.row = start
        self.held = self._of(new, range(n)) if start == new else self._put(start, new, range(n))

    def grow(self, join: _Join) -> bool:
        """Whether a join goes on with the cache: all old tokens that it has, and then the new."""
        tape, axis, total = self.tape, self.axis, self.passes[-1].tokens.stop
        n = tape.rows[join.new].shape[axis]
        held = self.held
        for before, row in zip(join.moves, join.moves[1:], strict=False):
            held = self._moved(before, row, held)
        tokens = range(total, total + n)
        held = self._put(join.row, join.new, tokens, join.moves[-1], held)
        if not _continues(held[axis], tokens):
            return False
        reordered = any(map(self._is_chosen, join.moves[1:]))
        self.passes.append(Pass(join.into, tokens, join.new, axis, reordered))
        self.row, self.held = join.row, held
        return True

    def _is_chosen(self, row: int) -> bool:
        call = self.tape.calls[self.tape.rows[row].call]
        return call.function.name in _CHOOSING and len(call.sources) > 1

    def _of(self, row: int, tokens: range) -> Names:
        rank = len(self.tape.rows[row].shape)
        return tuple([numbered(tokens) if k == self.axis else None for k in range(rank)])

    def _put(
        self, row: int, new: int, tokens: range, old: int | None = None, held: Names = ()
    ) -> Names:
        known = {new: self._of(new, tokens)}
        return self._made(row, known if old is None else {**known, old: held})

    def _moved(self, before: int, row: int, held: Names) -> Names:
        if self.tape.kinds.get(row) == "alias":
            same = self.tape.rows[row].shape == self.tape.rows[before].shape
            return held if same else (None,) * len(self.tape.rows[row].shape)
        return self._made(row, {before: held})

    def _made(self, row: int, known: dict[int, Names]) -> Names:
        tape = self.tape
        call = tape.calls[tape.rows[row].call]
        operands = []
        for s in call.sources:
            shape = tuple(tape.rows[s].shape) if s >= 0 else tape.held[-1 - s].shape
            operands.append(Operand(known.get(s, (None,) * len(shape)), shape))
        return names_of(case_of(tape, row, operands, NEVER), call.function.name)


def _continues(name: Name, tokens: range) -> bool:
    """Whether a cache has tokens up to the last of these, in order and without a gap."""
    if not isinstance(name, Order):
        return False
    there = name.numbers[name.numbers != NONE]
    in_order = bool((there == np.arange(tokens.stop - len(there), tokens.stop)).all())
    return in_order and len(there) > len(tokens)


def _chains(tape: Tape, joins: list[_Join]) -> Iterator[list[Pass]]:
    """The sequences that the caches of one layer show."""
    chains: list[_Chain] = []
    joined = {join.row for join in joins}
    for join in joins:
        if _is_input(tape, join):
            continue
        chain = next((c for c in chains if c.row == join.moves[0]), None)
        if chain is not None:
            chain.grow(join)
            continue
        if join.moves[0] in joined:
            continue  # it goes on with what is not known to continue anything
        for axis in _axes(tape, join):
            begun = _begun(tape, join, axis)
            if begun is not None and begun.grow(join):
                chains.append(begun)
                break
    yield from (chain.passes for chain in chains)


def _begun(tape: Tape, join: _Join, axis: int) -> _Chain | None:
    """The chain that begins with what the first join found in the cache."""
    start = join.moves[0]
    of = tape.calls[tape.rows[start].call]
    if start == join.new or of.function.name not in _JOINING:
        return _Chain(tape, axis, join, start)
    rank = len(tape.rows[join.new].shape)
    last = [s for s in of.sources if s >= 0 and len(tape.rows[s].shape) == rank]
    return _Chain(tape, axis, join, last[-1]) if last else None


def _is_input(tape: Tape, join: _Join) -> bool:
    """Whether the new value was made of the cache, in the call that continues: no new tokens."""
    made = {join.moves[-1]}
    rows = range(_first_row(tape, join.into, join.new), join.new + 1)
    for i in rows:
        if any([s in made for s in tape.calls[tape.rows[i].call].sources]):
            made.add(i)
    return join.new in made


def _first_row(tape: Tape, call: int, before: int) -> int:
    """The first row of a module call, counted back from a row in it."""
    while before > 0 and tape.calls[tape.rows[before - 1].call].module >= call:
        before -= 1
    return before


def _axes(tape: Tape, join: _Join) -> list[int]:
    """The axes of the new value along which it may have been put to the others."""
    call = tape.calls[tape.rows[join.row].call]
    rank = len(tape.rows[join.new].shape)
    if call.function.name == "setitem":
        items = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
        if len(items) > rank or Ellipsis in [i for i in items if i is not SLOT]:
            return [*range(rank)]
        return [k for k, item in enumerate(items) if item is SLOT or isinstance(item, slice)]
    case = case_of(tape, join.row, [], NEVER)
    axis = case.axis(0, rank)
    return [] if axis is None else [axis]
