"""Operations that merge, split, add, drop and permute axes; entries stay along their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from lensframe_pd.tables.case import Case, Rule, Ruled
from lensframe_pd.tables.order import (
    MIXED,
    NONE,
    Merged,
    Name,
    Names,
    by_axis,
    carries,
    named,
    numbers,
    of_all,
    of_axis,
    of_both,
)
from lensframe_pd.tape.tape import SLOT

Part = tuple[Name, int]
"""An axis: its name and its extent."""


def reshaped(case: Case) -> Ruled | None:
    """Match runs of axes with equal products: kept, merged or split."""
    parts: list[Part] = []
    for name, n in zip(case.first.names, case.first.shape, strict=True):
        parts += name.parts if isinstance(name, Merged) else [(name, n)]
    runs = _equal_runs([n for _, n in parts], case.shape)
    if runs is None:
        return None
    sequence = len(case.first.names) > 1 and case.first.names[-2] in ("token", "time")
    out: list[Name] = []
    whole = case.first.whole
    for old, new in runs:
        made = _regrouped(parts[old], case.shape[new], sequence, case.n)
        if not any(map(carries, made)):  # the stimuli along these axes are told by none any more
            whole = of_all([whole, *[_cut_number(name, n) for name, n in parts[old]]])
        out += made
        alone = [of_axis(name, n, 1) for name, n in parts[old] if n == 1 and name not in made]
        whole = of_all([whole, *alone])  # of axes of one entry, which are left out
    return Ruled(tuple(out), whole)


def _cut_number(name: Name, n: int) -> int:
    """The number of what has an axis with stimuli that are told along none any more."""
    number = of_axis(name, n, 0)
    return number if number >= 0 or number == NONE else MIXED


def _equal_runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[slice, slice]] | None:
    """The shortest runs of both shapes with as many elements each; None where there are none.

    Examples
    --------
    >>> _equal_runs((2, 3, 4), (6, 2, 2))
    [(slice(0, 2, None), slice(0, 1, None)), (slice(2, 3, None), slice(1, 3, None))]
    """
    runs: list[tuple[slice, slice]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_old, first_new = i, j
        product_old = product_new = 1
        while product_old != product_new or first_old == i or first_new == j:
            # Take an axis of the side that is behind; of both at first, as a run has one of each.
            if i < len(old) and (product_old < product_new or first_old == i):
                product_old *= old[i]
                i += 1
            elif j < len(new) and (product_new < product_old or first_new == j):
                product_new *= new[j]
                j += 1
            else:
                break
        if product_old != product_new or not product_old:
            return None  # extents of 0 fit everything, and say nothing
        runs.append((slice(first_old, i), slice(first_new, j)))
    return runs


def _regrouped(old: list[Part], new: Sequence[int], sequence: bool, n_stimuli: int) -> list[Name]:
    """Names for axes of extents `new`, made of the axes `old` with as many elements."""
    if len(old) == len(new) == 1:
        return [old[0][0]]
    old = [part for part in old if part[1] != 1]
    sizes = [n for n in new if n != 1]
    if [n for _, n in old] == sizes:
        names = iter([name for name, _ in old])
        return [next(names) if n != 1 else None for n in new]
    if len(sizes) == 1:
        merged = _MERGED.get(tuple(name for name, _ in old)) or Merged(tuple(old))
        return [merged if n != 1 else None for n in new]
    if any([carries(name) for name, _ in old]):
        return _cut(old, new, n_stimuli)
    if sequence and [name for name, _ in old] == ["feature"] and len(new) == 3 and new[0] == 3:
        return [None, "head", "feature"]  # queries, keys and values of tokens, in several heads
    return [None] * len(new)


def _cut(old: list[Part], new: Sequence[int], n_stimuli: int) -> list[Name]:
    """Axes with stimuli, cut elsewhere than they were: one of the new may still tell them."""
    extent = int(np.prod([n for _, n in old]))
    along = numbers(Merged(tuple(old)), extent)
    return by_axis(along.reshape(tuple(new)), n_stimuli) or [None] * len(new)


_MERGED: dict[Names, str] = {
    ("y", "x"): "token",
    ("z", "y", "x"): "token",
    ("head", "feature"): "feature",
    ("channel", "y", "x"): "feature",
    ("channel", "x"): "feature",
    ("channel", "z", "y", "x"): "feature",
    ("y", "x", "channel"): "feature",
    ("y", "x", "feature"): "feature",
    ("token", "feature"): "feature",
}


def squeezed(case: Case) -> Names:
    given = case.given()
    rank = len(case.first.shape)
    axes = range(rank)
    if given:
        chosen = given[0] if isinstance(given[0], (tuple, list)) else (given[0],)
        axes = [int(d) % rank for d in chosen]  # type: ignore[assignment]
    gone = {k for k in axes if case.first.shape[k] == 1}
    return tuple(n for k, n in enumerate(case.first.names) if k not in gone)


def unsqueezed(case: Case) -> Names:
    """A new axis, which has no name, where the first number among the arguments says."""
    given = [a for a in case.given() if isinstance(a, int)]
    k = int(given[0]) % len(case.shape) if given else 0
    return (*case.first.names[:k], None, *case.first.names[k:])


def strided(case: Case) -> Ruled | None:
    """`as_strided`: a view of memory, in which stimuli may still stand along one axis.

    An entry is of the stimulus in whose part of the memory it lies. Steps along one axis of the
    view may go from part to part; those along the others, together, must not leave a part.
    """
    first = case.first
    sizes, steps = case.shape, case.argument("stride")
    begin = [a for k, a in case.arguments.items() if k not in ("size", "stride") and a is not SLOT]
    if begin not in ([], [None]) or not _is_dense(first.shape, case.stride):
        return None
    spans = [(extent - 1) * step for extent, step in zip(sizes, steps, strict=True)]
    if 0 in case.shape or sum(spans) >= math.prod(first.shape):
        return None  # there is memory in it that is not the tensor's
    names: list[Name] = [None] * len(case.shape)
    ordered = [k for k, name in enumerate(first.names) if carries(name)]
    if not ordered:
        return Ruled(tuple(names), first.whole)
    if len(ordered) > 1 or first.shape[ordered[0]] == 1:
        return None
    axis = ordered[0]
    along = numbers(first.names[axis], first.shape[axis])
    part = case.stride[axis]
    inside = [span for span, step in zip(spans, steps, strict=True) if step % part]
    between = [k for k, step in enumerate(steps)
               if spans[k] and not step % part and step % (part * len(along))]  # fmt: skip
    if sum(inside) >= part or len(between) > 1:
        return None
    if not between:
        return Ruled(tuple(names), of_both(first.whole, int(along[0])))
    (k,) = between
    names[k] = named(along[np.arange(sizes[k]) * (steps[k] // part) % len(along)], case.n)
    return Ruled(tuple(names), first.whole)


def _is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether a tensor fills its memory without a gap, in whatever order its axes are there."""
    expected = 1
    for step, extent in sorted(zip(stride, shape, strict=True)):
        if extent > 1:
            if step != expected:
                return False
            expected *= extent
    return len(stride) == len(shape)


def permuted(order: Callable[[Case, int], Sequence[int] | None]) -> Rule:
    def rule(case: Case) -> Names | None:
        names = case.first.names
        picked = order(case, len(names))
        return None if picked is None else tuple(names[k] for k in picked)

    return rule


def swap(case: Case, rank: int) -> list[int]:
    a, b = (int(d) % rank for d in case.given()[:2])
    order = list(range(rank))
    order[a], order[b] = b, a
    return order


def permute(case: Case, rank: int) -> list[int]:
    given = case.given()
    axes = given[0] if isinstance(given[0], (tuple, list)) else given
    return [int(d) % rank for d in axes]


def last_two(case: Case, rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2] if rank >= 2 else list(range(rank))


def backwards(case: Case, rank: int) -> list[int]:
    return list(range(rank))[::-1]


def moved(case: Case, rank: int) -> list[int] | None:
    given = case.given()
    if len(given) < 2:
        return None
    ends = [[a] if type(a) is int else list(a) for a in given[:2]]
    sources, places = ([int(d) % rank for d in end] for end in ends)
    rest = iter([k for k in range(rank) if k not in sources])
    at = dict(zip(places, sources, strict=True))
    return [at[k] if k in at else next(rest) for k in range(rank)]
