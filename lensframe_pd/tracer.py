"""Run a model once and write down every torch function it calls.

A `TorchFunctionMode` sees each call that Python makes into torch; nothing is patched. The
identity of a tensor (its `id`, checked with a weak reference) links it to the row that made it;
the address of its storage links it to its views, so that a write through one alias is seen by
all others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor, nn
from torch._C import _is_any_autocast_enabled, _storage_address
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.nn import Parameter
from torch.nn.parameter import UninitializedTensorMixin
from torch.overrides import TorchFunctionMode, redispatch_function
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass

from lensframe_pd import modules
from lensframe_pd.constants import Origins
from lensframe_pd.functions import KNOWN, Action, Function, describe, synthetic
from lensframe_pd.modules import ModuleStack
from lensframe_pd.tape import SCRIPT, SLOT, Call, Context, Held, Opaque, Row, Site, Tape, tensors_in
from lensframe_pd.values import Values

_ATOMS = frozenset(
    (int, float, bool, str, type(None), complex, bytes, type(Ellipsis), torch.dtype,
     torch.device, torch.layout, torch.memory_format, torch.Size, type)
)  # fmt: skip
_CPU = torch.device("cpu")
_NO_KWARGS: dict[str, Any] = {}

INPUT = synthetic("input")
OUTPUT = synthetic("output", "input")
CONSTANT = synthetic("constant")
ALIAS = synthetic("alias", "input")

_is_grad_enabled = torch.is_grad_enabled
_is_inference = torch.is_inference_mode_enabled


Template = tuple[tuple[Any, ...], dict[str, Any], tuple[int, ...]]
_new = tuple.__new__  # a NamedTuple without the cost of its constructor


class Known(NamedTuple):
    """What is known of a living tensor."""

    alive: Callable[[], Tensor | None]
    source: int
    """Its row, or `-1 - k` for the k-th held parameter or buffer."""
    storage: int
    """Address of its storage, 0 where it has none."""


class Write(NamedTuple):
    """One write into a storage: the row it gave, and the bytes from `low` up to `high`."""

    row: int
    low: int
    high: int


class Tracer(TorchFunctionMode):
    """The function mode that fills a `Tape`."""

    def __init__(
        self, tape: Tape, values: Values, origins: Origins, roots: dict[str, nn.Module]
    ) -> None:
        super().__init__()
        self.tape = tape
        self.values = values
        self._take = values.take
        self._calls, self._rows = tape.calls, tape.rows
        self.origins = origins
        self.modules = ModuleStack(
            tape, roots, self.returned, self.hold_all, lambda: _ScriptOperators(self)
        )
        self._codes, self._stops = tape.codes, self.modules.stops
        self._live: dict[int, Known] = {}
        self._storages: dict[int, int] = {}
        self._writes: dict[int, list[Write]] = {}
        self._opening: Any = None
        self._outer: Site = ()
        self._script_site: Site = ()
        self._differentiated: list[int] = []
        self._contexts: dict[Any, Context] = {}
        self.on_row: Callable[[int], None] | None = None

    # ------------------------------------------------------------------ calls

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        function = KNOWN.get(func) or describe(func)
        action = function.action
        if action is Action.PLAIN and (not kwargs or kwargs.get("out") is None):
            start = perf_counter()
            result = func(*args, **kwargs) if kwargs else func(*args)
            seconds = perf_counter() - start
            if type(result) is Tensor:
                template = self._template(args, kwargs)
                call = self._call(function, template, seconds, None, sys._getframe(1))
                self._row(result, call, 0)
            elif result is not None and type(result) not in _ATOMS:
                self._rows_of(result, function, args, kwargs, seconds)
            return result
        if action is Action.SKIP:
            if function.name == "backward":
                self._note_backward(args)
            return func(*args, **(kwargs or _NO_KWARGS))
        if action is Action.OPEN and func is not self._opening:
            return self._open(func, types, args, kwargs)
        if action is Action.READ:
            return self._read(function, args, kwargs or {})
        return self._call_carefully(function, args, kwargs or {})

    def _open(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Run a Python composite under this mode, so that its inner calls are seen."""
        before, outer = self._opening, self._outer
        self._opening, self._outer = func, self._site(sys._getframe(2))
        try:
            with self:
                return redispatch_function(func, types, args, kwargs or {})
        finally:
            self._opening, self._outer = before, outer

    def _read(self, function: Function, args: Any, kwargs: Any) -> Any:
        result = function.func(*args, **kwargs)
        site = self._site(sys._getframe(2))
        for tensor in (*args, *kwargs.values()):
            if isinstance(tensor, Tensor):
                known = self._live.get(id(tensor))
                if known is not None and known.alive() is tensor and known.source >= 0:
                    reads = self.tape.reads.setdefault(self._fresh(tensor, known), [])
                    reads.append((function.name, site, self.modules.current))
                    if function.name in ("numpy", "dlpack"):  # from here on written unseen
                        self.values.preserve(known.storage)
                        self.values.share(known.storage)
        return result

    def _call_carefully(self, function: Function, args: Any, kwargs: Any) -> Any:
        """A call that may write its arguments or draw random numbers."""
        template = self._template(args[:1] if function.name == "deepcopy" else args, kwargs)
        written = _arguments(args, kwargs, function)
        versions = [_version(t) for t in written]
        for tensor in written:
            known = self._live.get(id(tensor))
            self.values.preserve(known.storage if known else _storage(tensor))
        state = _generator_state(args, kwargs) if function.random else None
        start = perf_counter()
        result = function.func(*args, **kwargs)
        seconds = perf_counter() - start
        if state is not None and torch.equal(state, _generator_state(args, kwargs)):
            state = None
        if not function.certain:
            written = [
                t for t, v in zip(written, versions, strict=True) if v is None or _version(t) != v
            ]
        made = [] if type(result) in _ATOMS else [t for _, t in tensors_in(result)]
        call = -1
        ids = {id(t) for t in written}
        for slot, tensor in enumerate(_distinct([*made, *written])):
            if call < 0:
                call = self._call(function, template, seconds, state)
            inplace = id(tensor) in ids
            row = self._row(tensor, call, slot, inplace)
            if inplace:
                self._note_write(tensor, row)
        return result

    def scripted(self, func: Any, args: Any, kwargs: Any, ordinal: int) -> Any:
        """An ATen operator inside a ScriptModule; its place in the call stands for its site."""
        before, self._script_site = self._script_site, (SCRIPT, ordinal)
        try:
            return self._call_carefully(describe(func), args, kwargs)
        finally:
            self._script_site = before

    def _rows_of(
        self, result: Any, function: Function, args: Any, kwargs: Any, seconds: float
    ) -> None:
        made = [tensor for _, tensor in tensors_in(result)]
        if made:
            call = self._call(function, self._template(args, kwargs), seconds)
            for slot, tensor in enumerate(made):
                self._row(tensor, call, slot)

    def _call(
        self,
        function: Function,
        template: Template,
        seconds: float = 0.0,
        state: Tensor | None = None,
        frame: Any = None,
    ) -> int:
        kept, kept_kwargs, sources = template
        if self._differentiated and function.name == "grad":
            kept_kwargs = {**kept_kwargs, "backward": [SLOT for _ in self._differentiated]}
            sources = (*sources, *self._differentiated)
        if frame is None:
            frame = sys._getframe(1)
            while frame.f_code.co_filename in OWN_FILES:
                frame = frame.f_back
        modules = self.modules
        if modules.closing:
            modules.settle(frame)
        switches = (_is_grad_enabled(), _is_inference(), _is_any_autocast_enabled())
        context = self._contexts.get(switches)
        if context is None or context.autocast:
            context = self._contexts[switches] = _context()
        calls = self._calls
        calls.append(
            _new(
                Call,
                (function, kept, kept_kwargs, sources, self._script_site or self._site(frame),
                 modules.current, context, seconds, state),
            )  # fmt: skip
        )
        return len(calls) - 1

    def _site(self, frame: Any) -> Site:
        codes, stops = self._codes, self._stops
        code = frame.f_code
        key = id(code)
        site: Site = ()
        while key not in stops:
            if key == _OPEN:  # inside an opened composite: its caller's site is known
                return site + self._outer
            codes[key] = code
            site += (key, frame.f_lasti)
            frame = frame.f_back
            if frame is None:
                break
            code = frame.f_code
            key = id(code)
        return site

    # -------------------------------------------------------------- arguments

    def _template(self, args: Any, kwargs: Any) -> Template:
        """The arguments with `SLOT` for each tensor, and where those tensors came from."""
        sources: list[int] = []
        live, writes, kept = self._live, self._writes, []
        for value in args:
            kind = type(value)
            if kind is Tensor or kind is Parameter:
                known = live.get(id(value))
                if known is None or known[0]() is not value or known[2] in writes:
                    sources.append(self.source(value))
                else:
                    sources.append(known[1])
                kept.append(SLOT)
            elif kind in _ATOMS:
                kept.append(value)
            else:
                kept.append(self._fold(value, sources))
        if not kwargs:
            return tuple(kept), _NO_KWARGS, tuple(sources)
        named = {name: self._fold(value, sources) for name, value in kwargs.items()}
        return tuple(kept), named, tuple(sources)

    def _fold(self, value: Any, sources: list[int]) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if isinstance(value, Tensor):
            sources.append(self.source(value))
            return SLOT
        if kind is tuple or kind is list:
            return kind([v if type(v) in _ATOMS else self._fold(v, sources) for v in value])
        if kind is slice:
            parts = (value.start, value.stop, value.step)
            return slice(*(self._fold(part, sources) for part in parts))
        if isinstance(value, tuple):
            return tuple(self._fold(v, sources) for v in value)
        if isinstance(value, dict):
            return {k: self._fold(v, sources) for k, v in value.items()}
        return _plain(value)

    def source(self, tensor: Tensor) -> int:
        """The row that made `tensor` (or the held parameter it is), as it stands now."""
        known = self._live.get(id(tensor))
        if known is not None and known.alive() is tensor:
            return self._fresh(tensor, known)
        return self._meet(tensor)

    def _fresh(self, tensor: Tensor, known: Known) -> int:
        """`known.source`, or a new alias row if the storage was written through another alias."""
        log = self._writes.get(known.storage)
        if not log or log[-1].row <= known.source:
            return known.source
        low, high = _extent(tensor)
        newer: dict[tuple[int, int], int] = {}
        for write in reversed(log):
            if write.row <= known.source:
                break
            if write.low < high and low < write.high:
                newer.setdefault((write.low, write.high), write.row)
        if not newer:
            return known.source
        return self._alias(tensor, (known.source, *reversed(newer.values())))

    def _alias(self, tensor: Tensor, sources: tuple[int, ...]) -> int:
        args = (SLOT,) * len(sources)
        call = self._call(ALIAS, (args, _NO_KWARGS, sources))
        row = len(self.tape.rows)
        self.tape.kinds[row] = "alias"
        return self._row(tensor, call, 0)

    def _meet(self, tensor: Tensor) -> int:
        """A tensor no call was seen to make."""
        inner = unwrapped(tensor)
        if inner is not tensor:
            source = self.source(inner)
            if source >= 0:
                self._live[id(tensor)] = Known(ref(tensor), source, _storage(inner))
            return source
        storage = _storage(tensor)
        twin = self._twin(tensor, storage)
        if twin is not None:
            row, same = twin
            if not same:
                return self._alias(tensor, (row,))
            self._live[id(tensor)] = Known(ref(tensor), row, storage)
            return row
        if is_traceable_wrapper_subclass(tensor):
            parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
            sources = tuple(self.source(t) for t in parts if self._is_known(t))
            if sources:
                return self._alias(tensor, sources)
        if isinstance(tensor, Parameter):
            name = self.origins.find(tensor, sys._getframe(1))
            if name is not None:
                return self.hold(name, tensor, True)
        return self.constant(tensor)

    def _is_known(self, tensor: Any) -> bool:
        known = self._live.get(id(tensor))
        return known is not None and known.alive() is tensor

    def _twin(self, tensor: Tensor, storage: int) -> tuple[int, bool] | None:
        """The newest row in the same storage, and whether its tensor is the same view of it."""
        known = self._live.get(self._storages.get(storage, 0)) if storage else None
        if known is None or known.storage != storage or known.source < 0:
            return None
        other = known.alive()
        if other is not None:
            return self._fresh(other, known), _same_view(tensor, other)
        # The tensor is gone. A kept value proves that its storage is not; failing that, only
        # nn.Parameter(...) is known to take over a storage that nothing else shows.
        row = self.values.last_in(storage)
        if row is None and isinstance(tensor, Parameter):
            row = known.source
        if row is None:
            return None
        made = self.tape.rows[row]
        same = tensor.shape == made.shape and tensor.stride() == made.stride
        return (row, same) if same or self.values.last_in(storage) is not None else None

    def constant(self, tensor: Tensor) -> int:
        origin = self.origins.find(tensor, sys._getframe(1))
        call = self._call(CONSTANT, ((), _NO_KWARGS, ()))
        row = len(self.tape.rows)
        self.tape.kinds[row] = "constant"
        self.tape.paths[row] = origin or ""
        if origin is None:
            self.origins.unknown.append(row)
        return self._row(tensor, call, 0)

    def hold_all(self, prefix: str, root: nn.Module) -> None:
        """Make the parameters and buffers of a module known."""
        for name, parameter in root.named_parameters(prefix):
            self.hold(modules.plain_path(name), parameter, True)
        for name, buffer in root.named_buffers(prefix):
            self.hold(modules.plain_path(name), buffer, False)

    def hold(self, name: str, tensor: Tensor, is_parameter: bool) -> int:
        """Make a parameter or buffer known by its name."""
        known = self._live.get(id(tensor))
        if known is not None and known.alive() is tensor:
            return known.source
        held = self.tape.held
        shape, numel, nbytes = (), 0, 0
        if not isinstance(tensor, UninitializedTensorMixin):
            shape, numel = tuple(tensor.shape), tensor.numel()
            nbytes = numel * tensor.element_size()
        held.append(
            Held(name, is_parameter, shape, tensor.dtype, numel, nbytes, tensor.requires_grad)
        )
        storage = _storage(tensor)
        self._live[id(tensor)] = Known(ref(tensor), -len(held), storage)
        self.values.share(storage)
        return -len(held)

    # ------------------------------------------------------------------- rows

    def _row(self, tensor: Tensor, call: int, slot: int, inplace: bool = False) -> int:
        try:
            storage = _storage_address(tensor)
            stride = tensor.stride()
        except (NotImplementedError, RuntimeError, ValueError):
            return self._row_of_odd_tensor(tensor, call, slot, inplace)
        if type(tensor) is not Tensor and tensor.is_nested:
            return self._row_of_odd_tensor(tensor, call, slot, inplace)
        key, row = id(tensor), len(self._rows)
        self._live[key] = _new(Known, (ref(tensor), row, storage))
        self._storages[storage] = key
        device = _CPU if tensor.is_cpu else tensor.device
        self._rows.append(
            _new(
                Row,
                (call, slot, tensor.shape, stride, tensor.dtype, device, tensor.requires_grad,
                 inplace),
            )  # fmt: skip
        )
        self._take(row, tensor, storage)
        if self.on_row is not None:
            self.on_row(row)
        return row

    def _row_of_odd_tensor(self, tensor: Tensor, call: int, slot: int, inplace: bool) -> int:
        """vmap's and grad's wrappers (their inner value is the row), sparse and nested tensors."""
        inner = unwrapped(tensor)
        if inner is not tensor:
            with temporarily_clear_interpreter_stack():
                row = self._row(inner, call, slot, inplace)
            self._live[id(tensor)] = Known(ref(tensor), row, _storage(inner))
            return row
        row = len(self._rows)
        self._live[id(tensor)] = Known(ref(tensor), row, 0)
        with torch._C.DisableTorchFunctionSubclass():  # a lazy parameter refuses otherwise
            try:
                shape = tuple(n if type(n) is int else -1 for n in tensor.shape)
            except RuntimeError:  # a nested tensor has no one shape
                shape = (-1,) * tensor.dim()
            self._rows.append(
                Row(
                    call, slot, shape, (), tensor.dtype, tensor.device, tensor.requires_grad,
                    inplace,
                )  # fmt: skip
            )
        if isinstance(tensor, UninitializedTensorMixin):
            self.values.leave_out()
        else:
            self._take(row, tensor, 0)
        if self.on_row is not None:
            self.on_row(row)
        return row

    def _note_write(self, tensor: Tensor, row: int) -> None:
        storage = _storage(unwrapped(tensor))
        if storage and not isinstance(tensor, UninitializedTensorMixin):
            log = self._writes.setdefault(storage, [])
            low, high = _extent(tensor)
            while log and low <= log[-1].low and log[-1].high <= high:
                log.pop()  # covered by this one, which has it among its ancestors
            log.append(Write(row, low, high))

    def _note_backward(self, args: Any) -> None:
        """`.grad`, when read later, comes from this loss."""
        for tensor in args[:1]:
            known = self._live.get(id(tensor))
            if known is not None and known.source >= 0:
                self._differentiated.append(known.source)

    def returned(self, tensor: Tensor, module: int) -> None:
        """A module call returned this tensor."""
        source = self.source(tensor)
        if source >= 0:
            self.tape.returned.setdefault(source, []).append(module)
            self.values.returned(source, tensor, module)

    def given(self, kind: Function, path: str, tensor: Tensor) -> int:
        """A row for an input or an output."""
        sources = (self.source(tensor),) if kind is OUTPUT else ()
        args = (SLOT,) if kind is OUTPUT else ()
        call = self._call(kind, (args, _NO_KWARGS, sources))
        row = len(self.tape.rows)
        self.tape.kinds[row] = kind.name
        self.tape.paths[row] = path
        return self._row(tensor, call, 0)

    def kept_elsewhere(self) -> set[int]:
        """Storages that somebody besides this trace can still reach."""
        kept = set()
        for known in self._live.values():
            tensor = known.alive()
            if tensor is None:
                continue
            own = _ALONE + (tensor._use_count() > 1)  # C++ holds one when it shares the tensor
            if known.source < 0 or sys.getrefcount(tensor) > own:
                kept.add(known.storage)
        return kept


