"""Where the gradient of each row is to be had: its place in autograd's graph, taken at birth.

A gradient edge names a tensor as it was made. It stays what it is when the tensor is written, and
it is no hook, so that gradients taken while the model runs do not fill it.

A row is born when its tensor first has its place in the graph. That is at once, but for what is
made while gradients are off: the forward of an `autograd.Function` makes tensors that get theirs
when it returns, so they are looked at again when something reads them. A write through a view is
one of the base, which autograd then gives the place; so the edge is the base's, and where in it
the view lies is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lensframe_pd.capture.watch import Watcher
from lensframe_pd.tape.functions import Action
from lensframe_pd.tape.regions import region_of
from lensframe_pd.tape.storage import Bits, bits_of
from lensframe_pd.tape.tape import Tape

_BELOW_AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality
_is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded


def _joins_graph() -> bool:
    """Whether what is made now has its place in the graph already.

    Not where gradients are off, and not in a dispatch mode: autograd sees the call when it is over.
    """
    return torch.is_grad_enabled() and not _is_excluded(_BELOW_AUTOGRAD)


class Place(NamedTuple):
    """Where a view lies in its base."""

    base_shape: tuple[int, ...]
    base_stride: tuple[int, ...]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    """In bytes, after the first of the base."""
    dtype: torch.dtype
    bits: Bits


class Edge(NamedTuple):
    """Where in autograd's graph the gradient of a tensor arrives."""

    at: GradientEdge
    place: Place | None = None
    """Of a view that was written: where in the tensor of this edge it lies."""


class _Unborn:
    """A tensor that may get its place in the graph later, with its rows."""

    __slots__ = ("alive", "node", "required", "rows")

    def __init__(self, tensor: Tensor) -> None:
        self.alive: Callable[[], Tensor | None] = ref(tensor)
        self.required = tensor.requires_grad
        self.node = tensor.grad_fn
        self.rows: list[int] = []

    def is_born(self, tensor: Tensor) -> bool:
        """Whether the tensor has another place than it had when it was made."""
        if not tensor.requires_grad:
            return False
        if _joins_graph():
            return True
        # The forward that made it may still run, and go on reading it.
        return not self.required or tensor.grad_fn is not self.node


class Births(Watcher):
    """Takes the edge of each row at its birth.

    Attributes
    ----------
    edges
        By row.
    overwritten
        Rows of views that were written afterwards: autograd then leads the gradient past them.
    inference
        Rows whose tensor was made in inference mode.
    """

    def __init__(self, tape: Tape) -> None:
        self.edges: dict[int, Edge] = {}
        self.overwritten: set[int] = set()
        self.inference: set[int] = set()
        self._tape = tape
        #: By the id of the tensor, and by row.
        self._latest: dict[int, _Unborn] = {}
        self._unborn: dict[int, _Unborn] = {}
        #: The rows that are views: their storage; and by the id of the tensor its last one.
        self._storages: dict[int, int] = {}
        self._views: dict[int, tuple[Callable[[], Tensor | None], int]] = {}

    def settle(self) -> None:
        """The run is over: refer to no tensor any more."""
        self._latest.clear()
        self._unborn.clear()
        self._storages.clear()
        self._views.clear()

    def about_to_write(self, sources: tuple[int, ...]) -> None:
        self._look_at(sources)

    def returned(self, row: int, tensor: Tensor, module: int) -> None:
        self._look_at((row,))

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        tape = self._tape
        call, inplace = tape.calls[tape.rows[row].call], tape.rows[row].inplace
        # What may write was announced: by now what it reads may be what it wrote.
        if self._unborn and not inplace and call.function.action is not Action.CAREFUL:
            self._look_at(call.sources)
        with torch._C.DisableTorchFunctionSubclass():
            is_view = bool(storage) and tensor._is_view()
            again = not inplace and tape.kinds.get(row) != "alias"
            if not again:
                self._overwrite(row, tensor, inplace)
            if is_view:
                self._storages[row] = storage
                self._views[id(tensor)] = ref(tensor), row
            self._await(row, tensor, again)
            if tensor.requires_grad and _joins_graph():
                self._bear(self._unborn[row], tensor)

    def _look_at(self, rows: Iterable[int]) -> None:
        """These rows are read: what has its place in the graph by now is born."""
        for row in rows:
            unborn = self._unborn.get(row)
            if unborn is None:
                continue
            tensor = unborn.alive()
            if tensor is not None:
                with torch._C.DisableTorchFunctionSubclass():
                    if unborn.is_born(tensor):
                        self._bear(unborn, tensor)

    def _await(self, row: int, tensor: Tensor, again: bool) -> None:
        """Note a row as unborn: together with others of this tensor, as long as nobody wrote it."""
        if not tensor.requires_grad and tensor.is_inference():
            self.inference.add(row)
        known = self._latest.get(id(tensor)) if again else None
        if known is None or known.alive() is not tensor:
            known = self._latest[id(tensor)] = _Unborn(tensor)
        known.rows.append(row)
        self._unborn[row] = known

    def _bear(self, unborn: _Unborn, tensor: Tensor) -> None:
        written = any(self._tape.rows[row].inplace for row in unborn.rows)
        edge = _edge(tensor, written)
        for row in unborn.rows:
            if edge is not None:
                self.edges[row] = edge
            del self._unborn[row]
        unborn.rows.clear()

    def _overwrite(self, row: int, tensor: Tensor, inplace: bool) -> None:
        """A view was written, or shows what was written elsewhere: not what it was made as."""
        alive, before = self._views.get(id(tensor), (None, -1))
        if alive is None or alive() is not tensor:
            return
        sources = self._tape.calls[self._tape.rows[row].call].sources
        if inplace or len(sources) > 1:  # an alias of one source is a view nobody saw made
            self._mark(before)

    def _mark(self, row: int) -> None:
        """`row`, and the views that it is a view of, do not show what became of them."""
        waiting = [row]
        while waiting:
            here = waiting.pop()
            if here in self.overwritten or self._tape.rows[here].inplace:
                continue
            self.overwritten.add(here)
            storage = self._storages[here]
            sources = self._tape.calls[self._tape.rows[here].call].sources
            waiting += [s for s in sources if s >= 0 and self._storages.get(s) == storage]


def _edge(tensor: Tensor, written: bool) -> Edge | None:
    """The place of a tensor in the graph; None where autograd has none to give."""
    try:
        base = tensor._base if written else None
        if base is not None and base.grad_fn is not None:
            return Edge(get_gradient_edge(base), _place(tensor, base))
        return Edge(get_gradient_edge(tensor))
    except RuntimeError:  # of views that autograd forbids to read any more
        return None


def _place(view: Tensor, base: Tensor) -> Place:
    return Place(
        tuple(base.shape), base.stride(), tuple(view.shape), view.stride(),
        region_of(view).low - region_of(base).low, view.dtype, bits_of(view),
    )  # fmt: skip
