"""Operations that leave axes what they are, but set each entry among those along some of them."""

from __future__ import annotations

from collections.abc import Iterable

from lensframe_pd.tables.case import Case, Rule, Ruled, kept
from lensframe_pd.tables.order import ALL, MIXED, NONE, OF_ALL, PLACED, carries, of_all


def _among(case: Case, axes: Iterable[int]) -> Ruled | None:
    """Entries are set among all others along these axes, whatever their order."""
    names = kept(case)
    if names is None or isinstance(names, Ruled):
        return names
    rank = len(case.shape)
    gone = [k % rank for k in axes]
    numbers = [case.summed(names[k], case.shape[k]) for k in gone]
    together = MIXED if MIXED in numbers else ALL if ALL in numbers else NONE
    # Weights and statistics of channels: those that are stimuli meet what stands at their places.
    weighted = len(names) > 1 and carries(names[1]) and any([o.shape for o in case.operands[1:]])
    placed = PLACED if weighted else NONE
    return Ruled(names, of_all([together, placed, *[o.whole for o in case.operands]]))


def by_place(axes: Iterable[int]) -> Rule:
    """What an entry becomes depends on its place along these axes."""

    def rule(case: Case) -> Ruled | None:
        found = _among(case, ())
        return _spoilt(case, found, axes)

    return rule


def _spoilt(case: Case, found: Ruled | None, axes: Iterable[int]) -> Ruled | None:
    rank = len(case.shape)
    spoils = any([carries(case.first.names[k % rank]) for k in axes if -rank <= k < rank])
    return found._replace(whole=MIXED) if found is not None and spoils else found


def along(case: Case) -> Ruled | None:
    axis = case.axis(-1)
    return None if axis is None else _among(case, (axis,) if case.shape else ())


def over_last(case: Case) -> Ruled | None:
    shape = next((a for a in case.given() if isinstance(a, (tuple, list))), case.shape)
    found = _among(case, range(-len(shape), 0))
    weighted = any([o.shape for o in case.operands[1:]])
    return _spoilt(case, found, range(-len(shape), 0)) if weighted else found


def of_batch(case: Case) -> Ruled | None:
    axes = [k for k in range(len(case.shape)) if k != 1]
    training = case.argument("training", default=True)
    return _among(case, axes if training is not False else ())


def of_each(lead: int) -> Rule:
    """Each entry along the first axes by itself."""
    return lambda case: _among(case, range(lead, len(case.shape)))


def in_groups(case: Case) -> Ruled | None:
    found = _among(case, range(2, len(case.shape)))
    return _spoilt(case, found, (1,))  # some channels are in one group, others in another


def of_rows(case: Case) -> Ruled | None:
    axis = case.axis()
    return _among(case, [k for k in range(len(case.shape)) if k != axis])


def triangle(case: Case) -> Ruled | None:
    lines = [carries(name) for name in case.first.names[-2:]]
    uneven = all(lines) or case.first.whole in OF_ALL
    return _spoilt(case, _among(case, ()), (-1, -2) if uneven else ())


def found_in(case: Case) -> Ruled | None:
    """`isin`: whether each entry is among those of another tensor, wherever they are."""
    return _among(case, ())
