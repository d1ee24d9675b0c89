"""Which module call each operation happened in, and what each module call returned."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from types import CodeType, FrameType
from typing import Any, Protocol
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from lensframe_pd.capture.roots import is_compile_wrapper
from lensframe_pd.tape.objects import free_name, submodules, tensors_in
from lensframe_pd.tape.tape import ModuleCall, Tape

_CALL_IMPL = nn.Module._call_impl.__code__
_CALL_CODES = frozenset(
    id(code)
    for code in (
        _CALL_IMPL,
        nn.Module._wrapped_call_impl.__code__,
        *(c for c in _CALL_IMPL.co_consts if isinstance(c, CodeType)),
    )
)


class Listener(Protocol):
    """What a `ModuleStack` tells of module calls: the tracer."""

    left: Sequence[Callable[[int], None]]

    def began(self) -> None: ...
    def returned(self, tensor: Tensor, module: int) -> None: ...
    def ended(self, result: Any) -> None: ...
    def hands_over(self, result: Any, module: int) -> Any: ...
    def met(self, path: str, module: nn.Module) -> None: ...
    def met_code(self, code: CodeType) -> None: ...
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
        ends: Iterable[CodeType],
    ) -> None:
        self.tape = tape
        self.current = 0
        #: Whether modules may hand over something else than what they computed.
        self.edits_modules = False
        #: Code ids at which a call site ends: what is further out is not the user's, or another's.
        self.stops = {*_CALL_CODES, *map(id, ends)}
        self.paths: dict[int, tuple[Callable[[], nn.Module | None], str]] = {}
        self._tracer = ref(tracer)  # it holds this object: a circle would keep the tape alive
        self._scripts: list[tuple[int, AbstractContextManager[Any]]] = []
        self._counts: dict[str, int] = {}
        self._open: list[tuple[nn.Module, int]] = []
        self.closing: dict[int, FrameType] = {}
        self._made: dict[tuple[str, Any], str] = {}
        self._thread = threading.get_ident()
        self._handles: list[Any] = []
        for path, module in named:
            self.paths.setdefault(id(module), (ref(module), path))
        self._taken = {path for path, _ in named}
        root_type = type(roots[""]).__name__ if "" in roots else ""
        tape.modules.append(ModuleCall("", 1, -1, root_type, ()))

    def attach(self) -> None:
        """Hear of module calls from here on."""
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._exit, always_call=True),
        ]

    def detach(self) -> None:
        """Hear no more, and leave nothing open."""
        for handle in self._handles:
            handle.remove()
        self.closing.clear()
        while self._scripts:  # an interrupt left them open
            self._scripts.pop()[1].__exit__(None, None, None)

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread or is_compile_wrapper(module):
            return
        if self.closing:
            self.settle(sys._getframe(1))
        known = self.paths.get(id(module))
        site = self._caller(sys._getframe(1))
        if known is None or known[0]() is not module:  # ids are used again
            known = self._name_new(module, site)
        path = known[1]
        if isinstance(module, torch.jit.ScriptModule):
            mode = self._listener().script_mode()
            mode.__enter__()
            self._scripts.append((len(self._open), mode))
        self._listener().began()
        if not path:  # the model itself, possibly again from inside
            self._open.append((module, self.current))
            return
        number = self._counts[path] = self._counts.get(path, 0) + 1
        index = len(self.tape.modules)
        self.tape.modules.append(
            ModuleCall(path, number, self.current, type(module).__name__, site)
        )
        self._open.append((module, self.current))
        self.current = index

    def _exit(self, module: nn.Module, args: Any, result: Any) -> Any:
        if threading.get_ident() != self._thread or is_compile_wrapper(module):
            return None
        if self.closing:
            self.settle(sys._getframe(1))
        if not self._open or self._open[-1][0] is not module:
            if all(opened is not module for opened, _ in self._open):
                return None
            while self._open[-1][0] is not module:  # calls that an exception left open
                self._close(None)
        other = None
        if self.edits_modules and self.current != self._open[-1][1]:
            other = self._listener().hands_over(result, self.current)
            result = result if other is None else other
        frame = sys._getframe(1)
        if module._forward_hooks or module._backward_hooks or module._backward_pre_hooks:
            while frame.f_code is not _CALL_IMPL and frame.f_back is not None:
                frame = frame.f_back
            self.closing[len(self._open) - 1] = frame
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
            if id(waiting) in running or position >= len(self._open):
                break
            while len(self._open) > position + 1:
                self._close(None)
            del self.closing[position]
            self._close(waiting.f_locals.get("result"))

    def _close(self, result: Any) -> None:
        _, before = self._open.pop()
        if self._scripts and self._scripts[-1][0] == len(self._open):
            self._scripts.pop()[1].__exit__(None, None, None)
        self.closing.pop(len(self._open), None)
        index = self.current
        tracer = self._listener()
        if index == before:  # the model itself
            tracer.ended(result)
            return
        if type(result) is Tensor:
            tracer.returned(result, index)
        elif result is not None:
            for _, tensor in tensors_in(result):
                tracer.returned(tensor, index)
        tracer.ended(result)
        self.current = before
        for left in tracer.left:
            left(index)

    def _listener(self) -> Listener:
        tracer = self._tracer()
        assert tracer is not None  # the hooks are there only while it runs
        return tracer

    def _caller(self, frame: FrameType | None) -> tuple[int, ...]:
        """The frames from the caller of a module outward, to the next module call around it."""
        while frame is not None and id(frame.f_code) in _CALL_CODES:
            frame = frame.f_back
        return self.site(frame)

    def site(self, frame: FrameType | None) -> tuple[int, ...]:
        site: list[int] = []
        codes, stops = self.tape.codes, self.stops
        while frame is not None:
            code = frame.f_code
            key = id(code)
            if key in stops:
                break
            if key not in codes:
                codes[key] = code
                self._listener().met_code(code)
            site += (key, frame.f_lasti)
            frame = frame.f_back
        return tuple(site)

    def _name_new(self, module: nn.Module, site: Any) -> tuple[Callable[[], Any], str]:
        """A module the model did not hold at the start: its class names it, once per place."""
        parent = self.tape.modules[self.current].path
        base = f"{parent}.{type(module).__name__}" if parent else type(module).__name__
        place = (base, site)
        if place not in self._made:
            self._made[place] = free_name(base, self._taken)
            self._taken.add(self._made[place])
        path = self._made[place]
        for name, child in submodules(module, path):
            known = self.paths.get(id(child))
            if known is None or known[0]() is not child:  # it may be handed a module of the model's
                self.paths[id(child)] = (ref(child), name)
        self._listener().met(path, module)
        return self.paths[id(module)]
