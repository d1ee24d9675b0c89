"""What two models do not share, row by row: frame, frame -> frame."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.bars import counted
from lensframe_pd.cells import names
from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.graph.align import Pair
from lensframe_pd.graph.apart import Apart
from lensframe_pd.graph.compared import NAMED, Compared, Side, Values
from lensframe_pd.graph.renamed import Renaming, common_names
from lensframe_pd.schema import STIMULUS


def diff(
    frame: pd.DataFrame,
    other: Any,
    activations: Any = None,
    rename: Renaming = None,
    rtol: float | None = None,
    every: bool = False,
) -> pd.DataFrame:
    """Where two models differ: step by step, in what they compute and in what comes out.

    Rows are aligned by a shortest edit script over module path and function, in the order they
    ran, so labels may be others. Rows that are left over on both sides in one place, and of one
    shape, are aligned too, and so are rows that only ran at another time. Then all their facts are
    compared (shape, dtype, config, parameters, parents), and their values if they are given.

    Parameters
    ----------
    frame
        Rows of `layers`.
    other
        Those of another trace: of another implementation, of the model after a change, or for
        other inputs. Or that trace.
    activations
        The values of both: a pair of Datasets, or of traces. Or those of `frame` alone, where
        `other` is a trace, which has its own.
    rename
        What modules and parameters are called there: `{"blocks": "h", "blocks.*.fc1":
        "h.*.mlp.fc1"}`, where `*` is any one name, and the names below go along; `""` is the model
        itself. Or a function of a name. An entry may also be written the other way round.
    rtol
        How far apart values may be, over the largest absolute value of either. None: by the
        coarsest type among what they were computed from, 1e-12 in float64, 2e-5 in float32, 0.02
        in float16, 0.1 in bfloat16; nothing for integers.
    every
        Whether to give the rows that are the same too.

    Returns
    -------
    pandas.DataFrame
        The rows that differ, in the order they ran, those of `frame` where it has them. Before
        their columns: `what` is different, as `"config"`, `"shape, parents"`, `"value"`; `"func"`
        or `"module"` of rows aligned by their place and shape; `"only this"`, `"only other"`; or
        nothing. `side` is `"both"`, `"this"` or `"other"`, and `other` the label there. `first`
        is true of the first difference: all others may follow from it. With values
        `max_abs_diff`, `rel_diff` and `cosine`.

    Raises
    ------
    LensKeyError
        A column is not there, or `rename` names what neither model has.
    LensTypeError
        An argument is none of these.
    LensValueError
        Labels come twice, or the values are of other stimuli or in another order.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> port = torch.nn.Sequential(net[0], torch.nn.GELU(), net[2])
    >>> a, b = lf.trace(net.eval(), torch.ones(1, 3)), lf.trace(port.eval(), torch.ones(1, 3))
    >>> a.layers.lens.diff(b, activations=a)[["what", "other", "first"]]
                what     other  first
    op
    relu_1      func    gelu_1   True
    linear_2   value  linear_2  False
    output_1   value  output_1  False
    """
    if rtol is not None and not (isinstance(rtol, (int, float)) and 0 <= rtol < math.inf):
        raise LensValueError(f"rtol is a number from 0 up, such as 1e-4, not {rtol!r}")
    theirs = _frame(other)
    values = _values(activations, other)
    common = common_names(rename, _known_names(frame), _known_names(theirs))
    compared = Compared(Side(frame, common.mine), Side(theirs, common.theirs), values)
    pairs = compared.pairs
    what = compared.what(pairs)
    done = counted(pairs, "diff: values", "rows") if values else ()
    distances = [compared.apart(pair) for pair in done] if values else None
    if distances is not None:
        allowed = compared.allowed(pairs, rtol)
        for k, (distance, most) in enumerate(zip(distances, allowed, strict=True)):
            if distance.rel_diff > most and not what[k]:
                what[k] = "value"
    return _table(compared, pairs, what, distances, every)


def _frame(other: Any) -> pd.DataFrame:
    found = other if isinstance(other, pd.DataFrame) else getattr(other, "layers", None)
    if not isinstance(found, pd.DataFrame):
        raise LensTypeError(
            f"other is rows of layers, or a trace, not {type(other).__name__}: give "
            "lf.trace(model, args).layers"
        )
    return found


def _values(given: Any, other: Any) -> Values | None:
    if given is None:
        return None
    if isinstance(given, (list, tuple)) and not hasattr(given, "activations"):
        sides = [_dataset(part) for part in given]
    else:
        sides = [_dataset(given), _dataset(other)]
    found = [side for side in sides if side is not None]
    if len(sides) != 2 or len(found) != 2:
        raise LensTypeError(
            "activations are the values of both: (trace.activations, other.activations), or those "
            "of this frame, and other= a trace, which has its own"
        )
    values = Values(*found)
    _check_stimuli(values)
    return values


def _dataset(of: Any) -> xr.Dataset | None:
    found = of if isinstance(of, xr.Dataset) else getattr(of, "activations", None)
    return found if isinstance(found, xr.Dataset) else None


def _check_stimuli(values: Values) -> None:
    """Values are compared by place, so the same stimuli have to be in the same places."""
    if not all(STIMULUS in side.indexes for side in values):
        return
    mine, theirs = (side.indexes[STIMULUS] for side in values)
    if mine.equals(theirs):
        return
    same = len(mine) == len(theirs) and mine.isin(theirs).all()
    told = "the same stimuli in another order" if same else "other stimuli"
    raise LensValueError(
        f"the values of the other trace are of {told} ({mine[0]!r}, ... here, {theirs[0]!r}, ... "
        "there): trace both models on one batch"
    )


def _known_names(frame: pd.DataFrame) -> list[str]:
    found = dict.fromkeys(frame["module"].astype(str)) if "module" in frame.columns else {}
    for column in NAMED:
        if column in frame.columns:
            found |= dict.fromkeys(name for cell in frame[column] for name in names(column, cell))
    return [*found]


def _table(
    compared: Compared,
    pairs: Sequence[Pair],
    what: Sequence[str],
    distances: Sequence[Apart] | None,
    every: bool,
) -> pd.DataFrame:
    differ = [k for k, text in enumerate(what) if text]
    shown = range(len(pairs)) if every else differ
    first = differ[0] if differ else -1
    labels = compared.theirs.ops
    columns: dict[str, Any] = {
        "what": _text([what[k] for k in shown]),
        "side": _text([_side(pairs[k]) for k in shown]),
        "other": _text(["" if (j := pairs[k].theirs) is None else labels[j] for k in shown]),
        "first": np.array([k == first for k in shown], dtype=bool),
    }
    if distances is not None:
        for name in Apart._fields:
            columns[name] = np.array([getattr(distances[k], name) for k in shown], dtype=float)
    rows = _rows(compared, [pairs[k] for k in shown]).drop(columns=[*columns], errors="ignore")
    for place, (name, cells) in enumerate(columns.items()):
        rows.insert(place, name, cells)
    return rows


def _text(cells: list[str]) -> Any:
    return pd.array(cells, dtype=pd.StringDtype(na_value=np.nan))


def _side(pair: Pair) -> str:
    return "both" if None not in pair else "other" if pair.mine is None else "this"


def _rows(compared: Compared, pairs: Iterable[Pair]) -> pd.DataFrame:
    """The rows themselves: of the first frame, and of the other where only that has them."""
    mine, theirs = compared.mine, compared.theirs
    both = pd.concat([mine.frame.assign(op=mine.ops), theirs.frame.assign(op=theirs.ops)])
    n = len(mine.ops)
    places = [i if i is not None else n + (j or 0) for i, j in pairs]
    found = both.iloc[places].set_index("op")
    found.attrs.clear()
    return found
