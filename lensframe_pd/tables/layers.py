"""A tape as the DataFrame of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lensframe_pd.cells import Cells, frame_of, text_array
from lensframe_pd.schema import CELLS, COLUMNS
from lensframe_pd.tables.columns import (
    Column,
    Kinds,
    Listed,
    Numbers,
    Sparse,
    array_of,
    cells_in,
    decided,
    numbers_at,
    spread,
    told_apart,
)
from lensframe_pd.tape.alike import Findings
from lensframe_pd.tape.facts import CallFacts, Ordinals, Sources, Template, tensor_facts
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Context, Tape

_TEXT_COLUMNS = [c for c, kind in CELLS.items() if kind == "text" and c in ("op", *COLUMNS)]
_TEXT_COLUMNS.remove("unsaved_reason")  # each run has its own
_STRETCH = 2**11  # rows: with all that is made of them a few megabytes
_NAMES = pd.Index([*COLUMNS])


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
        arrays[name] = array_of(name, column)
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
    return Cells(labels, {name: cells_in(name, columns[name]) for name in COLUMNS})


def _arrays(tape: Tape, grouped: Passes) -> dict[str, Any]:
    labels = grouped.labels()
    columns = {"op": labels, **_columns(tape, grouped)}
    arrays = {name: array_of(name, column) for name, column in columns.items()}
    of_calls = _OfCalls(tape, labels)
    stretches = [
        {name: array_of(name, column) for name, column in of_calls.columns(rows).items()}
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
    return {name: array_of(name, column) for name, column in _in_files(tape).items()}


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
        "kind": Sparse("op", tape.kinds, n),
        "path": Sparse("", tape.paths, n),
        "returned_by": Sparse((), returned, n),
        "returned_first": Sparse((), first, n),
    }


_FIRST = itemgetter(0)


def _in_files(tape: Tape) -> dict[str, Column]:
    """The columns that depend on where the run was asked for: where in the program calls are."""
    calls, rows = tape.call_log.entries, tape.row_log.entries
    sources = Sources(tape)
    sites, which = told_apart([call[4] for call in calls])  # call.site
    lines = [*map(sources.line, sites)]
    of_calls: Listed = Kinds(lines, which)
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
        "source": of_calls if same else spread(of_calls, np.array(numbers)),
        "read_by": Sparse((), reads, len(rows)),
    }


def _of_run(tape: Tape, unsaved: dict[int, str]) -> dict[str, Column]:
    """The columns that each run has of its own."""
    calls, rows = tape.call_log.entries, tape.row_log.entries  # without names, as in `tape.alike`
    return {
        "seconds": [calls[row[0]][7] for row in rows],  # row.call, call.seconds
        "saved": [v is not None and i not in unsaved for i, v in enumerate(tape.values)],
        "unsaved_reason": Sparse("", unsaved, len(rows)),
    }


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
        around, inside = told_apart(places)
        modules = facts.modules()
        columns: dict[str, Listed] = {
            **decided(Template._fields[1:], [of[1:] for of in templates], which),
            **decided(CallFacts.of_module, [modules[place] for place in around], inside),
            **self._read(sources, templates, of_calls, which),
            "context": self._around(contexts, drew, rows.stop == len(tape.row_log)),
            "random": Kinds([False, True], numbers_at(drew, len(which))),
        }
        functions_of = [self._ordinals.key(template.func) for template in templates]
        keys = np.array(functions_of).take(which) + np.array(around).take(inside)
        if numbers != (*range(begin, begin + len(rows)),):  # some calls made several rows
            made_by = np.array(numbers) - begin
            keys = keys.take(made_by)
            columns = {name: spread(column, made_by) for name, column in columns.items()}
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
            "parent_args": Kinds(roles, of_roles),
            **decided(CallFacts.of_held, held, numbers_at(reading, len(which), kinds)),
        }

    def _around(self, contexts: Sequence[Context], drew: Sequence[int], ends: bool) -> Listed:
        """The column `context` of calls; `ends` where the last is the last of all."""
        facts, stopped, n = self._facts, self._tape.stopped, len(contexts)
        ends = ends and bool(stopped)
        if not drew and not ends and contexts.count(contexts[0]) == n:
            return Kinds([facts.switches(contexts[0])], np.zeros(n, np.intp))
        around = [*map(facts.switches, contexts)]
        for i in drew:
            around[i] = facts.context(contexts[i], random=True)
        if ends:
            around[-1] = facts.context(contexts[-1], n - 1 in drew[-1:], stopped)
        return around


def _of_tensors(
    shapes: Sequence[Any],
    strides: Sequence[Any],
    dtypes: Sequence[Any],
    devices: Sequence[Any],
    requires_grad: Sequence[bool],
    inplace: Sequence[bool],
) -> dict[str, Column]:
    keys, which = told_apart(zip(shapes, strides, dtypes, devices, strict=True))  # few differ
    facts = [tensor_facts(*key) for key in keys]
    return {
        **decided(facts[0], [(*of.values(),) for of in facts], which),
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
