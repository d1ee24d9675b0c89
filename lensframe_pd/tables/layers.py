"""A tape as the DataFrame of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from lensframe_pd.cells import Cells, frame_of, text_array
from lensframe_pd.schema import CELLS, COLUMNS
from lensframe_pd.tape.alike import Findings
from lensframe_pd.tape.facts import CallFacts, Ordinals, Sources, Template, tensor_facts
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Context, Row, Site, Tape

_TUPLE_COLUMNS = frozenset(c for c, kind in CELLS.items() if kind in ("texts", "counts", "shapes"))
_TEXT_COLUMNS = [c for c, kind in CELLS.items() if kind == "text" and c in ("op", *COLUMNS)]
_TEXT_COLUMNS.remove("unsaved_reason")  # each run has its own
_LARGE = pa.large_string()
_FEW = 1000  # cells: what is kept takes little memory
_STRETCH = 2**11  # rows: with all that is made of them a few megabytes
_NAMES = pd.Index([*COLUMNS])
_NUMBERS = {"count": np.int64, "seconds": np.float64, "flag": np.bool_}
_LISTED: dict[Any, Any] = {np.int64: int, np.float64: float, np.bool_: bool}
_DTYPES = {column: _NUMBERS[kind] for column, kind in CELLS.items() if kind in _NUMBERS}


class _Sparse(NamedTuple):
    """A column in which most cells are alike: only the others are written one by one."""

    usual: Any
    others: Mapping[int, Any]
    n: int


Column = Sequence[Any] | _Sparse


def layers(
    tape: Tape, grouped: Passes, unsaved: dict[int, str], known: Findings | None = None
) -> pd.DataFrame:
    """One row per tensor of `tape`, indexed by label, with the columns of `schema.COLUMNS`.

    `known` is what was found out of tapes like this one, if that is known.
    """
    known = known or Findings()
    arrays = {
        **known.once(_arrays, tape, grouped),
        **known.once(_places, tape, given=(tape.caller,)),
    }
    if known.are_kept:  # text may be replaced; what is NumPy's a frame copies
        arrays |= {name: arrays[name].view() for name in _TEXT_COLUMNS}
    for name, column in _of_run(tape, unsaved).items():
        arrays[name] = _array(name, column)
    frame = frame_of(_NAMES, [arrays[name] for name in COLUMNS], arrays["op"])
    frame.attrs.update(tape.attrs())
    return frame


def cells(tape: Tape, grouped: Passes, unsaved: dict[int, str]) -> Cells:
    """The cells of `layers`, without a frame in between."""
    labels = grouped.labels()
    columns = {
        **_columns(tape, grouped),
        **_OfCalls(tape, labels).columns(range(len(tape.rows))),
        **_in_files(tape),
        **_of_run(tape, unsaved),
    }
    return Cells(labels, {name: _listed(name, columns[name]) for name in COLUMNS})


def _arrays(tape: Tape, grouped: Passes) -> dict[str, Any]:
    labels = grouped.labels()
    columns = {"op": labels, **_columns(tape, grouped)}
    arrays = {name: _array(name, column) for name, column in columns.items()}
    of_calls = _OfCalls(tape, labels)
    stretches = [
        {name: _array(name, column) for name, column in of_calls.columns(rows).items()}
        for rows in _stretches(tape)
    ]
    if len(stretches) == 1:
        return arrays | stretches[0]
    return arrays | {name: _joined([s[name] for s in stretches]) for name in stretches[0]}


def _stretches(tape: Tape) -> Iterator[range]:
    """The rows of a tape, so many at a time that all of a few thousand stays at hand.

    Each column goes through the same calls. Were these more than the processor's cache holds, it
    would wait for each of them again and again: a third of the time that a long run's table takes.
    """
    rows = tape.rows
    begin, n = 0, len(rows)
    while n - begin > _STRETCH:
        end = begin + _STRETCH
        while end < n and rows[end][0] == rows[end - 1][0]:  # row.call
            end += 1
        yield range(begin, end)
        begin = end
    if begin < n or not n:
        yield range(begin, n)


def _joined(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    chunks = [chunk for part in parts for chunk in pa.chunked_array(part.__arrow_array__()).chunks]
    return text_array(pa.concat_arrays(chunks))


def _places(tape: Tape) -> dict[str, Any]:
    return {name: _array(name, column) for name, column in _in_files(tape).items()}


def _columns(tape: Tape, grouped: Passes) -> dict[str, Column]:
    """The columns of all tapes that are alike, but for those of `_OfCalls`."""
    n = len(tape.rows)
    columns: dict[str, Column] = {
        "layer": grouped.layers,
        "pass_num": grouped.pass_nums,
        "n_passes": grouped.n_passes,
        "step": range(n),
        "call": [row[0] for row in tape.rows],  # row.call
        "kind": _Sparse("op", tape.kinds, n),
        "path": _Sparse("", tape.paths, n),
    }
    returned, first = _returned(tape)
    columns["returned_by"] = _Sparse((), returned, n)
    columns["returned_first"] = _Sparse((), first, n)
    return columns


def _in_files(tape: Tape) -> dict[str, Column]:
    """The columns that depend on where the run was asked for: where in the program calls are."""
    sources, calls = Sources(tape), tape.calls
    modules = sources.of_modules()
    lines: dict[Site, str] = {}
    of_calls: list[str] = []
    for begin in range(0, len(calls), _STRETCH):
        stretch = calls[begin : begin + _STRETCH]
        lines |= {site: sources.line(site) for site in {call[4] for call in stretch}}  # call.site
        of_calls += [lines[call[4]] or modules[call[5]] for call in stretch]  # call.module
    reads = {
        i: tuple(f"{name}: {sources.of(site, module)}" for name, site, module in found)
        for i, found in tape.reads.items()
    }
    return {
        "source": [of_calls[row[0]] for row in tape.rows],  # row.call
        "read_by": _Sparse((), reads, len(tape.rows)),
    }


def _of_run(tape: Tape, unsaved: dict[int, str]) -> dict[str, Column]:
    """The columns that each run has of its own."""
    calls, rows = tape.call_log.entries, tape.row_log.entries  # without names, as in `tape.alike`
    return {
        "seconds": [calls[row[0]][7] for row in rows],  # row.call, call.seconds
        "saved": [v is not None and i not in unsaved for i, v in enumerate(tape.values)],
        "unsaved_reason": _Sparse("", unsaved, len(rows)),
    }


def _listed(name: str, column: Column) -> list[Any]:
    """As the array made of it would be listed."""
    if isinstance(column, _Sparse):
        listed = [column.usual] * column.n
        for i, cell in column.others.items():
            listed[i] = cell
    else:
        listed = [*column]
    return [*map(_LISTED[_DTYPES[name]], listed)] if name in _DTYPES else listed


def _array(name: str, cells: Column) -> Any:
    if isinstance(cells, _Sparse):
        return _sparse_array(name, *cells)
    if name in _DTYPES:
        return np.fromiter(cells, dtype=_DTYPES[name], count=len(cells))
    if name in _TUPLE_COLUMNS:
        return np.fromiter(cells, dtype=object, count=len(cells))
    first: Any = cells[0] if len(cells) > 1 else None
    if first is not None and first is cells[-1] and cells.count(first) == len(cells):
        return _repeated(str(first), len(cells))
    return text_array(cells)


def _sparse_array(name: str, usual: Any, others: Mapping[int, Any], n: int) -> Any:
    if name not in _DTYPES and name not in _TUPLE_COLUMNS:
        if not others:
            return _repeated(usual, n)
        texts = [usual] * n
        for i, cell in others.items():
            texts[i] = cell
        return text_array(texts)
    array: np.ndarray[Any, Any] = np.empty(n, dtype=_DTYPES.get(name, object))
    array.fill(usual)  # of a tuple, too, each cell gets the whole
    for i, cell in others.items():
        array[i] = cell
    return array


def _repeated(cell: str, n: int) -> Any:
    return _few_repeated(cell, n).view() if n <= _FEW else _repeat(cell, n)


@lru_cache(maxsize=256)
def _few_repeated(cell: str, n: int) -> Any:
    """Made once: several columns of every frame are alike, and Arrow's arrays never change."""
    return _repeat(cell, n)


