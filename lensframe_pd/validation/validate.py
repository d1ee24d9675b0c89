"""Prove that a trace is what the model did: eight checks, each of which can fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
import xarray as xr

from lensframe_pd.capture.run import bound_arguments
from lensframe_pd.capture.state import Generators, Origin
from lensframe_pd.cells import Cells, Rows
from lensframe_pd.collector import set_aside
from lensframe_pd.errors import LensValidationError, LensValueError
from lensframe_pd.replay.recording import Recording, Saved, recorded_calls
from lensframe_pd.tables import layers as frames
from lensframe_pd.tables.activations import unsaved_reasons
from lensframe_pd.tables.stimuli import stimulus_table
from lensframe_pd.tape.passes import passes
from lensframe_pd.tape.silence import silenced
from lensframe_pd.tape.switches import Switches, standing
from lensframe_pd.validation import invariants
from lensframe_pd.validation.alignment import check_alignment, rows_of_a_chain
from lensframe_pd.validation.along import Along
from lensframe_pd.validation.evidence import Evidence, evidence
from lensframe_pd.validation.facts import check_facts
from lensframe_pd.validation.ids import check_ids
from lensframe_pd.validation.kept import say_what_was_kept
from lensframe_pd.validation.replayed import replay, show_dependence
from lensframe_pd.validation.resumed import resume
from lensframe_pd.validation.twice import run_twice
from lensframe_pd.validation.unshown import check_unshown
from lensframe_pd.validation.verdicts import Verdicts


def validate(
    layers: pd.DataFrame,
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    activations: xr.Dataset | None = None,
    tolerance: float | None = None,
    downstream: str | None = "sample",
    alignment: str | None = "sample",
    stimulus: Any = None,
    raise_on_failure: bool = False,
) -> pd.DataFrame:
    """Prove that these rows, and the activations, are what the model does with these arguments.

    Eight checks, each of which can fail:

    - *replay*: each operation, run again on its saved parents, gives its saved value; where it
      cannot be run by itself (parents that were not saved), a new run of the model gives it;
    - *dependence*: changing the value of each parent changes the result, or it is shown why not;
      of a call that was given one tensor alone, the run with other stimuli changes it;
    - *downstream*: the forward, resumed from a saved value, gives the model's own output;
    - *completeness*: every ATen operator of the forward belongs to a row;
    - *interference*: tracing leaves output and state of the model as a plain forward does;
    - *invariants*: the frame is well formed and says what a new trace of the model says;
    - *alignment*: the values along each `stimulus` dimension are those of the stimuli in order;
    - *facts*: dimensions, attrs and element types of the variables, and where the calls stand in
      the code, are those of a new trace.

    Nothing it is given is changed. The model runs from the state it is in: twice, and where there
    are several stimuli again, once or more, with these at other places. A model that changed
    something of its own in the traced forward, as one that fills a cache, does other things now:
    its rows fail, and say what it may be; `trace.validate()` judges by the traced run, and passes
    them. Give it all rows of the trace: those that were filtered out are reported as missing. What
    `seed=` and `stop=` of the trace did stands in the column `context`, so `attrs` are not needed:
    random numbers of a seeded trace are drawn again, and a stopped one is compared with a run that
    is stopped there.

    Parameters
    ----------
    layers
        The whole frame of a trace.
    model, args, kwargs
        As they were given to `lf.trace`.
    activations
        The Dataset of the trace, from memory or a file. Without it nothing is replayed.
    tolerance
        Largest absolute difference a replay may have; None for none: bit for bit.
    downstream
        `"sample"` resumes the forward from three rows, `"all"` from every one, None from none.
        Where the replays of all calls between a row and the outputs were bit for bit, they are
        that forward, and it is not run once more.
    alignment
        How the model is run with its stimuli at other places. `"sample"`: once, each given the
        place of another along a drawn chain, and the last of them a new stimulus, blended of two:
        a value of which all entries differ goes along only if each is of its own stimulus. For
        values with entries that are alike, one drawn half of the stimuli is replaced by their
        neighbours and then the other. `"all"`, and for values that do not go along: those whose
        number has a bit and then those without it, for each bit. None for no run. Values that hold
        a statistic of several stimuli are compared in two runs more, with the stimuli in other
        orders.
    stimulus
        Ids or a table, as given to `lf.trace`: those of the Dataset must be these, in the order of
        the arguments. Else the order of the ids is believed.
    raise_on_failure
        Raise one error that lists every failing row.

    Returns
    -------
    pandas.DataFrame
        One row per op, indexed by label: `check` (the first that failed, else the strongest that
        was made), `max_abs_diff` (of the replay, in the units of the value; NaN if none was made),
        `passed`, `reason` (what failed, what is exempt and why, what could not be checked), and a
        boolean column for each check, missing where it was not made; where it could not be, the
        cell is `"not run: ..."`, which decides nothing. `attrs` holds the totals, as JSON numbers:
        `ops`, `passed`, `failed`; of each check `replay_checked`, `replay_failed`,
        `replay_not_run` and `replay_seconds` (what it took, without the others), and `seconds` in
        all. Of the runs of the model the plain one is interference's, the traced one
        completeness', and those with other stimuli alignment's.

    Raises
    ------
    LensKeyError
        The frame lacks a column.
    LensTypeError
        `activations` is no Dataset.
    LensValueError
        The frame has no rows, or `downstream` or `alignment` is none of its values.
    LensValidationError
        With `raise_on_failure`, if a row failed.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> model, x = torch.nn.Linear(3, 2).eval(), torch.ones(4, 3)
    >>> layers, activations = lf.trace(model, x)
    >>> report = layers.lens.validate(model, x, activations=activations)
    >>> bool(report["passed"].all()), float(report.loc["linear_1", "max_abs_diff"])
    (True, 0.0)
    """
    args, kwargs = bound_arguments(args, kwargs)
    origin = Origin(model, args, kwargs, torch.get_rng_state())
    given = evidence(layers, activations, origin, stimulus=stimulus_table(stimulus))
    return judged(given, tolerance, downstream, alignment, raise_on_failure)


def judged(
    evidence: Evidence,
    tolerance: float | None,
    downstream: str | None,
    alignment: str | None,
    raise_on_failure: bool,
) -> pd.DataFrame:
    """`validate` of what is given as evidence."""
    for name, given in (("downstream", downstream), ("alignment", alignment)):
        if given not in ("sample", "all", None):
            raise LensValueError(f"{name}={given!r}; give 'sample', 'all' or None")
    verdicts = Verdicts(evidence.ops)
    generators, switches = Generators(), Switches()
    try:
        # the traced run has given the model's warnings; it began with these switches
        with set_aside(), silenced(), standing(evidence.origin.switches):
            fresh = _judge(evidence, verdicts, tolerance, downstream, alignment)
            if fresh is not None:
                say_what_was_kept(evidence, fresh, verdicts)
    finally:
        generators.restore()
        switches.restore()
    report = verdicts.report()
    if raise_on_failure and not report["passed"].all():
        raise _failure(report)
    return report


def _judge(
    evidence: Evidence,
    verdicts: Verdicts,
    tolerance: float | None,
    downstream: str | None,
    alignment: str | None,
) -> Cells | None:
    """Make the checks; the rows of a new trace, or None where there can be none."""
    rows = evidence.rows
    with verdicts.timing("interference"):
        again = run_twice(evidence, verdicts)
    reference = evidence.tape or again
    if reference is None:  # nothing is known but what the frame says
        _check_frame(evidence.cells, None, verdicts)
        return None
    with verdicts.timing("invariants"):
        grouped = evidence.grouped or passes(reference)
        new = frames.cells(reference, grouped, unsaved_reasons(reference))
        _check_frame(evidence.cells, new, verdicts)
    with verdicts.timing("facts"):
        check_facts(evidence, reference, grouped, new, verdicts)
    if evidence.activations is None:
        return new
    ops = grouped.labels()
    witnessed = {} if again is None else again.bits
    bits = {ops[row]: bits for row, bits in witnessed.items() if row < len(ops)}
    saved = Saved(evidence.activations, rows, bits)
    _check_saved(saved, rows, verdicts)
    with verdicts.timing("alignment"):
        values = None if again is None else Along(evidence, reference, grouped, saved)
    with verdicts.timing("replay"):
        calls = recorded_calls(reference, again or reference, grouped)
        recording = Recording(calls, rows, saved, reference, evidence.replays_random_numbers)
        given_now = None if evidence.tape else reference
        given_others = rows_of_a_chain(values, alignment) if alignment and values else {}
        replayed = replay(recording, verdicts, tolerance, given_now, given_others)
        if again is not None:
            check_unshown(evidence, reference, grouped, saved, replayed, verdicts, tolerance)
    if downstream:
        with verdicts.timing("downstream"):
            resume(recording, verdicts, downstream, replayed)
    with verdicts.timing("alignment"):
        check_ids(evidence, verdicts)
        others = set[int]()
        if alignment and values is not None:
            others = check_alignment(evidence, reference, values, alignment, verdicts)
    with verdicts.timing("dependence"):
        show_dependence(recording, replayed, others, verdicts)
    return new


def _failure(report: pd.DataFrame) -> LensValidationError:
    failed = report.loc[~report["passed"], "reason"]
    lines = "\n".join(f"{op}: {reason}" for op, reason in failed.items())
    error = LensValidationError(f"{len(failed)} of {len(report)} rows failed:\n{lines}")
    error.report = report
    return error


def _check_frame(cells: Cells, fresh: Cells | None, verdicts: Verdicts) -> None:
    compared = {} if fresh is None else invariants.against(cells, fresh)
    for found in (invariants.within(cells.rows, cells.ops), compared):
        for op, reasons in found.items():
            for reason in reasons:
                verdicts.fails("invariants", op, reason)
    verdicts.all_hold("invariants", cells.rows)


def _check_saved(saved: Saved, rows: Rows, verdicts: Verdicts) -> None:
    for op, row in rows.items():
        if bool(row["saved"]) != (op in saved):
            there = "is" if op in saved else "is not"
            verdicts.fails(
                "invariants", op, f"saved is {row['saved']}, and it {there} in the Dataset"
            )
