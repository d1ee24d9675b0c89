"""`lf.trace`: run a model once, give its operations and activations."""

from __future__ import annotations

import os.path
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch

from lensframe_pd.capture.edits import Edits, Refused
from lensframe_pd.capture.given import is_told_by_shape, misplaced
from lensframe_pd.capture.gradients import Births
from lensframe_pd.capture.hints import axis_hint, dtype_hint, hints
from lensframe_pd.capture.model import check_model, check_output, warn_of_training
from lensframe_pd.capture.placed import placed
from lensframe_pd.capture.run import Run, bound_arguments
from lensframe_pd.capture.state import Origin, repeatable
from lensframe_pd.capture.stimuli import by_parameter, stimuli
from lensframe_pd.cells import plain
from lensframe_pd.errors import OURS, LensRuntimeError, LensValueError, warn
from lensframe_pd.profile.repeats import retime
from lensframe_pd.signposts import explains_keywords
from lensframe_pd.tables import activations
from lensframe_pd.tables import layers as frame
from lensframe_pd.tables.dims import axis_names, dimensions
from lensframe_pd.tables.renames import renames
from lensframe_pd.tables.stimuli import (
    may_be_generated,
    name_taken,
    stimulus_table,
)
from lensframe_pd.tables.widths import widths_apart
from lensframe_pd.tape.facts import Sources
from lensframe_pd.tape.passes import Passes, passes
from lensframe_pd.tape.switches import Switches
from lensframe_pd.tape.tape import Tape
from lensframe_pd.traced import Trace

_SHOWN = 5  # broken links named in one warning

_ELSEWHERE = {
    **dict.fromkeys(
        ("layers", "layer", "layers_to_save", "return_nodes", "modules", "names"),
        "which values to keep is save=, names or rows",
    ),
    **dict.fromkeys(
        ("stimuli", "ids", "image_ids", "labels"), "the ids of what is shown are stimulus="
    ),
    "device": "it runs where the model and the input are; move both: .to(device)",
    "batch_size": "a trace is of one batch; a data set is for lf.extract(model, data, to=...)",
}


def _of_the_model(name: str) -> str:
    return (
        f"if it is one of the model, give it in the third, a dict: lf.trace(model, args, "
        f"{{{name!r}: ...}})"
    )


