"""What is said at the end of an extraction: numbers that became infinite, and whose."""

from __future__ import annotations

from typing import Any

import numpy as np

from lensframe_pd.errors import shown, warn
from lensframe_pd.extract.store import CASTS, OVERFLOWS
from lensframe_pd.files.blocks import read_blocks
from lensframe_pd.files.stores import GROUP
from lensframe_pd.schema import STIMULUS


def warn_of_overflows(to: Any) -> None:
    """Warn of finite numbers that are stored as infinite, by variable and stimulus."""
    import zarr

    root: Any = zarr.open_group(to, mode="r", zarr_format=3, use_consolidated=False)
    group = root[GROUP]
    casts = group.attrs.get(CASTS, [])
    if not casts:
        return
    counts = np.asarray(group[OVERFLOWS][...])
    if not counts.any():
        return
    with read_blocks(to) as stored:
        ids = stored[STIMULUS].to_numpy()
    lines = [
        f"{name!r}: {int(column.sum())} values of stimuli {shown(ids[np.flatnonzero(column)])}"
        for name, column in zip(casts, counts.T, strict=True)
        if column.any()
    ]
    warn(
        "finite numbers became infinite in the type they are stored as; a wider dtype holds them\n"
        + "\n".join(lines)
    )
