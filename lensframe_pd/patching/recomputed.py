"""What depends on a row, computed anew from saved values.

Nothing saved stands in for what would have to be computed anew. Where it is not certain that the
calls of the model would be the same with the value as without, `Doubt` says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from heapq import heappop, heappush
from typing import Any, NamedTuple

from torch import Tensor

from lensframe_pd.errors import LensRuntimeError, shown
from lensframe_pd.patching.sharing import may_share
from lensframe_pd.replay.call import Rerun, Unreplayable, laid_out
from lensframe_pd.tape.compare import Difference, difference, same
from lensframe_pd.tape.context import Surroundings
from lensframe_pd.tape.storage import bits_of, version_of
from lensframe_pd.tape.tape import Call, Opaque, Row, Tape


class Doubt(Exception):
    """Only a forward of the model can tell; the text says why."""


class _Step(NamedTuple):
    """One call, with its rows."""

    call: Call
    rows: list[int]


class Recomputed:
    """The rows of a finished run under other values.

    Parameters
    ----------
    tape
        All of its values are kept.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._steps: list[_Step] = []
        steps: dict[int, _Step] = {}
        for row, made in enumerate(tape.rows):
            if made.call not in steps:
                steps[made.call] = _Step(tape.calls[made.call], [])
                self._steps.append(steps[made.call])
            steps[made.call].rows.append(row)
        #: Row to the steps that read it, in order.
        self._readers: list[list[int]] = [[] for _ in tape.rows]
        for k, step in enumerate(self._steps):
            for source in {s for s in step.call.sources if s >= 0}:
                self._readers[source].append(k)
        self._reruns: dict[int, Rerun | str] = {}

    @cached_property
    def _last_unknown(self) -> int:
        """The last row of a tensor that nobody knows the origin of: what came before may be it.

        So may it be in an object that a call was given, of which there is only a description.
        """
        kinds = self._tape.kinds.items()
        unknown = [r for r, kind in kinds if kind == "constant" and r not in self._tape.paths]
        unknown += [s.rows[0] for s in self._steps if _is_opaque((s.call.args, s.call.kwargs))]
        return max(unknown, default=-1)

    def check_parameters(self) -> None:
        """See that the parameters and buffers are those that the saved values were computed with.

        Raises
        ------
        LensRuntimeError
            One was written, or a call that reads some gives something else now.
        """
        written = [
            held.name
            for held, version in zip(self._tape.held, self._tape.versions, strict=True)
            if held.is_parameter and version is not None and _version(held.tensor) != version
        ]
        if written:
            raise LensRuntimeError(
                f"patch: {shown(written)} changed since the trace, and the saved values were "
                "computed with what they were; trace again"
            )
        with Surroundings() as surroundings:
            for k, step in enumerate(self._steps):
                names = [self._tape.held[-1 - s].name for s in step.call.sources if s < 0]
                reason = self._checked(k, surroundings) if names else None
                if isinstance(reason, _Apart) and reason.is_more_than_rounding:
                    raise LensRuntimeError(
                        f"patch: {step.call.function.name} does not give its saved value any more "
                        f"({reason.apart.reason}): {', '.join(names)} changed since the "
                        "trace; trace again"
                    )

    def outputs(self, row: int, value: Tensor) -> dict[int, Tensor]:
        """The outputs that another value of a row changes, by their rows.

        Raises
        ------
        Doubt
            The model might do something else with that value.
        """
        self._check_start(row, value)
        changed, kept = {row: self._in_place(row, value)}, {}
        waiting = [*self._readers[row]]
        queued = {*waiting}
        with Surroundings() as surroundings:
            while waiting:
                k = heappop(waiting)
                for made, new in self._carried(k, changed, surroundings).items():
                    changed[made] = new
                    if self._tape.kinds.get(made) == "output":
                        kept[made] = new
                    for reader in self._readers[made]:
                        if reader not in queued:
                            queued.add(reader)
                            heappush(waiting, reader)
                for source in self._steps[k].call.sources:
                    if source >= 0 and self._readers[source][-1] == k:
                        changed.pop(source, None)  # nothing after this reads it
        return kept

    def _check_start(self, row: int, value: Tensor) -> None:
        tape = self._tape
        saved = tape.values[row]
        assert saved is not None
        if row < self._last_unknown:
            raise Doubt("a later tensor is of unknown origin, and may have been made of it")
        if tape.rows[row].call in tape.wrapped:
            raise Doubt("it is inside torch.func")
        if row in tape.handed and not self._is_read_once(row):
            raise Doubt("it is the tensor that it was made of, which others may hold as it was")
        if row in tape.reads and not same(value, saved):
            raise Doubt("Python read its value")
        function = tape.calls[tape.rows[row].call].function
        if tape.rows[row].inplace or not may_share(function.name):
            return
        for step in self._sharing(row):
            if step.call.function.name == "alias" or tape.rows[step.rows[0]].inplace:
                raise Doubt("it may share memory that is then written")

    def _is_read_once(self, row: int) -> bool:
        """Whether a tensor that a call handed back is used by one call, which must be by that name.

        Of two readers one may have it by the name that it had before, as in `dropout(h) + h`; of
        two calls that hand it back, one may read what the other gave; and what marks a tensor is
        called for what it does, not for what it gives.
        """
        tape = self._tape
        while row in tape.handed:
            call = tape.calls[tape.rows[row].call]
            beside = [
                other
                for source in call.sources
                if source >= 0
                for k in self._readers[source]
                for other in self._steps[k].rows
                if other in tape.handed and other != row
            ]
            uses = [k for k in self._readers[row] for s in self._steps[k].call.sources if s == row]
            if beside or len(uses) != 1 or call.function.marks:
                return False
            row = self._steps[uses[0]].rows[0]
        return True

    def _sharing(self, row: int) -> Iterator[_Step]:
        """The calls that read a row, or what may be a view of it."""
        waiting, seen = [row], {row}
        while waiting:
            for k in self._readers[waiting.pop()]:
                step = self._steps[k]
                yield step
                if may_share(step.call.function.name):
                    waiting += [r for r in step.rows if r not in seen]
                    seen |= {*step.rows}

    def _in_place(self, row: int, value: Tensor) -> Tensor:
        """The value as it lies in memory, where a write, or one who sees a write, needs that."""
        saved, made = self._tape.values[row], self._tape.rows[row]
        assert saved is not None
        aliased = any(step.call.function.name == "alias" for step in self._sharing(row))
        if aliased and 0 in made.stride:
            raise Doubt("elements of it share memory")
        if made.inplace or aliased:
            return laid_out(value, made.stride, bits_of(saved))
        return value

    def _carried(
        self, k: int, changed: dict[int, Tensor], surroundings: Surroundings
    ) -> dict[int, Tensor]:
        """What one call gives with what has changed: the rows that differ."""
        step = self._steps[k]
        rerun = self._checked(k, surroundings)
        if isinstance(rerun, str):
            raise Doubt(rerun)
        surroundings.enter(step.call.context)
        try:
            result = rerun([self._argument(s, changed) for s in step.call.sources])
        except Exception as error:  # with other values it may fail, as the model then would
            raise Doubt(f"{step.call.function.name} fails: {error}") from error
        found = {}
        for row in step.rows:
            slot = self._tape.rows[row].slot
            if slot >= len(result):
                raise Doubt(f"{step.call.function.name} gives fewer tensors")
            new = result[slot].detach()
            if self._differs(row, new):
                found[row] = new
        return found

    def _differs(self, row: int, new: Tensor) -> bool:
        saved = self._tape.values[row]
        if saved is None:
            raise Doubt("a value that depends on it was not saved")
        if new.shape != saved.shape or new.dtype != saved.dtype:
            raise Doubt("a shape or dtype depends on it")
        decides = row in self._tape.reads
        exact = not (new.is_floating_point() or new.is_complex())
        if not (decides or exact):  # almost always it does, and to look takes time
            return True
        differs = not same(new, saved)
        if differs and decides:
            raise Doubt("Python read a value that depends on it")
        return differs

    def _checked(self, k: int, surroundings: Surroundings) -> Rerun | str:
        """What runs a call again, once it has given its saved values; else why it does not."""
        found = self._reruns.get(k)
        if found is None:
            found = self._reruns[k] = self._check(self._steps[k], surroundings)
        return found

    def _check(self, step: _Step, surroundings: Surroundings) -> Rerun | str:
        tape = self._tape
        name = step.call.function.name
        if tape.rows[step.rows[0]].call in tape.wrapped:
            return f"{name} ran inside torch.func"
        values = [tape.values[row] for row in step.rows]
        first = values[0]
        if first is None:
            return f"{name} has no saved value"
        rows: Sequence[Row] = [tape.rows[row] for row in step.rows]
        rerun = Rerun(step.call, rows, bits_of(first))
        surroundings.enter(step.call.context)
        try:
            result = rerun([self._argument(s, {}) for s in step.call.sources])
        except Unreplayable as reason:
            return f"{name} cannot be run again: {reason}"
        except Exception as error:
            return f"{name} cannot be run again: {error}"
        for row, value in zip(rows, values, strict=True):
            if row.slot >= len(result) or value is None:
                return f"{name} gives fewer tensors"
            apart = difference(result[row.slot].detach(), value)
            if not apart.same:
                return _Apart(name, apart, value)
        return rerun

    def _argument(self, source: int, changed: dict[int, Tensor]) -> Tensor:
        if source < 0:
            return self._held(-1 - source)
        value = changed.get(source)
        value = self._tape.values[source] if value is None else value
        if value is None:
            raise Unreplayable("a value was not saved")
        # Whether autograd follows an argument can choose the kernel.
        follows = value.is_floating_point() or value.is_complex()
        if follows and self._tape.rows[source].requires_grad:
            return value.detach().requires_grad_()
        return value

    def _held(self, k: int) -> Tensor:
        tensor = self._tape.before[k] if k in self._tape.before else self._tape.held[k].tensor
        if tensor is None:
            raise Unreplayable(f"the model does not hold {self._tape.held[k].name!r} any more")
        return tensor


def _version(tensor: Tensor | None) -> int | None:
    return None if tensor is None else version_of(tensor)


class _Apart(str):
    """Why a call is not run again: by itself it gives another value than in the run."""

    def __new__(cls, name: str, apart: Difference, value: Tensor) -> _Apart:
        made = super().__new__(cls, f"{name} gives another value than was saved: {apart.reason}")
        made.apart = apart
        largest = float(value.abs().max()) if value.numel() else 0.0
        made.is_more_than_rounding = not apart.largest <= _ROUNDING * largest
        return made

    apart: Difference
    is_more_than_rounding: bool


_ROUNDING = 1e-4
"""Of the largest value: kernels round by where their arguments lie in memory."""


def _is_opaque(value: Any) -> bool:
    """Whether arguments are, or hold, an object of which only a description was kept."""
    if isinstance(value, Opaque):
        return value.description != "torch._C.Generator"
    if isinstance(value, (tuple, list)):
        return any([_is_opaque(part) for part in value])
    if isinstance(value, dict):
        return any([_is_opaque(part) for part in value.values()])
    return False
