"""Which rows of two frames are the same step of the model: by a shortest edit script.

Rows are compared by module path and function, in the order they ran. Where several scripts are
equally short, the one whose pairs agree in more facts is taken; then, what is left over on both
sides in one place is paired by shape, and what only ran at another time by all its facts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

from rapidfuzz.distance import Indel

Score = Callable[[int, int], int]
Same = Callable[[int, int, dict[int, int]], bool]
_FEW = 16
"""Rows of one name that are tried, for one that ran at another time."""


class Steps(NamedTuple):
    """What rows of one frame are paired by, in the order they ran."""

    keys: Sequence[Hashable]
    """Module path and function."""
    funcs: Sequence[str]
    shapes: Sequence[Hashable]
    """The kind of row too, as an input is no operation."""


class Pair(NamedTuple):
    """Places of a row in the two frames; None where it is in one only."""

    mine: int | None
    theirs: int | None


def aligned(mine: Steps, theirs: Steps, score: Score, same: Same) -> list[Pair]:
    """All rows of both frames, in the order they ran, those of one step together.

    Parameters
    ----------
    score
        In how much two rows agree.
    same
        Whether two rows agree in all, parents included; it is given the pairs so far.
    """
    chain = dict(_script(mine.keys, theirs.keys))
    _slide(chain, mine.keys, score)
    back = {j: i for i, j in chain.items()}
    _slide(back, theirs.keys, lambda j, i: score(i, j))
    chain = {i: j for j, i in back.items()}
    moved = _moved(chain, {}, mine, theirs, same)
    chain |= _between(chain, moved, mine, theirs)
    moved |= _moved(chain, moved, mine, theirs, same)
    return [*_in_order(chain, moved, len(mine.keys), len(theirs.keys))]


def _script(a: Sequence[Hashable], b: Sequence[Hashable]) -> Iterator[tuple[int, int]]:
    """Places of what a shortest script of deletions and insertions keeps."""
    numbers: dict[Hashable, int] = {}
    first, second = ([numbers.setdefault(key, len(numbers)) for key in keys] for keys in (a, b))
    for part in Indel.opcodes(first, second):
        if part.tag == "equal":
            yield from zip(
                range(part.src_start, part.src_end),
                range(part.dest_start, part.dest_end),
                strict=True,
            )


def _slide(chain: dict[int, int], keys: Sequence[Hashable], score: Score) -> None:
    """Move runs of unpaired rows up, as long as the script stays as short, to where most agrees.

    The script has them as late as they can be: of `a a` beside `a` it pairs the first.
    """
    i, n = 0, len(keys)
    while i < n:
        if i in chain:
            i += 1
            continue
        start = i
        while i < n and i not in chain:
            i += 1
        up = _shift(chain, keys, start, i, score)
        for k in range(1, up + 1):
            chain[i - k] = chain.pop(start - k)


def _shift(
    chain: dict[int, int], keys: Sequence[Hashable], start: int, stop: int, score: Score
) -> int:
    """How far up a run is best moved: the rows above it are then paired as those at its end."""
    best, best_gain, gain, k = 0, 0, 0, 1
    while start - k in chain and keys[start - k] == keys[stop - k]:
        j = chain[start - k]
        gain += score(stop - k, j) - score(start - k, j)
        if gain > best_gain:
            best, best_gain = k, gain
        k += 1
    return best


def _between(
    chain: dict[int, int], moved: dict[int, int], mine: Steps, theirs: Steps
) -> dict[int, int]:
    """Pairs of what is left over on both sides between the same neighbours, and of one shape."""
    found: dict[int, int] = {}
    taken = {*moved.values()}
    for i, j, stop, other_stop in _gaps(chain, len(mine.keys), len(theirs.keys)):
        left = [k for k in range(i, stop) if k not in moved]
        right = [k for k in range(j, other_stop) if k not in taken]
        if not left or not right:
            continue
        alike = _late(left, right, mine, theirs, lambda of, k: (of.funcs[k], of.shapes[k]))
        rest = _gaps(dict(alike), len(left), len(right))
        for a, b, a_stop, b_stop in [*rest]:
            inner = left[a:a_stop], right[b:b_stop]
            alike += [
                (a + x, b + y)
                for x, y in _late(*inner, mine, theirs, lambda of, k: of.shapes[k])
            ]  # fmt: skip
        found.update((left[a], right[b]) for a, b in alike)
    return found


def _late(
    left: Sequence[int], right: Sequence[int], mine: Steps, theirs: Steps, key: Any
) -> list[tuple[int, int]]:
    """Pairs as late as they can be: what comes out of two ways to compute one thing is its end."""
    if not left or not right:
        return []
    pairs = _script([key(mine, k) for k in left[::-1]], [key(theirs, k) for k in right[::-1]])
    return [(len(left) - 1 - a, len(right) - 1 - b) for a, b in pairs]


def _gaps(chain: dict[int, int], n: int, m: int) -> Iterator[tuple[int, int, int, int]]:
    """Where something is unpaired on both sides: starts and stops."""
    i = j = 0
    for a, b in (*sorted(chain.items()), (n, m)):
        if a > i and b > j:
            yield i, j, a, b
        i, j = a + 1, b + 1


def _moved(
    chain: dict[int, int], moved: dict[int, int], mine: Steps, theirs: Steps, same: Same
) -> dict[int, int]:
    """Pairs of rows that are the same in all but when they ran, as those of parallel branches."""
    taken = {*chain.values(), *moved.values()}
    free: dict[Hashable, list[int]] = {}
    for j, key in enumerate(theirs.keys):
        if j not in taken:
            free.setdefault(key, []).append(j)
    known = chain | moved
    found: dict[int, int] = {}
    for i, key in enumerate(mine.keys):
        if i in known or key not in free:
            continue
        for j in free[key][:_FEW]:
            if same(i, j, known):
                known[i] = found[i] = j
                free[key].remove(j)
                break
    return found


def _in_order(chain: dict[int, int], moved: dict[int, int], n: int, m: int) -> Iterator[Pair]:
    elsewhere = {*moved.values()}
    j = 0
    for i in range(n):
        if i in chain:
            yield from (Pair(None, k) for k in range(j, chain[i]) if k not in elsewhere)
            yield Pair(i, chain[i])
            j = chain[i] + 1
        else:
            yield Pair(i, moved.get(i))
    yield from (Pair(None, k) for k in range(j, m) if k not in elsewhere)
