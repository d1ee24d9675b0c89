"""Gives tensors other values while the model runs, and makes each a row of its own.

A value for a module takes the place of what the module returns, as a forward hook's would. One for
a row takes the place of the tensor that the operation gives; but a row that is a write is written
once more, so that every alias shows it. Where the program would go another way than with the value
computed there, the run is refused.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Container
from contextlib import nullcontext
from typing import Any, NamedTuple, NoReturn, Protocol

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._python_dispatch import _disable_current_modes

from lensframe_pd.capture.given import fitted, is_function
from lensframe_pd.capture.handed import HandedBack
from lensframe_pd.capture.likeness import elsewhere
from lensframe_pd.capture.lineage import Lineage
from lensframe_pd.capture.modules import ModuleStack
from lensframe_pd.capture.plan import Address
from lensframe_pd.capture.sites import Site, Sites
from lensframe_pd.capture.unreached import late, unreached
from lensframe_pd.capture.values import Values
from lensframe_pd.capture.watch import Ended
from lensframe_pd.errors import LensError, LensValueError, shown
from lensframe_pd.labels import split_call
from lensframe_pd.tape.objects import tensors_of
from lensframe_pd.tape.passes import Passes, passes
from lensframe_pd.tape.rebuilt import Unbuilt, with_others
from lensframe_pd.tape.regions import Region, overlap, region_of
from lensframe_pd.tape.storage import holders, is_view_of_others, storage_of, unwrapped
from lensframe_pd.tape.tape import Tape

_MODEL = ("", 1)  # the call of the model itself, as `ModuleCall` has it
_ALIASING = frozenset("detach data".split())
_n_modes = torch._C._len_torch_dispatch_stack
_CHECKPOINT = torch.utils.checkpoint.__file__


class Refused(Ended):
    """Ends a run that a value cannot be given to.

    Attributes
    ----------
    error
        What to raise.
    """

    def __init__(self, error: LensError) -> None:
        super().__init__(str(error))
        self.error = error


class _Every(Container[str]):
    """Holds each name."""

    def __contains__(self, name: object) -> bool:
        return True


_EVERY = _Every()


class _View(NamedTuple):
    """A row that shared memory with others, and was given a value in memory of its own."""

    key: str
    row: int
    """Of the edit."""
    storage: int
    region: Region
    given: Tensor
    """Held, so that its memory stays its own while the model runs."""
    storage_given: int


class Rows(Protocol):
    """What makes the rows: the tracer."""

    values: Values
    lineage: Lineage
    handed: HandedBack
    modules: ModuleStack

    @property
    def in_script(self) -> bool: ...
    def edited(self, source: int, tensor: Tensor, config: dict[str, Any], inplace: bool) -> int: ...


class Edits:
    """The values of one run, put in place."""

    def __init__(self, sites: Sites, tape: Tape) -> None:
        self.sites = sites
        self._tape = tape
        #: The values of rows by function, module call and number within that call.
        self._rows: dict[str, dict[tuple[str, int], dict[int, Address]]] = {}
        for address in sites.rows:
            calls = self._rows.setdefault(address.func, {})
            called = split_call(address.module) if address.module else _MODEL
            calls.setdefault(called, {})[address.ordinal] = address
        self._modules = {**sites.modules}
        #: The functions whose rows `of_row` is shown: what is in it is asked for each row.
        self.functions: Container[str] = self._rows.keys()
        #: The paths of the modules whose calls `of_module` is shown.
        self.paths = {path for path, _ in sites.modules}
        self._counts: dict[tuple[int, str], int] = defaultdict(int)
        self._views: list[_View] = []
        #: Edits of views that what they were views of has written since: by whom.
        self._stale: dict[int, str] = {}
        #: The rows of the values, and the keys that they were given for.
        self.made: list[tuple[int, str]] = []
        #: Rows that were of another shape in the earlier frame, their keys, and that shape.
        self.resized: list[tuple[int, str, Any]] = []
        #: Rows that were given a value.
        self.rows: set[int] = set()
        #: Those of them whose value was given for every pass of their layer.
        self._every: list[int] = []
        #: Why the run should have ended: an interpreter that is not Python's may lose the reason,
        #: and a bare `except:` of the model goes on.
        self.refused: LensError | None = None
        self._grad = torch.is_grad_enabled()
        self._call_log, self._row_log = tape.call_log.entries, tape.row_log.entries
        self._module_log = tape.module_log.entries

    def forget(self) -> None:
        """The run is over: hold no tensor any more."""
        self._views.clear()

    def of_row(self, tracer: Rows, row: int, tensor: Tensor, inplace: bool) -> Tensor:
        """The tensor that the program goes on with, instead of that of a new row."""
        call = self._call_log[self._row_log[row][0]]  # row.call: most go no further than this
        func = call[0].name
        calls = self._rows.get(func)
        is_place = calls is not None and self._module_log[call[5]][:2] in calls
        if not (is_place or inplace or self._stale):
            return tensor
        if self._views:
            sources = call[3]
            if not self._stale.keys().isdisjoint(sources):
                self._refuse_stale(sources)
            if inplace:
                self._note_write(tensor, func)
        address = self._address(call[5], func) if is_place else None
        if address is None:
            return tensor
        try:
            return self._of_place(tracer, address, row, tensor, inplace)
        except Refused as refusal:
            self.refused = refusal.error
            raise

    def _of_place(
        self, tracer: Rows, address: Address, row: int, tensor: Tensor, inplace: bool
    ) -> Tensor:
        """As `of_row`, of one at a place that has a value."""
        tape, site = self._tape, self.sites.rows[address]
        call = tape.calls[tape.rows[row].call]
        apart = elsewhere(tape, self.sites, address, call)
        if apart is not None:
            _refuse(apart)
        if tape.wrapped and tape.rows[row].call in tape.wrapped:
            _refuse(f"{site.key!r} is inside torch.func, where a row is no tensor of the program's")
        if tracer.in_script:
            _refuse(f"{site.key!r} is inside a ScriptModule: give a value to the whole module")
        facts = self.sites.facts.get(address)
        if facts is not None and (type(facts[4]) is not tuple or facts[4] != tensor.shape):
            self.resized.append((row, site.key, facts.shape))
        return self._edit_row(tracer, site, row, tensor, inplace)

    def _address(self, module: int, func: str) -> Address | None:
        """The address of a row of `func` made just now in a module call, if it has a value."""
        called = self._module_log[module][:2]
        calls = self._rows[func]
        here = calls[called]
        self._counts[module, func] += 1
        address = here.pop(self._counts[module, func], None)
        if not here:  # nobody is asked any more once every place was come to
            del calls[called]
            if not calls:
                del self._rows[func]
        return address

    def of_module(self, tracer: Rows, index: int, result: Any) -> Any:
        """What a module call hands over instead of `result`; None where that is it."""
        called = self._tape.modules[index]
        site = self._modules.pop((called.path, called.number), None)
        if site is None:
            site = self._modules.get((called.path, 0))
        elif all(path != called.path for path, _ in self._modules):
            self.paths.discard(called.path)  # nobody is asked any more
        if site is None:
            return None
        try:
            return self._of_call(tracer, site, called.key, result)
        except Refused as refusal:
            self.refused = refusal.error
            raise

    def _of_call(self, tracer: Rows, site: Site, call: str, result: Any) -> Any:
        """As `of_module`, of a call that has a value."""
        tensors = {id(tensor): tensor for tensor in tensors_of(result)}
        # In a hook the mode would see what follows, and a ScriptModule's is still there.
        modes = _disable_current_modes() if _n_modes() else nullcontext()
        with torch._C.DisableTorchFunction(), modes:
            if len(tensors) != 1:
                self._refuse_count(tracer, site, [*tensors.values()])
            ((key, tensor),) = tensors.items()
            if unwrapped(tensor) is not tensor:
                _refuse(f"{site.key!r} is inside torch.func, where its tensor is a wrapper")
            source = tracer.lineage.source(tensor)
            self._check_checkpoint(site)
            new = _fitted(tracer, site, tensor)
            self._made(tracer, site, source, new, {"module": call})
        try:
            return with_others(result, {key: new})
        except Unbuilt as kind:
            _refuse(
                f"{site.key!r} returns its tensor in a {kind}, which cannot be made anew: give the "
                "value to the row that it returns"
            )

    def of_inputs(self, tracer: Rows, rows: list[tuple[int, Tensor]], given: Any) -> Any:
        """The arguments, with other inputs."""
        if "input" not in self.functions:
            return given
        new = {id(t): self.of_row(tracer, row, t, False) for row, t in rows}
        changed = {key: new[key] for key in new if id(new[key]) != key}
        try:
            return with_others(given, changed)
        except Unbuilt:
            _refuse("an input is in an object that cannot be made anew: give other arguments")

    def _edit_row(
        self, tracer: Rows, site: Site, row: int, tensor: Tensor, inplace: bool
    ) -> Tensor:
        self._check_checkpoint(site)
        self.rows.add(row)
        if site.key in self.sites.every:
            self._every.append(row)
        if inplace:
            self._write(tracer, site, row, tensor)
            return tensor
        new = _fitted(tracer, site, tensor)
        edit = self._made(tracer, site, row, new)
        if self._is_shared(tracer, row, tensor):
            storage, given = storage_of(tensor), storage_of(new)
            view = _View(site.key, edit, storage, region_of(tensor), new, given)
            self._views.append(view)
            self.functions = _EVERY  # any of them may write it, or read it afterwards
        return new

    def _write(self, tracer: Rows, site: Site, row: int, tensor: Tensor) -> None:
        """Write the value where the row is a write: every alias shows it."""
        followed = torch.is_grad_enabled() and tensor.requires_grad
        if followed and is_function(site.value):
            _refuse(
                f"{site.key!r} is a write that autograd follows, and has no gradient through a "
                "function: give a value, or trace under torch.no_grad()"
            )
        if followed and tensor._is_view():
            _refuse(
                f"{site.key!r} is a write through a view, which autograd follows: trace under "
                "torch.no_grad()"
            )
        new = _fitted(tracer, site, tensor)
        storage = storage_of(tensor)
        tracer.values.preserve(storage)
        tracer.lineage.about_to_write(storage)
        kept: Any = nullcontext()
        if followed:
            # What made it may have kept it for its gradient, which from here on is asked of nobody.
            tensor.detach_()
            kept = _unsafe_preserve_version_counter(tensor)
        with kept:
            tensor.copy_(new)
        self._made(tracer, site, row, tensor, inplace=True)

    def _made(
        self,
        tracer: Rows,
        site: Site,
        source: int,
        tensor: Tensor,
        config: dict[str, Any] | None = None,
        inplace: bool = False,
    ) -> int:
        row = tracer.edited(source, tensor, config or {}, inplace)
        self.made.append((row, site.key))
        return row

    def _is_shared(self, tracer: Rows, row: int, tensor: Tensor) -> bool:
        """Whether others of the program hold the memory of a new tensor."""
        name = self._tape.calls[self._tape.rows[row].call].function.name
        if name in _ALIASING or tracer.handed.is_handed_back(tensor):
            return True
        is_view = tensor._is_view()
        # Torch does not tell views among inference tensors.
        if not is_view and not tensor.is_inference():
            return False
        n = tracer.values.n_kept(storage_of(tensor))
        if is_view:
            # Some functions give a view of what nobody else ever sees: `lstm`, `einsum`.
            return holders(tensor) > 2 + n or is_view_of_others(tensor)
        return holders(tensor) > 1 + n

    def _note_write(self, tensor: Tensor, func: str) -> None:
        storage = storage_of(tensor)
        for view in self._views:
            if storage == view.storage_given:
                _refuse(
                    f"{view.key!r} shares memory with other tensors, and {func} then writes it: "
                    "they would not show that. Give the value to the row that is written, or to "
                    "the module"
                )
            if storage == view.storage and overlap(region_of(tensor), view.region):
                self._stale[view.row] = func

    def _refuse_stale(self, sources: tuple[int, ...]) -> NoReturn:
        edit = next(source for source in sources if source in self._stale)
        key = next(view.key for view in self._views if view.row == edit)
        _refuse(
            f"{key!r} shares memory with other tensors, and {self._stale[edit]} wrote it before it "
            "was read again: give the value to the row that is written"
        )

    def _check_checkpoint(self, site: Site) -> None:
        if not (self._grad or torch.is_grad_enabled()):
            return
        frame: Any = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename == _CHECKPOINT:
                _refuse(
                    f"{site.key!r} is inside a checkpoint, whose second run for the gradient would "
                    "not have the value: trace under torch.no_grad(), or without the checkpoint"
                )
            frame = frame.f_back

    def _refuse_count(self, tracer: Rows, site: Site, tensors: list[Tensor]) -> NoReturn:
        if not tensors:
            _refuse(f"{site.key!r} returns no tensor, so there is nothing to give a value for")
        rows = [tracer.lineage.source(tensor) for tensor in tensors]
        ops = passes(self._tape).labels()
        labels = [ops[row] for row in rows if row >= 0]
        _refuse(
            f"{site.key!r} returns {len(tensors)} tensors: give the value to one of the rows "
            f"{shown(labels)}"
        )

    def problem(self, passes_of_run: Callable[[], Passes]) -> LensError | None:
        """What was asked for and did not happen, once the run is over."""
        if self.refused is not None:
            return self.refused
        return unreached(self.sites, self.made) or late(
            self._tape, self.sites.n_rows, self._every, self.rows, passes_of_run
        )


def _fitted(tracer: Rows, site: Site, tensor: Tensor) -> Tensor:
    try:
        if not is_function(site.value):
            return fitted(site.key, site.value, tensor)
        with tracer.modules.deaf():  # the modules that a function calls are none of the model's
            return fitted(site.key, site.value, tensor)
    except LensError as error:
        raise Refused(error) from None


def _refuse(reason: str) -> NoReturn:
    raise Refused(LensValueError(f"values: {reason}"))
