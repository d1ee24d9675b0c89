"""One extraction: the first batch tells what there will be, the others fill it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.capture.sites import Sites
from lensframe_pd.errors import LensValueError, shown
from lensframe_pd.extract.batches import Batch
from lensframe_pd.extract.cast import Array
from lensframe_pd.extract.compare import departures
from lensframe_pd.extract.fill import Opened, Piece, Span, Writer, code_of
from lensframe_pd.extract.fingerprint import fingerprint, of_ids
from lensframe_pd.extract.first import First, Settings, first_of, naming, seeded
from lensframe_pd.extract.given import check_by_ids, told
from lensframe_pd.extract.picked import Known, run_picked
from lensframe_pd.extract.plan import input_shapes
from lensframe_pd.extract.progress import Progress
from lensframe_pd.extract.reduce import Reduced
from lensframe_pd.extract.resume import (
    check_border,
    check_borders,
    check_fixed,
    check_same,
    check_values,
    same,
)
from lensframe_pd.extract.source import Source
from lensframe_pd.extract.store import Layout, check_room, made_sizes, make, spoken
from lensframe_pd.extract.table import needed_bytes, plan_table
from lensframe_pd.files.blocks import is_blocks, ledger_at, lost_chunks, place_of
from lensframe_pd.files.damage import refused
from lensframe_pd.schema import STIMULUS
from lensframe_pd.tables.stimuli import coordinates

_SHOWN = 8
_STORE = "whole store of lf.extract"


class Extraction:
    """A model, its data, and the store that it is written to.

    Parameters
    ----------
    model
        The model.
    source
        Its stimuli.
    settings
        What becomes of a batch.
    compress
        As of `lf.extract`.
    """

    def __init__(self, model: Any, source: Source, settings: Settings, compress: Any) -> None:
        self.model, self.source, self.settings = model, source, settings
        made_by = fingerprint(model)  # before it has run
        first = source.first
        self.first: First = first_of(model, first, settings, source.table_of(first))
        if self.first.sites is not None:
            check_by_ids(self.first.sites, first.size, source.n)
        self.layout = Layout(
            self.first.plan,
            source.n,
            min(source.n, source.data.batch or first.size),
            _coordinates(source),
            source.ids.of_batch is not None,
            compress,
            self.first.attrs,
        )
        _check_names(self.layout)
        said = {
            "fingerprint": made_by,
            "rows": {v.name: v.said() for v in self.first.plan.variables},
            "ids": of_ids(self.layout.ids) if source.ids.of_batch is None else "of each batch",
            "batch": self.layout.batch,
            "seed": settings.seed,
            "ragged": dict(settings.ragged),
            "passes": settings.passes,
            "values": told(settings.values),
        }
        self.said: dict[str, Any] = spoken(said)

    def table(self, to: Any) -> pd.DataFrame:
        """What will be stored, a row per variable.

        Raises
        ------
        LensFileError
            There is not so much room.
        """
        self._check_room(to)
        return plan_table(self.layout, made_sizes(self.layout, self.first.layers, self.said))

    def _check_room(self, to: Any) -> None:
        done = np.zeros(self.layout.n_blocks, np.bool_)
        if is_blocks(to):
            with refused(place_of(to), _STORE):
                there = ledger_at(to).done()
            done = there if there.shape == done.shape else done
        check_room(to, needed_bytes(self.layout, done))

    def fill(self, to: Any, part: tuple[int, int], sync: bool) -> int:
        """Write the share of the store that is not there yet; how many batches were computed."""
        self._check_room(to)
        if not is_blocks(to):
            make(to, self.layout, self.first.layers, self.said)
        with refused(place_of(to), _STORE):
            check_same(to, {"n": self.layout.n, **self.said}, place_of(to))
        return Filling(self, to, part, sync).run()


def _check_names(layout: Layout) -> None:
    """Raise where a column of stimuli has the name of something that padding adds."""
    dims = {dim for v in layout.plan.variables for dim in v.dims} - {STIMULUS}
    taken = sorted({*layout.ids} & (dims | {*layout.coordinates}))
    if taken:
        raise LensValueError(
            f"columns of stimulus= have names that ragged= adds: {shown(taken)}; rename them: "
            "table.rename(columns=...)"
        )


def _coordinates(source: Source) -> dict[str, Any]:
    """Those along `stimulus`; of ids that only batches know, room for them."""
    if source.ids.table is not None:
        return coordinates(source.ids.table)
    ids = source.first.given.ids
    if ids.dtype.kind in "mM":
        raise LensValueError("ids of each batch are texts or numbers; make times text: str(time)")
    empty = np.full(source.n, "", object) if ids.dtype == object else np.zeros(source.n, ids.dtype)
    return {STIMULUS: (STIMULUS, empty)}


class Filling:
    """The loop over batches, of one share of the blocks.

    Parameters
    ----------
    extraction
        What it is of.
    to, part, sync
        As of `lf.extract`; all is part `(0, 1)`.
    """

    def __init__(self, extraction: Extraction, to: Any, part: tuple[int, int], sync: bool) -> None:
        self._of, self._plan = extraction, extraction.first.plan
        self._where, self._whole = place_of(to), part[1] == 1
        with refused(self._where, _STORE):
            self._opened = Opened(to, extraction.layout)
        self._ledger = self._opened.ledger
        self._entries = self._ledger.read()
        lost = lost_chunks(self._where, self._opened.group, self._ledger)
        for gone in lost.values():  # to be computed again
            self._entries[gone] = 0
        blocks, (i, parts) = len(self._entries), part
        share = range(i * blocks // parts, (i + 1) * blocks // parts)
        self._todo = {k for k in share if not self._entries[k]}
        self._writer = Writer(self._opened, {*self._todo}, sync)
        self._spans: dict[int, list[Span]] = {}
        self._is_verified = not self._entries.any()
        self._known = Known()
        self.computed = 0

    def run(self) -> int:
        """Compute and write what is missing; how many batches were computed."""
        try:
            self._check_stored()
            self._loop()
        except BaseException as error:
            self._give_up(error)
            raise
        self._writer.close()
        self._check_all_came()
        return self.computed

    def _check_stored(self) -> None:
        """What is stored already is of the same batches and values, as far as can be seen now."""
        if self._is_verified:
            return
        check_fixed(self._opened)
        borders, source = self._of.source.data.borders, self._of.source
        if borders is not None:
            check_borders(self._opened, borders, self._where)
        if self._opened.ids is not None:
            for k in np.flatnonzero(self._entries):
                start, end = self._ledger.span(int(k))
                source.ids.meet(np.asarray(self._opened.ids[start:end]), start)
        first = self._of.first.batch
        if self._stored_parts(first):
            self._verify(first, self._of.first.stored)
        elif source.data.by_number:
            assert borders is not None
            start, end = self._ledger.span(int(np.flatnonzero(self._entries)[0]))
            begins = [a for a, b in pairwise(borders) if b > start]
            batch = source.one(begins[0])
            self._verify(batch, self._reduced(batch))

    def _loop(self) -> None:
        source = self._of.source
        if not self._todo and (source.data.by_number or self._is_verified):
            return
        done = self._ledger.n - self._ledger.missing()
        with Progress(source.n, done, str(self._where)) as progress:
            for batch in source.wanted(self._wants):
                self._writer.check()
                self._note_borders(batch)
                verifies = not self._is_verified and bool(self._stored_parts(batch))
                if not (self._wants(batch.start, batch.end) or verifies):
                    continue
                reduced = self._of_batch(batch)
                if verifies:
                    self._verify(batch, reduced)
                self._writer.add(self._piece(batch, reduced))
                progress.add(self._new(batch), self._writer.written_bytes)
            self._writer.close()
            progress.add(0, self._writer.written_bytes)  # with what was queued

    def _wants(self, start: int, end: int) -> bool:
        block = self._ledger.block
        return any([k in self._todo for k in range(start // block, -(-end // block))])

    def _new(self, batch: Batch) -> int:
        """How many of its stimuli are written for the first time."""
        block = self._ledger.block
        return sum(k // block in self._todo for k in range(batch.start, batch.end))

    def _of_batch(self, batch: Batch) -> Mapping[str, Reduced]:
        first = self._of.first
        return first.stored if batch.number == first.batch.number else self._reduced(batch)

    def _reduced(self, batch: Batch) -> dict[str, Reduced]:
        """Run the model on a batch; what is to be stored of it.

        Raises
        ------
        LensValueError
            It is not as planned.
        """
        plan, seed = self._plan, self._of.settings.seed
        picked = plan.picked(input_shapes(batch.given.arguments))
        with naming(batch), seeded(seed, batch.number):
            filled = run_picked(
                self._of.model,
                batch.args,
                batch.kwargs,
                batch.size,
                picked,
                self._sites(batch),
                self._known,
            )
        self.computed += 1
        wrong = [*departures(plan, filled, batch.size)]
        if wrong:
            raise LensValueError(self._refusal(batch, wrong))
        found = {}
        for v in plan.variables:
            facts = filled.facts[v.address]
            with naming(batch):
                found[v.name] = v.reduction(filled.values[v.address], v.named(facts), batch.given)
        moved = [n for n, values in plan.fixed.items() if not same(values, found[n].array)]
        if moved:
            raise LensValueError(
                f"{batch}: {shown(moved)} have no stimulus axis, so they are stored once, and have "
                "other values than in the first batch; leave these rows out"
            )
        return found

    def _sites(self, batch: Batch) -> Sites | None:
        """What is given other values, of the stimuli of a batch."""
        sites = self._of.first.sites
        return None if sites is None else sites.joined(self._of.source.table_of(batch).index)

    def _refusal(self, batch: Batch, wrong: list[str]) -> str:
        more = [f"... and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        return "\n".join([f"{batch} is not as planned", *wrong[:_SHOWN], *more])

    def _piece(self, batch: Batch, reduced: Mapping[str, Reduced]) -> Piece:
        arrays = {v.name: reduced[v.name].array for v in self._plan.variables if v.axis is not None}
        lengths: dict[str, int] = {}
        for v in self._plan.variables:
            for axis, name in v.lengths.items():
                n = reduced[v.name].lengths[axis]
                if lengths.setdefault(name, n) != n:
                    raise LensValueError(
                        f"{batch}: {v.name!r} has {n} along {axis!r}, and another row has "
                        f"{lengths[name]}, where they were equal in the first batch; extract them "
                        "to two stores"
                    )
        ids = batch.given.ids if self._opened.ids is not None else None
        infinite, span = self._infinite(batch, reduced), (batch.start, batch.end)
        return Piece(batch.start, batch.size, arrays, lengths, ids, infinite, span)

    def _infinite(self, batch: Batch, reduced: Mapping[str, Reduced]) -> Array | None:
        if not self._of.layout.casts:
            return None
        counts = np.zeros((batch.size, len(self._of.layout.casts)), np.int64)
        axes = {v.name: v.axis for v in self._plan.variables}
        for k, name in enumerate(self._of.layout.casts):
            where, axis = reduced[name].infinite, axes[name]
            if where is not None and axis is not None:
                others = tuple([d for d in range(where.ndim) if d != axis])
                counts[:, k] = where.sum(others)
        return counts

    def _stored_parts(self, batch: Batch) -> list[tuple[int, int]]:
        """Which of its stimuli are in blocks that were there when this began."""
        block, parts = self._ledger.block, []
        for k in range(batch.start // block, -(-batch.end // block)):
            if self._entries[k]:
                start, end = self._ledger.span(k)
                parts.append((max(start, batch.start), min(end, batch.end)))
        return parts

    def _verify(self, batch: Batch, reduced: Mapping[str, Reduced]) -> None:
        arrays = {name: found.array for name, found in reduced.items()}
        check_values(self._opened, batch, arrays, self._stored_parts(batch))
        self._is_verified = True

    def _note_borders(self, batch: Batch) -> None:
        """Of batches whose borders are known when they are met: are they those of the store?"""
        if self._of.source.data.borders is not None:
            return
        block = self._ledger.block
        for k in range(batch.start // block, -(-batch.end // block)):
            _, end = self._ledger.span(k)
            spans = self._spans.setdefault(k, [])
            spans.append((batch.start, batch.end))
            if batch.end >= end and self._entries[k]:
                expected = code_of(self._spans.pop(k))
                check_border(int(self._entries[k]), expected, k, self._where)

    def _give_up(self, error: BaseException) -> None:
        """Have written what is queued, whatever went wrong."""
        try:
            self._writer.close()
        except BaseException as second:
            if second is not error:
                error.add_note(f"lf.extract: and what was queued could not be written: {second}")

    def _check_all_came(self) -> None:
        n, left = self._ledger.n, self._writer.left
        if left:
            start, _ = self._ledger.span(min(left))
            raise LensValueError(
                f"the data ended before stimulus {n - 1}: those from about {start} on are missing, "
                f"and there are to be {n}; ids, n= or len(data) say too many. What was written "
                "stays"
            )
