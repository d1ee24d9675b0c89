"""`lf.extract`: a data set to a store, resumable."""

from __future__ import annotations

from typing import Any

import xarray as xr

from lensframe_pd.extract.extraction import Extraction
from lensframe_pd.extract.first import settings
from lensframe_pd.extract.source import Source
from lensframe_pd.extract.store import codecs, target_of
from lensframe_pd.files.blocks import read_blocks


def extract(
    model: Any,
    data: Any,
    *,
    to: Any,
    save: Any,
    stimulus: Any = None,
    args: Any = None,
    batch_size: int | None = None,
    n: int | None = None,
    num_workers: int = 0,
    seed: int | None = None,
    ragged: Any = None,
    passes: int | None = None,
    compress: Any = None,
    sync: bool = False,
    plan: bool = False,
    part: tuple[int, int] | None = None,
    client: Any = None,
) -> Any:
    """Run a model over a data set, and write what it computes to a store."""
    chosen = settings(save, seed, ragged, passes)
    target = target_of(to)
    codecs(compress)
    source = Source(model, data, stimulus, args, batch_size, n, num_workers)
    extraction = Extraction(model, source, chosen, compress)
    extraction.fill(target, part or (0, 1), sync)
    found: xr.Dataset = read_blocks(target)
    return found
