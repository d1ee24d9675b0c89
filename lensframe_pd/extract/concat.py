"""`lf.concat`: activations of several batches as one Dataset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import xarray as xr

from lensframe_pd.errors import LensTypeError, LensValueError, shown
from lensframe_pd.schema import STIMULUS


def concat(datasets: Iterable[xr.Dataset]) -> xr.Dataset:
    """Join the activations of several batches along `stimulus`.

    Parameters
    ----------
    datasets
        Activations of the same model, one Dataset per batch, in the order to join.

    Returns
    -------
    xarray.Dataset
        The variables of each, with all stimuli. A variable without a stimulus axis (a position
        embedding) is kept if it is the same in all.

    Raises
    ------
    LensValueError
        There are no datasets; variables, their dimensions and extents (`token_7`, `token_9`) or
        stimulus columns differ; or a variable without a stimulus axis has other values. The error
        names them all. xarray's own `concat` would keep `token_7` and `token_9` side by side.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model = torch.nn.Linear(3, 2).eval()
    >>> batches = {"ab": torch.ones(2, 3), "cde": torch.zeros(3, 3)}
    >>> parts = [lf.trace(model, x, stimulus=list(ids)).activations for ids, x in batches.items()]
    >>> lf.concat(parts)["linear_1"].sizes
    Frozen({'stimulus': 5, 'feature_2': 2})
    """
    parts = list(datasets)
    if not parts:
        raise LensValueError("concat was given no datasets")
    for part in parts:
        if not isinstance(part, xr.Dataset):
            more = ": give its .activations" if hasattr(part, "activations") else ""
            raise LensTypeError(
                f"concat takes Datasets of activations, not {type(part).__name__}{more}"
            )
    if len(parts) == 1:
        return parts[0]
    _check_alike(parts)
    first = parts[0]
    along = [name for name, v in first.items() if STIMULUS in v.dims]
    fixed = [name for name in first.data_vars if name not in along]
    _check_fixed(parts, fixed)
    joined = xr.concat(
        [part[along] for part in parts],
        dim=STIMULUS,
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="drop_conflicts",
    )
    everything = joined.assign({name: first[name].variable for name in fixed})
    return everything[list(first.data_vars)].assign_attrs(joined.attrs)


def _check_alike(parts: Sequence[xr.Dataset]) -> None:
    first, lines = parts[0], list[str]()
    for i, part in enumerate(parts[1:], start=1):
        missing = [n for n in first.data_vars if n not in part]
        extra = [n for n in part.data_vars if n not in first]
        if missing:
            lines.append(f"batch {i} has no {shown(missing)}, which batch 0 has")
        if extra:
            lines.append(f"batch {i} has {shown(extra)}, which batch 0 has not")
        coords = set(map(str, first.coords)) ^ set(map(str, part.coords))
        if coords:
            lines.append(f"batches 0 and {i} do not both have coordinates {shown(sorted(coords))}")
        for name, array in first.items():
            if name in part and _extents(array) != _extents(part[name]):
                lines.append(
                    f"{name}: batch 0 has {_shown(array)}, batch {i} has {_shown(part[name])}"
                )
    if lines:
        shortened = lines[:20] + ([f"... {len(lines) - 20} more"] if len(lines) > 20 else [])
        raise LensValueError(
            "these batches are no one Dataset; pad inputs to equal lengths, or select variables "
            "that agree: [batch[names] for batch in batches]\n" + "\n".join(shortened)
        )


def _check_fixed(parts: Sequence[xr.Dataset], names: Sequence[object]) -> None:
    differ = [
        str(name)
        for name in names
        if any(
            not np.array_equal(
                parts[0][name].values,
                part[name].values,
                equal_nan=parts[0][name].dtype.kind in "fc",
            )
            for part in parts[1:]
        )
    ]
    if differ:
        raise LensValueError(
            f"without a stimulus axis, and different in each batch: {shown(differ)}; drop them: "
            "[batch.drop_vars(names) for batch in batches]"
        )


def _extents(array: xr.DataArray) -> list[tuple[str, int]]:
    return [(str(d), -1 if d == STIMULUS else array.sizes[d]) for d in array.dims]


def _shown(array: xr.DataArray) -> str:
    return ", ".join(str(d) for d in array.dims) or "no dimension"
