"""The model traced again with its stimuli in another order; values are looked at as they are made.

Nothing is kept of such a run, so that it needs no more memory than the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lensframe_pd.bars import bar
from lensframe_pd.capture.inventory import Inventory
from lensframe_pd.capture.run import Run
from lensframe_pd.capture.snapshot import Snapshot
from lensframe_pd.capture.watch import Stop, Watcher
from lensframe_pd.tape.tape import Call, Tape
from lensframe_pd.validation.arranged import Arranged, Blended, Order, Unarrangeable
from lensframe_pd.validation.determinism import fresh_memory_filled
from lensframe_pd.validation.evidence import Evidence
from lensframe_pd.validation.followed import Followed, Look, Parted, is_followable
from lensframe_pd.validation.twice import one_state


class Another(Exception):
    """A run that cannot be compared with the recorded one; the text says why."""


class Given(NamedTuple):
    """How the stimuli are given to a run."""

    order: Order
    contents_only: bool
    nudge: int
    blended: Blended | None
    fills: bool


class Retraced:
    """Runs of the model from its one state, compared with a tape call by call."""

    def __init__(
        self,
        evidence: Evidence,
        reference: Tape,
        again: Callable[[], Snapshot],
        arranged: Arranged,
        done: Callable[[], object],
    ) -> None:
        self._origin = evidence.start
        self._seed = evidence.seed
        self._sites = evidence.sites
        self._made_of = evidence.made_of
        self._reference = reference
        self._again = again
        self._arranged = arranged
        self._done = done
        self._model = _called(self._origin.model, self._made_of)
        #: Whether it is tried first to go along the tape.
        self._follows = self._sites is None and is_followable(reference, self._made_of)

    def run(
        self,
        order: Order,
        rows: Collection[int],
        look: Look,
        contents_only: bool = False,
        nudge: int = 0,
        blended: Blended | None = None,
        settle: Callable[[], object] = int,
        fills: bool = False,
    ) -> None:
        """Give the stimuli in this order, and look at each of these rows as it is made.

        Parameters
        ----------
        settle
            Called before a value that was given to `look` may change, and at the end.
        nudge
            If not 0, the stimuli are moved by some rounding, by another for each number.
        blended
            The place whose stimulus is blended with another.
        fills
            Whether memory that nothing has written is filled.

        Raises
        ------
        Another
            The run does other things than the recorded one, or fails.
        """
        try:
            given = Given(order, contents_only, nudge, blended, fills)
            if not (self._follows and self._follow(given, rows, look, settle)):
                self._trace(given, rows, _at_once(look, settle))
                self._follows = False  # a trace goes along where that does not
        finally:
            self._done()

    def _follow(
        self, given: Given, rows: Collection[int], look: Look, settle: Callable[[], object]
    ) -> bool:
        """Run it along the tape; whether it went along to the end.

        If not, what was looked at is what a trace shows first as well.
        """
        followed = Followed(self._reference, rows, look, settle)
        try:
            with self._arranged_so(given):
                followed.run(self._model, *self._origin[1:3])
        except (Parted, Exception):  # a trace fails alike, and says why
            return False
        return True

    def _trace(self, given: Given, rows: Collection[int], look: Look) -> None:
        """Trace it, and see at each row that it is the recorded one."""
        model, args, kwargs = self._origin[:3]
        run = Run(
            model,
            also=lambda tape: _Following(tape, self._reference, rows, look),
            sites=self._sites,
            made_of=self._made_of,
        )
        run.tape.seed = self._seed
        try:
            with self._arranged_so(given):
                run.execute(args, kwargs)
        except _Apart as apart:
            raise Another(str(apart)) from apart.__cause__
        except Unarrangeable as reason:
            raise Another(str(reason)) from reason
        except Exception as error:
            raise Another(f"the model fails: {type(error).__name__}: {error}") from error
        if not run.tape.stopped:
            raise Another(f"the model ends after {len(run.tape.rows)} rows")

    @contextmanager
    def _arranged_so(self, given: Given) -> Iterator[None]:
        """All is as at the start of a run, but for the stimuli."""
        self._again()
        try:
            self._arranged.give(given.order, given.contents_only, given.blended)
            if given.nudge:
                self._arranged.nudge(given.nudge)
            with fresh_memory_filled() if given.fills else nullcontext():  # not undone by `_again`
                yield
        finally:
            self._arranged.restore()


@contextmanager
def retraced(evidence: Evidence, reference: Tape, n: int) -> Iterator[Retraced]:
    """Runs of the model with its `n` stimuli arranged anew.

    Raises
    ------
    Another
        No argument has an entry for each of them.
    """
    with one_state(evidence) as again:
        arranged = Arranged(evidence.origin.args, evidence.origin.kwargs, n)
        if not arranged:
            raise Another(f"no argument of the model has {n} entries along its first axis")
        with bar("validate: alignment", unit="forwards") as progress:
            yield Retraced(evidence, reference, again, arranged, progress.update)


@contextmanager
def as_given(evidence: Evidence, reference: Tape) -> Iterator[Retraced]:
    """Runs of the model on its arguments as they are; the order of a run is empty."""
    with one_state(evidence) as again:
        yield Retraced(evidence, reference, again, Arranged((), {}, 0), int)


class _Apart(BaseException):
    """Ends a run that goes another way, which no model catches."""


class _Following(Watcher):
    """Sees that a run does what the recorded one did, and ends it after the last row asked for."""

    def __init__(self, tape: Tape, reference: Tape, rows: Collection[int], look: Look) -> None:
        self._tape = tape
        self._reference = reference
        self._rows = rows
        self._last = max(rows)
        self._look = look

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        problem = _other_way(self._tape, self._reference, row)
        if problem:
            raise _Apart(problem)
        if row in self._rows:
            try:
                with torch._C.DisableTorchFunction():  # what is detached takes no gradients
                    self._look(row, tensor.detach())
            except Exception as error:
                raise _Apart(f"values cannot be compared: {error}") from error
        if row == self._last:
            raise Stop


def _at_once(look: Look, settle: Callable[[], object]) -> Look:
    """Looks at a value before the run goes on, which may write it in ways that are not seen."""

    def look_and_settle(row: int, value: Tensor) -> None:
        look(row, value)
        settle()

    return look_and_settle


def _called(model: Any, made_of: Inventory) -> Any:
    """What a run calls."""
    return made_of.roots[""] if isinstance(model, nn.Module) else model


def _other_way(tape: Tape, reference: Tape, row: int) -> str:
    """What is not as in the reference; empty where the row has the same label by all it shows."""
    if row >= len(reference.rows):
        return f"the model goes on after {row} rows"
    here, there = tape.rows[row], reference.rows[row]
    call, known = tape.calls[here.call], reference.calls[there.call]
    same_call = call.function is known.function and here.slot == there.slot
    same_parents = call.sources == known.sources or _rows(call.sources) == _rows(known.sources)
    if not (same_call and same_parents and _same_place(tape, call, reference, known)):
        return (
            f"labels differ: row {row} is by {call.function.name} and was by {known.function.name}"
        )
    if call.generator is None or known.generator is None:
        return "" if call.generator is known.generator else "another call draws random numbers"
    drawn = torch.equal(call.generator, known.generator)
    return "" if drawn else "how many random numbers are drawn depends on the stimuli"


def _rows(sources: Sequence[int]) -> list[int]:
    """Those of them that are rows."""
    return [source for source in sources if source >= 0]


def _same_place(tape: Tape, call: Call, reference: Tape, known: Call) -> bool:
    """Whether both were made in the same call of the same module."""
    here, there = tape.modules[call.module], reference.modules[known.module]
    return here.number == there.number and here.path == there.path
