"""A frame, or a finished run, as what the next run is expected to do.

A row is found again by its address: the call of the module it happened in, its function, and which
row of that function it was within that call. So it is known while the model runs, which a label is
not, and what happens in other modules does not move it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

import pandas as pd
from torch import Tensor

from lensframe_pd.capture.watch import Ended, Watcher
from lensframe_pd.cells import cells_of, names
from lensframe_pd.errors import LensValueError
from lensframe_pd.labels import labels
from lensframe_pd.tape.facts import line_of
from lensframe_pd.tape.tape import SCRIPT, Call, Tape

#: The columns that an address is read from.
ADDRESSED_BY = ("module_stack", "func", "ordinal")


class Address(NamedTuple):
    """Where a row is within a run."""

    module: str
    """The innermost call of a module, `"enc.0:3"`; empty in the model's own forward."""
    func: str
    ordinal: int

    def __str__(self) -> str:
        where = f" in {self.module}" if self.module else ""
        return f"{self.func} number {self.ordinal}{where}"


class Departed(Ended):
    """The run did something else than planned; the text names both."""


def planned(frame: pd.DataFrame, verb: str = "save=") -> dict[Address, str]:
    """The rows of a frame by address, with their labels.

    Raises
    ------
    LensValueError
        Two rows with one address: they are of different runs.
    """
    return by_address(labels(frame, verb), cells_of(frame, ADDRESSED_BY), verb)


def by_address(ops: Iterable[str], cells: Iterable[Iterable[Any]], verb: str) -> dict[Address, str]:
    """As `planned`, of labels and the cells of the columns `ADDRESSED_BY`."""
    found: dict[Address, str] = {}
    for op, stack, func, ordinal in zip(ops, *cells, strict=True):
        calls = stack if type(stack) is tuple else names("module_stack", stack)
        address = Address(calls[-1] if calls else "", str(func), int(ordinal))
        other = found.setdefault(address, op)
        if other != op:
            raise LensValueError(
                f"{verb} has {other!r} and {op!r} for the same place, {address}: rows of two runs; "
                "give the rows of one trace"
            )
    return found


def followed(tape: Tape) -> list[Address]:
    """The address of each row of a finished run."""
    addresses = Addresses(tape)
    return [addresses.next(row) for row in range(len(tape.rows))]


def lines_to(tape: Tape, call: Call) -> tuple[str, ...]:
    """`file.py:line` of each frame that led to a call, the innermost first, without torch's own.

    Out to the innermost call of a module that holds parameters: as for layers, which of its calls
    it was says the rest.
    """
    return (*each_line_to(tape, call),)


def each_line_to(tape: Tape, call: Call) -> Iterator[str]:
    """As `lines_to`, one by one."""
    site, module = call.site, call.module
    while True:
        for code, offset in zip(site[::2], site[1::2], strict=True):
            line = "" if code == SCRIPT else line_of(tape.codes[code], offset)
            if line:
                yield line
        called = tape.modules[module]
        if not module or called.path in tape.holding:
            return
        site, module = called.site, called.parent


class Addresses:
    """The addresses of the rows of a running tape: ask for each row once, in order."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._counts: Mapping[Any, count[int]] = defaultdict(lambda: count(1))

    def next(self, row: int) -> Address:
        tape = self._tape
        call = tape.calls[tape.rows[row].call]
        func = call.function.name
        module = tape.modules[call.module].key if call.module else ""
        return Address(module, func, next(self._counts[call.module, func]))


class Follow(Watcher):
    """Ends a run at the first row that is not the one planned there.

    Raises
    ------
    Departed
        While the model runs.
    """

    def __init__(self, tape: Tape, path: list[Address]) -> None:
        self._addresses = Addresses(tape)
        self._path = path

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        here = self._addresses.next(row)
        if row >= len(self._path) or self._path[row] != here:
            planned_here = str(self._path[row]) if row < len(self._path) else "the end"
            raise Departed(f"row {row} was {here}, and {planned_here} in the first run")
