"""What each row costs: FLOPs, memory traffic, storage, and what autograd would keep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd

from lensframe_pd.cells import Cells
from lensframe_pd.errors import LensValueError
from lensframe_pd.labels import distinct_labels
from lensframe_pd.profile.meta import Cost, Costs, Given, Kept, Question
from lensframe_pd.schema import KINDS, itemsize, require
from lensframe_pd.tape.config import Encoded
from lensframe_pd.tape.context import context_of
from lensframe_pd.tape.tape import Context

#: The columns that `costs` assigns.
COST_COLUMNS = ("flops", "moved_bytes", "backward_bytes", "act_bytes", "storage", "uncounted")
NEEDED = (
    "call", "step", "kind", "func", "target", "config", "n_positional", "tuple_args", "context",
    "parents", "parent_args", "params", "param_args", "param_shapes", "param_dtypes", "n_params",
    "params_nbytes", "n_trainable", "buffers", "buffer_args", "buffer_shapes", "buffer_dtypes",
    "shape", "stride", "dtype", "device", "nbytes", "requires_grad", "inplace",
)  # fmt: skip
Row = Mapping[str, Any]


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Assign what each row costs, counted by torch itself.

    Every call is replayed on meta tensors, which have shapes and no data, under
    `torch.utils.flop_counter.FlopCounterMode` and `torch.autograd.graph.saved_tensors_hooks`;
    calls that are alike once. So the frame is enough: no model, no values. A call is rebuilt from
    its row and its parents' rows: assign the costs first, filter then. `profile` and its plots use
    these columns where they are there.

    Parameters
    ----------
    frame
        Rows of `layers`.

    Returns
    -------
    pandas.DataFrame
        The frame with the columns

        - `flops` (Int64): floating-point operations of the call, missing where not counted. A
          multiplication and an addition are two; only matrix products, convolutions and
          attention count, as torch defines it;
        - `moved_bytes` (Int64): the least traffic to memory the call can do: each argument read
          and each result written once; 0 for views. What is picked from a table (embedding,
          indexing) counts, not the table;
        - `backward_bytes` (Int64): what autograd keeps in memory for the backward pass because
          of this call: storages that no call before made it keep, without parameters and
          buffers. A trace under `torch.no_grad` is taken as one without;
        - `act_bytes` (int64): bytes the row allocated; 0 for views and what is written in place;
        - `storage`: label of the row that allocated the memory the tensor lies in; empty if it
          lies in a parameter or buffer;
        - `uncounted`: why `flops` is missing; empty where it is there.

        `flops`, `moved_bytes` and `backward_bytes` are, like `seconds`, those of the call, on
        each row of a call that made several tensors.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensValueError
        The frame has no rows, a label twice, or is rolled or collapsed.

    Notes
    -----
    Meta tensors take torch's reference path: recurrent layers are counted as the matrix products
    they are made of. What autograd keeps of one can differ on a device that has a kernel of its
    own for it.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> layers.lens.costs()[["flops", "act_bytes", "storage"]]
              flops  act_bytes   storage
    op
    input_1       0          0   input_1
    linear_1     48         32  linear_1
    output_1      0          0  linear_1
    """
    rows = checked_rows(frame, "costs")
    ledger = _Ledger(rows)
    order = sorted(rows, key=lambda op: rows[op]["step"])
    with Costs() as asked:
        for _, ops in groupby(order, key=lambda op: rows[op]["call"]):
            ledger.enter([*ops], asked)
    found = pd.DataFrame.from_dict(ledger.entries, "index", columns=list(COST_COLUMNS))
    found = found.loc[list(rows)].set_axis(frame.index)
    for name in ("flops", "moved_bytes", "backward_bytes"):
        found[name] = found[name].astype("Int64")
    return frame.assign(**{name: found[name] for name in COST_COLUMNS})


