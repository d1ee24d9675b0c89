"""A tape as the DataFrame of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensframe_pd.schema import COLUMNS
from lensframe_pd.tape.facts import CallFacts, Sources, ordinals, tensor_facts
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Tape

_TUPLE_COLUMNS = frozenset(
    """parents parent_args module_stack module_types returned_by shape stride params param_args
    param_shapes param_dtypes buffers buffer_args buffer_shapes buffer_dtypes tuple_args
    read_by""".split()
)
_STRING = pd.StringDtype(na_value=np.nan)  # pandas' default for text, made without inference
_DTYPES = {
    "pass_num": np.int64, "n_passes": np.int64, "step": np.int64, "call": np.int64,
    "ordinal": np.int64, "n_parents": np.int64, "n_positional": np.int64, "numel": np.int64,
    "nbytes": np.int64, "n_params": np.int64, "params_nbytes": np.int64, "n_trainable": np.int64,
    "seconds": np.float64,
    "requires_grad": np.bool_, "inplace": np.bool_, "random": np.bool_, "saved": np.bool_,
}  # fmt: skip


def layers(tape: Tape, grouped: Passes, unsaved: dict[int, str]) -> pd.DataFrame:
    """One row per tensor of `tape`, indexed by label, with the columns of `schema.COLUMNS`."""
    labels = grouped.labels()
    columns: dict[str, Sequence[Any]] = {
        "layer": grouped.layers,
        "pass_num": grouped.pass_nums,
        "n_passes": grouped.n_passes,
        "step": range(len(labels)),
        **_call_columns(tape, labels),
        **_tensor_columns(tape),
    }
    columns["read_by"] = _reads(tape)
    columns["returned_by"] = _returned(tape)
    columns["saved"] = [v is not None and i not in unsaved for i, v in enumerate(tape.values)]
    columns["unsaved_reason"] = [unsaved.get(i, "") for i in range(len(labels))]
    data = {name: _array(name, columns[name]) for name in COLUMNS}
    index = pd.Index(_array("op", labels), name="op")
    frame = pd.DataFrame(data, index=index, copy=False)
    frame.attrs.update(tape.attrs())
    return frame


def _array(name: str, cells: Sequence[Any]) -> Any:
    if name in _DTYPES:
        return np.fromiter(cells, dtype=_DTYPES[name], count=len(cells))
    if name in _TUPLE_COLUMNS:
        return np.fromiter(cells, dtype=object, count=len(cells))
    text = pa.large_string()
    if len(cells) > 1 and cells[0] is cells[-1] and cells.count(cells[0]) == len(cells):
        array = pa.repeat(pa.scalar(cells[0], text), len(cells))
    else:
        array = pa.array(cells, text)
    return _STRING.__from_arrow__(array)  # type: ignore[attr-defined]


def _call_columns(tape: Tape, labels: list[str]) -> dict[str, Sequence[Any]]:
    """The columns that are facts of a call, spread over the rows it gave."""
    facts = CallFacts(tape)
    n = len(tape.rows)
    numbers = [row[0] for row in tape.rows]
    calls = [tape.calls[i] for i in numbers]
    if not calls:
        return {name: [] for name in COLUMNS}
    functions, args, kwargs, sources, sites, places, contexts, seconds, states = zip(
        *calls, strict=True
    )
    modules = [facts.module(place) for place in places]
    roles = [*map(facts.roles, functions, args, kwargs, sources)]
    held: dict[int, tuple[Any, ...]] = {}
    for i, made_of in enumerate(sources):
        if made_of and min(made_of) < 0:
            held[i] = facts.held(made_of, roles[i])
            roles[i] = tuple([r for r, s in zip(roles[i], made_of, strict=True) if s >= 0])
    parents = [tuple([labels[s] for s in made_of if s >= 0]) for made_of in sources]
    random = [state is not None for state in states]
    around = [*map(facts.context, contexts, random)]
    if tape.stopped:
        around[-1] = facts.context(contexts[-1], random[-1], tape.stopped)
    columns: dict[str, Sequence[Any]] = {
        "func": [function[1] for function in functions],
        "target": [function[2] for function in functions],
        "call": numbers,
        "ordinal": ordinals(tape),
        "kind": _sparse(tape.kinds, n, "op"),
        "path": _sparse(tape.paths, n, ""),
        "parents": parents,
        "n_parents": [*map(len, parents)],
        "context": around,
        "source": [*map(facts.sources.of, sites, places)],
        "seconds": seconds,
        "random": random,
    }
    arguments = zip(*map(facts.arguments, functions, args, kwargs), strict=True)
    columns.update(zip(CallFacts.of_arguments, arguments, strict=True))
    for k, name in enumerate(CallFacts.of_module):
        columns[name] = [module[k] for module in modules]
    columns["parent_args"] = roles
    for k, name in enumerate(CallFacts.of_held):
        column = [CallFacts.nothing_held[k]] * n
        for i, cells in held.items():
            column[i] = cells[k]
        columns[name] = column
    return columns


def _sparse(cells: dict[int, str], n: int, default: str) -> list[str]:
    column = [default] * n
    for i, cell in cells.items():
        column[i] = cell
    return column


def _tensor_columns(tape: Tape) -> dict[str, list[Any]]:
    facts: dict[Any, dict[str, Any]] = {}
    columns: list[dict[str, Any]] = []
    for row in tape.rows:
        key = row[2:6]
        found = facts.get(key)
        if found is None:
            found = facts[key] = tensor_facts(*key)
        columns.append(found)
    names = ("shape", "shape_str", "stride", "dtype", "device", "numel", "nbytes")
    result: dict[str, list[Any]] = {name: [c[name] for c in columns] for name in names}
    result["requires_grad"] = [row.requires_grad for row in tape.rows]
    result["inplace"] = [row.inplace for row in tape.rows]
    return result


def _reads(tape: Tape) -> list[tuple[str, ...]]:
    if not tape.reads:
        return [()] * len(tape.rows)
    sources = Sources(tape)
    return [
        tuple(f"{name}: {sources.of(site, module)}" for name, site, module in tape.reads.get(i, ()))
        for i in range(len(tape.rows))
    ]


def _returned(tape: Tape) -> list[tuple[str, ...]]:
    keys = [module.key for module in tape.modules]
    empty: tuple[str, ...] = ()
    returned = tape.returned
    return [
        tuple(dict.fromkeys(keys[m] for m in returned[i])) if i in returned else empty
        for i in range(len(tape.rows))
    ]
