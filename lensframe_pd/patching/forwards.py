"""The model itself, run from the state it was traced in, with another value for one row."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from lensframe_pd.capture.edits import Refused
from lensframe_pd.capture.plan import Address, followed
from lensframe_pd.capture.run import Run
from lensframe_pd.capture.sites import Site, Sites
from lensframe_pd.capture.snapshot import Snapshot
from lensframe_pd.errors import LensRuntimeError
from lensframe_pd.patching.apart import read_apart
from lensframe_pd.tape.compare import difference
from lensframe_pd.tape.objects import tensors_of
from lensframe_pd.tape.passes import passes
from lensframe_pd.tape.silence import silenced
from lensframe_pd.tape.tape import SCRIPT, Tape
from lensframe_pd.validation.evidence import Evidence
from lensframe_pd.validation.twice import one_state


class Forwards:
    """Runs of the model, begun when the first is asked for; afterwards all is as it was."""

    def __init__(self, evidence: Evidence, tape: Tape) -> None:
        self._evidence = evidence
        self._tape = tape
        self._stack = ExitStack()
        self._again: Callable[[], Snapshot] | None = None

    def __enter__(self) -> Forwards:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def output(self, address: Address, key: str, value: Any) -> Any:
        """What the model returns with this value.

        Raises
        ------
        LensError
            No run can be given the value there.
        LensRuntimeError
            The model is not what it was when it was traced.
        """
        return self._run(self._ready(), Sites(rows={address: Site(key, value)}))

    def plain(self) -> Any:
        """What the model returns by itself."""
        return self._run(self._ready(), Sites())

    def apart(self, rows: set[int]) -> set[int]:
        """Those of these rows, handed back by calls, that are read as what the calls gave."""
        tape = self._tape
        rows = {row for row in rows if not self._is_out_of_reach(row)}
        if not rows:
            return rows
        addresses = followed(tape)
        sites = Sites(rows={addresses[row]: Site(str(row), Tensor.clone) for row in rows})
        self._ready()()
        origin = self._evidence.origin
        copied = Run(origin.model, sites=sites)
        try:
            copied.execute(origin.args, origin.kwargs)
        except (Exception, Refused):
            return set()  # it does something else with copies
        return read_apart(tape, copied.tape, rows)

    def _is_out_of_reach(self, row: int) -> bool:
        """Whether no value can be given there: inside torch.func, or a ScriptModule."""
        call = self._tape.rows[row].call
        return call in self._tape.wrapped or SCRIPT in self._tape.calls[call].site[:1]

    def _ready(self) -> Callable[[], Snapshot]:
        """What puts all back for another run."""
        if self._again is None:
            self._again = self._begin()
        return self._again

    def _begin(self) -> Callable[[], Snapshot]:
        self._stack.enter_context(silenced())
        again = self._stack.enter_context(one_state(self._evidence))
        for path, kind in again().unrestorable:
            raise LensRuntimeError(
                f"patch: {path!r} is a {kind}, which a forward would move on and nobody could put "
                "back; give rows that no decision of the model depends on"
            )
        rows = [row for row, kind in self._tape.kinds.items() if kind == "output"]
        outputs = tensors_of(self._run(again, Sites()))
        saved = [self._tape.values[row] for row in rows]
        same = len(outputs) == len(saved) and all(
            value is None or difference(tensor.detach(), value).same
            for tensor, value in zip(outputs, saved, strict=True)
        )
        if not same:
            raise LensRuntimeError(
                "patch: a forward of the model does not give the traced output any more: its "
                "parameters, or what it keeps between calls, changed since; trace again"
            )
        return again

    def _run(self, again: Callable[[], Snapshot], sites: Sites) -> Any:
        origin = self._evidence.origin
        again()
        run = Run(origin.model, sites=sites)
        try:
            output = run.execute(origin.args, origin.kwargs)
        except Refused as refusal:
            raise refusal.error from None
        assert run.tracer.edits is not None
        error = run.tracer.edits.problem(lambda: passes(run.tape))
        if error is not None:
            raise error
        return output
