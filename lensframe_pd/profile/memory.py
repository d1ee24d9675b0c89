"""What is alive in memory at each step of a forward, and which operations hold it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lensframe_pd.errors import unknown_names
from lensframe_pd.graph.parameters import parameters
from lensframe_pd.profile.costs import NEEDED, buffer_bytes, checked_rows, with_costs
from lensframe_pd.schema import require

_GIVEN = ("input", "constant")


def memory(frame: pd.DataFrame) -> pd.DataFrame:
    """Assign what is alive in memory as each row's operation ends.

    Give it all rows of a forward: those filtered away hold nothing here, so assign first and
    filter then.

    Parameters
    ----------
    frame
        Rows of `layers`.

    Returns
    -------
    pandas.DataFrame
        The frame with the columns

        - `live_bytes` (int64): bytes that operations of the forward allocated and that are still
          alive when the row's operation has made its result and not yet let go of its arguments;
        - `held_bytes` (int64): bytes of parameters, buffers, inputs and constants, which somebody
          else holds all the time: the same number in each row. The sum of both is in use.

        The peak is the `max()` of `live_bytes`, its place the `idxmax()`; `alive` says which rows
        hold it.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensValueError
        The frame has no rows, a label twice, or is rolled or collapsed.

    Notes
    -----
    This is a forward that saves nothing, as under `torch.no_grad`. A storage lives from the
    operation that allocated it to the last that reads it or a view of it; a module call holds its
    arguments until it ends, as Python does, and what the model returns lives to the end. Views and
    writes in place allocate nothing. What an operation allocates and frees inside itself is not
    seen, nor what a local variable of the model holds after its last use; `backward_bytes` of
    `costs` says what autograd would add.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> layers, _ = lf.trace(model.eval(), torch.ones(4, 3))
    >>> layers.lens.memory()[["live_bytes", "held_bytes"]]
              live_bytes  held_bytes
    op
    input_1            0         248
    linear_1         128         248
    relu_1           256         248
    linear_2         160         248
    output_1          32         248
    """
    forward = _Forward(frame, "memory")
    live = forward.live()
    return forward.frame.assign(
        live_bytes=np.array([live[op] for op in forward.rows], "int64"),
        held_bytes=np.full(len(live), forward.held(), "int64"),
    )


def alive(frame: pd.DataFrame, op: str | None = None) -> pd.DataFrame:
    """The storages that hold memory at one moment: by default at the peak.

    Give it all rows of a forward, as `memory`.

    Parameters
    ----------
    frame
        Rows of `layers`.
    op
        Label of the row; without it the one at which most is alive.

    Returns
    -------
    pandas.DataFrame
        One row per storage alive as `op` ends, largest first, indexed by the label of the row that
        allocated it: `func`, `module`, `shape_str`, `bytes`, and `until`, the label of the row
        after which it is free. `bytes` sum to `live_bytes` of `op`.

    Raises
    ------
    LensKeyError
        The frame lacks a column, or has no row `op`.
    LensValueError
        The frame has no rows, a label twice, or is rolled or collapsed.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> layers, _ = lf.trace(model.eval(), torch.ones(4, 3))
    >>> layers.lens.alive()[["bytes", "until"]]
              bytes     until
    op
    linear_1    128    relu_1
    relu_1      128  linear_2
    """
    require(frame, "alive", "func", "module", "shape_str")
    forward = _Forward(frame, "alive")
    live = forward.live()
    if op is None:
        op = max(live, key=live.__getitem__)
    elif op not in live:
        raise unknown_names([op], live, "op")
    step = forward.rows[op]["step"]
    spans = {owner: s for owner, s in forward.spans.items() if s.first <= step <= s.last}
    ran_at = {row["step"]: label for label, row in forward.rows.items()}
    labelled = forward.frame.set_axis(list(forward.rows))
    table = labelled.loc[[*spans], ["func", "module", "shape_str"]].assign(
        bytes=[span.nbytes for span in spans.values()],
        until=[ran_at[span.last] for span in spans.values()],
    )
    return table.sort_values("bytes", ascending=False, kind="stable").rename_axis("op")


class _Span(NamedTuple):
    """The life of one storage, from step to step, both included."""

    first: int
    last: int
    nbytes: int


class _Forward:
    """The rows of a forward, and how long each storage lives."""

    def __init__(self, frame: pd.DataFrame, verb: str) -> None:
        require(frame, verb, "module_stack")
        self.frame = with_costs(frame, verb)
        columns = (*NEEDED, "module_stack", "storage", "act_bytes")
        self.rows = checked_rows(self.frame, verb, columns)
        self.spans = self._spans()

    def live(self) -> dict[str, int]:
        """Label to the bytes alive."""
        changes = Counter({row["step"]: 0 for row in self.rows.values()})
        for span in self.spans.values():
            changes[span.first] += span.nbytes
            changes[span.last + 1] -= span.nbytes
        steps = sorted(changes)
        now = dict(zip(steps, accumulate(changes[step] for step in steps), strict=True))
        return {op: now[row["step"]] for op, row in self.rows.items()}

    def held(self) -> int:
        """Bytes of parameters, buffers, inputs and constants."""
        params = parameters(self.frame, "memory").drop_duplicates("name")["nbytes"].sum()
        buffers: dict[str, int] = {}
        given = 0
        for op, row in self.rows.items():
            buffers |= buffer_bytes(row)
            if row["kind"] in _GIVEN and row["storage"] == op:  # not a view of another input
                given += row["nbytes"]
        return round(params) + sum(buffers.values()) + given

    def _spans(self) -> dict[str, _Span]:
        """Storages that operations allocated, by the label of their row."""
        last: dict[str, int] = {}
        for storage, step in self._uses():
            last[storage] = max(last.get(storage, 0), step)
        return {
            op: _Span(row["step"], last[op], row["act_bytes"])
            for op, row in self.rows.items()
            if row["storage"] == op and row["act_bytes"] and row["kind"] not in _GIVEN
        }

    def _uses(self) -> Iterator[tuple[str, int]]:
        """A storage, and a step until which somebody needs it."""
        ends = self._ends()
        last_step = max(row["step"] for row in self.rows.values())
        for row in self.rows.values():
            # what the model returns is the caller's
            yield row["storage"], last_step if row["kind"] == "output" else row["step"]
            for parent in row["parents"]:
                made = self.rows.get(parent)  # none where a filter took it
                if made is not None:
                    yield made["storage"], max(row["step"], _held_by_call(made, row, ends))

    def _ends(self) -> dict[str, int]:
        """Module call to its last step."""
        ends: dict[str, int] = {}
        for row in self.rows.values():
            for call in row["module_stack"]:
                ends[call] = max(ends.get(call, 0), row["step"])
        return ends


def _held_by_call(made: Mapping[str, Any], read: Mapping[str, Any], ends: Mapping[str, int]) -> int:
    """Last step of the outermost module call that got the tensor as argument."""
    around = {*made["module_stack"]}  # calls that made it themselves got it from nobody
    return next((ends[call] for call in read["module_stack"] if call not in around), 0)