def with_costs(frame: pd.DataFrame, verb: str) -> pd.DataFrame:
    """The frame with the columns of `costs`, counted if they are not there yet."""
    check_rows(frame, verb)
    return frame if set(COST_COLUMNS) <= set(frame.columns) else costs(frame)


def checked_rows(
    frame: pd.DataFrame, verb: str, columns: Sequence[str] = NEEDED
) -> dict[str, dict[str, Any]]:
    """Label to these cells, as traced."""
    require(frame, verb, *columns)
    if frame.empty:
        raise LensValueError(f"{verb}: the frame has no rows; a filter before it kept none")
    check_rows(frame, verb)
    ops = distinct_labels(frame, verb)
    return Cells.of(frame, ops, columns).rows


def check_rows(frame: pd.DataFrame, verb: str) -> None:
    """Raise unless rows are single tensors, which alone can be summed in any way."""
    require(frame, verb, "kind")
    odd = sorted({str(kind) for kind in frame["kind"]} - KINDS)
    if odd or "unrolled" in frame.columns:
        found = f"rows of kind {', '.join(odd)}" if odd else "rolled rows"
        raise LensValueError(
            f"{verb}: the frame has {found}; it needs rows as lf.trace gives them, one per tensor: "
            "profile before you roll or collapse"
        )


class Tensors(NamedTuple):
    """The tensors among a call's arguments, and whose storage each lies in."""

    given: tuple[Given, ...]
    owners: tuple[str | None, ...]
    """Label of the row that allocated it; None for a parameter or buffer."""


