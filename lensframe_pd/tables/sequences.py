"""Recurrent operations, and sequences of unlike lengths packed one step after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from lensframe_pd.tables.case import (
    Case,
    Ruled,
    aligned,
    entry_number,
    from_states,
    of_spread,
    shared,
)
from lensframe_pd.tables.order import (
    ALL,
    MIXED,
    NONE,
    OF_ALL,
    Names,
    Numbers,
    carries,
    named,
    numbers,
    of_all,
    of_axis,
    of_both,
    plain,
)


def pack(case: Case) -> Names | Ruled | None:
    """`_pack_padded_sequence`: the steps of all sequences, each as long as it lasts."""
    if case.slot:
        return Ruled((None,) * len(case.shape), NONE)
    lengths = case.values.get(1)
    first = case.first
    batch = 0 if [*case.arguments.values()][-1] is True else 1
    name = first.names[batch]
    rest = first.names[2:]
    if not carries(name):
        return (None, *rest)
    if lengths is None:
        return None
    along = first.number(batch)
    steps = [along[: int((lengths > t).sum())] for t in range(int(lengths.max()))]
    return Ruled((named(np.concatenate(steps), case.n), *rest), first.whole)


def sequences(case: Case, batch_sizes: Any) -> Numbers | None:
    """The number of each packed sequence; None where they do not stay one sequence each."""
    name, total = case.first.names[0], case.first.shape[0]
    if batch_sizes is None or not carries(name) or int(batch_sizes.sum()) != total:
        return None
    along = numbers(name, total)
    found = along[: int(batch_sizes[0])]
    starts = np.concatenate([[0], np.cumsum(batch_sizes)[:-1]])
    for start, size in zip(starts.tolist(), batch_sizes.tolist(), strict=True):
        if not np.array_equal(along[start : start + size], found[:size]):
            return None
    return found


def unpack(case: Case) -> Names | Ruled | None:
    """`_pad_packed_sequence`."""
    found = sequences(case, case.values.get(1))
    if found is None:
        return None if carries(case.first.names[0]) else (None,) * len(case.shape)
    along = named(found, case.n)
    if case.slot:
        return Ruled((along,), NONE)
    batch_first = case.argument("batch_first", default=False) is True
    lead = (along, "time") if batch_first else ("time", along)
    return Ruled((*lead, *case.first.names[1:]), case.first.whole)


def recurrent(case: Case) -> Names | Ruled | None:
    """`lstm`, `gru`, `rnn`: sequences, packed ones, and their states."""
    packed = len(case.first.shape) == 2 and len(case.operands) > 1 and 1 in case.values
    if packed and case.values[1].ndim == 1:
        found = sequences(case, case.values[1])
        if found is None:
            return None if carries(case.first.names[0]) else (None,) * len(case.shape)
        if case.slot:
            return Ruled((None, named(found, case.n), "feature"), case.first.whole)
        return Ruled((case.first.names[0], "feature"), case.first.whole)
    batch_first = [*case.arguments.values()][-1] is True
    lead = case.first.names
    if len(case.shape) != 3 or len(lead) != 3:
        return None
    batch, time = (0, 1) if batch_first else (1, 0)
    if carries(lead[time]):
        return None  # each step has all those before it
    states = [o for o in case.operands[1:] if len(o.shape) == 3]
    here = [(lead[batch], case.first.shape[batch], case.first.whole)]
    here += [(o.names[1], o.shape[1], o.elsewhere()) for o in states]
    along = shared(here, case.first.shape[batch], case.n)
    names: Names = (None, along, "feature")
    if not case.slot:
        names = (along, "time", "feature") if batch_first else ("time", along, "feature")
    return from_states(case, names, here)


def searched(case: Case) -> Ruled | None:
    """`searchsorted`, `bucketize`: where the values of one tensor stand in another."""
    values = [o for o in case.operands if o.shape == case.shape]
    if not values:
        return None
    read = [values[-1], *[o for o in case.operands if len(o.shape) > 1]]
    names = aligned(case, read)
    lines = [o for o in case.operands if len(o.shape) == 1 and o is not values[-1]]
    if any([o.has_stimuli() for o in lines]):
        return Ruled(names, MIXED)
    return Ruled(names, of_spread(read, names))


def padded(case: Case) -> Ruled | None:
    """`pad_sequence`: one tensor for each sequence, filled up to the longest."""
    batch = 0 if case.argument("batch_first", default=False) is True else 1
    if not all([len(o.shape) == len(case.shape) - 1 for o in case.operands]):
        return None
    if any([carries(name) for o in case.operands for name in o.names[1:]]):
        return None
    steps = [of_axis(o.names[0], o.shape[0], case.n) if o.names else NONE for o in case.operands]
    if any([number in (MIXED, ALL) for number in steps]):
        return None  # a sequence of several stimuli
    each = [of_both(o.whole, number) for o, number in zip(case.operands, steps, strict=True)]
    along = named(np.array([entry_number(number) for number in each]), case.n)
    rest = (plain(case.first.names[0]), *case.first.names[1:])
    names = (along, *rest) if batch == 0 else (rest[0], along, *rest[1:])
    return Ruled(names, of_all([o.whole for o in case.operands if o.whole in (MIXED, *OF_ALL)]))
