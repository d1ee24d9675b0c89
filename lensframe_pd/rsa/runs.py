"""Runs that stand one behind the other along the stimuli, put side by side by their ids.

Measurements are often rows: a stimulus, a run, the responses. A stimulus then comes once in every
run, and `run` is a column of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensValueError, shown
from lensframe_pd.rsa.ids import ids_of
from lensframe_pd.rsa.repeated import Repeated
from lensframe_pd.schema import STIMULUS

_SHOWN = 5


def side_by_side(layered: Mapping[str, Repeated], over: str) -> dict[str, Repeated]:
    """Layers with an axis of runs, of those in which it is a column of the stimuli.

    Raises
    ------
    LensValueError
        A stimulus is missing from a run, or is twice in it; or a run or an id is missing.
    """
    found = dict[str, Repeated]()
    for label, (array, dims) in layered.items():
        column = array.coords.get(over) if over != STIMULUS else None
        is_column = column is not None and column.dims == (STIMULUS,)
        found[label] = (_apart(array, over, label), (over, *dims)) if is_column else (array, dims)
    return found


def _apart(array: xr.DataArray, over: str, label: str) -> xr.DataArray:
    of_rows, runs = pd.factorize(pd.Index(array[over].to_numpy()))
    of_stimuli, ids = pd.factorize(ids_of(array, repr(label)))
    if (of_rows < 0).any() or (of_stimuli < 0).any():
        raise LensValueError(f"{label!r} has rows without a {over} or without an id")
    times = np.zeros((len(runs), len(ids)), dtype=np.intp)
    np.add.at(times, (of_rows, of_stimuli), 1)
    _check_once(pd.DataFrame(times, runs, ids), over, label)
    order = np.empty_like(times)
    order[of_rows, of_stimuli] = np.arange(len(of_rows))
    parts = [array.isel({STIMULUS: one}) for one in order]
    columns = [name for name in _columns(array) if name not in (STIMULUS, over)]
    of_rows_only = [over, *(name for name in columns if not _same(parts, name))]
    bare = [part.drop_vars(of_rows_only) for part in parts]
    return xr.concat(bare, pd.Index(runs, name=over), coords="minimal", compat="override")


def _check_once(times: pd.DataFrame, over: str, label: str) -> None:
    lines = []
    for what, wrong in (("missing from", times == 0), ("more than once in", times > 1)):
        for run, stimuli in wrong.iterrows():
            lost = stimuli.index[stimuli]
            if len(lost):
                lines.append(f"{what} {over} {run!r}: {shown(lost, _SHOWN)}")
    if lines:
        more = f"\n... and {len(lines) - _SHOWN} more {over}s" if len(lines) > _SHOWN else ""
        raise LensValueError(
            f"{label!r}: each stimulus is to be once in each {over}\n"
            + "\n".join(lines[:_SHOWN]) + more
            + f"\nselect the stimuli that all have, or average the rows of one {over}"
        )  # fmt: skip


def _columns(array: xr.DataArray) -> list[str]:
    return [str(name) for name, coord in array.coords.items() if coord.dims == (STIMULUS,)]


def _same(parts: list[xr.DataArray], name: str) -> bool:
    """Whether a column says the same of a stimulus in every run."""
    first = pd.Index(parts[0][name].to_numpy())
    return all(first.equals(pd.Index(part[name].to_numpy())) for part in parts)
