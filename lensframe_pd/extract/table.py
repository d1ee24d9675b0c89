"""`plan=True`: what a store will hold, and what that takes, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lensframe_pd.extract.chunks import chunk_files
from lensframe_pd.extract.plan import Variable
from lensframe_pd.extract.store import LENGTH, Layout

_CHECKSUM = 4
"""Bytes of a crc32c after each chunk."""
_ENTRY = 8
"""Bytes of an entry of the ledger."""


def plan_table(layout: Layout, made: Sequence[int]) -> pd.DataFrame:
    """One row per variable of a store, indexed by its name; of all the sums are in the attrs.

    Parameters
    ----------
    layout
        That of the store.
    made
        The bytes of each file that is there before anything is filled.
    """
    rows = []
    for v in layout.plan.variables:
        files = chunk_files(layout.shape(v), layout.chunk(v))
        rows.append(
            {
                "shape": tuple([n for k, n in enumerate(v.shape) if k != v.axis]),
                "dims": v.dims,
                "dtype": v.dtype.name,
                "bytes": files * _chunk_bytes(layout, v),
                "chunk": layout.chunk(v),
                "files": files,
            }
        )
    names = pd.Index([v.name for v in layout.plan.variables], name="op")
    table = pd.DataFrame(rows, index=names)
    axes = np.array([v.axis is not None for v in layout.plan.variables])
    filled = table.loc[axes, ["files", "bytes"]].sum()
    files, size = _beside(layout)
    table.attrs.update(
        n=layout.n,
        blocks=layout.n_blocks,
        bytes=int(table["bytes"].sum()),
        files=int(table["files"].sum()),
        store_bytes=int(filled["bytes"]) + size + sum(made),
        store_files=int(filled["files"]) + files + len(made),
    )
    return table


def _beside(layout: Layout) -> tuple[int, int]:
    """Files and bytes that are filled with the blocks, beside the variables."""
    casts, along = len(layout.casts), min(layout.n, layout.block)
    files = layout.n_blocks
    size = files * _ENTRY
    if casts:
        files += layout.n_blocks
        size += layout.n_blocks * (along * casts * _ENTRY + _CHECKSUM)
    return files, size


def needed_bytes(layout: Layout, done: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """Bytes that chunks of blocks which are not there yet will take."""
    left = int((~done).sum())
    per_block = _ENTRY + len(layout.coordinates) * (layout.block * LENGTH.itemsize + _CHECKSUM)
    for v in layout.plan.variables:
        if v.axis is None:
            continue
        chunks = chunk_files(layout.shape(v), layout.chunk(v)) / max(1, layout.n_blocks)
        per_block += math.ceil(chunks * _chunk_bytes(layout, v))
    return left * per_block


def _chunk_bytes(layout: Layout, v: Variable) -> int:
    """Of one chunk before compression, its checksum included."""
    return math.prod(layout.chunk(v)) * v.dtype.itemsize + _CHECKSUM
