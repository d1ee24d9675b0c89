"""A tape as the DataFrame of its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from lensframe_pd.cells import Cells, frame_of, text_array
from lensframe_pd.schema import CELLS, COLUMNS
from lensframe_pd.tape.alike import Findings
from lensframe_pd.tape.facts import CallFacts, Ordinals, Sources, Template, tensor_facts
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Context, Tape

_TUPLE_COLUMNS = frozenset(c for c, kind in CELLS.items() if kind in ("texts", "counts", "shapes"))
_TEXT_COLUMNS = [c for c, kind in CELLS.items() if kind == "text" and c in ("op", *COLUMNS)]
_TEXT_COLUMNS.remove("unsaved_reason")  # each run has its own
_LARGE = pa.large_string()
_FEW = 1000  # cells: what is kept takes little memory
_MANY = 150  # texts, from which on it is quicker to have Arrow repeat those that come again
_STRETCH = 2**11  # rows: with all that is made of them a few megabytes
_NAMES = pd.Index([*COLUMNS])
_NUMBERS = {"count": np.int64, "seconds": np.float64, "flag": np.bool_}
_LISTED: dict[Any, Any] = {np.int64: int, np.float64: float, np.bool_: bool}
_DTYPES = {column: _NUMBERS[kind] for column, kind in CELLS.items() if kind in _NUMBERS}


Numbers = np.ndarray[Any, np.dtype[np.intp]]


class _Sparse(NamedTuple):
    """A column in which most cells are alike: only the others are written one by one."""

    usual: Any
    others: Mapping[int, Any]
    n: int


class _Kinds(NamedTuple):
    """A column in which cells come again: each once, and which of them each row has."""

    cells: Sequence[Any]
    which: Numbers

    def listed(self) -> list[Any]:
        return [*map(self.cells.__getitem__, self.which.tolist())]


Listed = Sequence[Any] | _Kinds
Column = Listed | _Sparse


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
    rows = tape.row_log.entries
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
    rows = tape.row_log.entries  # without names, as all that is once per row: that is quicker
    n = len(rows)
    calls = [*map(_FIRST, rows)]  # row.call
    returned, first = _returned(tape)
    return {
        "layer": grouped.layers,
        "pass_num": grouped.pass_nums,
        "n_passes": grouped.n_passes,
        "step": range(n),
        "call": range(n) if calls == [*range(n)] else calls,
        "kind": _Sparse("op", tape.kinds, n),
        "path": _Sparse("", tape.paths, n),
        "returned_by": _Sparse((), returned, n),
        "returned_first": _Sparse((), first, n),
    }


_FIRST = itemgetter(0)


def _in_files(tape: Tape) -> dict[str, Column]:
    """The columns that depend on where the run was asked for: where in the program calls are."""
    calls, rows = tape.call_log.entries, tape.row_log.entries
    sources = Sources(tape)
    sites, which = _told_apart([call[4] for call in calls])  # call.site
    lines = [*map(sources.line, sites)]
    of_calls: Listed = _Kinds(lines, which)
    if not all(lines):
        modules = sources.of_modules()
        made = zip(which.tolist(), calls, strict=True)
        of_calls = [lines[k] or modules[call[5]] for k, call in made]  # call.module
    reads = {
        i: tuple(f"{name}: {sources.of(site, module)}" for name, site, module in found)
        for i, found in tape.reads.items()
    }
    numbers = [*map(_FIRST, rows)]  # row.call
    same = numbers == [*range(len(calls))]
    return {
        "source": of_calls if same else _spread(of_calls, np.array(numbers)),
        "read_by": _Sparse((), reads, len(rows)),
    }


def _of_run(tape: Tape, unsaved: dict[int, str]) -> dict[str, Column]:
    """The columns that each run has of its own."""
    calls, rows = tape.call_log.entries, tape.row_log.entries  # without names, as in `tape.alike`
    return {
        "seconds": [calls[row[0]][7] for row in rows],  # row.call, call.seconds
        "saved": [v is not None and i not in unsaved for i, v in enumerate(tape.values)],
        "unsaved_reason": _Sparse("", unsaved, len(rows)),
    }


def _told_apart(cells: Iterable[Any]) -> tuple[list[Any], Numbers]:
    """Each of these once, and which of them each is."""
    numbers: defaultdict[Any, int] = defaultdict(count().__next__)
    which = np.fromiter(map(numbers.__getitem__, cells), np.intp)
    return [*numbers], which


def _spread(of_calls: Listed, calls: Numbers) -> Listed:
    """The column of rows, of that of the calls that made them."""
    if isinstance(of_calls, _Kinds):
        return of_calls._replace(which=of_calls.which.take(calls))
    return [of_calls[call] for call in calls.tolist()]


def _listed(name: str, column: Column) -> list[Any]:
    """As the array made of it would be listed."""
    if isinstance(column, _Sparse):
        listed = [column.usual] * column.n
        for i, cell in column.others.items():
            listed[i] = cell
    elif isinstance(column, _Kinds):
        listed = column.listed()
    else:
        listed = [*column]
    return [*map(_LISTED[_DTYPES[name]], listed)] if name in _DTYPES else listed


def _array(name: str, cells: Column) -> Any:
    if isinstance(cells, _Sparse):
        return _sparse_array(name, *cells)
    if isinstance(cells, _Kinds):
        return _array_of_kinds(name, cells)
    if name in _TUPLE_COLUMNS:
        return np.fromiter(cells, dtype=object, count=len(cells))
    if isinstance(cells, range):
        return np.arange(cells.start, cells.stop, dtype=_DTYPES[name])
    is_repeated = len(cells) > 1 and cells[0] is cells[-1] and cells.count(cells[0]) == len(cells)
    if name in _DTYPES:
        dtype = _DTYPES[name]
        if is_repeated:
            return np.full(len(cells), cells[0], dtype)
        return np.fromiter(cells, dtype=dtype, count=len(cells))
    return _repeated(str(cells[0]), len(cells)) if is_repeated else text_array(cells)


def _array_of_kinds(name: str, column: _Kinds) -> Any:
    cells, which = column
    if name in _DTYPES or name in _TUPLE_COLUMNS:
        return _array(name, cells).take(which)
    if len(cells) == 1:
        return _repeated(cells[0], len(which))
    if len(which) < max(_MANY, 2 * len(cells)):
        return _array(name, column.listed())
    return text_array(pa.array(cells, _LARGE).take(pa.array(which)))


def _sparse_array(name: str, usual: Any, others: Mapping[int, Any], n: int) -> Any:
    if name not in _DTYPES and name not in _TUPLE_COLUMNS:
        if not others:
            return _repeated(usual, n)
        kinds, numbers = _told_apart([usual, *others.values()])
        return _array_of_kinds(name, _Kinds(kinds, _at([*others], n, numbers[1:])))
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
        self._facts, self._ordinals = CallFacts(tape), Ordinals(len(tape.module_log))

    def columns(self, rows: range) -> dict[str, Column]:
        """The columns of these rows; those before must have been asked for, and no call parted."""
        if not rows:
            return {name: [] for name in COLUMNS}
        # Column by column, and NamedTuples by number, for speed: this is once per operation.
        numbers, _, *tensors = zip(*self._tape.row_log.entries[rows.start : rows.stop], strict=True)
        return {**self._of_calls(rows, numbers), **_of_tensors(*tensors)}

    def _of_calls(self, rows: range, numbers: Sequence[int]) -> dict[str, Column]:
        """The facts of calls, spread over the rows that these gave."""
        facts, tape = self._facts, self._tape
        begin, end = numbers[0], numbers[-1] + 1
        functions, args, kwargs, sources, _, places, contexts, _, states = zip(
            *tape.call_log.entries[begin:end], strict=True
        )
        templates, of_calls = facts.templates(functions, args, kwargs)
        which = np.array(of_calls)
        drew = [i for i, state in enumerate(states) if state is not None]
        around, inside = _told_apart(places)
        modules = facts.modules()
        columns: dict[str, Listed] = {
            **_decided(Template._fields[1:], [of[1:] for of in templates], which),
            **_decided(CallFacts.of_module, [modules[place] for place in around], inside),
            **self._read(sources, templates, of_calls, which),
            "context": self._around(contexts, drew, rows.stop == len(tape.row_log)),
            "random": _Kinds([False, True], _at(drew, len(which))),
        }
        functions_of = [self._ordinals.key(template.func) for template in templates]
        keys = np.array(functions_of).take(which) + np.array(around).take(inside)
        if numbers != (*range(begin, begin + len(rows)),):  # some calls made several rows
            spread = np.array(numbers) - begin
            keys = keys.take(spread)
            columns = {name: _spread(column, spread) for name, column in columns.items()}
        return {**columns, "ordinal": self._ordinals.of(keys.tolist())}

    def _read(
        self,
        sources: Sequence[tuple[int, ...]],
        templates: Sequence[Template],
        of_calls: Sequence[int],
        which: Numbers,
    ) -> dict[str, Listed]:
        """What calls read: the parents of their rows, and the columns `CallFacts.of_held`."""
        labels, held_of = self._labels, self._facts.held
        parents: list[tuple[str, ...]] = []
        roles = [template.roles for template in templates]
        held = [CallFacts.nothing_held]
        numbers: dict[Any, int] = {}
        reading: list[int] = []
        kinds: list[int] = []
        for i, read in enumerate(sources):  # the most frequent first
            n = len(read)
            if n == 1 and read[0] >= 0:
                parents.append((labels[read[0]],))
                continue
            if n == 2 and read[0] >= 0 <= read[1]:
                parents.append((labels[read[0]], labels[read[1]]))
                continue
            # only the first was made by the run, as that of a layer's `forward`
            key: Any = (of_calls[i], read[1:])
            kind = numbers.get(key) if read and read[0] >= 0 else None
            if kind is not None:
                made: tuple[str, ...] = (labels[read[0]],)
            else:
                made = tuple([labels[source] for source in read if source >= 0])
                if len(made) == n:
                    parents.append(made)
                    continue
                if len(made) != 1 or read[0] < 0:
                    key = (of_calls[i], *[min(source, 0) for source in read])
                kind = numbers.setdefault(key, len(held))
                if kind == len(held):
                    cells, others = held_of(read, roles[of_calls[i]])
                    held.append(cells)
                    roles.append(others)
            parents.append(made)
            reading.append(i)
            kinds.append(kind)
        of_roles = which.copy()
        of_roles[reading] = [len(templates) + kind - 1 for kind in kinds]
        return {
            "parents": parents,
            "n_parents": [*map(len, parents)],
            "parent_args": _Kinds(roles, of_roles),
            **_decided(CallFacts.of_held, held, _at(reading, len(which), kinds)),
        }

    def _around(self, contexts: Sequence[Context], drew: Sequence[int], ends: bool) -> Listed:
        """The column `context` of calls; `ends` where the last is the last of all."""
        facts, stopped, n = self._facts, self._tape.stopped, len(contexts)
        ends = ends and bool(stopped)
        if not drew and not ends and contexts.count(contexts[0]) == n:
            return _Kinds([facts.switches(contexts[0])], np.zeros(n, np.intp))
        around = [*map(facts.switches, contexts)]
        for i in drew:
            around[i] = facts.context(contexts[i], random=True)
        if ends:
            around[-1] = facts.context(contexts[-1], n - 1 in drew[-1:], stopped)
        return around


def _at(rows: Sequence[int], n: int, numbers: Any = 1) -> Numbers:
    """The numbers of `n` rows: 0 but for these."""
    found = np.zeros(n, np.intp)
    found[rows] = numbers
    return found


def _decided(
    names: Iterable[str], kinds: Sequence[tuple[Any, ...]], which: Numbers
) -> dict[str, _Kinds]:
    """Columns that are decided together: of each kind the cells, and which kind each row is."""
    columns = zip(names, zip(*kinds, strict=True), strict=True)
    return {name: _Kinds(cells, which) for name, cells in columns}


def _of_tensors(
    shapes: Sequence[Any],
    strides: Sequence[Any],
    dtypes: Sequence[Any],
    devices: Sequence[Any],
    requires_grad: Sequence[bool],
    inplace: Sequence[bool],
) -> dict[str, Column]:
    keys, which = _told_apart(zip(shapes, strides, dtypes, devices, strict=True))  # few differ
    facts = [tensor_facts(*key) for key in keys]
    return {
        **_decided(facts[0], [(*of.values(),) for of in facts], which),
        "requires_grad": requires_grad,
        "inplace": inplace,
    }


def _returned(tape: Tape) -> tuple[dict[int, tuple[str, ...]], dict[int, tuple[str, ...]]]:
    """Rows to the module calls that returned them, and to those that returned them first of all."""
    keys, returns = tape.module_keys(), tape.returns
    returned = _keyed(keys, tape.returned())
    if not any([one[0] == other[0] for one, other in pairwise(returns)]):
        return returned, returned  # each returned one row
    first: dict[int, list[int]] = {}
    before = 0
    for module, row in returns:
        if module != before:
            before = module
            first.setdefault(row, []).append(module)
    return returned, _keyed(keys, first)


def _keyed(keys: Sequence[str], by: Mapping[int, Sequence[int]]) -> dict[int, tuple[str, ...]]:
    return {
        row: tuple(dict.fromkeys([keys[m] for m in calls])) if len(calls) > 1 else (keys[calls[0]],)
        for row, calls in by.items()
    }
