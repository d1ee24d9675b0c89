"""What a new trace of the model knows of each value and call is what the tables say.

The columns that state the graph are compared among the invariants. Here: the variables of the
Dataset (dimensions, element types, attrs), where calls stand in the code, why values are unsaved.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from lensframe_pd.cells import Cells, plain
from lensframe_pd.schema import RENAMED_DIMS
from lensframe_pd.tables.activations import described, to_numpy, variables_of
from lensframe_pd.tables.renames import renames
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.evidence import Evidence
from lensframe_pd.validation.verdicts import Verdicts

_PLACE = re.compile(r".+:\d+")


def check_facts(
    evidence: Evidence, reference: Tape, grouped: Passes, fresh: Cells, verdicts: Verdicts
) -> None:
    """Compare the tables with the tape of a new trace, and with `fresh`, its frame."""
    there = _of_both(evidence.cells, fresh)
    for op, reason in (*_of_rows(there), *_of_places(there, fresh)):
        verdicts.fails("facts", op, reason)
    if evidence.activations is not None:
        for op, reason in _of_variables(evidence, evidence.activations, reference, grouped):
            verdicts.fails("facts", op, reason)
    verdicts.all_hold("facts", [op for op, *_ in there])


def _of_both(cells: Cells, fresh: Cells) -> list[tuple[Any, ...]]:
    """Of each row that both have its label, what the frame says, and what a new trace says."""
    if cells.ops == fresh.ops:  # as most often, and then no row has to be looked up
        told = [cells.columns[name] for name in _TOLD]
        known = [fresh.columns[name] for name in _KNOWN]
        return [*zip(cells.ops, *told, *known, strict=True)]
    return [
        (op, *[row[name] for name in _TOLD], *[fresh.rows[op][name] for name in _KNOWN])
        for op, row in cells.rows.items()
        if op in fresh.rows
    ]


_TOLD = ("unsaved_reason", "seconds", "source")
_KNOWN = ("unsaved_reason", "source")


def _of_rows(there: list[tuple[Any, ...]]) -> Iterator[tuple[str, str]]:
    for op, reason, seconds, _, known, _ in there:
        if reason and reason != known:  # a value that was not selected has none
            yield op, f"unsaved_reason is {reason!r}; traced again it is {known!r}"
        number = type(seconds) is float or isinstance(seconds, (int, float))
        if not number or not 0 <= seconds < math.inf:
            yield op, f"seconds is {seconds!r}"


def _of_places(there: list[tuple[Any, ...]], fresh: Cells) -> Iterator[tuple[str, str]]:
    """Where calls stand in the code of the model; that of the trace is one place, whichever."""
    kinds, places_now = fresh.columns["kind"], fresh.columns["source"]
    given = zip(kinds, places_now, strict=True)
    elsewhere = {"", *[place for kind, place in given if kind in _GIVEN]}
    asked: dict[str, dict[str, str]] = {}
    for op, _, _, place, _, known in there:
        if known in elsewhere:
            asked.setdefault(known, {})[op] = place
        elif place != known:
            yield op, f"source is {place!r}; traced again it is {known!r}"
    for places in asked.values():
        different = [*dict.fromkeys(places.values())]
        if len(different) == 1 and _PLACE.fullmatch(different[0]):  # as always, and quick to see
            continue
        counted = Counter(places.values())
        common, n = counted.most_common(1)[0]
        settled = _PLACE.fullmatch(common) and 2 * n > len(places)
        for op, place in places.items():
            if not settled or place != common:
                one = ", ".join(map(repr, counted))
                yield op, f"source is {place!r}; the trace was asked for at one place, here {one}"


_GIVEN = ("input", "output")


def _of_variables(
    evidence: Evidence, activations: xr.Dataset, reference: Tape, grouped: Passes
) -> Iterator[tuple[str, str]]:
    rows = evidence.rows
    held = variables_of(activations)
    variables = {str(name): held[name] for name in activations.data_vars}
    for name in variables:
        if name not in rows:
            yield name, "the Dataset has a variable of this name, and the frame no row"
    labels = grouped.labels()
    renamed, known = _renamed(activations), evidence.dims
    if renamed != reference.renamed:
        reference, known = replace(reference, renamed=renamed), None
    there = [i for i, op in enumerate(labels) if op in variables and op in rows]
    told = any(key in v.attrs for v in variables.values() for key in _ATTRS)
    made, dtypes = reference.rows, dict[torch.dtype, np.dtype[Any]]()
    for i, dims, attrs in described(reference, grouped, there, known):
        op, dtype = labels[i], made[i].dtype
        variable = variables[op]
        if variable.dims != dims:
            yield op, f"its dims are {variable.dims}; traced again they are {dims}"
        if dtype not in dtypes:
            dtypes[dtype] = to_numpy(torch.empty(0, dtype=dtype)).dtype
        if variable.dtype != dtypes[dtype] and variable.dtype.newbyteorder("=") != dtypes[dtype]:
            yield op, f"its dtype is {variable.dtype}; {dtype} is kept as {dtypes[dtype]}"
        if told:  # attrs that arithmetic has lost say nothing false
            yield from [(op, reason) for reason in _of_attrs(variable.attrs, attrs)]


def _renamed(activations: xr.Dataset) -> dict[str, str]:
    """The names of axes that the user wanted, as the Dataset tells; none of nonsense."""
    try:
        return renames(json.loads(activations.attrs.get(RENAMED_DIMS, "{}")))
    except (TypeError, ValueError):
        return {}


_ATTRS = ("layer", "pass_num", "func", "module", "torch_dtype", "returned_by", "parents")


def _of_attrs(told: dict[Any, Any], known: dict[str, Any]) -> Iterable[str]:
    try:
        if told == known:
            return ()
    except (ValueError, TypeError):  # arrays among them say neither
        pass
    return _of_each_attr(told, known)


def _of_each_attr(told: dict[Any, Any], known: dict[str, Any]) -> Iterator[str]:
    for name, value in known.items():
        if name not in told:
            yield f"its variable lacks the attr {name}, which is {value!r}"
        elif plain(told[name]) != value:
            yield f"the attr {name} of its variable is {told[name]!r} instead of {value!r}"