@explains_keywords(_ELSEWHERE, _of_the_model)
def trace(
    model: Callable[..., Any],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    save: Any = "all",
    stop: bool = False,
    seed: int | None = None,
    stimulus: Any = None,
    repeats: int = 0,
    gradients: bool = False,
    values: Any = None,
    dims: Mapping[str, str] | None = None,
) -> Trace:
    """Run `model` once and record every tensor operation it executes.

    Parameters
    ----------
    model
        An `nn.Module` or any callable; a bound method has its own module as root. It runs as it
        would by itself: same train or eval mode, same grad mode, same random numbers. What runs
        later (a class, async and generator functions) is refused.
    args
        Exactly a tuple: the positional arguments. A Mapping (a tokenizer's output): the keyword
        arguments. Anything else (a tensor, a list of images): the one positional argument.
    kwargs
        Keyword arguments, besides those in `args`.
    save
        Which values to keep: `"all"`; `None` for metadata only; rows of an earlier trace's
        frame; a label (`"relu_3"`, `"linear_1:2"`), layer or module path, or a list of them; or
        a function that is given each row as it happens and answers yes or no. A name that is both
        is the operation, with a warning; `"module=relu_3"` is the module.
    stop
        End the run after the last selected operation; then there is no output. A name without a
        pass counts as done after its first pass; rows of an earlier frame after their last.
    seed
        Seed torch's random generators before the run, and record the seed.
    stimulus
        Ids, or a DataFrame indexed by id: n texts, numbers or times, each once, none missing.
        They describe axis 0 of the first tensor input where it is n; or a list of n tensors, one
        of each; or the n sequences of a PackedSequence.
    repeats
        Measure `seconds` as the median of so many further runs from the same state, which keep no
        values; the run itself then only warms up. Meanwhile all that the model holds is in memory
        twice more. 0: the times of the run itself.
    gradients
        Keep autograd's graph, for `Trace.gradients`. Nothing is made to require grad: where no
        parameter does, let the input.
    values
        Other values for tensors, with which the model goes on: a Dataset of activations, a dict, or
        rows of an earlier trace's frame with a column `value`. Keys are labels of a trace without
        values (`"relu_4"`: every pass, `"relu_4:2"`: one) or module paths (`"enc.0:2"`: one call);
        labels without rows cost one run more. Values are a number (filled), an array or tensor of
        the same shape, or a function of the tensor (a module too: what it calls is no row); they
        are copied, and joined by stimulus where both have ids. A module's replaces what it returns,
        as a forward hook's; that of a row which is a write is written, so that every alias shows
        it. Each is a row of kind `edit`.
    dims
        Other names for axes, as `{"z": "frame"}` of videos or `{"x": "time"}` of sounds: of all
        activations, with their extents (`frame_16`).

    Returns
    -------
    Trace
        Unpacks into `layers` (DataFrame) and `activations` (Dataset); `.output` is the model's.

    Raises
    ------
    LensRuntimeError
        `gradients` where grad mode is off.
    LensTypeError
        `model` is not callable, is a class, async or a generator; or `stimulus` holds no ids.
    LensKeyError
        A name in `save` or `values` is neither a label, nor a layer, nor a module path; or what
        `values` names was never reached (then `.trace` of the error has the run).
    LensValueError
        The stimulus ids are not as many as stimuli, missing or not unique; a column of theirs has
        a name of the run's (then `.trace` of the error has the run without it); `save` is a frame
        of another model; `repeats` is no number of runs; or a value in `values` does not fit, its
        place can have none, or the run went another way there than the one without values.

    Warns
    -----
    LensWarning
        Naming modules in train mode that behave differently there; a name in `save` that is an
        operation and a module with other values; tensors whose making could not
        be seen; a returned coroutine or generator, whose code has not run.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> layers, activations = lf.trace(torch.nn.Linear(3, 2).eval(), torch.ones(4, 3))
    >>> list(layers.index)
    ['input_1', 'linear_1', 'output_1']
    >>> activations["linear_1"].dims
    ('stimulus', 'feature_2')
    """
    check_model(model)
    if type(repeats) is not int or repeats < 0:
        raise LensValueError(f"repeats must be 0 or a number of runs, not {repeats!r}")
    if gradients:
        _check_grad_mode()
    renamed = renames(dims)
    given = (args, kwargs)
    args, kwargs = bound_arguments(args, kwargs)
    table = stimulus_table(stimulus)
    n_stimuli = None if table is None else len(table)
    if table is not None:  # what does not fit is refused before anything runs
        try:
            stimuli(by_parameter(model, args, kwargs), n_stimuli)
        except LensValueError as error:
            _add_hints(error, model, *given)
            raise
    run = Run(model, save, stop, _caller(), Births if gradients else None)
    run.keeps_graph = gradients
    run.tape.renamed = renamed
    warn_of_training(run.named)
    if seed is not None:
        torch.manual_seed(seed)
        run.tape.seed = int(seed)
    origin = Origin(model, args, kwargs, torch.get_rng_state(), Switches())
    instead = "repeats=0, or an iterator that can be copied"
    before = repeatable(origin, f"repeats={repeats}", instead) if repeats else None
    sites = None
    if values is not None:
        sites = placed(values, run, origin, None if table is None else table.index)
        run.give(sites)
    try:
        output = run.execute(args, kwargs, n_stimuli)
    except Refused as refusal:
        _explain(run, refusal.error)
        raise refusal.error from None
    except BaseException as error:
        if run.tracer.edits is not None and run.tracer.edits.refused is not None:
            raise run.tracer.edits.refused from None
        _explain(run, error)
        _add_hints(error, model, *given)
        raise
    check_output(output)
    if before is not None and not run.tape.stopped:
        retime(run.tape, origin, before, repeats, sites)
    births = run.also if isinstance(run.also, Births) else None
    if births is not None:
        births.settle()
    result = Trace(run.tape, output, table, origin, births, sites, run.values)
    if run.tracer.edits is not None:
        _check_reached(run.tracer.edits, result)
    run.save.finish(lambda: result._passes, lambda: result.layers)
    if run.origins.unknown:
        _warn_of_broken_links(run, result._passes)
    if table is not None and may_be_generated(table):
        _check_columns(result, table)
    return result


