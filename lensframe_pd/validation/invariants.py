"""What must hold within a frame by itself, and between it and a fresh trace of the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from typing import Any

import torch

from lensframe_pd.cells import Cells, Rows
from lensframe_pd.labels import label, path_of
from lensframe_pd.schema import FACTS, KINDS

Problems = dict[str, list[str]]
"""Op label to what is wrong with its row."""

Row = Mapping[str, Any]

_facts = itemgetter(*FACTS)

_PAIRED = (
    ("parents", "parent_args"), ("params", "param_args"), ("params", "param_shapes"),
    ("params", "param_dtypes"), ("module_stack", "module_types"),
    ("buffers", "buffer_args"), ("buffers", "buffer_shapes"), ("buffers", "buffer_dtypes"),
    ("shape", "stride"),
)  # fmt: skip
_sizes = itemgetter(
    "shape", "numel", "shape_str", "dtype", "nbytes",
    "params", "param_shapes", "n_params", "n_trainable",
)  # fmt: skip
_paired_cells = itemgetter(*chain(*_PAIRED))


def within(rows: Rows, ops: list[str]) -> Problems:
    """What is wrong with a frame, judged by itself."""
    problems: Problems = {}
    for op, problem in chain(
        _doubles(ops),
        _wrong_names(rows),
        _wrong_lengths(rows),
        _wrong_parents(rows),
        _wrong_sizes(rows),
        _wrong_places(rows),
        _shared_steps(rows),
        _missing_passes(rows),
    ):
        problems.setdefault(op, []).append(problem)
    return problems


def _doubles(ops: list[str]) -> Iterator[tuple[str, str]]:
    if len({*ops}) == len(ops):  # as always, and quick to see
        return
    for op, n in Counter(ops).items():
        if n > 1:
            yield op, f"its label is there {n} times"


def _shared_steps(rows: Rows) -> Iterator[tuple[str, str]]:
    steps: dict[int, str] = {}
    for op, row in rows.items():
        other = steps.setdefault(row["step"], op)
        if other != op:
            yield op, f"step {row['step']} is also that of {other!r}"


def _missing_passes(rows: Rows) -> Iterator[tuple[str, str]]:
    """Every row says how many passes its layer has; they are all there, each once."""
    passes: dict[str, list[int]] = {}
    for row in rows.values():
        passes.setdefault(row["layer"], []).append(row["pass_num"])
    for numbers in passes.values():
        numbers.sort()
    # judged once a layer: each row of one of many passes would look through all of them
    whole = {name for name, numbers in passes.items() if numbers == [*range(1, len(numbers) + 1)]}
    for op, row in rows.items():
        there = passes[row["layer"]]
        if row["layer"] not in whole or row["n_passes"] != len(there):
            shown = ", ".join(map(str, there[:8])) + (", ..." if len(there) > 8 else "")
            yield op, f"{row['layer']} has n_passes {row['n_passes']} and the passes {shown}"


def _wrong_names(rows: Rows) -> Iterator[tuple[str, str]]:
    for op, row in rows.items():
        expected = label(row["layer"], row["pass_num"], row["n_passes"])
        if op != expected:
            yield op, f"layer, pass_num and n_passes make it {expected!r}"
        if row["kind"] not in KINDS:
            yield op, f"kind {row['kind']!r} is none of {', '.join(sorted(KINDS))}"
        if row["layer"].rpartition("_")[0] != row["func"]:
            yield op, f"func {row['func']!r} is not that of layer {row['layer']!r}"


def _wrong_lengths(rows: Rows) -> Iterator[tuple[str, str]]:
    for op, row in rows.items():
        lengths = [*map(len, _paired_cells(row))]
        if lengths[::2] == lengths[1::2] and row["n_parents"] == len(row["parents"]):
            continue  # as of most
        for left, right in _PAIRED:
            without_stride = right == "stride" and not row[right] and not row["saved"]
            if without_stride:  # a sparse or nested tensor
                continue
            if len(row[left]) != len(row[right]):
                yield op, f"{left} has {len(row[left])} entries and {right} {len(row[right])}"
        if row["n_parents"] != len(row["parents"]):
            yield op, f"n_parents is {row['n_parents']}, parents has {len(row['parents'])}"


def _wrong_parents(rows: Rows) -> Iterator[tuple[str, str]]:
    for op, row in rows.items():
        for parent in row["parents"]:
            if parent not in rows:
                yield op, f"its parent {parent!r} is not in the frame"
            elif rows[parent]["step"] >= row["step"]:
                yield op, f"its parent {parent!r} comes later"
        if row["parents"] and row["kind"] in ("input", "constant"):
            yield op, f"a row of kind {row['kind']} has parents"


def _wrong_sizes(rows: Rows) -> Iterator[tuple[str, str]]:
    sound: set[Any] = set()  # sizes that fit, as many rows have the same
    for op, row in rows.items():
        for problem in _size_problems(row, sound):
            yield op, problem


def _size_problems(row: Row, sound: set[Any]) -> Iterable[str]:
    sizes = _sizes(row)
    try:
        if sizes in sound:
            return ()
    except TypeError:  # a damaged cell
        return _unfit(row)
    problems = [*_unfit(row)]
    if not problems:
        sound.add(sizes)
    return problems


def _unfit(row: Row) -> Iterator[str]:
    shape = row["shape"]
    numel = math.prod(shape) if all(n >= 0 for n in shape) else 0
    if row["numel"] != numel:
        yield f"numel is {row['numel']} for the shape {shape}"
    if row["shape_str"] != "x".join(map(str, shape)):
        yield f"shape_str is {row['shape_str']!r} for the shape {shape}"
    dtype = getattr(torch, row["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        yield f"torch has no dtype {row['dtype']!r}"
    elif row["nbytes"] != row["numel"] * dtype.itemsize:
        yield f"nbytes is {row['nbytes']} for {row['numel']} elements of {row['dtype']}"
    sizes = dict(zip(row["params"], row["param_shapes"], strict=False)) if row["params"] else {}
    n_params = sum([math.prod(s) for s in sizes.values()])
    if row["n_params"] != n_params:
        yield f"n_params is {row['n_params']}, param_shapes make it {n_params}"
    if not 0 <= row["n_trainable"] <= row["n_params"]:
        yield f"n_trainable is {row['n_trainable']} of {row['n_params']} parameters"


def _wrong_places(rows: Rows) -> Iterator[tuple[str, str]]:
    for op, row in rows.items():
        stack = row["module_stack"]
        innermost = path_of(stack[-1]) if stack else ""
        if innermost != row["module"]:
            yield op, f"module {row['module']!r} is not the innermost of module_stack {stack}"
        if row["saved"] and row["unsaved_reason"]:
            yield op, "it is saved and has an unsaved_reason"


def against(told: Cells, new: Cells) -> Problems:
    """Where a frame says something else than `new`, a new trace of the model."""
    if told.ops == new.ops and all([told.columns[name] == new.columns[name] for name in FACTS]):
        return {}  # as most often, and then no row has to be looked at
    rows, fresh = told.rows, new.rows
    problems: Problems = {}
    known = {op: _facts(row) for op, row in fresh.items()}
    for op, row in rows.items():
        if op in known and _facts(row) == known[op]:
            continue
        now = fresh.get(op)
        if now is None:
            problems[op] = ["the model has no such operation when traced again"]
            continue
        wrong = [
            f"{column} is {row[column]!r}; traced again it is {now[column]!r}"
            for column in FACTS
            if row[column] != now[column]
        ]
        if wrong:
            problems[op] = wrong
    for op in fresh:
        if op not in rows:
            problems[op] = ["the frame lacks this row, which the model has when traced again"]
    return problems
