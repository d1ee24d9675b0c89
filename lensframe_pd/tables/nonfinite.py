"""What each value was made of, and whether an argument without a row held NaN or infinity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lensframe_pd.tape.storage import version_of
from lensframe_pd.tape.tape import ALL_SLOTS, SLOT, Array, Held, Opaque, Tape

_PLAIN = frozenset((type(SLOT), type(None), bool, int, str, torch.dtype, torch.device))
"""What most arguments are: no floats, nothing with parts or code of somebody else's."""
_WHOLE = frozenset((type(SLOT), int))

_NORMS = frozenset(("batch_norm", "instance_norm"))  # their buffers are statistics, and no masks


def made_of(
    tape: Tape, labels: Sequence[str], rows: Iterable[int], masks: frozenset[int]
) -> list[tuple[str, str]]:
    """Of each of these rows what its variable says about where a NaN may be from.

    Of buffers, additive masks count: minus infinity beside nothing above 0. Any other NaN or
    infinity in a buffer or parameter is a fault of it, shown by the row that reads it. Parameters
    are not looked at: that would take as long as the model.

    Parameters
    ----------
    masks
        `masks_of(tape, rows)`.

    Returns
    -------
    list
        The labels of its parents, as `"conv2d_1 conv2d_2"`; and which of NaN and infinity its other
        arguments hold: `"nan"`, `"inf"`, both, or nothing.
    """
    calls, made = tape.call_log.entries, tape.row_log.entries
    found: list[tuple[str, str]] = []
    before = -1
    for i in rows:
        number = made[i][0]  # once per row, so in few steps
        if number == before:
            found.append(found[-1])
            continue
        call, before = calls[number], number
        args, kwargs, sources = call[1], call[2], call[3]
        n_read, n = len(sources), len(args)
        if n_read == 1 and sources[0] >= 0:  # as most are
            parents = labels[sources[0]]
        elif n_read == 2 and sources[0] >= 0 <= sources[1]:
            parents = f"{labels[sources[0]]} {labels[sources[1]]}"
        else:
            parents = " ".join([labels[s] for s in sources if s >= 0])
        given = ""
        plain = (n < len(ALL_SLOTS) and ALL_SLOTS[n] == args) or _are_finite(args)
        if not plain or (kwargs and not _are_finite(kwargs.values())):
            given = _in(args, kwargs)
        if (
            masks
            and "inf" not in given
            and call[0].name not in _NORMS
            and not masks.isdisjoint(sources)
        ):
            given = f"{given} inf".lstrip()
        found.append((parents, given))
    return found


def _are_finite(args: Iterable[Any]) -> bool:
    """Whether arguments are plain, and finite; False where that has to be looked at closely."""
    for value in args:  # once per row, so in few steps
        kind = type(value)
        if kind in _PLAIN:
            continue
        if kind is tuple or kind is list:  # sizes, strides and axes
            if not _WHOLE.issuperset(map(type, value)):
                return False
        elif kind is not float or value - value != 0:
            return False
    return True


def _in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    found = set[str]()
    _add_kinds((*args, *kwargs.values()), found)
    return " ".join(sorted(found, reverse=True))


def _add_kinds(values: Iterable[Any], found: set[str]) -> None:
    for value in values:
        if isinstance(value, float):
            if not math.isfinite(value):
                found.add("nan" if math.isnan(value) else "inf")
        elif isinstance(value, complex):
            _add_kinds((value.real, value.imag), found)
        elif isinstance(value, Array):
            if value.value.dtype.kind in "fc":
                _add_kinds(value.value.ravel().astype(complex).tolist(), found)
        elif isinstance(value, (list, tuple)) and not isinstance(value, Opaque):
            _add_kinds(value, found)
        elif isinstance(value, dict):
            _add_kinds(value.values(), found)


def masks_of(tape: Tape, rows: Iterable[int]) -> frozenset[int]:
    """The buffers that these rows read, as in `Call.sources`, and that are additive masks."""
    buffers = {
        -1 - k
        for k, held in enumerate(tape.held)
        if not held.is_parameter and held.dtype.is_floating_point
    }
    if not buffers:
        return frozenset()
    of_rows, made = tape.call_log.entries, tape.row_log.entries
    calls = [of_rows[made[i][0]] for i in rows]  # by number: row.call
    read = {s for call in calls if call[0].name not in _NORMS for s in call[3] if s in buffers}
    versions = tape.versions or [None] * len(tape.held)
    return frozenset([s for s in read if _is_mask(tape.held[-1 - s], versions[-1 - s])])


def _is_mask(held: Held, version: int | None) -> bool:
    """Whether a buffer holds minus infinity and others that are not above 0, as when it was read.

    Parameters
    ----------
    version
        How often it had been written when the run was over.
    """
    tensor = held.tensor
    if tensor is None or tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel():
        return False
    if version_of(tensor) != version:
        return False
    try:
        with torch.no_grad():
            low, high = torch.aminmax(tensor)
            return bool(low == -math.inf) and bool(high <= 0)
    except (NotImplementedError, RuntimeError):  # a kind of number that torch does not compare
        return False