__test__ = {"trace": trace}  # whose examples doctest would not look for below a decorator


def _add_hints(error: BaseException, model: Any, args: Any, kwargs: Any) -> None:
    """Note what in the arguments may be why."""
    found = hints(args, kwargs, error) or dtype_hint(model, args, kwargs)
    for hint in found or axis_hint(args, kwargs, error):
        error.add_note(hint)


def _check_grad_mode() -> None:
    if not torch.is_grad_enabled():
        where = "inference mode" if torch.is_inference_mode_enabled() else "torch.no_grad()"
        raise LensRuntimeError(
            f"gradients=True keeps autograd's graph, and there is none in {where}: call lf.trace "
            "outside of it, or under torch.enable_grad()"
        )


def _check_reached(edits: Edits, trace: Trace) -> None:
    error = edits.problem(lambda: trace._passes)
    if error is None and edits.sites.given is not None:
        error = _misplaced(edits, trace.tape)
    if error is None and edits.resized:
        error = _of_other_widths(edits, trace.tape)
    if error is not None and not trace.tape.stopped:
        error.trace = trace  # type: ignore[attr-defined]
        raise error


def _misplaced(edits: Edits, tape: Tape) -> LensValueError | None:
    """Values whose axes are called as those of their rows are, and are in another order."""
    assert edits.sites.given is not None
    given = edits.sites.given.by_key
    doubtful = [(row, key) for row, key in edits.made if not is_told_by_shape(given.get(key))]
    dims = dimensions(tape) if doubtful else []
    wrong = {key: misplaced(given[key], dims[row]) for row, key in doubtful}
    lines = [f"values: {key!r} {reason}" for key, reason in wrong.items() if reason]
    return LensValueError("\n".join(lines)) if lines else None


def _of_other_widths(edits: Edits, tape: Tape) -> LensValueError | None:
    """Rows of a model with other weights than those that made what they stand for here."""
    shapes = [(row, key, plain(shape)) for row, key, shape in edits.resized]
    names = axis_names(tape)
    lines = [
        f"values: {key!r} is a row of another model: it has {apart[1]} along {apart[0]!r}, which "
        f"the weights make {apart[2]} here; give rows of a trace of this model, or a dict by "
        "label, which is looked up in it"
        for row, key, shape in shapes
        if isinstance(shape, tuple) and (apart := widths_apart(tape, names, row, shape))
    ]
    return LensValueError("\n".join(lines)) if lines else None


def _explain(run: Run, error: BaseException) -> None:
    """Add where it happened, and the rows so far, to an exception of the model."""
    try:
        run.settle()
        rows = frame.layers(run.tape, passes(run.tape), activations.unsaved_reasons(run.tape))
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


def _warn_of_broken_links(run: Run, grouped: Passes) -> None:
    """One warning for all tensors whose making the trace did not see, with their readers."""
    unknown = run.origins.unknown
    labels = grouped.labels()
    sources = Sources(run.tape)
    readers: dict[int, str] = {}
    for label, row in zip(labels, run.tape.rows, strict=True):
        call = run.tape.calls[row.call]
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
    warn(
        f"{'; '.join(shown)}{more}: made out of torch's sight (a NumPy round trip, another "
        "library, a legacy constructor, a compiled function), or held where a trace cannot "
        "look; the history is not in the trace"
    )


def _check_columns(trace: Trace, table: pd.DataFrame) -> None:
    """Refuse a table of stimuli whose columns are named as something else in this run."""
    labels = {*trace._passes.labels(), *trace._passes.layers}
    dims = {str(dim) for dim in trace._values.dims}
    error = name_taken(table, labels, dims)
    if error is not None:
        trace._stimulus = table.drop(columns=[*(labels | dims)], errors="ignore")
        error.trace = trace  # type: ignore[attr-defined]
        raise error


def _caller() -> str:
    code = sys._getframe(2)
    while code.f_code.co_filename.startswith(OURS) and code.f_back is not None:
        code = code.f_back
    return f"{os.path.basename(code.f_code.co_filename)}:{code.f_lineno}"
