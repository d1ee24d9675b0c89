"""A store that is there already: is it of this call, and does its first batch come out again?"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from lensframe_pd.errors import LensValueError, warn
from lensframe_pd.extract.batches import Batch
from lensframe_pd.extract.cast import Array
from lensframe_pd.extract.fill import Opened, code_of
from lensframe_pd.extract.fingerprint import differences
from lensframe_pd.files.stores import GROUP

_SHOWN = 12
#: As of two devices, or two numbers of threads: relative, and of the largest value.
_RTOL, _ATOL = 1e-4, 1e-5


def check_same(to: Any, said: Mapping[str, Any], where: Any) -> None:
    """Raise where the store was begun by another call.

    Raises
    ------
    LensValueError
        Naming what differs.
    """
    import zarr

    group = zarr.open_group(to, mode="r", zarr_format=3, use_consolidated=False)
    stored = group[GROUP].attrs.asdict()
    lines = []
    for part, now in said.items():
        before = stored.get(part)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += differences(before, now, "" if part == "fingerprint" else f"{part}: ")
        elif before != now:
            lines += differences({part: before}, {part: now})
    if lines:
        more = f"\n... and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise LensValueError(
            f"{where} was begun by another call, and is not gone on with; give to= another path, "
            "or the same as before\n" + "\n".join(lines[:_SHOWN]) + more
        )


def check_borders(opened: Opened, borders: list[int], where: Any) -> None:
    """Raise where the stored blocks are of other batches than these.

    Parameters
    ----------
    borders
        First stimulus of each batch, and the end.
    """
    entries = opened.ledger.read()
    for k in np.flatnonzero(entries):
        start, end = opened.ledger.span(int(k))
        batches = borders[bisect_right(borders, start) - 1 : bisect_left(borders, end) + 1]
        expected = code_of([*pairwise(batches)])
        check_border(int(entries[k]), expected, int(k), where)


def check_border(entry: int, expected: int, k: int, where: Any) -> None:
    """Raise where an entry of the ledger is of other batches."""
    if entry not in (0, expected):
        raise LensValueError(
            f"{where} was begun with other batches: block {k} has other borders; values depend on "
            "the batch in their last digits: give the same batch_size or batches, or another path"
        )


def check_values(
    opened: Opened, batch: Batch, arrays: Mapping[str, Array], there: list[tuple[int, int]]
) -> None:
    """Raise where a batch does not come out as it was stored.

    Parameters
    ----------
    arrays
        What is to be stored of it now.
    there
        The parts of it that are stored, first stimulus and the one after the last.
    """
    ids = batch.given.ids
    close, wrong = list[str](), list[str]()
    for v in opened.layout.plan.variables:
        if v.axis is None:
            continue
        for a, b in there:
            lead = (slice(None),) * v.axis
            now = arrays[v.name][(*lead, slice(a - batch.start, b - batch.start))]
            before = np.asarray(opened.arrays[v.name][(*lead, slice(a, b))])
            if not same(before, now):
                (close if near(before, now) else wrong).append(v.name)
    if opened.ids is not None:
        for a, b in there:
            if opened.ids[a:b].tolist() != ids[a - batch.start : b - batch.start].tolist():
                wrong.append("the ids")
    if wrong:
        raise LensValueError(
            f"{batch} does not come out as it is stored: {', '.join(dict.fromkeys(wrong))}; the "
            "data, its order or what prepares it is not what it was; give to= another path, or "
            "the same data"
        )
    if close:
        warn(
            f"{batch} comes out as it is stored but for rounding ({', '.join({*close})}): another "
            "device or number of threads; what is added now will differ as much"
        )


def check_fixed(opened: Opened) -> None:
    """Raise where a variable without stimuli has other values than those stored."""
    for name, values in opened.layout.plan.fixed.items():
        if not near(np.asarray(opened.arrays[name][...]), values):
            raise LensValueError(
                f"{name!r} has no stimulus axis and other values than those stored; give to= "
                "another path"
            )


def same(before: Array, now: Array) -> bool:
    """Whether values are equal, NaN to NaN."""
    return np.array_equal(before, now, equal_nan=before.dtype.kind in "fc")


def near(before: Array, now: Array) -> bool:
    """Whether values are equal but for rounding."""
    if before.shape != now.shape:
        return False
    if before.dtype.kind not in "fc":
        return np.array_equal(before, now)
    coarse = max(_RTOL, 4 * float(np.finfo(before.dtype).eps))
    finite = np.abs(before[np.isfinite(before)])
    most = float(finite.max()) if finite.size else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(
            np.allclose(
                before.astype(np.complex128 if before.dtype.kind == "c" else np.float64),
                now.astype(np.complex128 if now.dtype.kind == "c" else np.float64),
                rtol=coarse, atol=max(_ATOL, coarse / 10) * most, equal_nan=True,
            )
        )  # fmt: skip
