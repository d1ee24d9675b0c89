"""Run a model plain and traced from one state: do both leave the same output and state?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lensframe_pd.capture.process import switched
from lensframe_pd.capture.run import Run, named_inputs
from lensframe_pd.capture.save import Save, Selection
from lensframe_pd.capture.snapshot import Snapshot
from lensframe_pd.capture.state import Generators, Start, State, outputs_of
from lensframe_pd.capture.stimuli import by_parameter, stimuli
from lensframe_pd.capture.values import WRITTEN_UNSEEN, Values
from lensframe_pd.capture.watch import Stop, Watcher
from lensframe_pd.cells import Rows
from lensframe_pd.errors import LensValueError
from lensframe_pd.schema import STIMULUS
from lensframe_pd.tape.compare import difference
from lensframe_pd.tape.context import Surroundings
from lensframe_pd.tape.storage import write
from lensframe_pd.tape.switches import Switches
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.elsewhere import Found, is_unobservable, observed
from lensframe_pd.validation.evidence import End, Evidence
from lensframe_pd.validation.verdicts import Verdicts
from lensframe_pd.validation.witness import WitnessedTracer


class _Idle(TorchFunctionMode):
    """Does nothing; but torch leaves its fused fast paths while any mode is active."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class _Left(NamedTuple):
    """What a run left: the tensors it returned, what the modules hold, the random generators."""

    outputs: list[tuple[str, Tensor]]
    state: State
    generators: Generators


def run_twice(evidence: Evidence, verdicts: Verdicts) -> Tape | None:
    """Run the model plain and traced from one state, and compare; then put all as it was.

    Returns
    -------
    Tape
        Of the traced run, with the values of inputs and constants. If the run that is judged was
        stopped, of a further run that is stopped where it was. One more is made where a tensor
        came from nowhere that was seen: another thread may have computed it. None if the model
        cannot be run again, as it would not be afterwards what it was before.
    """
    _, args, kwargs = evidence.origin[:3]
    with verdicts.timing("completeness"):
        run, tracer = _witnessed(evidence)
    named = evidence.made_of.named
    n, sites, last = _n_stimuli(evidence), evidence.sites, evidence.last
    with one_state(evidence) as again:
        if unrestorable := again.snapshot.unrestorable:
            _not_run(unrestorable[0], evidence, verdicts)
            return None

        def left_by(forward: Callable[[], Any]) -> _Left:
            """What `forward` leaves, started from the one state."""
            snapshot = again()
            outputs, state = outputs_of(forward()), State(named, snapshot)
            again.unmoved, again.stands = state.unmoved, state.stands  # nothing runs before that
            return _Left(outputs, state, Generators())

        def plain(mode: AbstractContextManager[Any]) -> Any:
            with switched(), mode:
                return run.model(*args, **kwargs)

        def unwitnessed() -> Any:
            """What the model gives in a run that keeps nothing, traced as `lf.trace` does."""
            unseen = Run(evidence.origin.model, sites=sites, made_of=evidence.made_of)
            return unseen.execute(args, kwargs, n)

        bare = left_by(unwitnessed if sites else lambda: plain(nullcontext()))
        with verdicts.timing("completeness"):
            traced = left_by(lambda: run.execute(args, kwargs, n))
        apart = _apart(traced, bare)
        if apart:
            idle = bare if sites else left_by(lambda: plain(_Idle()))
            if _apart(traced, idle):
                # Some of torch's functions call other operators while these are witnessed
                # (`svdvals`): what is judged is the trace.
                traced = left_by(unwitnessed)
            apart = _apart(traced, _without_fused_paths(traced, bare, idle, last, verdicts))
        for reason in apart:
            verdicts.fails("interference", last, f"traced, {reason}")
        verdicts.holds("interference", last)
        with verdicts.timing("completeness"):
            if evidence.end is not None:
                stopped, tracer = _witnessed(evidence, evidence.end)
                left_by(lambda: stopped.execute(args, kwargs, n))
            held = evidence.before.snapshot.holds
            unknown = [row for row, key in tracer.constants.items() if not held(key)]
            if unknown and is_unobservable(tracer.tape.rows, tracer.unseen()):
                _leave_elsewhere(unknown, evidence.rows, verdicts)
            elif unknown:
                observing, watcher = _witnessed(evidence, evidence.end)
                watcher.observes = True
                with observed() as elsewhere:
                    left_by(lambda: observing.execute(args, kwargs, n))
                _check_elsewhere(elsewhere, evidence.rows, verdicts)
    with verdicts.timing("completeness"):
        _check_lost(evidence.rows, verdicts)
        _check_witness(tracer, evidence.rows, verdicts)
    return tracer.tape


