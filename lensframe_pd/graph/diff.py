"""What two frames do not share: frame, frame -> frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.schema import FACTS, labels, plain


def diff(frame: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows that two frames do not share.

    Rows are matched by label and compared by every column that states a fact of the graph; times
    and lines in files do not count.

    Parameters
    ----------
    frame
        Rows of `layers`.
    other
        Rows of another trace: of the model after a change, or for other inputs.

    Returns
    -------
    pandas.DataFrame
        The rows that are only in one, or not the same in both (then from each). Two columns more:
        `side`, `"this"` or `"other"`, and `differs`, the columns in which the rows of one label
        differ, empty for rows that only one frame has.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> def model(x):
    ...     return x.exp() if x.sum() > 0 else x.sin()
    >>> up, _ = lf.trace(model, torch.ones(2))
    >>> down, _ = lf.trace(model, -torch.ones(2))
    >>> up.lens.diff(down)["side"].to_dict()
    {'exp_1': 'this', 'output_1': 'other', 'sin_1': 'other'}
    """
    shared = [c for c in FACTS if c in frame.columns and c in other.columns]
    shared = [c for c in shared if c not in ("step", "call")]  # they count what came before
    mine, theirs = _facts(frame, shared), _facts(other, shared)
    parts = []
    for side, rows, own, foreign in (
        ("this", frame, mine, theirs), ("other", other, theirs, mine),
    ):  # fmt: skip
        differs = {
            op: tuple(
                c for c, a, b in zip(shared, cells, foreign[op], strict=True) if a != b
            ) if op in foreign else ()
            for op, cells in own.items()
        }  # fmt: skip
        ops = labels(rows, "diff")
        picked = rows[[op not in foreign or bool(differs[op]) for op in ops]]
        column = np.empty(len(picked), dtype=object)
        column[:] = [differs[op] for op in labels(picked, "diff")]
        parts.append(picked.assign(side=side, differs=column))
    return pd.concat(parts)


def _facts(frame: pd.DataFrame, columns: list[str]) -> dict[str, tuple[Any, ...]]:
    cells = zip(*([plain(cell) for cell in frame[c]] for c in columns), strict=True)
    return dict(zip(labels(frame, "diff"), cells, strict=True))
