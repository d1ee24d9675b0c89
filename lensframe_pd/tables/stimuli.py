"""`stimulus=` as a table, one row per stimulus, and the table as coordinates of the Dataset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from lensframe_pd.errors import LensTypeError, LensValueError, shown
from lensframe_pd.schema import STIMULUS

Array = np.ndarray[Any, Any]

#: Names that the tables made of activations give a meaning of their own.
RESERVED = frozenset(
    (STIMULUS, f"{STIMULUS}_", "pass_num", "layer", "layer_", "feature", "n_features")
)
_KINDS = frozenset(
    "string integer floating boolean datetime64 datetime timedelta64 timedelta empty".split()
)
#: `relu_1`, `linear_1:2`, `channel_64`, `token_5_`: how variables and dimensions are named.
_GENERATED = re.compile(r".+_\d+(:\d+|_*)")
_ONE_EACH = "give one id per stimulus, or a DataFrame indexed by id"


def stimulus_table(stimulus: Any) -> pd.DataFrame | None:
    """What `stimulus=` of `lf.trace` says, as a table of its own, indexed by id.

    Parameters
    ----------
    stimulus
        A DataFrame indexed by id; or ids: a Series (its values), Index, tensor, array, list or
        any other sequence. None for none.

    Returns
    -------
    pandas.DataFrame or None
        A copy, so that what the caller does to theirs later changes nothing.

    Raises
    ------
    LensTypeError
        It is no sequence of ids, or ids are of several kinds, or of one that no array holds.
    LensValueError
        Ids are missing, come twice or hold NUL characters; two columns have one name, or one has
        a name that means something else. All are named.
    """
    if stimulus is None:
        return None
    if isinstance(stimulus, pd.DataFrame):
        table = stimulus.copy()
        table.columns = pd.Index([str(name) for name in stimulus.columns], dtype=object)
        table.index = _ids(stimulus.index)
        _check_columns(table)
        return table
    return pd.DataFrame(index=_ids(stimulus))


def coordinates(table: pd.DataFrame) -> dict[str, Any]:
    """Ids and columns as coordinates along `stimulus`."""
    columns = {name: (STIMULUS, _array(table[name])) for name in table.columns}
    return {STIMULUS: (STIMULUS, _array(table.index.to_series())), **columns}


def may_be_generated(table: pd.DataFrame) -> bool:
    """Whether a column is named as variables or dimensions are, which are known after the run."""
    return any(_GENERATED.fullmatch(name) for name in table.columns)


def name_taken(table: pd.DataFrame, labels: Set[str], dims: Set[str]) -> LensValueError | None:
    """The error for columns that would take the name of an operation or a dimension.

    xarray would let such a column replace the activation of that name.
    """
    lines = []
    for names, what in ((labels, "operations"), (dims, "dimensions")):
        found = [name for name in table.columns if name in names]
        if found:
            lines.append(f"columns of stimulus= have names of {what} of this run: {shown(found)}")
    if not lines:
        return None
    lines.append(
        "rename them: table.rename(columns=...). The run is not lost: this exception's .trace has "
        "all of it but these columns"
    )
    return LensValueError("\n".join(lines))


def _check_columns(table: pd.DataFrame) -> None:
    twice = [name for name, n in Counter(table.columns).items() if n > 1]
    if twice:
        raise LensValueError(f"the table of stimuli has columns more than once: {shown(twice)}")
    reserved = [name for name in table.columns if name in RESERVED]
    if reserved:
        ids = f"; ids are the index: table.set_index({STIMULUS!r})" if STIMULUS in reserved else ""
        raise LensValueError(
            f"columns of stimulus= have names that mean something else: {shown(reserved)}; "
            f"rename them{ids}"
        )


def _ids(given: Any) -> pd.Index:
    index = _index(given)
    if index.hasnans:
        places = np.flatnonzero(index.isna())
        raise LensValueError(
            f"stimulus ids are missing at positions {shown(places)}; every stimulus needs one"
        )
    kind = pd.api.types.infer_dtype(index, skipna=False)
    no_array_holds = getattr(index.dtype, "tz", None) is not None or (
        index.dtype == object and kind not in ("string", "empty")  # such as 2**70
    )
    if kind not in _KINDS or no_array_holds:
        kinds = ", ".join(sorted({type(value).__name__ for value in index}))
        raise LensTypeError(
            "stimulus ids are of one kind: texts, numbers of at most 64 bits, or times without a "
            f"zone; these are {kinds}; make them text: [str(i) for i in ids]"
        )
    cut = [i for i in index if "\0" in i] if kind == "string" else []
    if cut:  # two such ids may be one to NumPy, whose texts end before it
        raise LensValueError(f"stimulus ids hold NUL characters: {shown(cut)}; take them out")
    if not index.is_unique:
        twice = index[index.duplicated()].unique()
        table = "; a table of what they are is a DataFrame: series.to_frame()"
        raise LensValueError(
            f"stimulus ids come more than once: {shown(twice)}; an id stands for one stimulus"
            + (table if isinstance(given, pd.Series) else "")
        )
    return index


def _index(given: Any) -> pd.Index:
    """The ids as one level of pandas' own, by value."""
    if isinstance(given, (str, bytes)):
        raise LensTypeError(f"stimulus= got one text, {given!r}; {_ONE_EACH}")
    unordered = isinstance(given, (Mapping, set, frozenset))
    if unordered or not isinstance(given, Iterable):
        raise LensTypeError(f"stimulus= got a {type(given).__name__}; {_ONE_EACH}")
    axes = getattr(given, "nlevels", getattr(given, "ndim", 1))
    if axes != 1:
        what = "levels" if isinstance(given, pd.Index) else "axes"
        raise LensValueError(
            f"stimulus ids have {axes} {what}, and are one number or text each; {_ONE_EACH}"
        )
    if isinstance(given, Tensor):
        values: Any = given.tolist()
    elif isinstance(given, (pd.Index, pd.Series)):
        categories = isinstance(given.dtype, pd.CategoricalDtype)
        values = np.asarray(given) if categories else given.array
    elif hasattr(given, "__array__"):
        array = np.asarray(given)
        values = array.tolist() if array.dtype.kind == "f" else array  # pandas has no float16
    else:
        values = [v.item() if isinstance(v, (Tensor, np.generic)) else v for v in given]
    try:
        index: pd.Index = pd.Index(values, copy=True, tupleize_cols=False).infer_objects()
    except (TypeError, ValueError, NotImplementedError, OverflowError) as error:
        raise LensTypeError(f"stimulus= are no ids: {error}; {_ONE_EACH}") from error
    return index


