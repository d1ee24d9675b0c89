"""Operators that other threads execute, which no mode sees, and the tensors they give.

Torch's execution trace observer is told of every operator of the process, with the memory each
reads and writes. It is asked for only where a run met a tensor that nothing seen has made.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ExecutionTraceObserver, record_function

from lensframe_pd.tape.tape import Row

_MARK = "lensframe_pd row "

Found = dict[int, list[str]]
"""Row to the operators of other threads that made or wrote its memory."""


#: In the names of operators that make a nested tensor or compressed rows.
_UNFIT = ("nested", "sparse", "_csr", "_csc", "_bsr", "_bsc")


def is_unobservable(rows: Iterable[Row], unseen: Iterable[str]) -> bool:
    """Whether a run has tensors over which torch's observer goes down, and the process with it.

    It asks each tensor for sizes and strides, and some have none: of rows that is known, and of
    operators that belong to none, their names tell.
    """
    without_strides = any([len(row.shape) != len(row.stride) for row in rows])
    return without_strides or any([part in name for name in unseen for part in _UNFIT])


@contextmanager
def observed() -> Iterator[Found]:
    """Observe the operators of all threads; what was found of marked rows is there at the end."""
    found: Found = {}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "operators.json"
        observer = ExecutionTraceObserver().register_callback(str(file))
        observer.start()
        try:
            yield found
        finally:
            observer.stop()
            observer.unregister_callback()
        found |= _made_elsewhere(json.loads(file.read_text())["nodes"])


def mark(row: int, tensor: Tensor) -> None:
    """Let the observer know in which memory the tensor of a row lies."""
    with torch._C.DisableTorchFunction(), record_function(f"{_MARK}{row}"):
        tensor.detach()


def _made_elsewhere(nodes: list[dict[str, Any]]) -> Found:
    nodes = sorted(nodes, key=lambda node: node["id"])  # as they began
    here = {_attribute(n, "tid") for n in nodes if n["name"].startswith(_MARK)}
    makers: dict[int, list[str]] = {}
    for node in nodes:
        if _attribute(node, "tid") not in here:
            for storage in _made_or_written(node):
                makers.setdefault(storage, []).append(node["name"])
    found: Found = {}
    row = None
    for node in nodes:
        if _attribute(node, "tid") not in here:
            continue
        if node["name"].startswith(_MARK):
            row = int(node["name"].removeprefix(_MARK))
        elif row is not None and node["name"] == "aten::detach":  # of the row's tensor
            for storage in _storages(node["inputs"]["values"]) & makers.keys():
                found[row] = makers[storage]
            row = None
    return found


def _made_or_written(node: dict[str, Any]) -> set[int]:
    made = _storages(node["outputs"]["values"])
    if node["name"].endswith("_"):
        return made
    return made - _storages(node["inputs"]["values"])  # a view computes nothing


def _storages(values: Any) -> set[int]:
    """The memory of the tensors among the arguments or results: the second of their six numbers."""
    if not isinstance(values, list):
        return set()
    if len(values) == 6 and type(values[0]) is int and type(values[5]) is str:
        return {values[1]} if values[1] else set()
    return set().union(*map(_storages, values))


def _attribute(node: dict[str, Any], name: str) -> Any:
    return next((a["value"] for a in node["attrs"] if a["name"] == name), None)
