"""A run that is held against a tape call by call, and gives its values: a trace writes one anew.

It sees no modules, no lines of code and no memory. What it is told by the tape stands for these: a
call is the recorded one if its function is, its numbers and flags are, and each of its tensors is
the one that the rows named made in this run, or the very parameter. So it is for tapes that say so
of every call (`is_followable`), and where a run parts from one, a trace has to tell how.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode, redispatch_function

from lensframe_pd.capture.inventory import Inventory
from lensframe_pd.capture.process import switched
from lensframe_pd.capture.recorder import ATOMS, NO_KWARGS
from lensframe_pd.capture.run import named_inputs
from lensframe_pd.capture.stimuli import by_parameter
from lensframe_pd.capture.watch import Stop
from lensframe_pd.tape.context import generator_state
from lensframe_pd.tape.functions import KNOWN, Action, Function, describe
from lensframe_pd.tape.objects import tensors_in, tensors_of
from lensframe_pd.tape.storage import Unswapped, distinct, perform, written_arguments
from lensframe_pd.tape.tape import SLOT, Call, Tape

Look = Callable[[int, Tensor], None]
"""Is given the number of a row and its value."""

_PLAIN, _SKIP, _OPEN, _READ = Action.PLAIN, Action.SKIP, Action.OPEN, Action.READ
_KINDS = frozenset(("input", "output"))
_OF_MORE = frozenset(("grad", "backward", "deepcopy"))  # they depend on more than their arguments
_TENSORS = frozenset((Tensor, Parameter))
_push = torch._C._push_on_torch_function_stack
_pop = torch._C._pop_torch_function_stack


class Parted(BaseException):
    """Ends a run that does something else than the tape says, which no model catches."""


def is_followable(tape: Tape, made_of: Inventory) -> bool:
    """Whether the calls on a tape, and what they were given, are all there is to a run."""
    if made_of.compiled or made_of.writes_unseen or tape.wrapped:
        return False
    if not _KINDS.issuperset(tape.kinds.values()):
        return False
    return not any([call.function.name in _OF_MORE for call in tape.calls])


class Followed(TorchFunctionMode):
    """One run of a model along a tape.

    Parameters
    ----------
    rows
        Which rows are looked at; the run ends after the last.
    settle
        Called before what was looked at may change, and at the end.

    Raises
    ------
    Parted
        When it runs: it does something else.
    """

    def __init__(
        self, tape: Tape, rows: Collection[int], look: Look, settle: Callable[[], object] = int
    ) -> None:
        super().__init__()
        self._rows, self._calls = tape.rows, tape.calls
        self._settle = settle
        #: Whether a value may be written from here on without a call that is seen.
        self._lent = False
        self._tape = tape
        self._wanted = rows
        self._last = max(rows)
        self._look = look
        self._n_rows = 0
        #: By the id of a tensor itself, and the rows (or the parameter) that it is now.
        self._known: dict[int, tuple[Callable[[], Tensor | None], tuple[int, ...]]] = {}
        self._opening: Any = None

    def run(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run it until the last row is made.

        Raises
        ------
        Parted
            It does something else, or ends before.
        """
        try:
            for _, tensor in named_inputs(by_parameter(model, args, kwargs)):
                self._next_of_kind("input")
                self._made(tensor, Unswapped(tensor))
            with switched(), self:
                output = model(*args, **kwargs)
            for _, tensor in tensors_in(output):
                call = self._next_of_kind("output")
                if not self._is(tensor, self._tape.calls[call].sources[0]):
                    raise Parted
                self._made(tensor, None)
        except Stop:
            return
        finally:
            self._settle()
            self._known.clear()
        raise Parted

    def _next_of_kind(self, kind: str) -> int:
        if self._tape.kinds.get(self._n_rows) != kind:
            raise Parted
        return self._tape.rows[self._n_rows].call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = KNOWN.get(func) or describe(func)
        action = function.action
        if action is _PLAIN and (not kwargs or kwargs.get("out") is None):
            result = func(*args, **kwargs) if kwargs else func(*args)
            if type(result) is Tensor:
                self._called_plainly(function, args, kwargs or NO_KWARGS, result)
            elif result is not None and type(result) not in ATOMS:
                self._called(function, args, kwargs or NO_KWARGS, tensors_of(result), ())
            return result
        if action is _SKIP or action is _READ:
            if function.lends:
                self._settle()
                self._lent = True
            return func(*args, **(kwargs or NO_KWARGS))
        if action is _OPEN and func is not self._opening:
            return self._open(func, types, args, kwargs)
        return self._call_carefully(function, args, kwargs or NO_KWARGS)

    def _open(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Run a Python composite, whose inner calls are on the tape."""
        before, self._opening = self._opening, func
        _push(self)
        try:
            return redispatch_function(func, types, args, kwargs or NO_KWARGS)
        finally:
            _pop()
            self._opening = before

    def _call_carefully(self, function: Function, args: Any, kwargs: Any) -> Any:
        """A call that may write its arguments or draw random numbers."""
        writable = written_arguments(args, kwargs, function)
        if writable:
            self._settle()
        state = generator_state(args, kwargs) if function.random else None
        done = perform(function, args, kwargs, writable)
        if state is not None and torch.equal(state, generator_state(args, kwargs)):
            state = None
        made = distinct(done.made)
        if made:
            call = self._called(function, args, kwargs, made, done.written)
            _check_draws(state, self._tape.calls[call].generator)
        return done.result

    def _called_plainly(self, function: Function, args: Any, kwargs: Any, made: Tensor) -> None:
        """As `_called`, of one tensor and in few steps, as for most calls."""
        n, rows = self._n_rows, self._rows
        if n >= len(rows):
            raise Parted
        row = rows[n]
        call = self._calls[row[0]]  # by number, for speed: row.call, slot, call.function
        if row[1] or call[0] is not function or not self._has_arguments(call, args, kwargs):
            raise Parted
        key = id(made)
        if key in self._known:
            self._made(made, ref(made), call[3])
            return
        self._n_rows = n + 1
        self._known[key] = ref(made), (n,)
        if n in self._wanted:
            self._look_at(n, made)
        if n == self._last:
            raise Stop

    def _look_at(self, row: int, tensor: Tensor) -> None:
        with torch._C.DisableTorchFunction():  # what is detached takes no gradients
            self._look(row, tensor.detach())
            if self._lent:
                self._settle()

    def _called(
        self,
        function: Function,
        args: Any,
        kwargs: Any,
        made: Sequence[Tensor],
        written: Sequence[Tensor],
    ) -> int:
        """A call has made these tensors: it has to be that of the next rows."""
        tape = self._tape
        if not made:
            return -1
        if self._n_rows >= len(tape.rows):
            raise Parted
        number = tape.rows[self._n_rows].call
        call = tape.calls[number]
        if call.function is not function or not self._has_arguments(call, args, kwargs):
            raise Parted
        for slot, tensor in enumerate(made):
            if self._n_rows >= len(tape.rows):
                raise Parted
            row = tape.rows[self._n_rows]
            if row[0] != number or row[1] != slot or type(tensor) not in _TENSORS:
                raise Parted
            is_written = written and any([tensor is other for other in written])
            self._made(tensor, ref(tensor), () if is_written else call[3])  # call.sources
        return number

    def _made(
        self,
        tensor: Tensor,
        alive: Callable[[], Tensor | None] | None,
        sources: Sequence[int] = (),
    ) -> None:
        """The next row is this tensor.

        One that a call was given and hands back as it was is what it was before as well.
        """
        row = self._n_rows
        self._n_rows += 1
        if alive is not None:
            was = self._was(tensor) if sources else ()
            again = was and not {*was}.isdisjoint(sources)
            self._known[id(tensor)] = alive, (*was, row) if again else (row,)
        if row in self._wanted:
            self._look_at(row, tensor)
        if row == self._last:
            raise Stop

    def _has_arguments(self, call: Call, args: Any, kwargs: Any) -> bool:
        recorded = call[1]  # by number, for speed: call.args, kwargs, sources
        if len(args) != len(recorded) or len(kwargs) != len(call[2]):
            return False
        sources, rows = iter(call[3]), self._known
        for value, known in zip(args, recorded, strict=True):
            if known is SLOT:  # itself, rows
                source, met = next(sources), rows.get(id(value))
                if met is not None and source in met[1] and met[0]() is value:
                    continue
                if not self._is(value, source):
                    return False
            elif known is value and type(known) in ATOMS and known == known:
                continue
            elif not self._is_argument(value, known, sources):
                return False
        for name, value in kwargs.items():  # in the order in which their tensors were numbered
            if name not in call.kwargs or not self._is_argument(value, call.kwargs[name], sources):
                return False
        return True

    def _is_argument(self, value: Any, known: Any, sources: Iterator[int]) -> bool:
        """Whether an argument is the recorded one, as far as that is recorded."""
        if known is SLOT:
            return self._is(value, next(sources))
        kind = type(known)
        if kind in ATOMS:
            return type(value) is kind and bool(value == known)
        if kind is tuple or kind is list:
            return len(value) == len(known) and all(
                self._is_argument(v, k, sources) for v, k in zip(value, known, strict=True)
            )
        if kind is dict:
            return value.keys() == known.keys() and all(
                self._is_argument(v, known[name], sources) for name, v in value.items()
            )
        if kind is slice:
            parts = zip(_parts(value), _parts(known), strict=True)
            return all(self._is_argument(v, k, sources) for v, k in parts)
        return True

    def _is(self, value: Any, source: int) -> bool:
        """Whether a tensor is what a row made, or the parameter that the tape means."""
        was = self._was(value)
        if was:
            return source in was
        held = None if source >= 0 else self._tape.held[-1 - source].tensor
        if held is None or held is not value:
            return False
        self._known[id(held)] = Unswapped(held), (source,)
        return True

    def _was(self, tensor: Any) -> tuple[int, ...]:
        """The rows that a tensor is, or the parameter; none if it is not known."""
        known = self._known.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else ()


def _parts(value: slice) -> tuple[Any, Any, Any]:
    return value.start, value.stop, value.step


def _check_draws(state: Tensor | None, known: Tensor | None) -> None:
    """Whether random numbers were drawn of the same state, or none in both."""
    if state is None or known is None:
        if state is not known:
            raise Parted
    elif not torch.equal(state, known):
        raise Parted
