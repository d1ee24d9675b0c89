"""Batches regrouped to the blocks of a store, and written: data first, then the ledger's entry."""

from __future__ import annotations

import json
import os
import queue
import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lensframe_pd.errors import LensFileError
from lensframe_pd.extract.cast import Array
from lensframe_pd.extract.chunks import Chunks
from lensframe_pd.extract.store import LENGTH, OVERFLOWS, Layout
from lensframe_pd.files.blocks import Ledger, ledger_of, place_of
from lensframe_pd.files.stores import GROUP, NAME
from lensframe_pd.schema import STIMULUS

_QUEUED = 2
"""Blocks that wait for the writer: more would only be more memory."""


Span = tuple[int, int]
"""The first stimulus, and the first after the last."""


class Piece(NamedTuple):
    """What one batch has for the store."""

    start: int
    size: int
    arrays: Mapping[str, Array]
    """Variables that have stimuli."""
    lengths: Mapping[str, int]
    """Coordinates of padded axes."""
    ids: Array | None
    """Ids that only the batch knows."""
    overflows: Array | None
    """stimulus x variable: how many numbers became infinite."""
    batch: Span
    """Where the batch begins and ends."""


class Opened:
    """A store that is held open to be filled."""

    def __init__(self, to: Any, layout: Layout) -> None:
        import zarr

        with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk not there is damage
            self.group = zarr.open_group(to, mode="r+", zarr_format=3, use_consolidated=False)
            named = {str(a.attrs.get(NAME, k)): a for k, a in self.group.arrays()}
            self.overflows: Any = self.group[f"{GROUP}/{OVERFLOWS}"] if layout.casts else None
            self.ledger: Ledger = ledger_of(self.group)
        self.layout = layout
        self.arrays: dict[str, Any] = {v.name: named[v.name] for v in layout.plan.variables}
        self.ids: Any = named[STIMULUS] if layout.late_ids else None
        place = place_of(to)
        folder = place if isinstance(place, Path) else None
        axes = {v.name: v.axis for v in layout.plan.variables if v.axis is not None}
        self.chunks = {name: Chunks(named[name], axis, folder) for name, axis in axes.items()}
        self.coordinates = {name: Chunks(named[name], 0, folder) for name in layout.coordinates}
        self.late = [Chunks(a, 0, folder) for a in (self.ids, self.overflows) if a is not None]
        self.entries = Chunks(self.ledger.entries, 0, folder)


class Writer:
    """Writes blocks: in a thread of its own where there is a core for it.

    Parameters
    ----------
    opened
        The store.
    todo
        The blocks to write; what batches have of others is passed over.
    sync
        Whether each block is on the disk before its entry in the ledger.
    """

    def __init__(self, opened: Opened, todo: set[int], sync: bool) -> None:
        self._opened, self._todo, self._sync = opened, todo, sync
        self._pieces: dict[int, list[Piece]] = {}
        self.written_bytes = 0
        self.blocks = 0
        self._error: BaseException | None = None
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(_QUEUED)
        self._thread: threading.Thread | None = None
        if _a_core_is_free():
            self._thread = threading.Thread(target=self._work, name="lensframe-writer", daemon=True)
            self._thread.start()

    def add(self, piece: Piece) -> None:
        """Take what a batch has; a block that is complete by it is written."""
        block = self._opened.ledger.block
        for k in range(piece.start // block, -(-(piece.start + piece.size) // block)):
            if k not in self._todo:
                continue
            start, end = self._opened.ledger.span(k)
            held = self._pieces.setdefault(k, [])
            held.append(self._part(piece, start, end))
            if sum(part.size for part in held) == end - start:
                parts = self._pieces.pop(k)
                self._todo.discard(k)
                self._put(lambda k=k, parts=parts: self._write(k, parts))  # type: ignore[misc]

    @property
    def left(self) -> set[int]:
        """The blocks that not all batches came for."""
        return self._todo

    def check(self) -> None:
        """Raise what the thread raised."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write what is queued; raise what went wrong."""
        if self._thread is not None:
            self._send(None)
            self._thread.join()
            self._thread = None
        self.check()

    def _part(self, piece: Piece, start: int, end: int) -> Piece:
        """Of a piece what lies in a block."""
        a = max(start - piece.start, 0)
        b = min(end - piece.start, piece.size)
        if (a, b) == (0, piece.size):
            return piece
        axes = {v.name: v.axis for v in self._opened.layout.plan.variables}
        arrays = {
            # copied: a view would keep the whole batch
            name: array[(slice(None),) * (axes[name] or 0) + (slice(a, b),)].copy()
            for name, array in piece.arrays.items()
        }
        ids = None if piece.ids is None else piece.ids[a:b]
        overflows = None if piece.overflows is None else piece.overflows[a:b]
        return Piece(
            piece.start + a, b - a, arrays, piece.lengths, ids, overflows, piece.batch
        )  # fmt: skip

    def _put(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            work()
        else:
            self._send(work)

    def _send(self, work: Callable[[], None] | None) -> None:
        while self._error is None:
            try:
                return self._queue.put(work, timeout=0.1)
            except queue.Full:  # or the thread has died of an error meanwhile
                continue
        return None

    def _work(self) -> None:
        try:
            while (work := self._queue.get()) is not None:
                work()
        except BaseException as error:
            self._error = error

    def _write(self, k: int, parts: list[Piece]) -> None:
        start, end = self._opened.ledger.span(k)
        try:
            self._write_values(start, parts)
            code = np.array([code_of([part.batch for part in parts])])
            self._opened.entries.write(k, code, self._sync)
        except OSError as error:
            raise LensFileError(
                f"block {k} (stimuli {start} to {end - 1}) could not be written: {error}; what was "
                "written before stays: make room and call lf.extract as before to go on"
            ) from error
        self.blocks += 1

    def _write_values(self, start: int, parts: list[Piece]) -> None:
        opened, sync = self._opened, self._sync
        for name, chunks in opened.chunks.items():
            arrays = [part.arrays[name] for part in parts]
            values = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, chunks.axis)
            chunks.write(start, values, sync)
            self.written_bytes += values.nbytes
        for name, chunks in opened.coordinates.items():
            lengths = [np.full(p.size, p.lengths[name], LENGTH) for p in parts]
            chunks.write(start, np.concatenate(lengths), sync)
        late = [[p.ids for p in parts], [p.overflows for p in parts]]
        known = [column for column in late if column[0] is not None]
        for chunks, column in zip(opened.late, known, strict=True):
            chunks.write(start, np.concatenate([c for c in column if c is not None]), sync)


def code_of(batches: list[Span]) -> int:
    """A ledger's entry: the borders of the batches that a block is made of; never 0.

    So that another run with other batches, whose values may differ in the last bit, is noticed.
    """
    return 1 + zlib.crc32(json.dumps(batches).encode())


def _a_core_is_free() -> bool:
    """Whether there is a core besides those that torch computes on, which nobody else uses."""
    own = hasattr(os, "sched_getaffinity")  # on Linux: others may have the rest
    all_cores = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if own else all_cores
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return cores > torch.get_num_threads() and load < all_cores