def _repeat(cell: str, n: int) -> Any:
    return text_array(pa.chunked_array([pa.repeat(pa.scalar(cell, _LARGE), n)]))


class _OfCalls:
    """The columns that calls and the tensors they made decide, stretch by stretch of the rows."""

    def __init__(self, tape: Tape, labels: Sequence[str]) -> None:
        self._tape, self._labels = tape, labels
        self._facts, self._ordinals = CallFacts(tape), Ordinals()

    def columns(self, rows: range) -> dict[str, Column]:
        """The columns of these rows; those before must have been asked for, and no call parted."""
        if not rows:
            return {name: [] for name in COLUMNS}
        return {**self._of_calls(rows), **_of_tensors(self._tape.rows[rows.start : rows.stop])}

    def _of_calls(self, rows: range) -> dict[str, Column]:
        """The facts of calls, spread over the rows that these gave."""
        facts, labels, tape, n = self._facts, self._labels, self._tape, len(rows)
        numbers = [row[0] for row in tape.rows[rows.start : rows.stop]]  # row.call
        begin = numbers[0]
        # Column by column, and NamedTuples by number, for speed: this is once per operation.
        functions, args, kwargs, sources, _, places, contexts, _, states = zip(
            *tape.calls[begin : numbers[-1] + 1], strict=True
        )
        templates = [*map(facts.template, functions, args, kwargs)]
        in_common = dict(zip(Template._fields, zip(*templates, strict=True), strict=True))
        roles = [*in_common.pop("roles")]
        held: dict[int, tuple[Any, ...]] = {}
        for i, made_of in enumerate(sources) if tape.held else ():
            if made_of and min(made_of) < 0:
                held[i], roles[i] = facts.held(made_of, roles[i])
        parents = [tuple([labels[s] for s in made_of if s >= 0]) for made_of in sources]
        random = [state is not None for state in states]
        columns: dict[str, Sequence[Any]] = {
            **in_common,
            "parents": parents,
            "n_parents": [*map(len, parents)],
            "context": self._around(contexts, random, rows.stop == len(tape.rows)),
            "random": random,
            "parent_args": roles,
        }
        modules = facts.modules()
        of_modules = zip(*[modules[place] for place in places], strict=True)
        columns.update(zip(CallFacts.of_module, of_modules, strict=True))
        if numbers != [*range(begin, begin + n)]:  # some calls made several rows
            numbers = [c - begin for c in numbers]
            columns = {name: [cells[c] for c in numbers] for name, cells in columns.items()}
            held = {i: held[c] for i, c in enumerate(numbers) if c in held}
            places = tuple([places[c] for c in numbers])
        counted = self._ordinals.of(zip(places, columns["func"], strict=True))
        return {**columns, **_held_columns(held, n), "ordinal": counted}

    def _around(
        self, contexts: Sequence[Context], random: Sequence[bool], ends: bool
    ) -> Sequence[str]:
        """The column `context` of calls; `ends` where the last is the last of all."""
        facts, stopped = self._facts, self._tape.stopped
        if contexts.count(contexts[0]) == len(contexts):
            around = [facts.switches(contexts[0])] * len(contexts)
        else:
            around = [*map(facts.switches, contexts)]
        for i in [i for i, drew in enumerate(random) if drew]:
            around[i] = facts.context(contexts[i], random=True)
        if stopped and ends:
            around[-1] = facts.context(contexts[-1], random[-1], stopped)
        return around