class _Ledger:
    """What is known of the rows so far, in the order they ran."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows = rows
        self.entries: dict[str, tuple[Any, ...]] = {}
        self._owner: dict[str, str | None] = {}
        self._nbytes: dict[str, int] = {}
        self._followed: dict[str, bool] = {}
        self._kept: set[str] = set()
        contexts = {row["context"] for row in rows.values() if row["kind"] == "op"}
        self._switches = {c: context_of(c) for c in contexts}
        self._without_grad = not any(c.grad and not c.inference for c in self._switches.values())

    def enter(self, ops: list[str], asked: Costs) -> None:
        """One call, by the labels of its rows."""
        first = self.rows[ops[0]]
        if not first["target"]:
            self._enter_synthetic(ops)
            return
        missing = [p for p in first["parents"] if p not in self._followed]
        tensors = self._tensors(first, missing)
        if missing:
            reason = f"its parent {missing[0]} is not in the frame: call costs() before you filter"
            if missing[0] in self.rows:
                reason = f"its parent {missing[0]} comes after it"
            cost = _unseen(ops, reason)
        elif first["func"] == "grad":
            cost = _unseen(ops, "it differentiates other rows, more than its parents")
        elif not tensors.given or first["func"] == "deepcopy":
            cost = _without_products(ops)  # nothing to multiply
        else:
            cost = asked.of(self._question(first, ops, tensors.given))
        self._write(ops, cost, tensors.owners)

    def _enter_synthetic(self, ops: Sequence[str]) -> None:
        """Inputs and constants were there before; outputs and aliases are other rows' memory."""
        for op in ops:
            row = self.rows[op]
            source = row["parents"][0] if row["parents"] else op
            self._owner[op] = self._owner.get(source, source)
            self._nbytes.setdefault(source, row["nbytes"])
            self._followed[op] = bool(self._followed.get(source, row["requires_grad"]))
            self.entries[op] = (0, 0, 0, 0, self._owner[op] or "", "")

    def _write(self, ops: list[str], cost: Cost, owners: tuple[str | None, ...]) -> None:
        kept, act = 0, []
        for i, op in enumerate(ops):
            act.append(self._allocate(op, i, ops, cost, owners))
            self._followed[op] = cost.followed[i]
        for storage in cost.saved:
            kept += self._newly_kept(storage, ops, owners)
        backward = None if cost.moved is None else kept
        for op, nbytes in zip(ops, act, strict=True):
            owner = self._owner[op] or ""
            self.entries[op] = (cost.flops, cost.moved, backward, nbytes, owner, cost.reason)

    def _allocate(
        self, op: str, i: int, ops: list[str], cost: Cost, owners: tuple[str | None, ...]
    ) -> int:
        """Find whose memory a result lies in; the bytes it allocated for itself."""
        row, lies = self.rows[op], cost.made[i]
        if lies.given >= 0:
            owner = owners[lies.given]
            if owner is None or self._device(owner, row) == row["device"]:
                self._owner[op] = owner
                return 0
        elif 0 <= lies.slot < i:
            self._owner[op] = self._owner[ops[lies.slot]]
            return 0
        self._owner[op] = op
        self._nbytes[op] = row["nbytes"] if lies.nbytes < 0 else lies.nbytes
        return self._nbytes[op]

    def _device(self, owner: str, row: Row) -> Any:
        return self.rows[owner]["device"] if owner in self.rows else row["device"]

    def _newly_kept(self, storage: Kept, ops: list[str], owners: tuple[str | None, ...]) -> int:
        if storage.given >= 0:
            owner = owners[storage.given]
        elif storage.slot >= 0:
            owner = self._owner[ops[storage.slot]]
        else:
            return storage.nbytes
        if owner is None or owner in self._kept:
            return 0
        self._kept.add(owner)
        return self._nbytes[owner]

    def _tensors(self, row: Row, missing: Sequence[str]) -> Tensors:
        """Parents, parameters and buffers of a call, as `Question` describes them."""
        if missing:
            return Tensors((), ())
        given: list[Given] = []
        owners: list[str | None] = []
        seen: dict[tuple[str, str], int] = {}
        for source, name, role, shape, stride, dtype, followed in self._arguments(row):
            same = seen.setdefault((source, name), len(given))
            given.append(Given(role, shape, stride, dtype, followed, same))
            owners.append(self._owner[name] if source == "parent" else None)
        return Tensors(tuple(given), tuple(owners))

    def _arguments(self, row: Row) -> Iterator[tuple[Any, ...]]:
        for name, role in zip(row["parents"], row["parent_args"], strict=True):
            of = self.rows[name]
            followed = self._followed[name]
            yield "parent", name, role, of["shape"], of["stride"], of["dtype"], followed
        for held, follows in (("param", row["n_trainable"] > 0), ("buffer", False)):
            columns = [row[f"{held}{end}"] for end in ("s", "_args", "_shapes", "_dtypes")]
            for name, role, shape, dtype in zip(*columns, strict=True):
                yield held, name, role, shape, None, dtype, follows

    def _question(self, row: Row, ops: Iterable[str], given: tuple[Given, ...]) -> Question:
        context = self._switches[row["context"]]
        grad = self._without_grad or (context.grad and not context.inference)
        rows = [self.rows[op] for op in ops]
        return Question(
            row["target"],
            row["func"],
            Encoded(row["config"], row["n_positional"], row["tuple_args"]),
            given,
            Context(grad, False, context.autocast),
            row["device"],
            any(r["inplace"] for r in rows),
            tuple((r["shape"], r["dtype"]) for r in rows),
        )


def _unseen(ops: Sequence[str], reason: str) -> Cost:
    own = tuple(Kept(-1, i, -1) for i in range(len(ops)))
    return Cost(None, None, own, (), (False,) * len(ops), reason)


def _without_products(ops: Sequence[str]) -> Cost:
    return _unseen(ops, "")._replace(flops=0, moved=0)


def buffer_bytes(row: Row) -> dict[str, int]:
    """Bytes of the buffers a row reads, by name."""
    held = zip(row["buffers"], row["buffer_shapes"], row["buffer_dtypes"], strict=True)
    return {name: math.prod(shape) * itemsize(dtype) for name, shape, dtype in held}
