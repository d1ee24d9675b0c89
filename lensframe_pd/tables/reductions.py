"""Operations that make one entry of all those along an axis: sums, extremes, distances, losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lensframe_pd.tables.case import (
    Case,
    Operand,
    Rule,
    Ruled,
    aligned,
    elementwise,
    of_spread,
)
from lensframe_pd.tables.order import (
    MIXED,
    Names,
    carries,
    of_all,
    of_both,
)
from lensframe_pd.tape.tape import SLOT


def reduced(case: Case) -> Ruled | None:
    if len([o for o in case.operands if o.shape]) > 1:
        return None  # of tensors that say where, or how
    first = case.first
    names, rank = first.names, len(first.shape)
    dim = case.arguments.get("dim", case.arguments.get("axis"))
    if dim is None:
        dim = next((a for a in case.given() if _is_axes(a)), None)
    if dim is None or isinstance(dim, bool) or dim is SLOT or dim in ((), []):
        axes = set(range(rank))
    else:
        axes = {int(d) % max(1, rank) for d in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    whole = of_all([first.whole, *[case.summed(names[k], first.shape[k]) for k in axes]])
    if len(case.shape) == rank:
        return Ruled(tuple(None if k in axes else n for k, n in enumerate(names)), whole)
    return Ruled(tuple(n for k, n in enumerate(names) if k not in axes), whole)


def placed(places: int) -> Rule:
    """Reductions that say where, in the result of this number: a place is in the one order."""

    def rule(case: Case) -> Ruled | None:
        found = reduced(case)
        if found is None or case.slot < places:
            return found
        gone = Counter(filter(carries, case.first.names)) - Counter(filter(carries, found.names))
        return found._replace(whole=MIXED) if gone else found

    return rule


def greatest(case: Case) -> Names | Ruled | None:
    """`max`, `min`: along axes, or of two tensors."""
    return elementwise(case) if len(case.operands) > 1 else placed(1)(case)


def _is_axes(value: Any) -> bool:
    """Whether an argument can be an axis, or several: `keepdim=True` is a number, too."""
    return isinstance(value, (int, tuple, list)) and not isinstance(value, bool)


def compared(default: int) -> Rule:
    """`cosine_similarity`: two tensors, aligned, then without one axis."""

    def rule(case: Case) -> Ruled | None:
        pair = case.operands[:2]
        wide = _wide(pair)
        axis = case.axis(default, len(wide))
        return None if axis is None else _without(case, pair, wide, axis)

    return rule


def of_vectors(n: int) -> Rule:
    """A loss of `n` tensors of vectors, and of a target for each of these."""

    def rule(case: Case) -> Ruled:
        vectors = case.operands[:n]
        wide = _wide(vectors)
        found = _without(case, vectors, wide, len(wide) - 1)
        return distance(
            case._replace(operands=[Operand(found.names, wide[:-1], found.whole),
                                    *case.operands[n:]])
        )  # fmt: skip

    return rule


def _wide(operands: Sequence[Operand]) -> tuple[int, ...]:
    """The shape of tensors that are aligned at their last axes."""
    rank = max([len(o.shape) for o in operands])
    return tuple([max([o.shape[-k] for o in operands if len(o.shape) >= k])
                  for k in range(rank, 0, -1)])  # fmt: skip


def without_last(case: Case) -> Ruled:
    """`pairwise_distance`."""
    pair = case.operands[:2]
    wide = _wide(pair)
    found = _without(case, pair, wide, len(wide) - 1)
    return found if len(case.shape) < len(wide) else found._replace(names=(*found.names, None))


def _without(case: Case, pair: Sequence[Operand], wide: tuple[int, ...], axis: int) -> Ruled:
    """Two tensors, aligned at their last axes, and then summed along one."""
    names = aligned(case._replace(shape=wide), pair)
    along = case.summed(names[axis], wide[axis])
    return Ruled((*names[:axis], *names[axis + 1 :]), of_both(of_spread(pair, names), along))


def distance(case: Case) -> Ruled:
    """A loss of two tensors, entry by entry, or one for all entries."""
    return _summed(case, case.operands) if not case.shape else elementwise(case)


def _summed(case: Case, operands: Sequence[Operand]) -> Ruled:
    """One number of all the entries of tensors, aligned at their last axes."""
    wide = _wide(operands)
    names = aligned(case._replace(shape=wide), operands)
    numbers = [case.summed(name, n) for name, n in zip(names, wide, strict=True)]
    return Ruled((), of_all([of_spread(operands, names), *numbers]))


def losses(case: Case) -> Names | Ruled | None:
    """A loss for each item: the axis of classes, the second, is gone; or one loss for all."""
    names = case.first.names
    if not case.shape and len(names) == 2:
        items = Operand(names[:1], case.first.shape[:1], case.first.whole)
        lost = carries(names[1])
        return Ruled((), MIXED) if lost else _summed(case, [items, *case.operands[1:2]])
    return (names[0], *names[2:]) if len(case.shape) == len(names) - 1 and names else None
