"""Run a model once and write down every torch function it calls.

A `TorchFunctionMode` sees each call that Python makes into torch; nothing is patched.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from types import CodeType
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, redispatch_function
from torch.utils._python_dispatch import TorchDispatchMode

from lensframe_pd.capture.edits import Edits
from lensframe_pd.capture.fused import ATTENTION, leaves_fused
from lensframe_pd.capture.handed import HandedBack
from lensframe_pd.capture.modules import ModuleStack
from lensframe_pd.capture.origins import Origins
from lensframe_pd.capture.recorder import ATOMS, NO_KWARGS, SYNTHETIC, Recorder
from lensframe_pd.capture.selections import selection_of
from lensframe_pd.capture.unseen import UnseenWrites, recordable, writes_unseen
from lensframe_pd.capture.values import Values
from lensframe_pd.capture.watch import Watcher, overridden
from lensframe_pd.tape.context import generator_state, none_drawn
from lensframe_pd.tape.functions import KNOWN, Action, Function, describe
from lensframe_pd.tape.objects import tensors_of
from lensframe_pd.tape.rebuilt import with_others
from lensframe_pd.tape.storage import (
    distinct,
    is_foreign,
    perform,
    sparse_parts,
    storage_of,
    written_arguments,
)
from lensframe_pd.tape.tape import SCRIPT, SLOT, Tape

_NUMBERS = frozenset((bool, int, float, complex))
_HANDLE = handle_torch_function.__code__
_push = torch._C._push_on_torch_function_stack
_pop = torch._C._pop_torch_function_stack
_known = KNOWN.get  # an imported name's method is looked up anew at each call
_PLAIN, _SKIP = Action.PLAIN, Action.SKIP  # a look-up in an Enum is dear


class Tracer(Recorder):
    """The function mode that fills a `Tape`."""

    def __init__(
        self,
        tape: Tape,
        values: Values,
        origins: Origins,
        roots: dict[str, nn.Module],
        named: list[tuple[str, nn.Module]],
        watchers: Sequence[Watcher],
        ends: Iterable[CodeType],
    ) -> None:
        super().__init__(tape, values, origins, watchers, ends, _OPEN)
        self.modules = ModuleStack(tape, roots, named, self, self._site)
        self._closing = self.modules.closing
        self.handed.running = self.modules.open
        self._returned = overridden(watchers, "returned")
        self._returns = tape.returns
        self.left = overridden(watchers, "left")
        self._about_to_write = overridden(watchers, "about_to_write")
        self._opening: Any = None
        self.n_reads = 0
        #: What gives tensors other values, if anything does.
        self.edits: Edits | None = None
        #: Whether it is known before the run that the model may write what no function mode sees.
        self.writes_unseen = False
        self._unseen: UnseenWrites | None = None
        #: Whether the call is one of a dispatch mode, below what counts a tensor's writes.
        self._dispatched = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._closing:  # first: what a module has handed back is told when it is closed
            self.modules.settle(sys._getframe(1))
        function = _known(func) or describe(func)
        action = function.action
        if action is _PLAIN and (not kwargs or kwargs.get("out") is None):
            start = perf_counter()
            try:
                result = func(*args, **kwargs) if kwargs else func(*args)
            except Exception:
                self._tell((args, kwargs))
                raise
            seconds = perf_counter() - start
            if type(result) is Tensor:
                template = self._template(args, kwargs)
                site = self._site(sys._getframe(1))
                call = self._call(function, template, seconds, None, site)
                if function.selects is not None:
                    self._note_selection(call, function.selects, args, kwargs)
                row = self._row(result, call, 0)
                if self.edits is not None and function.name in self.edits.functions:
                    return self.edits.of_row(self, row, result, False)
            elif type(result) in _NUMBERS:  # a decision: Python has it now, and no tensor does
                self._note_read(function.name, args, kwargs or NO_KWARGS)
            elif result is not None and type(result) not in ATOMS:
                return self._rows_of(result, function, args, kwargs, seconds)
            return result
        if action is _SKIP:
            if function.tells:
                self._note_told(function, args, kwargs)
            return func(*args, **(kwargs or NO_KWARGS))
        if action is Action.OPEN and func is not self._opening:
            return self._open(func, types, args, kwargs)
        if action is Action.READ:
            return self._read(function, args, kwargs or {})
        return self._call_carefully(function, args, kwargs or {})

    def _open(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Run a Python composite under this mode, so that its inner calls are seen."""
        sites = self.call_sites
        before, outer = self._opening, sites.outer
        frame: Any = sys._getframe(2)
        if func is ATTENTION and leaves_fused(frame):
            self.tape.unfused[self.modules.current] = None
        if frame.f_code is _HANDLE:  # the composite asked torch to ask here: its body runs anew
            frame = frame.f_back.f_back
        self._opening, sites.outer = func, sites.of(frame)
        _push(self)  # as `with self` does, in fewer steps: most activations are composites
        try:
            return redispatch_function(func, types, args, kwargs or NO_KWARGS)
        finally:
            _pop()
            self._opening, sites.outer = before, outer

    def _read(self, function: Function, args: Any, kwargs: Any) -> Any:
        if function.lends:
            self._lend(args[0])
        try:
            result = function.func(*args, **kwargs)
        except Exception:
            self._tell((args, kwargs))
            raise
        self._note_read(function.name, args, kwargs)
        return result

    def _lend(self, tensor: Tensor) -> None:
        """Somebody has the memory of a tensor from here on, and may read and write it unseen."""
        self.values.expose(tensor)
        known = self.lineage.known(tensor)
        if known is not None:
            self.tape.lent.add(known.source)

    def _note_told(self, function: Function, args: Any, kwargs: Any) -> None:
        """What a call without a row says of its arguments."""
        if function.tells == "gradient":
            self._note_gradient(function.name, args)
            return
        if function.lends:
            self._lend(args[0])
        if function.tells == "value":
            self._tell((args, kwargs))
            return
        rows = self.tape.placed if function.tells == "layout" else self.tape.followed
        known = self.lineage.known(args[0]) if args else None
        if known is not None:
            rows.add(known.source)

    def _tell(self, given: Any) -> None:
        """The program has learned something of what these tensors show."""
        with torch._C.DisableTorchFunction():
            for tensor in tensors_of(given):
                self.lineage.tell(tensor)

    def _note_read(self, name: str, args: Any, kwargs: Any) -> None:
        """Python has read the values of these tensors."""
        self.n_reads += 1
        site = self._site(sys._getframe(1))
        for tensor in (*args, *kwargs.values()):
            if isinstance(tensor, Tensor):
                known = self._live.get(id(tensor))
                if known is not None and known() is tensor and known.source >= 0:
                    reads = self.tape.reads.setdefault(self.lineage.fresh(tensor, known), [])
                    reads.append((name, site, self.modules.current))
                elif known is None or known() is not tensor:
                    self.lineage.tell(tensor)

    def _call_carefully(self, function: Function, args: Any, kwargs: Any) -> Any:
        """A call that may write its arguments or draw random numbers."""
        template = self._template(args[:1] if function.name == "deepcopy" else args, kwargs)
        writable = written_arguments(args, kwargs, function)
        for tensor in writable:
            known = self._live.get(id(tensor))
            storage = known.storage if known else storage_of(tensor)
            self.values.preserve(storage)
            self.lineage.about_to_write(storage)
            for part in () if storage else sparse_parts(tensor):
                self.values.preserve(storage_of(part))
        for watch in self._about_to_write:
            watch(template[2])
        state = generator_state(args, kwargs) if function.random else None
        first = function.selects
        selection = None if first is None else selection_of(first, args, kwargs)  # as it was before
        try:
            done = perform(function, args, kwargs, writable)
        except Exception:
            self._tell((args, kwargs))
            raise
        if state is not None and none_drawn(state, args, kwargs):
            state = None
        call, first = -1, -1
        written = {id(t) for t in done.written}
        made = distinct(done.made)
        for slot, tensor in enumerate(made):
            if call < 0:  # a call that made and wrote nothing is none
                call = self._call(function, template, done.seconds, state)
                if selection:
                    self.tape.selections[call] = selection
            inplace = id(tensor) in written
            if is_foreign(tensor) or (inplace and self._counts_again(sys._getframe(1))):
                self.values.expose(tensor)
            row = self._row(tensor, call, slot, inplace)
            first = row if first < 0 else first
            if inplace and not function.repoints:
                self.lineage.wrote(tensor, row)
        if _has_numbers(done.result):
            self._tell((args, kwargs))
        if self.edits is not None and made and function.name in self.edits.functions:
            return self._with_edits(done.result, first, made)
        return done.result

    def _counts_again(self, frame: Any) -> bool:
        """Whether a write moves its tensor's version again when this call is over."""
        return self._dispatched or self.values.counts_again(frame)

    def scripted(self, func: Any, args: Any, kwargs: Any, ordinal: int) -> Any:
        """An ATen operator inside a ScriptModule; its place in the call stands for its site."""
        if self._closing:
            self.modules.settle(sys._getframe(1))
        before, self._script_site = self._script_site, (SCRIPT, ordinal)
        self._dispatched = True
        try:
            return self._call_carefully(describe(func), args, kwargs)
        finally:
            self._script_site = before
            self._dispatched = False

    def _rows_of(
        self, result: Any, function: Function, args: Any, kwargs: Any, seconds: float
    ) -> Any:
        made = tensors_of(result)
        if _has_numbers(result):
            self._tell((args, kwargs))
        if made:
            call = self._call(function, self._template(args, kwargs), seconds)
            if function.selects is not None:
                self._note_selection(call, function.selects, args, kwargs)
            first = len(self._rows)
            for slot, tensor in enumerate(made):
                self._row(tensor, call, slot)
            if self.edits is not None and function.name in self.edits.functions:
                return self._with_edits(result, first, made)
        return result

    def _with_edits(self, result: Any, first: int, made: Sequence[Tensor]) -> Any:
        """The result of a call whose rows begin with `first`, with other values where given."""
        assert self.edits is not None
        of_row, rows, instead = self.edits.of_row, self._rows, {}
        for row, tensor in enumerate(made, first):
            new = of_row(self, row, tensor, rows[row][7])  # row.inplace
            if new is not tensor:
                instead[id(tensor)] = new
        return with_others(result, instead) if instead else result

    def _note_selection(self, call: int, first: int, args: Any, kwargs: Any) -> None:
        """Which entries a call took: needed to say which stimulus each entry of its result is."""
        selection = selection_of(first, args, kwargs or NO_KWARGS)
        if selection:
            self.tape.selections[call] = selection

    def _note_gradient(self, name: str, args: Any) -> None:
        """`.grad`, when read later, comes from the loss `args[0]`; or it is assigned."""
        if name == "grad":
            if isinstance(args[-1], Tensor):
                self._assigned[id(args[-1])] = ref(args[-1])
            return
        for tensor in args[:1]:
            known = self._live.get(id(tensor))
            if known is not None and known.source >= 0:
                self._differentiated.append(known.source)

    def returned(self, tensor: Tensor, module: int) -> None:
        """A module call returned this tensor."""
        known = self._live.get(id(tensor))
        if known is None or known() is not tensor or known.storage in self._writes:
            with torch._C.DisableTorchFunction():
                source = self.lineage.source(tensor)
        else:
            source = known.source
        if source >= 0:
            self._returns.append((module, source))
            for watch in self._returned:
                with torch._C.DisableTorchFunction():  # in a hook the mode would see what follows
                    watch(source, tensor, module)

    @property
    def in_script(self) -> bool:
        """Whether an operator of a ScriptModule is running."""
        return bool(self._script_site)

    def edited(self, source: int, tensor: Tensor, config: dict[str, Any], inplace: bool) -> int:
        """A row for the value that was given instead of that of `source`.

        `config` is empty where `source` was made just now, so that its place is known.
        """
        if inplace:
            call = self._call(SYNTHETIC["edit"], ((SLOT,), config, (source,)))
            self.tape.kinds[len(self._rows)] = "edit"
            row = self._row(tensor, call, 0, True)
            self.lineage.wrote(tensor, row)
            return row
        site = None if config else self.tape.calls[self._rows[source][0]].site
        return self._synthetic_row("edit", (source,), tensor, "", config, site)

    def hands_over(self, result: Any, module: int) -> Any:
        """What a module call returns instead of `result`; None where that is it."""
        return None if self.edits is None else self.edits.of_module(self, module, result)

    def met(self, path: str, module: nn.Module) -> None:
        """The model made a module while it ran."""
        self.lineage.hold_all(path, module)

    def script_mode(self) -> AbstractContextManager[Any]:
        """What makes rows while a ScriptModule runs."""
        return _ScriptOperators(self)

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is entered while the model runs."""
        self._unseen = UnseenWrites(self, self._make_unseen)
        self.call_sites.told = self._met_code
        try:
            with self._unseen.ready(), self:
                if self.writes_unseen:
                    self._unseen.enter()
                yield
        finally:
            self._unseen = self.call_sites.told = None  # they hold this object

    def _met_code(self, code: CodeType) -> None:
        """Code runs that did not before."""
        if self._unseen is not None and writes_unseen(code):
            self._unseen.enter()

    def _make_unseen(self, func: Any, args: Any, kwargs: Any, number: Tensor | None) -> Any:
        """An ATen operator that came from no call this mode was shown."""
        if self._script_site:  # it belongs to an operator of a ScriptModule, whose rows are made
            return func(*args, **kwargs)
        if self._closing:
            self.modules.settle(sys._getframe(1))
        self._dispatched = True
        try:
            with self.lineage.passing_view(args[0] if args else None):
                func, args = recordable(func, args, number)
                return self._call_carefully(describe(func), args, kwargs)
        finally:
            self._dispatched = False

    def forget(self) -> None:
        """The run is over: refer to nothing of the model's any more."""
        self.lineage.forget()
        self.handed = HandedBack(self.tape, self._live)
        self.modules.forget()


_OPEN = Tracer._open.__code__


def _has_numbers(result: Any) -> bool:
    """Whether a call gave Python a number, or some among other things."""
    kind = type(result)
    if kind is tuple or kind is list:
        return not _NUMBERS.isdisjoint(map(type, result))
    return kind in _NUMBERS


class _ScriptOperators(TorchDispatchMode):
    """Inside a ScriptModule no Python calls torch: its ATen operators are the rows."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._count += 1
        with torch._C.DisableTorchFunction():
            return self._tracer.scripted(func, args, kwargs or {}, self._count)
