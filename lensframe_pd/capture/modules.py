"""Which module call each operation happened in, and what each module call returned."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from lensframe_pd.capture.callsites import CALL, CALL_IMPL, caller_of_module
from lensframe_pd.capture.handed import HandedBack
from lensframe_pd.capture.roots import is_compile_wrapper
from lensframe_pd.tape.objects import free_name, submodules, tensors_of
from lensframe_pd.tape.tape import ModuleCall, Site, Tape

_HOOKS = 3  # frames from a global hook out to what `module(...)` runs
_thread = threading.get_ident


@dataclass(slots=True, eq=False)
class _Met:
    """What is known of a module, once for all its calls."""

    path: str
    type_name: str
    is_wrapper: bool
    """Of `torch.compile`, which is no module of the model's."""
    is_special: bool
    """Such a wrapper, or a ScriptModule."""


class Listener(Protocol):
    """What a `ModuleStack` tells of module calls: the tracer."""

    left: Sequence[Callable[[int], None]]
    handed: HandedBack

    def returned(self, tensor: Tensor, module: int) -> None: ...
    def hands_over(self, result: Any, module: int) -> Any: ...
    def met(self, path: str, module: nn.Module) -> None: ...
    def script_mode(self) -> AbstractContextManager[Any]: ...


class ModuleStack:
    """Follows the calls of the model's modules with torch's global forward hooks.

    `current` is the index in `tape.modules` of the innermost running module call. A module with
    forward hooks of its own stays open until its `__call__` has returned, so that what those
    hooks compute belongs to it and what they return is what it returned.
    """

    def __init__(
        self,
        tape: Tape,
        roots: dict[str, nn.Module],
        named: list[tuple[str, nn.Module]],
        tracer: Listener,
        site_of: Callable[[FrameType | None], Site],
    ) -> None:
        self.tape = tape
        self.current = 0
        #: Paths of modules that may hand over something else than what they computed.
        self.edited: set[str] = set()
        self._site_of = site_of
        #: Of the model's modules, which are held until the run is over, so that ids stay theirs.
        self._met = {id(module): _met(module, path) for path, module in named}
        self._named = named
        #: Of those that the run makes, and may let go of.
        self._made: dict[int, tuple[Callable[[], nn.Module | None], _Met]] = {}
        self._weak_tracer = ref(tracer)  # it holds this object: a circle would keep the tape alive
        self._running: Listener | None = None
        self._scripts: list[tuple[int, AbstractContextManager[Any]]] = []
        self._counts: dict[str, int] = {}
        #: The running calls: the module, the call around it, how many rows there were before.
        self.open: list[tuple[nn.Module, int, int]] = []
        self.closing: dict[int, FrameType] = {}
        self._names: dict[tuple[str, Any], str] = {}
        self._taken: set[str] | None = None
        self._thread = threading.get_ident()
        self._handles: list[Any] = []
        root_type = type(roots[""]).__name__ if "" in roots else ""
        self._modules = tape.module_log.entries
        self._rows = tape.row_log.entries
        self._modules.append(ModuleCall("", 1, -1, root_type, ()))

    def attach(self) -> None:
        """Hear of module calls from here on."""
        self._running = self._weak_tracer()
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._exit, always_call=True),
        ]

    def detach(self) -> None:
        """Hear no more, and leave nothing open."""
        for handle in self._handles:
            handle.remove()
        self._running = None
        self.closing.clear()
        while self._scripts:  # an interrupt left them open
            self._scripts.pop()[1].__exit__(None, None, None)

    @contextmanager
    def deaf(self) -> Iterator[None]:
        """While code runs that is not the model's: its module calls are none of the model's."""
        before, self._thread = self._thread, 0  # no thread has that number
        try:
            yield
        finally:
            self._thread = before

    def forget(self) -> None:
        """The run is over: refer to no module any more."""
        self._met.clear()
        self._made.clear()
        self._named = []

    def _enter(self, module: nn.Module, args: Any) -> None:
        # Both hooks run at every module call, so in few steps.
        if _thread() != self._thread:
            return
        if self.closing:
            self.settle(sys._getframe(1))
        met = self._met.get(id(module)) or self._met_of_made(module)
        if met is None:
            if is_compile_wrapper(module):
                return
            met = self._name_new(module, self._site_of(caller_of_module(sys._getframe(1))))
        if met.is_special:
            if met.is_wrapper:
                return
            mode = self._listener().script_mode()
            mode.__enter__()
            self._scripts.append((len(self.open), mode))
        path, before = met.path, self.current
        self.open.append((module, before, len(self._rows)))
        if not path:  # the model itself, possibly again from inside
            return
        called = sys._getframe(_HOOKS)
        if called.f_code is CALL:
            caller = called.f_back
        else:
            caller = caller_of_module(sys._getframe(1))
        number = self._counts[path] = self._counts.get(path, 0) + 1
        modules = self._modules
        self.current = len(modules)
        modules.append((path, number, before, met.type_name, self._site_of(caller)))  # `ModuleCall`

    def _exit(self, module: nn.Module, args: Any, result: Any) -> Any:
        if _thread() != self._thread:
            return None
        if self.closing:
            self.settle(sys._getframe(1))
        opened = self.open
        if not opened or opened[-1][0] is not module:  # a wrapper's call is never open
            if all(other is not module for other, _, _ in opened):
                return None
            while opened[-1][0] is not module:  # calls that an exception left open
                self._close(None)
        other = None
        edited, index = self.edited, self.current
        if edited and index != opened[-1][1] and self._modules[index][0] in edited:
            other = self._listener().hands_over(result, self.current)
            result = result if other is None else other
        if module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
            frame = sys._getframe(1)
            while frame.f_code is not CALL_IMPL and frame.f_back is not None:
                frame = frame.f_back
            self.closing[len(opened) - 1] = frame
        else:
            self._close(result)
        return other

    def settle(self, frame: FrameType | None) -> None:
        """Close the calls whose own hooks have finished since, seen from a later `frame`."""
        running = set()
        while frame is not None:
            running.add(id(frame))
            frame = frame.f_back
        while self.closing:
            position = max(self.closing)
            waiting = self.closing[position]
            if id(waiting) in running or position >= len(self.open):
                break
            while len(self.open) > position + 1:
                self._close(None)
            del self.closing[position]
            self._close(waiting.f_locals.get("result"))

    def _close(self, result: Any) -> None:
        _, before, n_rows = self.open.pop()
        depth = len(self.open)
        if self._scripts and self._scripts[-1][0] == depth:
            self._scripts.pop()[1].__exit__(None, None, None)
        if self.closing:
            self.closing.pop(depth, None)
        index = self.current
        tracer = self._running
        assert tracer is not None
        if index != before:  # of the model itself, all is known
            if type(result) is Tensor:
                tracer.returned(result, index)
            elif result is not None:
                for tensor in tensors_of(result):
                    tracer.returned(tensor, index)
        if tracer.handed.some:
            tracer.handed.end(result, depth, n_rows)
        if index != before:
            self.current = before
            for left in tracer.left:
                left(index)

    def _listener(self) -> Listener:
        tracer = self._running
        assert tracer is not None  # the hooks are there only while it runs
        return tracer

    def _met_of_made(self, module: nn.Module) -> _Met | None:
        """What is known of a module that the run has made."""
        alive, met = self._made.get(id(module), (None, None))
        return met if alive is not None and alive() is module else None  # ids are used again

    def _name_new(self, module: nn.Module, site: Any) -> _Met:
        """A module the model did not hold at the start: its class names it, once per place."""
        parent = self.tape.modules[self.current].path
        base = f"{parent}.{type(module).__name__}" if parent else type(module).__name__
        place = (base, site)
        if place not in self._names:
            if self._taken is None:
                self._taken = {path for path, _ in self._named}
            self._names[place] = free_name(base, self._taken)
            self._taken.add(self._names[place])
        path = self._names[place]
        for name, child in submodules(module, path):
            # it may be handed a module of the model's
            if id(child) not in self._met and self._met_of_made(child) is None:
                self._made[id(child)] = ref(child), _met(child, name)
        self._listener().met(path, module)
        return self._made[id(module)][1]


def _met(module: nn.Module, path: str) -> _Met:
    kind = type(module)
    wrapper = is_compile_wrapper(module)
    return _Met(path, kind.__name__, wrapper, wrapper or issubclass(kind, _SCRIPTED))


_SCRIPTED = torch.jit.ScriptModule