class _ScriptOperators(TorchDispatchMode):
    """Inside a ScriptModule no Python calls torch: its ATen operators are the rows."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer
        self._count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self._count += 1
        with torch._C.DisableTorchFunction():
            return self._tracer.scripted(func, args, kwargs or {}, self._count)


def unwrapped(tensor: Tensor) -> Tensor:
    """The plain tensor inside the wrappers of `torch.vmap` and `torch.func.grad`."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def _storage(tensor: Tensor) -> int:
    try:
        return int(_storage_address(tensor))
    except (NotImplementedError, RuntimeError):
        return 0


def _version(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except RuntimeError:  # inference tensors have none
        return None


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First byte of its storage that a tensor can touch, and the byte after the last."""
    tensor = unwrapped(tensor)
    size = tensor.element_size()
    low = tensor.storage_offset() * size
    if not tensor.numel():
        return low, low
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return low, low + (reach + 1) * size


def _same_view(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.storage_offset() == b.storage_offset()
        and a.is_conj() == b.is_conj()
        and a.is_neg() == b.is_neg()
    )


def _arguments(args: Any, kwargs: Any, function: Function) -> list[Tensor]:
    """The tensors in the arguments that `function` writes."""
    found: list[Any] = [args[i] for i in function.written if i < len(args)]
    found += [kwargs[name] for name in (*function.written_names, "out") if name in kwargs]
    return _distinct([t for value in found for _, t in tensors_in(value)])


def _distinct(tensors: list[Tensor]) -> list[Tensor]:
    return list({id(t): t for t in tensors}.values())


def _generator_state(args: Any, kwargs: Any) -> Tensor:
    generator = kwargs.get("generator")
    if generator is None:
        generator = next((a for a in args if isinstance(a, torch.Generator)), None)
    if generator is not None:
        return generator.get_state()
    for value in (*args, kwargs.get("device")):
        device = value.device if isinstance(value, Tensor) else value
        if isinstance(device, str):
            device = torch.device(device)
        if isinstance(device, torch.device) and device.type == "cuda":  # untested: no GPU here
            return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def _context() -> Context:
    autocast: tuple[tuple[str, str], ...] = ()
    if _is_any_autocast_enabled():
        autocast = tuple(
            (device, str(torch.get_autocast_dtype(device)).removeprefix("torch."))
            for device in ("cpu", "cuda", "xpu", "mps")
            if torch.is_autocast_enabled(device)
        )
    return Context(_is_grad_enabled(), _is_inference(), autocast)


def _references() -> int:
    """What `getrefcount` gives for an object that only a local variable holds."""
    lone = object()
    return sys.getrefcount(lone)


def _plain(value: Any) -> Any:
    """An argument that is no tensor: itself if it is a value, else its description."""
    if isinstance(value, (bool, int, float, complex, str, range)) or hasattr(value, "__array__"):
        return value
    return Opaque(f"{type(value).__module__}.{type(value).__qualname__}")


_OPEN = id(Tracer._open.__code__)
#: Frames of these files never belong to a call site.
OWN_FILES = frozenset((__file__, modules.__file__))
_ALONE = _references()
