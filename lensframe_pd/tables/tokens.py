"""Along which axis the rows of a forward pass have its tokens, and which of them.

The tokens are numbered, and the numbers sent through the rules of `axes` as those of stimuli are.
Two things are unlike: tokens may go into each other and stay tokens (attention), and there may be
one alone, whose axis is told by where it stands and not by its extent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lensframe_pd.tables.axes import rule_of
from lensframe_pd.tables.case import Case, Operand, Ruled
from lensframe_pd.tables.dims import case_of
from lensframe_pd.tables.order import Merged, Name, Names, Order, carries
from lensframe_pd.tape.tape import Tape

NEVER = 2**62
"""More tokens than there are, so that those of a pass are never taken for all stimuli."""
_RESHAPING = frozenset(
    "view reshape flatten unflatten view_as reshape_as _unsafe_view _reshape_alias".split()
)

Places = dict[int, range]
"""Axis to the tokens that stand along it, one entry each."""


def numbered(tokens: range) -> Order:
    """An axis that has these tokens, an entry each."""
    return Order(np.arange(tokens.start, tokens.stop))


def tokens_along(name: Name) -> range | None:
    """The tokens along an axis, where each entry is one and they are in order; else None.

    Examples
    --------
    >>> tokens_along(numbered(range(3, 5)))
    range(3, 5)
    >>> tokens_along(Order(np.array([-1, 3]))), tokens_along("channel")
    (None, None)
    """
    if not isinstance(name, Order):
        return None
    first, n = int(name.numbers[0]), len(name.numbers)
    found = range(first, first + n)
    return (
        found if first >= 0 and bool((name.numbers == np.arange(first, first + n)).all()) else None
    )


class Followed:
    """Tokens from where they enter a forward pass to the rows made of them."""

    def __init__(self, tape: Tape, layers: Sequence[str]) -> None:
        self.tape, self.layers = tape, layers
        #: Of layers that were followed with several tokens, the axes that had them.
        self.told: dict[str, tuple[int, ...]] = {}
        #: What the same operation made of the same, when it was last seen.
        self._memo: dict[Any, Names] = {}

    def __call__(
        self, rows: Iterable[int], begun: Mapping[int, Names], last: bool = False
    ) -> dict[int, Names]:
        """What the axes of rows are; those that have to do with no token are left out.

        Parameters
        ----------
        rows
            In the order in which they ran.
        begun
            The axes of rows that are known, which go into these.
        last
            Where a token alone may be along several axes of one entry, it is along the last.
        """
        found = dict(begun)
        for i in rows:
            call = self.tape.calls[self.tape.rows[i][0]]  # by number, for speed: row.call
            if i in begun or not any([s in found for s in call[3]]):  # call.sources
                continue
            names = self._made(i, found, last)
            if any(map(carries, names)):
                found[i] = names
        return found

    def tell(self, found: Mapping[int, Names]) -> None:
        """Keep along which axes the layers of these rows have their tokens, which are several."""
        for i, names in found.items():
            self.told[self.layers[i]] = tuple([k for k, n in enumerate(names) if carries(n)])

    def _made(self, i: int, found: Mapping[int, Names], last: bool) -> Names:
        tape = self.tape
        row = tape.rows[i]
        call = tape.calls[row.call]
        if tape.kinds.get(i) == "alias":
            return (None,) * len(row.shape)  # what was written into it is not followed
        operands = [self._operand(s, found) for s in call.sources]
        told = self.told.get(self.layers[i], ())
        key: Any = (call.function.name, *operands, call.args, *call.kwargs.items(), row.shape)
        key = (*key, told, last)
        key = None if row.call in tape.selections else (*key, row.slot)
        try:
            known = self._memo.get(key) if key else None
        except TypeError:  # slices and lists among the arguments
            known = key = None
        if known is None:
            case = case_of(tape, i, operands, NEVER)
            known = names_of(case, call.function.name, told, last)
            if key is not None:
                self._memo[key] = known
        return known

    def _operand(self, source: int, found: Mapping[int, Names]) -> Operand:
        if source < 0:
            shape = self.tape.held[-1 - source].shape
        else:
            shape = tuple(self.tape.rows[source].shape)
        return Operand(found.get(source, (None,) * len(shape)), shape)


def names_of(case: Case, name: str, told: Sequence[int] = (), last: bool = False) -> Names:
    """What an operation makes of axes that tokens stand along.

    Parameters
    ----------
    told, last
        Where a token alone may be along several axes: those told of its layer, or the last.
    """
    unknown = (None,) * len(case.shape)
    if name in _RESHAPING:
        return _reshaped(case, told, last)
    if name == "scaled_dot_product_attention":
        query = case.first.names
        return (*query[:-1], None) if len(query) == len(case.shape) else unknown
    rule = rule_of(name)
    if rule is None:
        return unknown
    try:
        ruled = rule(case)
    except Exception:  # arguments that the rule does not expect, of whatever kind
        return unknown
    names = ruled.names if isinstance(ruled, Ruled) else ruled
    if names is None or len(names) != len(case.shape):
        return unknown
    fit = [_fits(n, extent) for n, extent in zip(names, case.shape, strict=True)]
    return tuple([n if ok and carries(n) else None for n, ok in zip(names, fit, strict=True)])


def _fits(name: Name, extent: int) -> bool:
    if isinstance(name, Merged):
        return math.prod([n for _, n in name.parts]) == extent
    return not isinstance(name, Order) or len(name.numbers) == extent


def _reshaped(case: Case, told: Sequence[int], last: bool) -> Names:
    """The tokens of each axis where as much lies before them and behind them in memory."""
    names: list[Name] = [None] * len(case.shape)
    parts: list[tuple[Name, int]] = []
    for name, extent in zip(case.first.names, case.first.shape, strict=True):
        parts += name.parts if isinstance(name, Merged) else [(name, extent)]
    old = [extent for _, extent in parts]
    for k, (name, _) in enumerate(parts):
        if not carries(name):
            continue
        place = _axis_of(old, k, case.shape, told, last)
        if place is None or names[place[0]] is not None:
            return (None,) * len(case.shape)
        axis, before, behind = place
        gone = _ones_before(old, k) - _ones_before(case.shape, axis)
        around = [1] * gone if before == 1 else [before]
        names[axis] = name
        if around or behind > 1:
            ahead: list[tuple[Name, int]] = [(None, n) for n in around]
            names[axis] = Merged((*ahead, (name, old[k]), (None, behind)))
    return tuple(names)


def _ones_before(shape: Sequence[int], k: int) -> int:
    """How many axes of one entry come just before an axis: a single stimulus, as a rule."""
    n = 0
    while n < k and shape[k - n - 1] == 1:
        n += 1
    return n


def _axis_of(
    old: Sequence[int], k: int, new: Sequence[int], told: Sequence[int] = (), last: bool = False
) -> tuple[int, int, int] | None:
    """The axis of `new` that has what axis `k` of `old` had, with what of it is before and behind.

    A token alone may be anywhere where nothing else is: it is where the tokens of the same layer
    are told to be, else stays where it was if it can (or is the last), and goes together with what
    was before it (stimulus and token as one axis) rather than with what is behind it.

    Examples
    --------
    >>> _axis_of((2, 5, 32), 1, (10, 32)), _axis_of((2, 5, 32), 1, (2, 5, 4, 8))
    ((0, 2, 1), (1, 1, 1))
    >>> _axis_of((2, 1, 32), 1, (2, 32)), _axis_of((2, 1, 1), 1, (2, 1, 1, 1))
    ((0, 2, 1), (1, 1, 1))
    >>> _axis_of((2, 5, 32), 1, (4, 80)) is None
    True
    """
    n, before, behind = old[k], math.prod(old[:k]), math.prod(old[k + 1 :])
    whole = [
        q
        for q, extent in enumerate(new)
        if extent == n and math.prod(new[:q]) == before and math.prod(new[q + 1 :]) == behind
    ]
    if whole:
        stays = k in whole and tuple(new[:k]) == tuple(old[:k])
        known = [q for q in whole if q in told]
        first = whole[-1] if last else k if stays else whole[0]
        return (known[0] if known else first), 1, 1
    for q, extent in enumerate(new):
        ahead, after = math.prod(new[:q]), math.prod(new[q + 1 :])
        if extent and not (before % max(1, ahead) or behind % max(1, after)):
            return q, before // max(1, ahead), behind // max(1, after)
    return None


def places_of(names: Names) -> Places:
    """The axes that have tokens in order, and which."""
    found = {axis: tokens_along(name) for axis, name in enumerate(names)}
    return {axis: tokens for axis, tokens in found.items() if tokens is not None}
