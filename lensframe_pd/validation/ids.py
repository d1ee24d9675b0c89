"""Whether the ids of a Dataset are whole, each once, and those that are told, in this order."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.schema import STIMULUS
from lensframe_pd.tables.stimuli import coordinates
from lensframe_pd.validation.along import stimulus_axes
from lensframe_pd.validation.evidence import Evidence
from lensframe_pd.validation.verdicts import Verdicts


def check_ids(evidence: Evidence, verdicts: Verdicts) -> None:
    """Fail every value along wrong ids."""
    activations = evidence.activations
    if activations is None or STIMULUS not in activations.dims:
        return
    ids = activations.indexes.get(STIMULUS)
    problems = [*_problems_of_ids(ids), *_other_ids(evidence, activations, ids)]
    if not problems:
        return
    for op in evidence.rows:
        if op in activations.data_vars and stimulus_axes(activations.variables[op].dims):
            for problem in problems:
                verdicts.fails("alignment", op, problem)


def _problems_of_ids(ids: pd.Index | None) -> Iterable[str]:
    if ids is None:
        return
    if not ids.hasnans and len({*ids.tolist()}) == len(ids):  # as always, and quick to see
        return
    twice = ids[ids.duplicated()]
    if len(twice):
        yield f"the id {twice[0]!r} stands at several stimuli"
    if ids.isna().any():
        yield "an id is missing"


def _other_ids(evidence: Evidence, activations: xr.Dataset, ids: pd.Index | None) -> Iterable[str]:
    table = evidence.stimulus
    if table is None or (not len(table.columns) and _are_these(ids, table.index)):
        return
    for name, (_, known) in coordinates(table).items():
        if name not in activations.coords:
            yield f"the Dataset has no coordinate {name!r}, which stimulus= has"
            continue
        told = activations.coords[name].to_numpy()
        if told.shape != known.shape:
            yield f"{name!r} has {len(told)} entries, and stimulus= has {len(known)}"
            continue
        same = (told == known) | ((told != told) & (known != known))
        for k in np.flatnonzero(~same)[:1]:
            yield f"entry {k} of {name!r} is {told[k]!r}, and by stimulus= it is {known[k]!r}"


def _are_these(told: pd.Index | None, ids: pd.Index) -> bool:
    """Whether ids are these, of the same type, in this order."""
    return told is not None and told.dtype == ids.dtype and told.equals(ids)
