"""Whether every ATen operator of a run belongs to a row.

A `TorchDispatchMode` below the function mode sees each operator that torch executes; one that
runs while the tracer records nothing, or in a call that gave no row, is a gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lensframe_pd.capture.tracer import Tracer
from lensframe_pd.tape.dispatch import Dispatched
from lensframe_pd.tape.functions import Action, describe
from lensframe_pd.tape.storage import PLAIN, bits_of
from lensframe_pd.tape.switches import Switches
from lensframe_pd.tape.tape import Opaque
from lensframe_pd.validation.elsewhere import mark


class Gap(NamedTuple):
    """ATen operators that belong to no row."""

    row: int
    """How many rows there were when they ran."""
    operators: tuple[str, ...]
    module: str


class WitnessedTracer(Tracer):
    """A tracer that says when a row is being made, and keeps every argument as it was."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gaps: list[Gap] = []
        self.operators = 0
        #: Rows of constants, and the ids of their tensors.
        self.constants: dict[int, int] = {}
        #: Whether the operators of other threads are observed.
        self.observes = False
        self._begun = Switches()
        #: The operators of the call that is being made; None while none is, so that each is a gap.
        self._inside: list[Any] | None = None
        #: By operator whether it computes nothing.
        self._idle: dict[Any, bool] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        self._begun = Switches()
        with _Witness(self), super().running():
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outer, self._inside = self._inside, []
        before = len(self._rows) + self.n_reads
        try:
            return Tracer.__torch_function__(self, func, types, args, kwargs)
        finally:
            seen, self._inside = self._inside, outer
            unseen = len(self._rows) + self.n_reads == before
            if seen and unseen and not _without_rows(func):
                self._gap(*map(str, seen))

    def _open(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        before, self._inside = self._inside, None  # its inner calls are rows of their own
        try:
            return super()._open(func, types, args, kwargs)
        finally:
            self._inside = before

    def scripted(self, func: Any, args: Any, kwargs: Any, ordinal: int) -> Any:
        before, self._inside = self._inside, []  # seen by the tracer itself, in no function's call
        try:
            return super().scripted(func, args, kwargs, ordinal)
        finally:
            self._inside = before

    def _make_unseen(self, *operator: Any) -> Any:
        before, self._inside = self._inside, []  # as there
        try:
            return super()._make_unseen(*operator)
        finally:
            self._inside = before

    def hands_over(self, result: Any, module: int) -> Any:
        before, self._inside = self._inside, []  # what makes another value belongs to its row
        try:
            return super().hands_over(result, module)
        finally:
            self._inside = before

    def returned(self, tensor: Tensor, module: int) -> None:
        before, self._inside = self._inside, []  # a constant met here is copied as it is kept
        try:
            super().returned(tensor, module)
        finally:
            self._inside = before

    def saw(self, func: Any) -> None:
        """An operator was executed.

        A view computes nothing, and is an alias row of what it shows as soon as it is read. Nor
        does the profiler, which marks where something begins and ends.
        """
        self.operators += 1
        idle = self._idle.get(func)
        if idle is None:
            idle = self._idle[func] = func.is_view or func.namespace == "profiler"
        if idle:
            return
        if self._inside is None:
            self._gap(str(func))
        else:
            self._inside.append(func)

    def unseen(self) -> list[str]:
        """The names of the operators in the gaps."""
        return [name for gap in self.gaps for name in gap.operators]

    def _gap(self, *operators: str) -> None:
        module = self.tape.modules[self.modules.current].path
        self.gaps.append(Gap(len(self._rows), operators, module))

    def _call(self, *cells: Any) -> int:
        call = super()._call(*cells)
        switches = Switches()
        if switches != self._begun:
            self.tape.switched[call] = switches
        return call

    def _row(self, tensor: Tensor, call: int, slot: int, inplace: bool = False) -> int:
        row = super()._row(tensor, call, slot, inplace)
        bits = bits_of(tensor)
        if bits != PLAIN:
            self.tape.bits[row] = bits
        return row

    def _synthetic_row(self, kind: str, sources: Any, tensor: Tensor, *cells: Any) -> int:
        row = super()._synthetic_row(kind, sources, tensor, *cells)
        if kind == "constant":
            self.constants[row] = id(tensor)
            if self.observes:
                before = self.operators
                mark(row, tensor)
                self.operators = before
        return row

    def _plain(self, value: Any) -> Any:
        plain = super()._plain(value)  # the call is run again at once, so it may hold the argument
        return plain._replace(value=value) if isinstance(plain, Opaque) else plain


def _without_rows(func: Any) -> bool:
    """Metadata, printing and reading a value are no rows by design."""
    return describe(func).action in (Action.SKIP, Action.READ)


class _Witness(Dispatched):
    def __init__(self, tracer: WitnessedTracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._tracer.saw(func)
        with torch._C.DisableTorchFunction():
            return func(*args, **kwargs) if kwargs else func(*args)