class Again:
    """Puts all back for another run, and gives that state.

    Attributes
    ----------
    given
        The arguments with what they were given for the runs, where that is not what was found.
    switches
        How they stand at the start of a run.
    unmoved
        Ids of tensors that are known to be as they were, for the next time that all is put back.
    stands
        Whether all is known to stand as it did, for the next time as well.
    """

    def __init__(self, start: Start) -> None:
        self.snapshot = start.snapshot
        self.given: Snapshot | None = None
        self.unmoved: Collection[int] = ()
        self.stands = False
        self.switches = Switches()
        self._start = start

    def __call__(self) -> Snapshot:
        self._start.again(*self._seen())
        if self.given is not None:
            self.given.restore()
        self.switches.restore()
        return self.snapshot

    def leave(self) -> None:
        """Put back what was found."""
        self._start.restore(*self._seen())

    def _seen(self) -> tuple[Collection[int], bool]:
        seen = self.unmoved, self.stands
        self.unmoved, self.stands = (), False
        return seen


@contextmanager
def one_state(evidence: Evidence) -> Iterator[Again]:
    """What puts all back for another run, and gives that state; at the end all is as it was."""
    model, args, kwargs = evidence.origin[:3]
    is_new = "before" not in vars(evidence)
    start = evidence.before
    with ExitStack() as stack, Surroundings() as surroundings:
        again = Again(start)
        stack.callback(again.leave)
        if evidence.tape is not None and _give_inputs(model, args, kwargs, evidence.tape):
            again.given = Snapshot([("args", args), ("kwargs", kwargs)])
        elif is_new:  # nothing has run since it was taken
            again.unmoved, again.stands = start.snapshot.everything(), True
        surroundings.enter(evidence.switches)
        again.switches = evidence.origin.switches or Switches()
        yield again


def _not_run(held: tuple[str, str], evidence: Evidence, verdicts: Verdicts) -> None:
    path, kind = held
    reason = f"{path!r} is a {kind}, which a second run would move on and nobody could put back"
    verdicts.not_run("interference", evidence.last, reason)
    unknown = ["completeness", "alignment"]
    if evidence.tape is None:
        unknown += ["replay", "dependence", "downstream", "facts"]
    for check, op in product(unknown, evidence.rows):
        verdicts.not_run(check, op, reason)


def _n_stimuli(evidence: Evidence) -> int | None:
    """How many ids were given for the stimuli, if the arguments have a place for so many."""
    activations = evidence.activations
    if activations is None or STIMULUS not in activations.coords:
        return None
    n = activations.sizes[STIMULUS]
    try:
        stimuli(by_parameter(*evidence.origin[:3]), n)
    except LensValueError:
        return None
    return n


def _witnessed(evidence: Evidence, end: End | None = None) -> tuple[Run, WitnessedTracer]:
    """A run that finds every operator, which is ended where a stopped one was."""
    also = None if end is None else lambda tape: _StopThere(tape, end)
    claimed = {row["step"] for row in evidence.rows.values() if row["unsaved_reason"]}
    wanted = _Compared(claimed)
    model, sites = evidence.origin.model, evidence.sites
    made_of = evidence.made_of
    run = Run(model, wanted, also=also, tracer=WitnessedTracer, sites=sites, made_of=made_of)
    run.tape.seed = evidence.seed
    assert isinstance(run.tracer, WitnessedTracer)
    return run, run.tracer


class _Compared(Selection):
    """Keeps what is compared with a saved value, or has a reason why there is none.

    A value that the model is given now is compared.
    """

    def __init__(self, claimed: Collection[int]) -> None:
        self._claimed = claimed

    def watcher(self, tape: Tape, values: Values) -> Save:
        return _Keeping(tape, values, self._claimed)


class _Keeping(Save):
    def __init__(self, tape: Tape, values: Values, claimed: Collection[int]) -> None:
        super().__init__(tape, values)
        self._claimed = claimed

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        self.tape.values.append(None)
        if row in self._claimed or self.tape.kinds.get(row) in ("input", "constant", "edit"):
            self.values.keep(row, tensor, storage)


class _StopThere(Watcher):
    """Ends a run after as many rows as the traced one had, by what ended that."""

    def __init__(self, tape: Tape, end: End) -> None:
        self._tape = tape
        self._end = end

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        if self._end.by is True and row == self._end.n_rows - 1:
            raise Stop

    def left(self, module: int) -> None:
        call = self._tape.modules[module].key
        if self._end.by == call and len(self._tape.rows) >= self._end.n_rows:
            raise Stop(call)


