"""Rows that an outline puts together: blocks that repeat, stretches of small operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.cells import plain_cells
from lensframe_pd.graph.contract import (
    MODULE,
    RowCells,
    contract,
    each_once,
    grouped,
    held_once,
    last,
    parameter_totals,
    put_together,
    reads_between,
)
from lensframe_pd.graph.edges import frame_like, op_index
from lensframe_pd.graph.outline import Outline, numbered
from lensframe_pd.labels import labels


def merge_runs(frame: pd.DataFrame, plan: Outline) -> pd.DataFrame:
    """One row for each run and stretch of the plan, with the column `repeats`.

    Parameters
    ----------
    frame
        Rows in which the modules that the plan closes are collapsed.
    """
    if "step" in frame.columns:
        frame = frame.sort_values("step", kind="stable")
    ops = labels(frame, "collapse")
    columns = {name: plain_cells(frame[name]) for name in frame.columns}
    op_of = dict(zip(columns["layer"], ops, strict=True))
    merged = _names(plan, op_of)
    group = [merged.get(op, op) for op in ops]
    times = {merged[op_of[layers[0]]]: n for layers, n in plan.repeated}
    runs = {merged[run[-1]]: len(run) for run in plan.runs}
    totals = parameter_totals(frame, group)
    rolled = "parent_passes" in frame.columns
    steps = dict(zip(ops, columns.get("step", range(len(ops))), strict=True))

    def row(name: str, cells: RowCells, edges: dict[str, Any]) -> dict[str, Any]:
        if len(cells["layer"]) == 1:
            (alone,) = zip(*cells.values(), strict=True)
            return {"repeats": 1, **dict(zip(cells, alone, strict=True)), **edges}
        if name in times:
            facts = _repeated(cells, times[name])
        else:
            facts = _run(cells, runs[name]) if name in runs else _stretch(cells)
        return facts | totals.get(name, {}) | edges | {"layer": name}

    reads = reads_between(dict(zip(ops, group, strict=True)), {*merged.values()}, steps, rolled)
    # a run stands where its last block does: before what reads it, after all that it reads
    place = {name: i for i, name in enumerate(group)}
    everything = [*range(len(ops))]
    rows = contract(columns, grouped(group, everything), row, reads, each_once if rolled else None)
    made = frame_like(frame, rows, [*frame.columns], op_index(frame, [*dict.fromkeys(group)]))
    made = made.assign(repeats=np.array([cells["repeats"] for cells in rows], "int64"))
    return made.iloc[np.argsort([place[name] for name in made.index], kind="stable")]


def _names(plan: Outline, op_of: Mapping[str, str]) -> dict[str, str]:
    """Label of each row that goes together with others to the label of what they become."""
    found: dict[str, str] = {}
    for run in plan.runs:
        found |= dict.fromkeys(run, numbered(run))
    for layers in (*plan.stretches, *(layers for layers, _ in plan.repeated)):
        ops = [op_of[layer] for layer in layers]
        found |= dict.fromkeys(ops, f"{ops[0]}..{ops[-1]}")
    return found


def _repeated(cells: RowCells, times: int) -> dict[str, Any]:
    """The same rows again and again: the last one's result, what all of them took."""
    facts = _stretch(cells)
    one = len(cells["kind"]) // times
    what = "blocks and operations" if "module" in cells["kind"] else "operations"
    return facts | {"func": f"{one} {what}", "repeats": times}


def _run(cells: RowCells, repeats: int) -> dict[str, Any]:
    """Blocks one after the other: the last one's result, what all of them took."""
    ends = {name: last(cells[name]) for name in ("returned_by", "returned_first") if name in cells}
    facts = put_together(cells, MODULE, last) | dict(held_once(cells)) | ends
    return facts | {"repeats": repeats, "step": last(cells["step"])}


def _stretch(cells: RowCells) -> dict[str, Any]:
    """Operations that follow one another: the last one's result, what all of them took."""
    outputs = {*cells["kind"]} == {"output"}
    what = "outputs" if outputs else "operations"
    facts: dict[str, Any] = {
        "kind": "output" if outputs else "module",
        "func": f"{len(cells['kind'])} {what}",
        "target": "",
        "config": "{}",
        "n_positional": 0,
        "tuple_args": (),
        "repeats": 1,
    }
    together = put_together(cells, MODULE, last)
    return together | {name: cell for name, cell in facts.items() if name in {*cells, "repeats"}}
