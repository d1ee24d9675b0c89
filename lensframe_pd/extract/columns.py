"""What the rows of `save=` say should become of their values: `dtype`, `pool`, `project`, `chunk`.

They are columns, so that they are chosen as pandas chooses: `rows.assign(dtype="float16")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.labels import labels

ADDED = ("pool", "project", "chunk")
BFLOAT16 = "bfloat16"


class Wanted(NamedTuple):
    """What a row asks for."""

    dtype: str = ""
    """Name of the type to store as; empty for the traced one."""
    pool: Any = None
    project: int | None = None
    chunk: int = 1


def wanted(save: Any) -> dict[str, Wanted]:
    """What each row of a frame asks for, by its label; nothing of what is no frame.

    Raises
    ------
    LensTypeError
        A cell is nothing that its column can hold.
    LensValueError
        A column is there and all its cells are missing; or a number is out of range.
    """
    if not isinstance(save, pd.DataFrame):
        return {}
    _check_columns(save)
    ops = labels(save, "save=")
    cells = {
        name: save[name].tolist() if name in save.columns else [None] * len(ops)
        for name in ("dtype", *ADDED)
    }
    found = {}
    for k, op in enumerate(ops):
        given = {name: _cell(column[k]) for name, column in cells.items()}
        found[op] = Wanted(
            _dtype(op, given["dtype"]),
            _pool(op, given["pool"]),
            _count(op, "project", given["project"]),
            _count(op, "chunk", given["chunk"]) or 1,
        )
    return found


def _check_columns(save: pd.DataFrame) -> None:
    for name in ADDED:
        if name in save.columns and len(save) and save[name].isna().all():
            raise LensValueError(
                f"column {name!r} of save= holds nothing but missing values: pandas aligns a dict "
                f"or Series by the index; give one value, or a list with one for each row: "
                f"rows.assign({name}=[value] * len(rows))"
            )


def _cell(cell: Any) -> Any:
    """A cell, None where it is missing."""
    if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
        return None
    return cell


def _dtype(op: str, cell: Any) -> str:
    """The name of a type as torch's, `"float16"`."""
    if cell is None:
        return ""
    text = str(cell).removeprefix("torch.")
    if isinstance(cell, (type, np.dtype)):
        text = np.dtype(cell).name
    if text == BFLOAT16 or isinstance(getattr(torch, text, None), torch.dtype):
        return text
    try:
        name = np.dtype(text).name
    except TypeError:
        name = ""
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise LensTypeError(
            f"{op!r} has dtype {cell!r} in save=, which is no type of numbers; give a name such as "
            "'float16', 'float32' or 'int8'"
        )
    return name


def _pool(op: str, cell: Any) -> Any:
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, Mapping):
        return dict(cell)
    raise LensTypeError(
        f"{op!r} has pool {cell!r} in save=; give 'mean', 'max' or a mapping of axes, as for "
        "activations.lens.features; a mapping for each row goes in as a list: "
        'rows.assign(pool=[{"space": "mean"}] * len(rows))'
    )


def _count(op: str, column: str, cell: Any) -> int | None:
    if cell is None:
        return None
    number = int(cell) if isinstance(cell, (int, float, np.number)) and cell == int(cell) else 0
    if number < 1 or isinstance(cell, bool):
        raise LensValueError(f"{op!r} has {column} {cell!r} in save=; give a number from 1")
    return number
