"""Calls and rows on a tape, and where the tensors among them came from.

The identity of a tensor (its `id`, checked with a weak reference) links it to the row that made it;
the address of its storage links it to its views, so that a write through one alias is seen by all
others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.nn import Parameter
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode

from lensframe_pd.capture.callsites import CallSites
from lensframe_pd.capture.handed import HandedBack
from lensframe_pd.capture.known import Known, KnownHeld
from lensframe_pd.capture.lineage import Lineage
from lensframe_pd.capture.modules import ModuleStack
from lensframe_pd.capture.origins import Origins
from lensframe_pd.capture.values import Values
from lensframe_pd.capture.watch import Watcher, overridden, together
from lensframe_pd.tape.context import context_now
from lensframe_pd.tape.functions import Function, synthetic
from lensframe_pd.tape.storage import CPU, is_foreign, storage_address, storage_of, unwrapped
from lensframe_pd.tape.tape import SLOT, Array, Opaque, Row, Site, Tape

ATOMS = frozenset(
    (int, float, bool, str, type(None), complex, bytes, type(Ellipsis), torch.dtype,
     torch.device, torch.layout, torch.memory_format, torch.Size, type)
)  # fmt: skip
_SMALL = 2**16  # bytes of a NumPy argument that is kept as it was, not only described
NO_KWARGS: dict[str, Any] = {}

SYNTHETIC = {
    "input": synthetic("input"),
    "output": synthetic("output", "input"),
    "constant": synthetic("constant"),
    "alias": synthetic("alias", "input"),
    "edit": synthetic("edit", "input"),
}

_is_grad_enabled = torch.is_grad_enabled
_is_inference = torch.is_inference_mode_enabled


Template = tuple[tuple[Any, ...], dict[str, Any], tuple[int, ...]]


class Recorder(TorchFunctionMode):
    """Writes calls and rows; which ones, the tracer says."""

    modules: ModuleStack

    def __init__(
        self,
        tape: Tape,
        values: Values,
        origins: Origins,
        watchers: Sequence[Watcher],
        ends: Iterable[CodeType],
        opens: CodeType,
    ) -> None:
        super().__init__()
        self.tape = tape
        self.values = values
        self.lineage = Lineage(tape, values, origins, self._synthetic_row)
        self.handed = HandedBack(tape, self.lineage.live)
        made = overridden(watchers, "made")
        self._made = together(made) if made else None
        # Other objects' own lists and dicts: an attribute less to look up, several times per call.
        self._calls, self._rows = tape.call_log.entries, tape.row_log.entries
        self._live, self._newest = self.lineage.live, self.lineage.newest
        self._writes = self.lineage.writes
        self.call_sites = CallSites(tape.codes, ends, opens)
        self._site = self.call_sites.of
        #: Stands for the site of a call inside a ScriptModule, where no frames tell it.
        self._script_site: Site = ()
        self._differentiated: list[int] = []
        #: Tensors that somebody made the `.grad` of another one.
        self._assigned: dict[int, Callable[[], Tensor | None]] = {}
        self._note_context()

    def _call(
        self,
        function: Function,
        template: Template,
        seconds: float = 0.0,
        state: Tensor | None = None,
        site: Site | None = None,
    ) -> int:
        kept, kept_kwargs, sources = template
        if self._differentiated and function.name == "grad":
            kept_kwargs = {**kept_kwargs, "backward": [SLOT for _ in self._differentiated]}
            sources = (*sources, *self._differentiated)
        if site is None:
            site = self._script_site or self._site(sys._getframe(1))
        if (
            self._grad is not _is_grad_enabled()
            or self._inference is not _is_inference()
            or self._autocast
            or _is_any_autocast_enabled()
        ):
            self._note_context()
        calls = self._calls
        calls.append(
            (  # `Call`
                function,
                kept,
                kept_kwargs,
                sources,
                site,
                self.modules.current,
                self._context,
                seconds,
                state,
            )
        )
        return len(calls) - 1

    def _note_context(self) -> None:
        """The switches as they are now."""
        self._context = context_now()
        self._grad, self._inference, self._autocast = self._context  # asked for each call

    def _template(self, args: Any, kwargs: Any) -> Template:
        """The arguments with `SLOT` for each tensor, and where those tensors came from."""
        # The hottest loop there is.
        sources: list[int] = []
        live, writes, kept = self._live, self._writes, []
        for value in args:
            kind = type(value)
            if kind is Tensor:
                known = live.get(id(value))
                if known is None or known() is not value or known.storage in writes:
                    sources.append(self.lineage.source(value))
                else:
                    sources.append(known.source)
                kept.append(SLOT)
            elif kind is Parameter:
                known = live.get(id(value))
                if known is None or known.content != value._cdata or known.storage in writes:
                    sources.append(self.lineage.source(value))
                else:
                    sources.append(known.source)
                kept.append(SLOT)
            elif kind in ATOMS:
                kept.append(value)
            else:
                kept.append(self._fold(value, sources))
        if not kwargs:
            return tuple(kept), NO_KWARGS, tuple(sources)
        named = {name: self._fold(value, sources) for name, value in kwargs.items()}
        return tuple(kept), named, tuple(sources)

    def _fold(self, value: Any, sources: list[int]) -> Any:
        kind = type(value)
        if kind in ATOMS:
            return value
        if kind is tuple or kind is list:  # first: torch's own `isinstance` is dear
            return kind([v if type(v) in ATOMS else self._fold(v, sources) for v in value])
        if isinstance(value, Tensor):
            sources.append(self.lineage.source(value))
            return SLOT
        if kind is slice:
            parts = (value.start, value.stop, value.step)
            return slice(*(self._fold(part, sources) for part in parts))
        if isinstance(value, tuple):
            return tuple(self._fold(v, sources) for v in value)
        if isinstance(value, dict):
            return {k: self._fold(v, sources) for k, v in value.items()}
        return self._plain(value)

    def _plain(self, value: Any) -> Any:
        """An argument that is no tensor: itself if it is a value, else its description."""
        if isinstance(value, (bool, int, float, complex, str, range, np.generic)):
            return value
        if isinstance(value, np.ndarray) and value.nbytes <= _SMALL:
            return Array(value.copy())
        return Opaque(f"{type(value).__module__}.{type(value).__qualname__}")

    def _row(self, tensor: Tensor, call: int, slot: int, inplace: bool = False) -> int:
        try:
            storage = storage_address(tensor)
            stride = tensor.stride()
        except (NotImplementedError, RuntimeError, ValueError):
            return self._row_of_odd_tensor(tensor, call, slot, inplace)
        key, row = id(tensor), len(self._rows)
        if type(tensor) is not Tensor:
            if tensor.is_nested:
                return self._row_of_odd_tensor(tensor, call, slot, inplace)
            self.lineage.take_apart(tensor, row)
            self.lineage.hold_address(tensor, storage)
        known = self._live.get(key)
        new = Known(tensor)  # in steps, as one more call for each row is dear
        new.source, new.storage = row, storage
        if known is None or inplace or known() is not tensor:
            self._live[key] = self._newest[storage] = new
        else:
            self._made_again(key, known, new, call)
        device = CPU if tensor.is_cpu else tensor.device
        self._rows.append(
            (  # `Row`
                call,
                slot,
                tensor.shape,
                stride,
                tensor.dtype,
                device,
                tensor.requires_grad,
                inplace,
            )
        )
        if self._made is not None:
            self._made(row, tensor, storage)
        return row

    def _row_of_odd_tensor(self, tensor: Tensor, call: int, slot: int, inplace: bool) -> int:
        """vmap's and grad's wrappers (their inner value is the row), sparse and nested tensors."""
        inner = unwrapped(tensor)
        if inner is not tensor:
            with temporarily_clear_interpreter_stack():
                row = self._row(inner, call, slot, inplace)
            self.tape.wrapped.add(call)
            self._know_odd(tensor, Known.of(tensor, row, storage_of(inner)), call, inplace)
            return row
        row = len(self._rows)
        self._know_odd(tensor, Known.of(tensor, row, 0), call, inplace)
        self.lineage.take_apart(tensor, row)
        with torch._C.DisableTorchFunctionSubclass():  # a lazy parameter refuses otherwise
            try:
                shape = tuple(n if type(n) is int else -1 for n in tensor.shape)
            except RuntimeError:  # a nested tensor has no one shape
                shape = (-1,) * tensor.dim()
            self._rows.append(
                Row(
                    call,
                    slot,
                    shape,
                    (),
                    tensor.dtype,
                    tensor.device,
                    tensor.requires_grad,
                    inplace,
                )
            )
        if isinstance(tensor, UninitializedTensorMixin):
            self.tape.values.append(None)  # it has no value before it is initialised
        elif self._made is not None:
            self._made(row, tensor, 0)
        return row

    def _know_odd(self, tensor: Tensor, new: Known, call: int, inplace: bool) -> None:
        known = self.lineage.known(tensor)
        if known is None or inplace:
            self._live[id(tensor)] = new
        else:
            self._made_again(id(tensor), known, new, call)

    def _made_again(self, key: int, known: Known | KnownHeld, new: Known, call: int) -> None:
        """`call` gave an object that was known already, and did not write it."""
        function, _, _, sources = self._calls[call][:4]
        if function is SYNTHETIC["output"]:
            return
        self.tape.handed.add(new.source)
        if known.source not in sources:  # not what it was given: `grad`, filled unseen
            if key in self._assigned and self._assigned[key]() is known():
                made_by = self.tape.calls[call]
                kwargs = {**made_by.kwargs, "assigned": SLOT}
                sources = (*sources, known.source)
                self.tape.calls[call] = made_by._replace(kwargs=kwargs, sources=sources)
            self._live[key] = self._newest[new.storage] = new
        else:
            self.handed.back(key, known, new, call)

    def given(self, kind: str, path: str, tensor: Tensor) -> int:
        """A row for an input or an output."""
        sources = (self.lineage.source(tensor),) if kind == "output" else ()
        row = self._synthetic_row(kind, sources, tensor, path)
        if kind == "input":
            self.lineage.pin(tensor, path)
        return row

    def _synthetic_row(
        self,
        kind: str,
        sources: tuple[int, ...],
        tensor: Tensor,
        path: str = "",
        config: dict[str, Any] = NO_KWARGS,
        site: Site | None = None,
    ) -> int:
        """A row that no torch function made."""
        args = (SLOT,) * len(sources)
        if kind in ("input", "output"):  # where the trace was asked for
            site = ()
        call = self._call(SYNTHETIC[kind], (args, config, sources), 0.0, None, site)
        row = len(self._rows)
        self.tape.kinds[row] = kind
        if path:
            self.tape.paths[row] = path
        if kind != "output":  # from here on the tensor comes from this row
            self._live.pop(id(tensor), None)
        foreign = kind != "output" and is_foreign(tensor)  # its own row was asked already
        with temporarily_clear_interpreter_stack():  # a transform that runs would wrap the value
            if foreign:
                self.values.expose_owner(tensor)
                if kind == "constant":
                    self.tape.lent.add(row)
            if foreign or not sources:  # it was there before, so others may hold it
                self.values.expose(tensor)
            return self._row(tensor, call, 0)
