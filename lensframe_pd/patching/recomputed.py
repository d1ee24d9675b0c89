"""What depends on a row, computed anew from saved values.

Nothing saved stands in for what would have to be computed anew. Where it is not certain that the
calls of the model would be the same with the value as without, `Doubt` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from heapq import heappop, heappush
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lensframe_pd.capture.values import WRITTEN_UNSEEN
from lensframe_pd.errors import LensRuntimeError, shown
from lensframe_pd.patching.sharing import may_share
from lensframe_pd.replay.call import Rerun, Unreplayable, laid_out
from lensframe_pd.tape.compare import Difference, difference, same
from lensframe_pd.tape.context import Surroundings
from lensframe_pd.tape.storage import bits_of, is_plain, version_of
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
    held
        Gives the rows of inputs that the model may read by another name.
    apart
        Gives the rows that only those read who were handed them, of calls that hand back what they
        were given. Each is asked once, when it is first needed.
    """

    def __init__(
        self,
        tape: Tape,
        held: Callable[[], set[int]],
        apart: Callable[[set[int]], set[int]],
    ) -> None:
        self.tape = tape
        self._find_held = held
        self._find_apart = apart
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
        #: Whether any call draws random numbers.
        self.draws = any([call.generator is not None for call in tape.calls])
        self._is_blind = WRITTEN_UNSEEN in tape.lost.values()
        self._written: dict[int, bool] = {}
        #: Step to the state of the random generator after it, as far as it was run again.
        self._generators: dict[int, Tensor] = {}

    @cached_property
    def _last_unknown(self) -> int:
        """The last row of a tensor that nobody knows the origin of: what came before may be it.

        So may it be in an object that a call was given, of which there is only a description.
        """
        kinds = self.tape.kinds.items()
        unknown = [r for r, kind in kinds if kind == "constant" and r not in self.tape.paths]
        unknown += [s.rows[0] for s in self._steps if _is_opaque((s.call.args, s.call.kwargs))]
        return max((self.tape.blurred, *unknown))

    @cached_property
    def _held_inputs(self) -> set[int]:
        return self._find_held()

    @cached_property
    def _guessed(self) -> set[int]:
        """The rows that may lie in one memory with one that a tensor was known by."""
        return self._beside(self.tape.guessed)

    @cached_property
    def _decides(self) -> set[int]:
        """The rows of whose values the program learned, so that another may change its course."""
        return {*self.tape.reads} | self.tape.told | self._beside(self.tape.lent)

    def _beside(self, rows: set[int]) -> set[int]:
        """The rows that may lie in one memory with one of these."""
        if not rows:
            return rows
        from scipy.cluster.hierarchy import DisjointSet  # few runs need it, and it takes time

        joined = DisjointSet(range(-len(self.tape.held), len(self.tape.rows)))
        for step in self._steps:
            first, *more = step.rows
            if self._may_share(step) or any([self.tape.rows[row].inplace for row in step.rows]):
                for other in (*more, *step.call.sources):
                    joined.merge(first, other)
        return {beside for row in rows for beside in joined.subset(row)}

    @cached_property
    def _apart(self) -> set[int]:
        """The rows of objects that were there before, read by those alone who were handed them."""
        return self._find_apart({row for row in self.tape.handed if not self._is_written(row)})

    def check_parameters(self, lasting: Collection[int]) -> None:
        """See that the parameters and buffers are those that the saved values were computed with.

        Parameters
        ----------
        lasting
            The ids of those that were there before the run: it may have written its own.

        Raises
        ------
        LensRuntimeError
            One was written, or a call that reads some gives something else now.
        """
        written = [
            held.name
            for held, version in zip(self.tape.held, self.tape.versions, strict=True)
            if held.is_parameter and version is not None and _version(held.tensor) != version
            if id(held.tensor) in lasting
        ]
        if written:
            raise LensRuntimeError(
                f"patch: {shown(written)} changed since the trace, and the saved values were "
                "computed with what they were; trace again"
            )
        with Surroundings() as surroundings:
            for k, step in enumerate(self._steps):
                read = [self.tape.held[-1 - s] for s in step.call.sources if s < 0]
                names = [held.name for held in read if id(held.tensor) in lasting]
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
                    if self.tape.kinds.get(made) == "output":
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
        tape, made, saved = self.tape, self.tape.rows[row], self.tape.values[row]
        assert saved is not None
        if self._is_blind:
            raise Doubt("something was written that no call shows, so any call may have read it")
        if row < self._last_unknown:
            raise Doubt("a later tensor is of unknown origin, and may have been made of it")
        if made.call in tape.wrapped:
            raise Doubt("it is inside torch.func")
        if row in tape.followed:
            raise Doubt("the program asked what autograd knows of it")
        if row in self._decides and not same(value, saved):
            raise Doubt("Python read its value")
        if not made.inplace and self._lies_otherwise(row, value):
            raise Doubt("it would lie otherwise in memory")
        function = tape.calls[made.call].function
        if function.repoints:
            raise Doubt("it is another tensor's memory")
        if tape.kinds.get(row) == "input" and row in self._held_inputs:
            raise Doubt("the model holds it by another name as well")
        if row in tape.handed:
            if row not in self._apart:
                raise Doubt("it is the tensor that it was made of, which others may hold as it was")
        elif not made.inplace and may_share(function.name):
            if row in self._guessed:
                raise Doubt("a tensor was known by its memory alone, and may be made of another")
            if self._is_written(row):
                raise Doubt("it may share memory that is then written")

    def _is_written(self, row: int) -> bool:
        """Whether a row, or what may be a view of it, is written later."""
        if row not in self._written:
            self._written[row] = any(
                step.call.function.name == "alias" or self.tape.rows[step.rows[0]].inplace
                for step in self._sharing(row)
            )
        return self._written[row]

    def _lies_otherwise(self, row: int, value: Tensor) -> bool:
        """Whether a value lies otherwise in memory than the row's, where that may matter.

        Where memory is written it decides what is a view, and what a copy.
        """
        stride = self.tape.rows[row].stride
        if not stride or value.stride() == stride:
            return False
        return row in self.tape.placed or self._is_written(row)

    def _sharing(self, row: int) -> Iterator[_Step]:
        """The calls that read a row, or what may be a view of it."""
        waiting, seen = [row], {row}
        while waiting:
            for k in self._readers[waiting.pop()]:
                step = self._steps[k]
                yield step
                if self._may_share(step):
                    waiting += [r for r in step.rows if r not in seen]
                    seen |= {*step.rows}

    def _may_share(self, step: _Step) -> bool:
        """Whether what a call gave may lie in the memory of what it was given."""
        return may_share(step.call.function.name) or not self.tape.handed.isdisjoint(step.rows)

    def _in_place(self, row: int, value: Tensor) -> Tensor:
        """The value as it lies in memory, which a write does not change."""
        saved, made = self.tape.values[row], self.tape.rows[row]
        assert saved is not None
        if not made.inplace:
            return value
        if 0 in made.stride:
            raise Doubt("elements of it share memory")
        return laid_out(value, made.stride, bits_of(saved))

    def _carried(
        self, k: int, changed: dict[int, Tensor], surroundings: Surroundings
    ) -> dict[int, Tensor]:
        """What one call gives with what has changed: the rows that differ."""
        step = self._steps[k]
        rerun = self._checked(k, surroundings)
        if isinstance(rerun, str):
            raise Doubt(rerun)
        surroundings.enter(step.call.context)
        random = step.call.function.random
        if random and step.call.generator is None:  # with the saved values it drew none
            self._generators[k] = torch.get_rng_state()
        try:
            result = rerun([self._argument(s, changed) for s in step.call.sources])
        except Exception as error:  # with other values it may fail, as the model then would
            raise Doubt(f"{step.call.function.name} fails: {error}") from error
        if random and not self._draws_alike(k):
            raise Doubt(f"{step.call.function.name} draws as many random numbers as its values say")
        found = {}
        for row in step.rows:
            slot = self.tape.rows[row].slot
            if slot >= len(result):
                raise Doubt(f"{step.call.function.name} gives fewer tensors")
            new = result[slot].detach()
            if self._differs(row, new):
                found[row] = new
        return found

    def _differs(self, row: int, new: Tensor) -> bool:
        saved = self.tape.values[row]
        if saved is None:
            raise Doubt("a value that depends on it was not saved")
        if new.shape != saved.shape or new.dtype != saved.dtype:
            raise Doubt("a shape or dtype depends on it")
        if self._lies_otherwise(row, new):
            raise Doubt("how a tensor lies in memory depends on it")
        if row in self.tape.followed and self.tape.rows[row].requires_grad:
            raise Doubt("the program asked what autograd knows of it")
        decides = row in self._decides
        inexact = new.is_floating_point() or new.is_complex()
        if inexact and not decides:  # almost always it does, and to look takes time
            return True
        if new.is_quantized or not is_plain(new):  # not all that it shows is its elements
            raise Doubt("it is no plain tensor, so nobody can say that it is as it was")
        differs = not same(new, saved)
        if differs and decides:
            raise Doubt("Python read a value that depends on it")
        return differs or (new.layout is torch.strided and new.stride() != saved.stride())

    def _checked(self, k: int, surroundings: Surroundings) -> Rerun | str:
        """What runs a call again, once it has given its saved values; else why it does not."""
        found = self._reruns.get(k)
        if found is None:
            found = self._reruns[k] = self._check(self._steps[k], surroundings)
            if self._steps[k].call.generator is not None:
                self._generators[k] = torch.get_rng_state()
        return found

    def _draws_alike(self, k: int) -> bool:
        """Whether a call that was run again left the random generator as with the saved values."""
        call = self._steps[k].call
        if any(isinstance(value, Opaque) for value in (*call.args, *call.kwargs.values())):
            return False  # a generator of the model's own
        return torch.equal(torch.get_rng_state(), self._generators[k])

    def _check(self, step: _Step, surroundings: Surroundings) -> Rerun | str:
        tape = self.tape
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
            return self._held_tensor(-1 - source)
        value = changed.get(source)
        value = self.tape.values[source] if value is None else value
        if value is None:
            raise Unreplayable("a value was not saved")
        # Whether autograd follows an argument can choose the kernel.
        follows = value.is_floating_point() or value.is_complex()
        if follows and self.tape.rows[source].requires_grad:
            return value.detach().requires_grad_()
        return value

    def _held_tensor(self, k: int) -> Tensor:
        tensor = self.tape.before[k] if k in self.tape.before else self.tape.held[k].tensor
        if tensor is None:
            raise Unreplayable(f"the model does not hold {self.tape.held[k].name!r} any more")
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