def _held_columns(held: dict[int, tuple[Any, ...]], n: int) -> dict[str, Column]:
    """The columns of the parameters and buffers that a row's call read."""
    columns = [dict(zip(held, column, strict=True)) for column in zip(*held.values(), strict=True)]
    return {
        name: _Sparse(CallFacts.nothing_held[k], columns[k] if held else {}, n)
        for k, name in enumerate(CallFacts.of_held)
    }


def _of_tensors(rows: Sequence[Row]) -> dict[str, Sequence[Any]]:
    keys = [row[2:6] for row in rows]  # shape, stride, dtype, device: few differ
    facts = {key: tensor_facts(*key) for key in {*keys}}
    names = next(iter(facts.values()))
    cells = {key: (*found.values(),) for key, found in facts.items()}
    columns = zip(*[cells[key] for key in keys], strict=True)
    result: dict[str, Sequence[Any]] = dict(zip(names, columns, strict=True))
    result["requires_grad"] = [row[6] for row in rows]  # row.requires_grad
    result["inplace"] = [row[7] for row in rows]  # row.inplace
    return result


def _returned(tape: Tape) -> tuple[dict[int, tuple[str, ...]], dict[int, tuple[str, ...]]]:
    """Rows to the module calls that returned them, and to those that returned them first of all."""
    keys = tape.module_keys()
    first: dict[int, list[int]] = {}
    before = 0
    for module, row in tape.returns:
        if module != before:
            before = module
            first.setdefault(row, []).append(module)
    return _keyed(keys, tape.returned()), _keyed(keys, first)


def _keyed(keys: Sequence[str], by: Mapping[int, Sequence[int]]) -> dict[int, tuple[str, ...]]:
    return {
        row: tuple(dict.fromkeys([keys[m] for m in calls])) if len(calls) > 1 else (keys[calls[0]],)
        for row, calls in by.items()
    }
