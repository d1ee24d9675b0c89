"""What a validation is given: the tables, the model and its arguments, and what the cells say.

Columns and values decide, never `attrs`: pandas loses those, files may lack them, and they are
nobody's row. Two facts of a run decide what a second run is compared with. Both are in `context`:

- The *seed*, in every row that drew random numbers. The second run then draws the same ones. It
  tells what a value came from, so it belongs to the row that has the value.
- That the run was *stopped*, in its last row. A stopped run cannot be told from a whole one whose
  tail a filter dropped by what is missing, since the same is missing from both. So the end is a
  cell: a filter that drops the tail leaves no such cell, and the dropped rows are reported. Who
  writes the cell by hand has stated, row for row, what a stopped run of the model is, and nothing
  that is false of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from lensframe_pd.capture.inventory import Inventory, inventory
from lensframe_pd.capture.sites import Sites
from lensframe_pd.capture.state import Origin, Start
from lensframe_pd.cells import Cells, Rows
from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.labels import labels
from lensframe_pd.schema import COLUMNS, require
from lensframe_pd.tape.context import RunFacts, context_now, context_of, run_facts
from lensframe_pd.tape.edited import EDIT
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Context, Tape
from lensframe_pd.validation.edited import sites_of

_SEEDS = range(-(2**63), 2**64)  # those that torch takes


class End(NamedTuple):
    """Where a stopped run ended."""

    n_rows: int
    by: bool | str
    """True where the last row ended it, else the call of a module whose end did."""


@dataclass(frozen=True)
class Evidence:
    """What there is to judge, and to judge it by."""

    cells: Cells
    activations: xr.Dataset | None
    origin: Origin
    tape: Tape | None = None
    """The record of the traced run, where the trace itself is validated."""
    stimulus: pd.DataFrame | None = None
    """The ids, in the order of the arguments, where they are told."""
    given: Sites | None = None
    """What the traced run was given other values for, where the trace itself is validated."""
    grouped: Passes | None = None
    """The passes of `tape`, where they are known."""
    dims: Sequence[tuple[str, ...]] | None = None
    """The dimensions of the rows of `tape`, where they are known."""

    @property
    def ops(self) -> list[str]:
        """The labels as they are given, doubles included."""
        return self.cells.ops

    @property
    def rows(self) -> Rows:
        """The cells row by row."""
        return self.cells.rows

    @cached_property
    def sites(self) -> Sites | None:
        """What a second run is given other values for: those that are saved of the first."""
        edits = [op for op, row in self.rows.items() if row["kind"] == EDIT]
        return sites_of(edits, self.rows, self.activations, self.given) if edits else None

    @cached_property
    def seed(self) -> int | None:
        """The seed of the traced run, if its rows tell of one."""
        cells = [row["context"] for row in self.rows.values()]
        different = dict.fromkeys([cell for cell in cells if isinstance(cell, str)])
        told = (_run_facts(cell).seed for cell in different)
        return next((seed for seed in told if type(seed) is int and seed in _SEEDS), None)

    @cached_property
    def end(self) -> End | None:
        """Where the traced run was stopped, if its last row says that it was."""
        last = max(self.rows.values(), key=lambda row: row["step"])
        stopped = _run_facts(last["context"]).stopped
        return End(last["step"] + 1, stopped) if stopped else None

    @property
    def replays_random_numbers(self) -> bool:
        """Whether the random states of the reference are those of the values."""
        return self.tape is not None or self.seed is not None

    @cached_property
    def before(self) -> Start:
        """What model and arguments hold before a second run: every run begins and ends with it."""
        return Start(self.start)

    @cached_property
    def made_of(self) -> Inventory:
        """What the model is made of, before every run."""
        return inventory(self.origin.model)

    @property
    def start(self) -> Origin:
        """What a second run starts from: the seed told, if one is, decides its numbers."""
        if self.seed is None:
            return self.origin
        return self.origin._replace(generator=_seeded(self.seed))

    @property
    def switches(self) -> Context:
        """The switches that the traced run began under."""
        first = min(self.rows.values(), key=lambda row: row["step"])
        with suppress(ValueError):  # a damaged cell, which the comparison of cells reports
            return context_of(first["context"])
        return context_now()

    @property
    def last(self) -> str:
        """The row that is answerable for the run as a whole: the first output, if there is one."""
        outputs = [op for op, row in self.rows.items() if row["kind"] == "output"]
        return [*outputs, [*self.rows][-1]][0]


def evidence(
    layers: pd.DataFrame,
    activations: xr.Dataset | None,
    origin: Origin,
    tape: Tape | None = None,
    stimulus: pd.DataFrame | None = None,
    given: Sites | None = None,
    grouped: Passes | None = None,
    dims: Sequence[tuple[str, ...]] | None = None,
) -> Evidence:
    """The tables as cells, and what they are judged by.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensTypeError
        `activations` is no Dataset.
    LensValueError
        The frame has no rows.
    """
    require(layers, "validate", *COLUMNS)
    if not len(layers):
        raise LensValueError("validate: the frame has no rows; give all rows of a trace")
    if activations is not None and not isinstance(activations, xr.Dataset):
        raise LensTypeError(
            f"activations is a {type(activations).__name__}; give the Dataset of the trace"
        )
    ops = labels(layers, "validate")
    return Evidence(
        Cells.of(layers, ops, COLUMNS), activations, origin, tape, stimulus, given, grouped, dims
    )


def _run_facts(context: str) -> RunFacts:
    with suppress(ValueError):  # a damaged cell, which the comparison of cells reports
        return run_facts(context)
    return RunFacts(None, False)


def _seeded(seed: int) -> Tensor:
    return torch.Generator().manual_seed(seed).get_state()
