"""Where time, memory and FLOPs go: rows of `layers` summed by op, layer, module, func or line."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.errors import LensValueError, unknown_names, warn
from lensframe_pd.graph.parameters import parameters
from lensframe_pd.labels import labels, path_of
from lensframe_pd.profile.costs import with_costs
from lensframe_pd.profile.members import Members, members, tree_order
from lensframe_pd.schema import model_class, require

NEEDED = (
    "step", "kind", "layer", "func", "module", "module_type", "module_stack", "module_types",
    "source", "call", "seconds", "params", "param_shapes", "n_params", "params_nbytes",
    "n_trainable",
)  # fmt: skip
BY = ("op", "layer", "module", "func", "source")
_SHOWN = 5
_OF_CALL = ("seconds", "flops", "moved_bytes", "backward_bytes")
_COLUMNS = (
    "calls", "seconds", "share", "flops", "macs", "act_bytes", "params", "params_bytes",
    "n_trainable", "backward_bytes", "moved_bytes", "intensity", "flops_per_s", "uncounted",
)  # fmt: skip


def profile(frame: pd.DataFrame, by: str = "op", depth: int | None = None) -> pd.DataFrame:
    """Time, FLOPs, bytes and parameters of each op, layer, module, function or line of code.

    FLOPs need the parents' rows: to profile a selection, filter the result, or assign the costs
    first (`layers.lens.costs()`) and filter then.

    Parameters
    ----------
    frame
        Rows of `layers`.
    by
        What a row of the result is: `"op"`, `"layer"`, `"module"`, `"func"` or `"source"`.
    depth
        With `by="module"`: leave out modules of more than so many names (`layer1.0` has two).
        What they did stays in the totals of those that hold them.

    Returns
    -------
    pandas.DataFrame
        In order of first execution, indexed by `by`; empty for a model that ran no operation:

        - `calls`: how often it ran;
        - `seconds`, `share`: time of its torch calls, and its part of the frame's. What Python
          does between the calls is not in it;
        - `flops`, `macs`: floating-point operations, and half as many multiply-accumulates. Only
          matrix products, convolutions and attention count, as in `torch.utils.flop_counter`;
        - `act_bytes`: bytes its results allocated; views and writes in place are no new bytes;
        - `params`, `params_bytes`, `n_trainable`: of the parameters it read, each once. One that
          two modules share counts in both and once in what holds both;
        - `backward_bytes`: what autograd keeps for the backward pass, parameters apart; a tensor
          that several calls keep counts at the first;
        - `moved_bytes`: the least traffic to memory; `intensity`: FLOPs per byte of it;
        - `flops_per_s`: FLOPs by the time measured;
        - `uncounted`: calls whose FLOPs are not in `flops`, and why.

        By module also `module_type`, `ops` (torch calls) and `self_seconds` (without the modules
        inside); then totals include the modules inside, and the first row, `""`, is the model.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensValueError
        `by` is none of these, `depth` is given without modules, a filter kept no operations, or
        the frame is rolled or collapsed.

    Warns
    -----
    LensWarning
        Calls that multiply, or may, have no FLOPs; it names them.

    Notes
    -----
    `seconds` are one run's: the first run of a model is slower than the next. `intensity` and
    `flops_per_s` are the axes of the roofline model (Williams, Waterman and Patterson 2009,
    doi:10.1145/1498765.1498785).

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> layers, _ = lf.trace(model.eval(), torch.ones(4, 3))
    >>> layers.lens.profile("module")[["calls", "flops", "params", "act_bytes"]]
            calls  flops  params  act_bytes
    module
                1    320      50        288
    0           1    192      32        128
    1           1      0       0        128
    2           1    128      18         32
    """
    _check(by, depth)
    require(frame, "profile", *NEEDED)
    ops = operations(frame, "profile")
    _warn_of_uncounted(ops)
    groups = members(ops, by, depth)
    table = _totals(ops, groups).set_axis(pd.Index(groups.groups, dtype="str"))
    if by == "module":
        in_tree = table.iloc[tree_order(groups.holders)] if len(ops) else table
        table = _as_modules(in_tree, ops, model_class(frame))
    elif by in ("op", "layer"):
        first = ops.assign(op=ops.index).drop_duplicates(by).set_index(by)
        table = table.assign(func=first["func"], module=first["module"])
    whole = table.head(1) if by == "module" else table  # the first holds all the others
    total = whole["seconds"].sum()
    table["share"] = table["seconds"] / total if total else math.nan
    table["macs"] = table["flops"] // 2
    table["intensity"] = _ratio(table["flops"], table["moved_bytes"])
    table["flops_per_s"] = _ratio(table["flops"], table["seconds"])
    extra = [name for name in table.columns if name not in _COLUMNS]
    return table.rename_axis(by)[[*extra, *_COLUMNS]]


def operations(frame: pd.DataFrame, verb: str) -> pd.DataFrame:
    """The rows of operations, indexed by label, with their costs; what a call has, once a call.

    Raises
    ------
    LensValueError
        There are none, and no outputs either.
    """
    costed = with_costs(frame, verb)
    costed = costed.set_axis(pd.Index(labels(costed, verb), name="op")).sort_values("step")
    ops = costed[costed["kind"] == "op"]
    check_operations(costed, verb)
    again = ops["call"].duplicated()
    once = {name: ops[name].mask(again, 0) for name in _OF_CALL}
    return ops.assign(**once, is_call=~again, uncounted=ops["uncounted"].mask(again, ""))


def check_operations(frame: pd.DataFrame, verb: str) -> None:
    """Raise where a filter took the operations; a model that only hands on its input has none."""
    if not frame["kind"].isin(("op", "output")).any():
        raise LensValueError(
            f"{verb}: the frame has no rows of kind 'op'; the model ran none, or a filter kept none"
        )


def _check(by: str, depth: int | None) -> None:
    if by not in BY:
        close = str(unknown_names([by], BY, "way to profile by:"))
        raise LensValueError(close)
    if depth is not None and by != "module":
        raise LensValueError(f"depth cuts the tree of modules; it means nothing by={by!r}")
    if depth is not None and depth < 0:
        raise LensValueError(f"depth must be 0 (the model alone) or more, not {depth}")


def _totals(ops: pd.DataFrame, members: Members) -> pd.DataFrame:
    """What the rows of each group come to; groups by number."""
    summed = {
        # a sum of nothing but missing FLOPs is missing, not 0
        name: ops[name].iloc[members.row].groupby(members.group).sum(min_count=1)
        for name in (*_OF_CALL, "act_bytes", "is_call")
    }
    table = pd.DataFrame(summed, index=range(len(members.groups)))
    table = table.rename(columns={"is_call": "calls"}).astype({"calls": "int64"})
    table = table.join(_held(ops, members))
    return table.assign(uncounted=_uncounted(ops, members).reindex(table.index, fill_value=""))


def _held(ops: pd.DataFrame, members: Members) -> pd.DataFrame:
    """By number of the group: its parameters, each once."""
    read = parameters(ops, "profile")
    pairs = members.of(read["row"].to_numpy())
    once = _first_of_each(read["name"], pairs)
    group, row = pairs.group[once], pairs.row[once]
    # column by column: as a table, a deep model's pairs would be most of the memory
    sums = [
        np.bincount(group, read[column].to_numpy("float64")[row], len(members.groups))
        for column in ("numel", "nbytes", "trainable")
    ]
    columns = ("params", "params_bytes", "n_trainable")
    return pd.DataFrame(dict(zip(columns, sums, strict=True))).round().astype("int64")


def _first_of_each(read: pd.Series, pairs: Members) -> np.ndarray[Any, Any] | slice:
    """The pairs in which a group comes to a parameter for the first time, of the names read."""
    name, names = pd.factorize(read)
    if len(names) == len(name):
        return slice(None)
    group = pairs.group.astype("int64")
    return ~pd.Series(group * len(names) + name[pairs.row]).duplicated().to_numpy()


def _uncounted(ops: pd.DataFrame, members: Members) -> pd.Series:
    """By group: the calls that are not counted, and why the first is not."""
    rows = np.flatnonzero(ops["uncounted"] != "")
    pairs = members.of(rows)
    missing = ops["uncounted"].iloc[rows[pairs.row]]
    found = {
        group: f"{', '.join(reasons.index)}: {reasons.iloc[0]}"
        for group, reasons in missing.groupby(pairs.group, sort=False)
    }
    return pd.Series(found, dtype="str")


def _as_modules(table: pd.DataFrame, ops: pd.DataFrame, of_model: str) -> pd.DataFrame:
    """Of modules: their own calls and class, and the time they spend themselves."""
    if table.empty:
        columns = {
            "ops": table["calls"],
            "self_seconds": table["seconds"],
            "module_type": table["uncounted"],
        }
        return table.assign(**columns)
    calls: Counter[str] = Counter()  # of a container that is never called none
    types: dict[str, str] = {}
    for call, kind in _classes(ops).items():
        path = path_of(call)
        calls[path] += 1
        types[path] = kind
    own = ops["seconds"].groupby(ops["module"], observed=True).sum()
    table = table.rename(columns={"calls": "ops"}).assign(
        calls=[calls[path] for path in table.index],
        self_seconds=own.reindex(table.index, fill_value=0.0),
        module_type=[types.get(path, "") for path in table.index],
    )
    table.loc["", ["calls", "module_type"]] = 1, of_model
    return table


def _classes(ops: pd.DataFrame) -> dict[str, str]:
    """Each call of a module to the module's class."""
    found: dict[str, str] = {}
    before = None
    for stack, types in zip(ops["module_stack"], ops["module_types"], strict=True):
        if stack is not before:  # rows of one module share the cell
            found |= zip(stack, types, strict=True)
        before = stack
    return found


def _floats(column: pd.Series) -> pd.Series:
    return pd.Series(column.to_numpy("float64", na_value=math.nan), column.index)


def _ratio(above: pd.Series, below: pd.Series) -> pd.Series:
    """One by the other; missing where either is, or where the lower is 0."""
    bottom = _floats(below)
    return _floats(above) / bottom.where(bottom != 0)


def _warn_of_uncounted(ops: pd.DataFrame) -> None:
    """One warning for all calls whose FLOPs are missing."""
    missing = ops[ops["uncounted"] != ""]
    if missing.empty:
        return
    shown = [f"{op} ({reason})" for op, reason in missing["uncounted"].head(_SHOWN).items()]
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    warn(f"FLOPs do not include {'; '.join(shown)}{more}")
