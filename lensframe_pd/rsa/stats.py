"""One row of numbers per variable: moments, what is not finite and where it was born, rank."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.bars import counted
from lensframe_pd.errors import LensKeyError, LensValueError
from lensframe_pd.files.blocks import check_finished
from lensframe_pd.labels import asked_names, labels
from lensframe_pd.quantities import quantity
from lensframe_pd.rsa.blockwise import Centre, products_of
from lensframe_pd.rsa.born import Births
from lensframe_pd.rsa.features import patterns
from lensframe_pd.rsa.moments import Moments, moments
from lensframe_pd.rsa.repeated import check_axes_are_features
from lensframe_pd.rsa.stores import DEFAULT_MEMORY, RowBlocks, memory_of, opened
from lensframe_pd.rsa.view import resolved
from lensframe_pd.schema import STIMULUS

_EXACT = 2**28
"""Bytes of a matrix whose singular values are taken of itself; else of its products."""


def stats(
    dataset: xr.Dataset,
    layers: Any = None,
    rank: bool = False,
    *,
    memory: int | str = DEFAULT_MEMORY,
) -> pd.DataFrame:
    """Mean, spread and extremes of every value, and where NaN and infinity come from.

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.
    layers
        Rows of `layers`, or a trace: those whose value is in the dataset, in their order. Or
        labels, layers and module paths. None: every variable.
    rank
        Whether to give the effective rank too.
    memory
        Of a store, as for `rdm`. It is read once, for the rank up to twice more than for `rdm`.

    Returns
    -------
    pandas.DataFrame
        Index `op`, the variables. `mean`, `std` (of all elements, not of a sample), `min` and
        `max` are of the finite values, in float64; of complex ones, of their absolute values.
        `zero`, `nan`, `inf` are fractions of all elements, and `saturated` of those that are at
        the largest finite number of `torch_dtype`, or at the smallest if it has a sign. `rank` is
        that of stimulus x feature, uncentred: the exponential of the entropy of the singular
        values; NaN where something is not finite, or has no stimuli.

        `born` says whether a NaN is there that no parent and no argument had, or an infinity where
        they had none; so the first `born` row is the first fault. A causal mask is none: numbers
        among the arguments count as arguments, and minus infinity in a tensor that nothing in the
        model computed (an input, a constant, a buffer) does if nothing beside it is above 0. Nor
        are masks added up that are written with the least finite number, or minus infinity that is
        only converted to an integer (as T5 does with distances). A NaN of a parameter or buffer is
        born in the row that reads it, which is the first to show it. It is missing (NA) where
        parents are not there: give the frame, and rows that were not saved are followed to those
        that were.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has a name, or no row of the frame has its value there.
    LensTypeError
        `layers` is none of these, or a value holds no numbers.
    LensValueError
        A store that is not finished, or too little memory for it.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> def model(x):
    ...     return x.log().softmax(0) * 2
    >>> _, activations = lf.trace(model, torch.tensor([1.0, 2.0, -1.0]))
    >>> activations.lens.stats()[["max", "nan", "born"]].round(2)
               max   nan   born
    op
    input_1   2.00  0.00  False
    log_1     0.69  0.33   True
    softmax_1  NaN  1.00  False
    mul_1      NaN  1.00  False
    output_1   NaN  1.00  False

    References
    ----------
    Roy & Vetterli (2007), The effective rank, EUSIPCO, for `rank`.
    """
    check_finished(dataset, "stats")
    memory = memory_of(memory)
    dataset = opened(dataset)
    frame = _frame(layers)
    ops = _asked(dataset, layers, frame)

    @cache
    def moments_of(op: str) -> Moments:
        return moments(dataset.variables[op], op, memory)

    births = Births(dataset, frame, moments_of)
    found = pd.DataFrame(
        [_row(moments_of(op)) for op in counted(ops, "stats", "values")],
        index=pd.Index(ops, name="op", dtype="str"),
        columns=["mean", "std", "min", "max", "zero", "nan", "inf", "saturated"],
        dtype=np.float64,
    )
    born = [births.at(op) for op in ops]
    found["born"] = pd.array(born, dtype="boolean" if None in born else "bool")
    if rank:
        done = counted(ops, "stats: rank", "values")
        found.insert(8, "rank", [_rank(dataset[op], moments_of(op), memory) for op in done])
    return found


def _frame(layers: Any) -> pd.DataFrame | None:
    """The frame, if it or the trace it is of was given."""
    if isinstance(layers, pd.DataFrame):
        return layers
    of_trace = getattr(layers, "layers", None)
    return of_trace if isinstance(of_trace, pd.DataFrame) else None


def _asked(dataset: xr.Dataset, layers: Any, frame: pd.DataFrame | None) -> list[str]:
    if layers is None:
        return [str(name) for name in dataset.data_vars]
    if frame is not None:
        there = [op for op in labels(frame, "stats") if op in dataset.data_vars]
        if not there:
            raise LensKeyError(
                "no row of this frame has a value in the Dataset; trace with save= so that it has"
            )
        return [*dict.fromkeys(there)]
    keys = asked_names(layers, "layers=")
    found = [str(v.name) for key in keys for v in resolved(dataset, key).variables]
    return [*dict.fromkeys(found)]


def _row(of: Moments) -> list[float]:
    n = of.n or math.nan
    counts = (of.zero, of.nan, of.inf, of.saturated)
    return [of.mean, of.std, of.low, of.high, *(count / n for count in counts)]


def _rank(array: xr.DataArray, of: Moments, memory: int) -> float:
    """The exponential of the entropy of the singular values, as parts of their sum."""
    if STIMULUS not in array.dims or of.nan or of.inf or not of.n:
        return math.nan
    check_axes_are_features(array, repr(array.name))
    singular = _singular_values(patterns(array, None, str(array.name), memory), memory)
    parts = singular[singular > 0]
    if not len(parts):
        return 0.0
    parts = parts / parts.sum()
    return math.exp(-float(parts @ np.log(parts)))


def _singular_values(rows: Any, memory: int) -> np.ndarray[Any, Any]:
    n, p = rows.shape
    if not isinstance(rows, RowBlocks) and 8 * n * p <= _EXACT:
        values: Any = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
        return np.asarray(values[values > values[0] * max(n, p) * np.finfo(np.float64).eps])
    values = np.linalg.eigvalsh(_products(rows, memory))
    # what is smaller is the rounding of the largest, squared as they are here
    noise = values[-1] * max(n, p) * np.finfo(np.float64).eps
    return np.asarray(np.sqrt(values[values > noise]))


def _products(rows: Any, memory: int) -> np.ndarray[Any, Any]:
    """Of stimuli or of features, whichever are fewer; about 0, not about their mean."""
    n, p = rows.shape
    if isinstance(rows, RowBlocks):
        if 8 * min(n, p) ** 2 > memory:
            raise LensValueError(
                f"the rank of {rows.of} takes {quantity(8 * min(n, p) ** 2, 'B')} beside what is "
                "read; give more memory=, or fewer stimuli"
            )
        if n <= p:
            return products_of(rows, Centre(np.zeros(p), np.zeros(p, bool)))
        return _summed(p, (values for _, values in rows.blocks()))
    if n <= p:
        step = max(1, _EXACT // (8 * n))
        return _summed(n, (rows[:, k : k + step].T for k in range(0, p, step)))
    step = max(1, _EXACT // (8 * p))
    return _summed(p, (rows[k : k + step] for k in range(0, n, step)))


def _summed(size: int, parts: Iterable[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    found = np.zeros((size, size))
    for part in parts:
        wide = part.astype(np.float64)
        found += wide.T @ wide
    return found
