"""The parameters that rows read, as a long table in which each can be counted once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from lensframe_pd.cells import names, plain
from lensframe_pd.labels import labels
from lensframe_pd.schema import itemsize, require


class Parameter(NamedTuple):
    """One parameter of one row."""

    op: str
    row: int
    name: str
    arg: str
    shape: tuple[int, ...]
    numel: int
    nbytes: float
    trainable: float


_DTYPES = {
    "row": "int64", "name": "str", "arg": "str", "shape": "object", "numel": "int64",
    "nbytes": "float64", "trainable": "float64",
}  # fmt: skip
#: What the parameters of a row, or of several, come to.
TOTALS = ["n_params", "params_nbytes", "n_trainable"]


def parameters(frame: pd.DataFrame, verb: str = "parameters") -> pd.DataFrame:
    """One row for each parameter of each row, in the order of the frame.

    Parameters
    ----------
    frame
        Rows of `layers`, rolled or collapsed or not.
    verb
        Who asks, for errors.

    Returns
    -------
    pandas.DataFrame
        Indexed by `op`, the label of the row that read it:

        - `row`: position of that row in the frame;
        - `name`: of the parameter; a shared one has one name, so `drop_duplicates("name")` counts
          each once;
        - `arg`: the argument it was, empty where the frame does not say;
        - `shape`, `numel`: its sizes, and its number of elements;
        - `nbytes`: its bytes, by `param_dtypes` where the frame has them, else in proportion of the
          row's `params_nbytes`;
        - `trainable`: how many of its elements need a gradient, in proportion of the row's
          `n_trainable`, which is exact where all or none of what the row reads do.

        The last two are NaN where the frame does not say.

    Raises
    ------
    LensKeyError
        The frame lacks `params` or `param_shapes`.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> fc = torch.nn.Linear(3, 3)
    >>> layers, _ = lf.trace(torch.nn.Sequential(fc, fc).eval(), torch.ones(4, 3))
    >>> table = parameters(layers)
    >>> table[["name", "arg", "numel", "nbytes"]].values.tolist()[:2]
    [['0.weight', 'weight', 9, 36.0], ['0.bias', 'bias', 3, 12.0]]
    >>> len(table), int(table.drop_duplicates("name")["numel"].sum())
    (4, 12)
    """
    require(frame, verb, "params", "param_shapes")
    found = pd.DataFrame(_parameters(frame, verb), columns=Parameter._fields)
    index = pd.Index(found.pop("op"), name="op", dtype="str")
    return found.astype(_DTYPES).set_axis(index)


def counted_once(table: pd.DataFrame, by: str) -> pd.DataFrame:
    """What the parameters of each group come to, one that several rows read counted once.

    Parameters
    ----------
    table
        Rows of `parameters(frame)`, with a column of the groups.
    by
        Name of that column.

    Returns
    -------
    pandas.DataFrame
        Indexed by group, in order of appearance: `n_params`, `params_nbytes`, `n_trainable`
        (int64). A group without parameters has no row.
    """
    once = table.drop_duplicates([by, "name"]).groupby(by, sort=False)
    sums = once[["numel", "nbytes", "trainable"]].sum()
    return sums.round().astype("int64").set_axis(TOTALS, axis=1)


def _parameters(frame: pd.DataFrame, verb: str) -> Iterator[Parameter]:
    nothing = [()] * len(frame)
    unknown = [math.nan] * len(frame)
    rows = zip(
        labels(frame, verb),
        *(frame[c] for c in ("params", "param_shapes")),
        # what hand-made frames and files of older versions lack
        *(frame.get(c, nothing) for c in ("param_args", "param_dtypes")),
        *(frame.get(c, unknown) for c in ("n_params", "params_nbytes", "n_trainable")),
        strict=True,
    )
    for i, (op, params, shapes, args, dtypes, n_params, nbytes, trainable) in enumerate(rows):
        for k, (name, cell) in enumerate(zip(names("params", params), shapes, strict=True)):
            shape = plain(cell)
            numel = math.prod(shape)
            exact = numel * itemsize(dtypes[k]) if k < len(dtypes) else None
            yield Parameter(
                op=op, row=i, name=name, arg=str(args[k]) if k < len(args) else "",
                shape=shape, numel=numel,
                nbytes=_share(nbytes, numel, n_params) if exact is None else exact,
                trainable=_share(trainable, numel, n_params),
            )  # fmt: skip


def _share(total: Any, numel: int, n_params: Any) -> float:
    """A parameter's part of what a row has in all, by its number of elements."""
    return plain(total) * numel / plain(n_params) if n_params else 0.0
