"""Times of a forward's operations as the median of several runs, which leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from lensframe_pd.bars import counted
from lensframe_pd.capture.plan import Address, Departed, Follow, followed
from lensframe_pd.capture.run import Run
from lensframe_pd.capture.sites import Sites
from lensframe_pd.capture.state import Origin, Start
from lensframe_pd.capture.tracer import Tracer
from lensframe_pd.errors import warn
from lensframe_pd.tape.tape import Tape


def retime(tape: Tape, origin: Origin, before: Start, n: int, sites: Sites | None = None) -> None:
    """Set the seconds of each call to the median of `n` further runs from the same state.

    The runs keep no values. Afterwards the model, its arguments and the random generators are as
    the first run left them. A run that takes another path than the first, as a dynamic model may,
    is left out, with a warning; the time of the first run counts only where all are left out.

    Parameters
    ----------
    tape
        What the first run recorded.
    origin
        What it was made from.
    before
        The state it started from.
    n
        How many runs.
    sites
        What the first run was given other values for.

    Warns
    -----
    LensWarning
        Runs were left out.
    """
    path = followed(tape)
    runs: list[list[float]] = []
    departed: list[str] = []
    with Start(origin):  # on leaving, all is as the first run left it
        for _ in counted(range(n), "repeats", "runs"):
            before.again()
            try:
                runs.append([seconds for _, seconds in _timed(origin, path, sites)])
            except Departed as where:
                departed.append(str(where))
    if departed:
        warn(
            f"{len(departed)} of {n} repeats ran other operations than the first run and are not "
            f"in the times: {departed[0]}"
        )
    if runs:
        medians = map(median, zip(*runs, strict=True))
        tape.calls[:] = [
            call._replace(seconds=s) for call, s in zip(tape.calls, medians, strict=True)
        ]
    tape.facts["repeats"] = len(runs)


def _timed(
    origin: Origin, path: list[Address] | None = None, sites: Sites | None = None
) -> list[tuple[str, float]]:
    """Target and seconds of each call of one run.

    Raises
    ------
    Departed
        It took another path.
    """
    on_gpu = torch.cuda.is_initialized()  # untested: no GPU here
    follow = None if path is None else partial(Follow, path=path)
    tracer = _ClockedTracer if on_gpu else Tracer
    run = Run(origin.model, also=follow, tracer=tracer, sites=sites)
    run.execute(origin.args, origin.kwargs)
    if path is not None and len(run.tape.rows) < len(path):
        raise Departed(f"it ended where the first run went on with {path[len(run.tape.rows)]}")
    return [(call.function.target, call.seconds) for call in run.tape.calls]


class _ClockedTracer(Tracer):
    """Times calls by events on the GPU's stream; untested: no GPU here."""

    @contextmanager
    def running(self) -> Iterator[None]:
        with _CudaClock(self.tape) as clock, super().running():
            yield
        clock.write()


class _CudaClock(TorchFunctionMode):
    """Times calls by events on the stream; untested: no GPU here.

    A call on a GPU returns before its work is done. Entered before the tracer's mode, this one
    sees the calls that the tracer makes. The event's call is the first that torch made at or after
    the length the tape had: the tracer writes a call down after it, at most behind alias rows.
    """

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self._tape = tape
        self._events: dict[int, tuple[Any, Any]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        place = len(self._tape.calls)
        start.record()
        result = func(*args, **(kwargs or {}))
        end.record()
        self._events[place] = start, end
        return result

    def write(self) -> None:
        """Wait for the GPU, and give its times to the calls."""
        if not self._events:
            return
        torch.cuda.synchronize()
        calls = self._tape.calls
        for place, (start, end) in self._events.items():
            at = place
            while at < len(calls) and not calls[at].function.target:
                at += 1
            if at < len(calls):
                calls[at] = calls[at]._replace(seconds=start.elapsed_time(end) / 1e3)
