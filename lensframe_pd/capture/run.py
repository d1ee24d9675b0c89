"""One run of a model under the tracer, from its arguments to a finished tape."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from lensframe_pd.capture.edits import Edits
from lensframe_pd.capture.held import hold_given
from lensframe_pd.capture.holding import held_by_python
from lensframe_pd.capture.inventory import Inventory, inventory
from lensframe_pd.capture.origins import Origins
from lensframe_pd.capture.process import switched
from lensframe_pd.capture.saving import save_of
from lensframe_pd.capture.sites import Sites
from lensframe_pd.capture.stimuli import by_parameter, stimuli
from lensframe_pd.capture.tracer import Tracer
from lensframe_pd.capture.watch import Stop, Watcher, ended_by
from lensframe_pd.collector import collector_paused
from lensframe_pd.errors import LensRuntimeError, LensTypeError
from lensframe_pd.tape.objects import tensors_in
from lensframe_pd.tape.silence import silenced
from lensframe_pd.tape.storage import version_of
from lensframe_pd.tape.tape import Tape

_running = threading.local()
_AS_IT_IS = nullcontext()


class Run:
    """One run of a model under the tracer.

    Parameters
    ----------
    save, stop
        As for `lf.trace`.
    caller
        `file.py:line` of the call that wants it.
    also
        Makes one watcher more, of the run's tape.
    tracer
        The kind of tracer.
    sites
        What is given other values.
    made_of
        `inventory(model)`, where it is known that the model is as it was then.

    Raises
    ------
    LensRuntimeError
        This thread is tracing already.
    """

    def __init__(
        self,
        model: Any,
        save: Any = None,
        stop: bool = False,
        caller: str = "",
        also: Callable[[Tape], Watcher] | None = None,
        tracer: type[Tracer] = Tracer,
        sites: Sites | None = None,
        made_of: Inventory | None = None,
    ) -> None:
        if getattr(_running, "busy", False):
            raise LensRuntimeError(
                "a trace was asked for inside a model that is being traced; trace the inner model "
                "alone"
            )
        made_of = inventory(model) if made_of is None else made_of
        roots = made_of.roots
        self.model = roots[""] if isinstance(model, nn.Module) else model
        named = self.named = made_of.named
        self.compiled = made_of.compiled
        self.root = roots.get("")
        self.tape = Tape(
            caller=caller, facts={"model": _name(model), "torch": str(torch.__version__)}
        )
        self.tape.aliases = dict(made_of.aliases)
        self.save = save_of(save, stop, self.tape, roots)
        self.values = self.save.values
        ends = (Run._call.__code__, Run._execute.__code__)
        self.origins = Origins(made_of.state, ends)
        watchers: list[Watcher] = [self.save]
        #: Whether autograd's graph is kept, which shares the memory of values.
        self.keeps_graph = False
        #: The watcher that `also` made, if it was given.
        self.also = None if also is None else also(self.tape)
        if self.also is not None:
            watchers.append(self.also)
        with collector_paused():  # else it looks through a big model for what is made of modules
            self.tracer = tracer(self.tape, self.values, self.origins, roots, named, watchers, ends)
            self.tracer.writes_unseen = made_of.writes_unseen
            if sites is not None:
                self.give(sites)
            hold_given(self.tracer.lineage, named)

    def give(self, sites: Sites) -> None:
        """Let the run go on with other values."""
        edits = self.tracer.edits = Edits(sites, self.tape)
        self.tracer.modules.edited = edits.paths

    def execute(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], n_stimuli: int | None = None
    ) -> Any:
        """Run the model; its output, None if it was stopped.

        `n_stimuli` is how many ids were given for the stimuli; None without ids.
        """
        _running.busy = True
        try:
            return self._execute(args, kwargs, n_stimuli)
        finally:
            _running.busy = False

    def _execute(self, args: tuple[Any, ...], kwargs: dict[str, Any], n_stimuli: int | None) -> Any:
        tracer = self.tracer
        given = by_parameter(self.model, args, kwargs)
        self.tape.n_stimuli, found = stimuli(given, n_stimuli)
        starts = {id(tensor): start for tensor, start in found}
        before = sys.exception()
        start = perf_counter()  # of a run that its inputs end; else the model's own
        try:
            inputs = []
            for path, tensor in named_inputs(given):
                row = tracer.given("input", path, tensor)
                inputs.append((row, tensor))
                if id(tensor) in starts:
                    self.tape.starts[row] = starts[id(tensor)]
            if tracer.edits is not None:
                args, kwargs = tracer.edits.of_inputs(tracer, inputs, (args, kwargs))
            start = perf_counter()
            warned = silenced("Using `torch.compile.*global hooks") if self.compiled else _AS_IT_IS
            with warned:
                output = self._call(args, kwargs)
            for path, tensor in tensors_in(output):
                tracer.given("output", path, tensor)
        except BaseException as error:
            ended = ended_by(error, before)
            if not isinstance(ended, Stop):
                if ended is None or ended is error:
                    raise
                raise ended from None
            output = None
            self.tape.stopped = ended.by
        self.tape.facts["seconds"] = perf_counter() - start
        self.settle()
        return output

    def settle(self) -> None:
        """Give the kept values that others can still reach a copy of their own; let go of all."""
        if self.tracer.edits is not None:
            self.tracer.edits.forget()
        self.values.settle(self._reachable())
        held = [held.tensor for held in self.tape.held]
        self.tape.versions = [None if t is None else version_of(t) for t in held]
        self.tracer.forget()

    def _reachable(self) -> set[int] | None:
        """The storages that Python can reach, where autograd's graph is kept besides."""
        if not self.keeps_graph:
            return None
        return held_by_python((k, k.storage) for k in self.tracer.lineage.live.values())

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        modules = self.tracer.modules
        with switched():
            try:
                modules.attach()
                with self.tracer.running():
                    output = self.model(*args, **kwargs)
                    if modules.closing:
                        modules.settle(None)
                    return output
            finally:
                modules.detach()


def bound_arguments(
    args: Any, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`args` and `kwargs` of `lf.trace` as a tuple and a dict."""
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise LensTypeError(
            f"kwargs is a {type(kwargs).__name__}; give a dict of names to values, and several "
            "positional arguments as a tuple: lf.trace(model, (x, y))"
        )
    named = dict(kwargs or {})
    if type(args) is tuple:
        return args, named
    if isinstance(args, Mapping):
        return (), {**args, **named}
    return (args,), named


def named_inputs(given: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor in the arguments once, with the name of the parameter it is passed to."""
    seen = set()
    for name, value in given.items():
        for path, tensor in tensors_in(value, name):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield path, tensor


def _name(model: Any) -> str:
    if isinstance(model, nn.Module):
        return type(getattr(model, "_orig_mod", model)).__name__
    return str(getattr(model, "__qualname__", type(model).__name__))