def _give_inputs(model: Any, args: Any, kwargs: Any, tape: Tape) -> bool:
    """Give the inputs the values they had at the trace; whether any had been changed since."""
    given = False
    rows = [row for row, kind in tape.kinds.items() if kind == "input"]
    for (_, tensor), row in zip(
        named_inputs(by_parameter(model, args, kwargs)), rows, strict=False
    ):
        value, stride = tape.values[row], tape.rows[row].stride
        if value is None:
            continue
        if not difference(tensor, value).same or _lies_otherwise(tensor, stride):
            given = True
            with torch.no_grad():
                _give(tensor, value, stride)
    return given


def _lies_otherwise(tensor: Tensor, stride: Sequence[int]) -> bool:
    """Whether it was turned in place: `x.t_()` moves no value."""
    return bool(stride) and tensor.layout is torch.strided and tensor.stride() != tuple(stride)


def _give(tensor: Tensor, value: Tensor, stride: Sequence[int]) -> None:
    """Write a value into a tensor whose shape may have been changed in place as well."""
    if tensor.dtype != value.dtype or tensor.layout is not torch.strided:
        tensor.data = value.clone()
        return
    if tensor.shape != value.shape or _lies_otherwise(tensor, stride):
        tensor.data = tensor.detach().as_strided(value.shape, stride)
    write(tensor.detach(), value)


def _without_fused_paths(
    traced: _Left, bare: _Left, idle: _Left, last: str, verdicts: Verdicts
) -> _Left:
    """What a plain run leaves, with the outputs of the `idle` one if the mode alone made those.

    An output that a mode which does nothing changes just so is torch's doing, not the tracer's.
    """
    apart = _outputs_differ(traced.outputs, bare.outputs)
    if not apart or _outputs_differ(traced.outputs, idle.outputs):
        return bare
    verdicts.could_not(
        last,
        "torch itself leaves a fused path while any function mode is active: "
        f"the output differs from the plain forward's, {apart[0]}",
    )
    verdicts.count("fused_paths_left")
    return bare._replace(outputs=idle.outputs)


def _apart(traced: _Left, bare: _Left) -> list[str]:
    """What a traced run left otherwise than a plain one."""
    return [
        *_outputs_differ(traced.outputs, bare.outputs),
        *traced.state.differences(bare.state),
        *traced.generators.differences(bare.generators),
    ]


def _outputs_differ(output: list[tuple[str, Tensor]], plain: list[tuple[str, Tensor]]) -> list[str]:
    if [path for path, _ in output] != [path for path, _ in plain]:
        return [f"the output has {len(output)} tensors instead of {len(plain)}"]
    found = []
    for (path, mine), (_, theirs) in zip(output, plain, strict=True):
        apart = difference(mine, theirs)
        if not apart.same:
            found.append(f"output {path or 'tensor'}: {apart.reason}")
    return found


def _check_elsewhere(elsewhere: Found, rows: Rows, verdicts: Verdicts) -> None:
    """What operators of other threads gave is proven by nothing."""
    by_step = sorted(rows, key=lambda op: rows[op]["step"])
    for row, operators in elsewhere.items():
        verdicts.fails(
            "completeness",
            by_step[min(row, len(by_step) - 1)],
            f"not proven: {', '.join(dict.fromkeys(operators))} ran in another thread, where no "
            "trace sees it, and gave this value",
        )
        verdicts.count("not_proven")


def _leave_elsewhere(unknown: Iterable[int], rows: Rows, verdicts: Verdicts) -> None:
    """Nothing is said of what came from nowhere where no other thread can be observed."""
    by_step = sorted(rows, key=lambda op: rows[op]["step"])
    for row in unknown:
        verdicts.could_not(
            by_step[min(row, len(by_step) - 1)],
            "whether another thread computed it is not known: torch's observer of threads cannot "
            "take the nested or sparse tensors of this run",
        )


def _check_lost(rows: Rows, verdicts: Verdicts) -> None:
    """A value that was written unseen is known to nobody."""
    for op, row in rows.items():
        if row["unsaved_reason"] == WRITTEN_UNSEEN:
            verdicts.fails("completeness", op, f"not proven: {WRITTEN_UNSEEN}")
            verdicts.count("not_proven")


def _check_witness(tracer: WitnessedTracer, rows: Rows, verdicts: Verdicts) -> None:
    by_step = sorted(rows, key=lambda op: rows[op]["step"])
    verdicts.totals["aten_operators"] = tracer.operators
    verdicts.totals["aten_gaps"] = sum(len(gap.operators) for gap in tracer.gaps)
    for gap in tracer.gaps:
        op = by_step[min(gap.row, len(by_step) - 1)]
        where = f" in module {gap.module!r}" if gap.module else ""
        verdicts.fails(
            "completeness", op, f"before this row {', '.join(gap.operators)} ran{where} unseen"
        )
    verdicts.all_hold("completeness", by_step)
