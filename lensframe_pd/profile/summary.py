"""The table people expect of a model: its modules, their output shapes, parameters and costs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lensframe_pd.cells import names
from lensframe_pd.labels import split_call
from lensframe_pd.profile.costs import check_rows
from lensframe_pd.profile.profile import NEEDED, profile
from lensframe_pd.quantities import quantity
from lensframe_pd.schema import require


def summary(frame: pd.DataFrame, depth: int | None = 2) -> pd.DataFrame:
    """Modules with output shape, parameters, FLOPs, memory and time, written to be read.

    Parameters
    ----------
    frame
        Rows of `layers`.
    depth
        Leave out modules of more than so many names (`layer1.0` has two); None for all.

    Returns
    -------
    pandas.DataFrame
        Text, one row per module in tree order, indexed by path; the first is the whole model.
        The same as numbers is `layers.lens.profile("module", depth)`. `output` is the shape of
        what the module's last call returned, of several tensors the first; `+` marks FLOPs of
        which some are uncounted.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensValueError
        A filter kept no operations, `depth` is negative, or the frame is rolled or collapsed.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> layers, _ = lf.trace(model.eval(), torch.ones(4, 3))
    >>> layers.lens.summary().drop(columns=["time", "share"])
                   type output params FLOPs activations
    module
    (model)  Sequential    4x2     50   320       288 B
    0            Linear    4x8     32   192       128 B
    1              ReLU    4x8            0       128 B
    2            Linear    4x2     18   128        32 B
    """
    require(frame, "summary", "shape_str", "returned_by", *NEEDED)
    check_rows(frame, "summary")
    table = profile(frame, "module", depth)
    shapes = _shapes(frame)
    more = np.where((table["uncounted"] != "") & table["flops"].notna(), "+", "")
    text = pd.DataFrame(
        {
            "type": table["module_type"],
            "output": [shapes.get(path, "") for path in table.index],
            "params": [f"{n:,}" if n else "" for n in table["params"]],
            "FLOPs": [quantity(n) + m for n, m in zip(table["flops"], more, strict=True)],
            "activations": [quantity(n, "B") for n in table["act_bytes"]],
            "time": [quantity(s, "s") for s in table["seconds"]],
            "share": ["" if math.isnan(s) else f"{s:.1%}" for s in table["share"]],
        },
        index=table.index,
    )
    return text.rename(index={"": "(model)"})


def _shapes(frame: pd.DataFrame) -> dict[str, str]:
    """Module path to the shape of the first tensor of its last call; the model's output."""
    found: dict[str, tuple[int, str]] = {}
    frame = frame.sort_values("step", kind="stable") if "step" in frame.columns else frame
    # a frame of old has no column that tells the first: there, the first in order of execution
    column = "returned_first" if "returned_first" in frame.columns else "returned_by"
    for kind, calls, shape in zip(frame["kind"], frame[column], frame["shape_str"], strict=True):
        if kind == "output":
            found.setdefault("", (0, shape))
        for entry in names(column, calls):
            path, number = split_call(entry)
            if path not in found or found[path][0] < number:
                found[path] = (number, shape)
    return {path: shape for path, (_, shape) in found.items()}