def _array(values: pd.Series) -> Array:
    """As NumPy holds it best, whole: what is missing is NaN (of times NaT)."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = pd.Series(np.asarray(values))
    missing = values.isna().to_numpy(bool)
    if len(values) and missing.all() and values.dtype.kind not in "mM":
        return np.full(len(values), np.nan)
    if pd.api.types.infer_dtype(values, skipna=True) == "string":
        return _texts(values, missing)
    if isinstance(values.dtype, np.dtype) and values.dtype != object:
        return values.to_numpy(copy=True)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if numeric and missing.any():
        floats = values.to_numpy(np.float64, na_value=np.nan)
        if (values[~missing] == floats[~missing].astype(object)).all():
            return floats
    if not missing.any() and pd.api.types.is_extension_array_dtype(values):
        return np.array(values.to_numpy())
    found = values.to_numpy(object, copy=True)
    found[missing] = np.nan
    return found


def _texts(values: pd.Series, missing: Array) -> Array:
    """Fixed-width text, which every file format takes, unless that would change it."""
    exact = [None if m else str.__str__(v) for v, m in zip(values, missing, strict=True)]
    if not missing.any():
        fixed = np.array(exact, dtype=np.str_)
        if fixed.tolist() == exact:  # NumPy takes NUL characters off the end
            return fixed
    found = np.array(exact, dtype=object)
    found[missing] = np.nan
    return found
