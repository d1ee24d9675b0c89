"""Operations that put tensors side by side: what their entries say of stimuli goes along."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lensframe_pd.tables.case import (
    Case,
    Operand,
    Ruled,
    aligned,
    at_places,
    entry_number,
    meets_places,
    shared,
)
from lensframe_pd.tables.order import (
    MIXED,
    NONE,
    OF_ALL,
    PLACED,
    Name,
    carries,
    named,
    of_all,
    of_both,
    plain,
)


def cat(case: Case) -> Ruled | None:
    operands = [o for o in case.operands if len(o.shape) == len(case.shape)]
    axis = case.axis(0, len(case.shape))
    return None if axis is None else joined(case, operands, axis)


def joined(case: Case, operands: Sequence[Operand], axis: int) -> Ruled | None:
    if not operands or sum([o.shape[axis] for o in operands]) != case.shape[axis]:
        return None
    whole = of_all([o.whole for o in operands])
    told = [_tells_along(o, axis, case.n) for o in operands]
    if any(told):
        entries = np.concatenate(
            [o.number(axis) if tells else np.full(o.shape[axis], NONE)
             for o, tells in zip(operands, told, strict=True)]
        )  # fmt: skip
        along = named(entries, case.n, plain(operands[0].names[axis]))
        whole = _beside(operands)
    else:
        along = next((o.names[axis] for o in operands if o.names[axis] is not None), None)
    names: list[Name] = []
    for k, extent in enumerate(case.shape):
        here = [(o.names[k], o.shape[k], o.elsewhere()) for o in operands]
        names.append(along if k == axis else shared(here, extent, case.n))
        if k != axis and carries(names[k]) and meets_places(here):
            whole = of_both(whole, PLACED)
    return Ruled(tuple(names), MIXED if _lose(operands, names) else whole)


def _tells_along(operand: Operand, axis: int, n: int) -> bool:
    """Whether entries that are put behind others say of which stimulus they are.

    Where there is but one, and an axis of it already, a word more of its text is no axis of it.
    """
    if carries(operand.names[axis]):
        return True
    return operand.whole >= 0 and not (n == 1 and any(map(carries, operand.names)))


def _beside(operands: Sequence[Operand]) -> int:
    """The number of a join whose joined axis tells the single stimuli, and what is mixed."""
    return of_all([o.whole for o in operands if o.whole in OF_ALL])


def stack(case: Case) -> Ruled | None:
    rank = len(case.shape)
    axis = case.axis(0, rank)
    if not case.operands or axis is None:
        return None
    whole = of_all([o.whole for o in case.operands])
    along: Name = None
    if any([o.whole >= 0 for o in case.operands]):
        along = named(np.array([entry_number(o.whole) for o in case.operands]), case.n)
        whole = _beside(case.operands)
    names = aligned(case._replace(shape=(*case.shape[:axis], *case.shape[axis + 1 :])))
    if at_places(case.operands, names):
        whole = of_both(whole, PLACED)
    if _lose(case.operands, names):
        whole = MIXED
    return Ruled((*names[:axis], along, *names[axis:]), whole)


def _lose(operands: Sequence[Operand], names: Sequence[Name]) -> bool:
    """Whether stimuli stood along an axis of tensors of one shape, and stand there no more."""
    return any(
        [
            carries(name) and not carries(now)
            for o in operands
            for name, now in zip(o.names, names, strict=True)
        ]
    )


def hstack(case: Case) -> Ruled | None:
    operands = [_raised(o, 1, 0) for o in case.operands]
    return joined(case, operands, min(1, len(case.shape) - 1))


def vstack(case: Case) -> Ruled | None:
    return joined(case, [_raised(o, 2, 0) for o in case.operands], 0)


def dstack(case: Case) -> Ruled | None:
    """Of a tensor of fewer axes than three, the last is a new one."""
    return joined(case, [_raised(_raised(o, 2, 0), 3, 1) for o in case.operands], 2)


def column_stack(case: Case) -> Ruled | None:
    return joined(case, [_raised(_raised(o, 1, 0), 2, 1) for o in case.operands], 1)


def _raised(operand: Operand, rank: int, at: int) -> Operand:
    """A tensor of at least so many axes: new ones before the others (0) or behind them (1)."""
    n = max(0, rank - len(operand.shape))
    before, after = (0, n) if at else (n, 0)
    return Operand(
        ((None,) * before + operand.names + (None,) * after),
        ((1,) * before + operand.shape + (1,) * after),
        operand.whole,
    )


def meshgrid(case: Case) -> Ruled:
    """Each tensor by itself, spread along the axes of the others."""
    one = case.operands[case.slot]
    axis = case.slot
    if case.argument("indexing") == "xy" and axis < 2 <= len(case.operands):
        axis = 1 - axis
    along = one.names[0] if one.names else None
    return Ruled(tuple([along if k == axis else None for k in range(len(case.shape))]), one.whole)
