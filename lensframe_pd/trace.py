"""`lf.trace`: run a model once, give its operations and activations."""

from __future__ import annotations

import gc
import inspect
import os.path
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import chain
from time import perf_counter
from typing import Any

import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

from lensframe_pd import activations, frame
from lensframe_pd.constants import Origins, held_by_callable
from lensframe_pd.errors import LensRuntimeError, LensTypeError, LensValueError, LensWarning
from lensframe_pd.modules import (
    extra_tensors,
    find_roots,
    is_compile_wrapper,
    named_modules,
)
from lensframe_pd.recurrence import Passes, passes
from lensframe_pd.selection import Selection, Stop
from lensframe_pd.tape import Tape, tensors_in
from lensframe_pd.tracer import Tracer
from lensframe_pd.values import Values

_running = threading.local()
_SHOWN = 5


class Trace:
    """What one run of a model did. Unpacks into `layers, activations`.

    Attributes
    ----------
    output
        What the model returned; None if the run was stopped early.
    tape
        The record both tables are made from.
    """

    def __init__(self, tape: Tape, output: Any, stimulus: pd.DataFrame | None) -> None:
        self.tape = tape
        self.output = output
        self._stimulus = stimulus

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per tensor, indexed by label; columns as in `lensframe_pd.schema.COLUMNS`."""
        with _collector_paused():
            return frame.layers(self.tape, self._passes, self._unsaved)

    @cached_property
    def activations(self) -> xr.Dataset:
        """One read-only variable per saved row, named by its label."""
        with _collector_paused():
            return activations.dataset(self.tape, self._passes, self._unsaved, self._stimulus)

    @cached_property
    def _passes(self) -> Passes:
        return passes(self.tape)

    @cached_property
    def _unsaved(self) -> dict[int, str]:
        return activations.unsaved_reasons(self.tape)

    def __iter__(self) -> Iterator[Any]:
        yield self.layers
        yield self.activations

    def __repr__(self) -> str:
        saved = sum(v is not None for v in self.tape.values)
        name = self.tape.facts.get("model", "")
        return f"<Trace of {name}: {len(self.tape.rows)} rows, {saved} values saved>"


def trace(
    model: Callable[..., Any],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    save: Any = "all",
    stop: bool = False,
    seed: int | None = None,
    stimulus: Any = None,
) -> Trace:
    """Run `model` once and record every tensor operation it executes.

    Parameters
    ----------
    model
        An `nn.Module` or any callable; a bound method has its own module as root. It runs as it
        would by itself: same train or eval mode, same grad mode, same random numbers.
    args
        Exactly a tuple: the positional arguments. A Mapping (a tokenizer's output): the keyword
        arguments. Anything else (a tensor, a list of images): the one positional argument.
    kwargs
        Keyword arguments, besides those in `args`.
    save
        Which values to keep: `"all"`; `None` for metadata only; rows of an earlier trace's
        frame; a label (`"relu_3"`, `"linear_1:2"`), layer or module path, or a list of them; or
        a function that is given each row as it happens and answers yes or no.
    stop
        End the run after the last selected operation; then there is no output. A name without a
        pass counts as done after its first pass; rows of an earlier frame after their last.
    seed
        Seed torch's random generators before the run, and record the seed.
    stimulus
        Ids, or a DataFrame indexed by id, describing axis 0 of the first tensor input.

    Returns
    -------
    Trace
        Unpacks into `layers` (DataFrame) and `activations` (Dataset); `.output` is the model's.

    Raises
    ------
    LensTypeError
        `model` is not callable.
    LensKeyError
        A name in `save` is neither a label, nor a layer, nor a module path.
    LensValueError
        The stimulus ids are not as many as stimuli, or `save` is a frame of another model.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, activations = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> list(layers.index)
    ['input_1', 'linear_1', 'output_1']
    >>> activations["linear_1"].dims
    ('stimulus', 'feature_2')
    """
    if not callable(model):
        raise LensTypeError(
            f"cannot trace a {type(model).__name__}: give an nn.Module or another callable"
        )
    if getattr(_running, "busy", False):
        raise LensRuntimeError(
            "lf.trace was called inside a model that is being traced; trace the inner model alone"
        )
    args, kwargs = _arguments(args, kwargs)
    table = activations.stimulus_table(stimulus)
    if table is not None:
        _check_stimulus(table, args, kwargs)
    run = _Run(model, save, stop, _caller())
    if run.root is not None and run.root.training:
        warnings.warn(
            "the model is in train mode and is traced as it is; call model.eval() for inference",
            LensWarning,
            stacklevel=2,
        )
    if seed is not None:
        torch.manual_seed(seed)
        run.tape.facts["seed"] = seed
    _running.busy = True
    try:
        output = run.execute(args, kwargs)
        result = Trace(run.tape, output, table)
    except BaseException as error:
        run.explain(error)
        raise
    finally:
        _running.busy = False
    try:
        run.selection.finish(lambda: result.layers)
        run.warn_of_broken_links(result)
    finally:
        run.close()
    return result


class _Run:
    """One run of a model under the tracer, and its cleaning up."""

    def __init__(self, model: Any, save: Any, stop: bool, caller: str) -> None:
        roots = find_roots(model)
        self.model = roots[""] if isinstance(model, nn.Module) else model
        named = named_modules(roots)
        self.compiled = any([is_compile_wrapper(module) for _, module in named])
        self.root = roots.get("")
        self.tape = Tape(caller=caller, facts={"model": _name(model), "torch": torch.__version__})
        self.selection = Selection(save, stop, self.tape, roots)
        values = Values(self.tape, self.selection.wanted)
        values.module_wanted = self.selection.module_wanted
        self.origins = Origins(chain(extra_tensors(named), held_by_callable(model)))
        self.values = values
        self.selection.attach(values.drop)
        self.tracer = Tracer(self.tape, values, self.origins, roots, named)
        self.tracer.modules.stops |= {id(_Run._call.__code__), id(_Run.execute.__code__)}
        self.tracer.on_row = self.selection.on_row
        self.tracer.modules.on_exit = self.selection.check_stop if stop else None
        for path, module in named:
            self.tracer.lineage.hold_own(path, module)

    def execute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tracer = self.tracer
        for path, tensor in _named_inputs(self.model, args, kwargs):
            row = tracer.given("input", path, tensor)
            if self.tape.stimulus_row is None and tensor.dim():
                self.tape.stimulus_row = row
        start = perf_counter()
        try:
            output = self._call(args, kwargs)
        except Stop:
            output = None
        else:
            for path, tensor in tensors_in(output):
                tracer.given("output", path, tensor)
        self.tape.facts["seconds"] = perf_counter() - start
        self.values.settle(tracer.lineage.kept_elsewhere)
        return output

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        modules = self.tracer.modules
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:
                # process-wide while the model runs, so that compiled parts are seen
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if self.compiled:
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", message="Using `torch.compile.*global hooks")
            stack.callback(modules.detach)
            modules.attach()
            stack.enter_context(self.tracer)
            output = self.model(*args, **kwargs)
            if modules.closing:
                modules.settle(None)
            return output

    def explain(self, error: BaseException) -> None:
        """Add where it happened, and the rows so far, to an exception of the model."""
        try:
            self.values.settle(self.tracer.lineage.kept_elsewhere)
            rows = Trace(self.tape, None, None).layers
            error.layers = rows  # type: ignore[attr-defined]
            if len(rows):
                last = rows.iloc[-1]
                where = f" in module {last['module']!r}" if last["module"] else ""
                error.add_note(
                    f"lf.trace: the last operation before this was {rows.index[-1]!r}{where} "
                    f"({last['source']}); the rows so far are in this exception's .layers"
                )
        except Exception as problem:  # the model's own error matters more
            error.add_note(f"lf.trace: no rows for this exception ({problem!r})")

    def warn_of_broken_links(self, result: Trace) -> None:
        """One warning for all tensors whose making the trace did not see, with their readers."""
        unknown = self.origins.unknown
        if not unknown:
            return
        labels = result._passes.labels()
        sources = frame.Sources(self.tape)
        readers: dict[int, str] = {}
        for label, row in zip(labels, self.tape.rows, strict=True):
            call = self.tape.calls[row.call]
            for source in call.sources:
                if source >= 0 and source not in readers:
                    readers[source] = f"{label!r} ({sources.of(call.site, call.module)})"
        shown = [
            f"{labels[row]!r}, consumed by {readers[row]}"
            if row in readers
            else f"{labels[row]!r}, returned"
            for row in unknown[:_SHOWN]
        ]
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        warnings.warn(
            f"{'; '.join(shown)}{more}: made out of torch's sight (a NumPy round trip, another "
            "library, a legacy constructor, a compiled function), or held where a trace cannot "
            "look; the history is not in the trace",
            LensWarning,
            stacklevel=3,
        )

    def close(self) -> None:
        """Untie the tracer's parts, which know each other: the tape is then freed at once."""
        for part in (self.tracer.modules, self.tracer.lineage, self.tracer, self.selection):
            vars(part).clear()


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A table is tens of thousands of small objects, none of them garbage: do not look for it."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _arguments(
    args: Any, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise LensTypeError(f"kwargs is a {type(kwargs).__name__}; give a dict of names to values")
    named = dict(kwargs or {})
    if type(args) is tuple:
        return args, named
    if isinstance(args, Mapping):
        return (), {**args, **named}
    return (args,), named


def _named_inputs(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """Each tensor in the arguments once, with the name of the parameter it is passed to."""
    function = model.forward if isinstance(model, nn.Module) else model
    try:
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # the model's own error will say it better
        bound = {str(i): value for i, value in enumerate(args)} | kwargs
    seen = set()
    for name, value in bound.items():
        for path, tensor in tensors_in(value, name):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield path, tensor


def _check_stimulus(table: pd.DataFrame, args: Any, kwargs: Any) -> None:
    first = next((t for _, t in tensors_in((args, kwargs)) if t.dim()), None)
    n = None if first is None else first.shape[0]
    if n != len(table):
        found = "there is no tensor with an axis 0" if n is None else f"axis 0 of the input has {n}"
        raise LensValueError(f"stimulus gives {len(table)} ids, but {found}; give one id per item")


def _name(model: Any) -> str:
    if isinstance(model, nn.Module):
        return type(getattr(model, "_orig_mod", model)).__name__
    return str(getattr(model, "__qualname__", type(model).__name__))


def _caller() -> str:
    code = sys._getframe(2)
    return f"{os.path.basename(code.f_code.co_filename)}:{code.f_lineno}"
