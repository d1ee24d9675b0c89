"""Operations over images, volumes and signals: convolutions, pooling, sampling."""

from __future__ import annotations

import numpy as np

from lensframe_pd.tables.case import Case, Rule, Ruled, shared, without_order
from lensframe_pd.tables.order import MIXED, Name, Names, carries, named, of_all

SPATIAL: dict[int, Names] = {1: ("x",), 2: ("y", "x"), 3: ("z", "y", "x")}


def spatial(n: int, channel: str | None) -> Rule:
    """Operations over n spatial axes; a convolution also makes the channel axis."""

    def rule(case: Case) -> Names | None:
        batched = len(case.shape) == n + 2
        if not batched and len(case.shape) != n + 1:
            return None
        if len(case.first.names) != len(case.shape):
            return None
        lead = case.first.names[:1] if batched else ()
        middle = channel or case.first.names[len(lead)] or "channel"
        return (*lead, middle, *SPATIAL[n])

    return rule


def convolution(n: int) -> Rule:
    names_of = spatial(n, "channel")

    def rule(case: Case) -> Names | Ruled | None:
        names = names_of(case)
        if names is None or len(case.operands) < 2 or isinstance(names, Ruled):
            return names
        at = len(case.shape) - n - 1
        places = [*case.first.names[at + 1 :], *case.operands[1].names[1:]]
        if any(map(carries, places)):
            return Ruled(names, MIXED)
        channels, weights = case.first.names[at], case.operands[1].names[0]
        if not carries(channels) and not carries(weights):
            return names
        made = _by_group(case, at)
        whole = of_all([o.whole for o in case.operands]) if carries(made) else MIXED
        return Ruled((*names[:at], made, *names[at + 1 :]), whole)

    return rule


def any_convolution(case: Case) -> Names | Ruled | None:
    n = len(case.shape) - 2
    return _CONVOLUTIONS[n](case) if n in SPATIAL else None


def _by_group(case: Case, at: int) -> Name:
    """The channels that a convolution in groups makes: of what went into each group."""
    groups = case.argument("groups", default=1)
    weight = case.operands[1]
    made = case.shape[at]
    if type(groups) is not int or made != weight.shape[0] or case.first.shape[at] % groups:
        return None
    taken = case.first.number(at).reshape(groups, -1)
    given = weight.number(0)
    per_group = made // groups
    found = [of_all([int(given[k]), *taken[k // per_group].tolist()]) for k in range(made)]
    return named(np.array(found), case.n)


_CONVOLUTIONS = {n: convolution(n) for n in SPATIAL}


def shuffled(n: int) -> Rule:
    """Channels and pixels that change places: no order is known along these axes."""
    names_of = spatial(n, None)

    def rule(case: Case) -> Names | None:
        names = names_of(case)
        return None if names is None else without_order(names, range(1, n + 2))  # type: ignore[arg-type]

    return rule


def sampled(case: Case) -> Names | None:
    """`grid_sampler`: an image each, at the places of a grid each."""
    names = spatial(2 if len(case.shape) == 4 else 3, None)(case)
    if names is None or len(case.operands) < 2:
        return None
    pair = [(o.names[0], o.shape[0], o.elsewhere()) for o in case.operands[:2]]
    return (shared(pair, case.shape[0], case.n), *names[1:])


def windows(case: Case) -> Names | None:
    """`unfold` of images (`im2col`): all but the first axis are made anew."""
    return (case.first.names[0], *(None,) * (len(case.shape) - 1)) if len(case.shape) == 3 else None


def folded(case: Case) -> Names | None:
    if len(case.first.shape) != 3 or len(case.shape) != 4:
        return None
    return (case.first.names[0], "channel", "y", "x")
