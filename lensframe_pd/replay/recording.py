"""A trace as it is replayed: its calls, their arguments by the frame, its saved values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from lensframe_pd.cells import Rows
from lensframe_pd.replay.call import Rerun, Unreplayable, laid_out
from lensframe_pd.tables.activations import has_tensors, tensor_of, variables_of
from lensframe_pd.tape.compare import SAME, Difference, alike_at_once, difference, same
from lensframe_pd.tape.edited import EDIT
from lensframe_pd.tape.facts import CallFacts, dtype_name
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.storage import PLAIN, Bits, widened
from lensframe_pd.tape.switches import Switches
from lensframe_pd.tape.tape import Call, Opaque, Tape


class Misfit(Exception):
    """The arguments a frame names are not those of the call; the text says which."""


class Saved:
    """Saved values as tensors, with the layout, kind and device the operation saw."""

    def __init__(
        self, activations: xr.Dataset, rows: Rows, bits: Mapping[str, Bits] | None = None
    ) -> None:
        self._variables = variables_of(activations)
        self._rows = rows
        self.bits = bits or {}
        """Of the rows whose memory held the conjugate or the negative of their value."""
        self._holdable: dict[np.dtype[Any], bool] = {}
        #: Those that are seen in the memory of the Dataset, so that to keep them takes none.
        self._seen: dict[str, Tensor] = {}

    def __contains__(self, op: str) -> bool:
        if op in self._seen:
            return True
        if op not in self._variables:
            return False
        dtype = self._variables[op].dtype
        if dtype not in self._holdable:
            self._holdable[dtype] = has_tensors(dtype)
        return self._holdable[dtype]

    def tensor(self, op: str) -> Tensor:
        """A value."""
        seen = self._seen.get(op)
        if seen is not None:
            return seen
        stored, in_place = tensor_of(self._variables[op])
        value = self._as_seen(op, stored)
        if in_place and value is stored:
            self._seen[op] = value
        return value

    def seen(self, op: str) -> Tensor | None:
        """A value as it lies in the memory of the Dataset, where it was asked for."""
        return self._seen.get(op)

    def _as_seen(self, op: str, value: Tensor) -> Tensor:
        """With the type, device and layout that the operation saw."""
        row = self._rows[op]
        # as of most: it is as it was seen, and nothing has to be made of it
        if row["dtype"] == dtype_name(value.dtype) and row["device"] == "cpu":
            bits = self.bits.get(op, PLAIN) if self.bits else PLAIN
            if bits is PLAIN and value.stride() == row["stride"]:
                return value
        dtype = getattr(torch, row["dtype"], None)
        if isinstance(dtype, torch.dtype):
            value = value.to(dtype)
        if row["device"] != "cpu":  # untested: no GPU here
            with suppress(RuntimeError):  # no such device here
                value = value.to(row["device"])
        return laid_out(value, row["stride"], self.bits.get(op, PLAIN))

    def _stored(self, op: str) -> Tensor:
        return tensor_of(self._variables[op])[0]

    def is_rounded(self, op: str) -> bool:
        """Whether a value, saved in a wider dtype, is none that its own dtype could hold."""
        value, stored = self.tensor(op), self._stored(op)
        return value.dtype is torch.bfloat16 and not same(stored, widened(value).cpu())

    def apart(self, op: str, value: Tensor) -> Difference:
        """How far the saved value is from `value`: as it was saved, so bfloat16 as float32."""
        if value.dtype is torch.bfloat16 and self._rows[op]["dtype"] == "bfloat16":
            return difference(widened(value).cpu(), self._stored(op))
        saved = self.tensor(op)
        if self.seen(op) is saved and alike_at_once(value, saved):
            return SAME
        return difference(value, saved)

    def argument(self, op: str) -> Tensor:
        """A value as an argument."""
        return self.followed(op, self.tensor(op))

    def followed(self, op: str, value: Tensor) -> Tensor:
        """`value`, which autograd follows if it followed the row: that, too, chooses kernels."""
        if not self._rows[op]["requires_grad"]:
            return value
        follows = value.is_floating_point() or value.is_complex()
        return value.detach().requires_grad_() if follows else value


class Recorded(NamedTuple):
    """One call of the reference, with the labels of its rows."""

    call: Call
    rows: list[int]
    ops: list[str]
    switches: Switches | None = None
    """How the switches stood, if not as at the start."""


def is_given(recorded: Recorded) -> bool:
    """Whether its value came from outside, so that nothing gives it again."""
    function = recorded.call.function
    return not function.target and (not recorded.call.sources or function.name == EDIT)


def recorded_calls(tape: Tape, again: Tape, grouped: Passes) -> list[Recorded]:
    """The calls in order, arguments that the tape only describes taken from the fresh run."""
    ops, calls, calls_again = grouped.labels(), tape.calls, again.calls
    found: dict[int, Recorded] = {}
    for i, row in enumerate(tape.rows):
        number = row[0]  # by number, for speed: row.call
        recorded = found.get(number)
        if recorded is None:
            call = calls[number]
            if tape is not again and number < len(calls_again):
                call = _with_arguments(call, calls_again[number])
            recorded = found[number] = Recorded(call, [], [], again.switched.get(number))
        recorded[1].append(i)
        recorded[2].append(ops[i])
    return [*found.values()]


def _with_arguments(call: Call, again: Call) -> Call:
    if not call.kwargs and Opaque not in map(type, call.args):  # as of most
        return call
    described = [v for v in (*call.args, *call.kwargs.values()) if isinstance(v, Opaque)]
    if not described or again.function is not call.function:
        return call
    return call._replace(args=again.args, kwargs=again.kwargs)


class Argument(NamedTuple):
    """What one slot of a call holds, by the frame's own cells."""

    role: str
    op: str | None
    """Label of the row, None for a parameter or buffer."""
    name: str
    """Name of the parameter or buffer."""


class Recording:
    """The calls of a trace, with the arguments the frame names and the values the Dataset holds.

    Parameters
    ----------
    seeded
        Whether the random states on the tape are those of the saved values.
    """

    def __init__(
        self, calls: list[Recorded], rows: Rows, saved: Saved, tape: Tape, seeded: bool
    ) -> None:
        self.calls = calls
        self.rows = rows
        self.saved = saved
        self.tape = tape
        self.made = tape.rows
        self.seeded = seeded
        self._facts = CallFacts(tape)
        self._is_whole = rows.keys() >= {op for recorded in calls for op in recorded.ops}
        self._arguments: dict[int, list[Argument]] = {}
        #: Arguments that are seen in the memory of the Dataset, so that to keep them takes none.
        self._given: dict[str, Tensor] = {}
        self._held_now = {h.name: h.tensor for h in tape.held}
        self._held_before = {tape.held[k].name: value for k, value in tape.before.items()}

    def ops(self, recorded: Recorded) -> list[str]:
        """The rows of a call that are in the frame."""
        if self._is_whole:
            return recorded.ops
        return [op for op in recorded.ops if op in self.rows]

    def rows_with_values(self, recorded: Recorded) -> set[int]:
        """The rows of a call, on the tape, that are in the frame and have a saved value."""
        rows = zip(recorded.rows, recorded.ops, strict=True)
        return {row for row, op in rows if op in self.rows and op in self.saved}

    def rerun(self, recorded: Recorded) -> Rerun:
        """What runs the call again.

        Raises
        ------
        Unreplayable
            It cannot be run by itself.
        """
        wrapped = self.tape.wrapped
        if wrapped and self.made[recorded.rows[0]].call in wrapped:
            raise Unreplayable("it ran inside torch.func, where a row holds the unwrapped value")
        if recorded.call.generator is not None and not self.seeded:
            raise Unreplayable("it draws random numbers, and the trace recorded no seed")
        known = self.saved.bits
        bits = known.get(recorded.ops[0], PLAIN) if known else PLAIN
        rows = [self.made[i] for i in recorded.rows]
        return Rerun(recorded.call, rows, bits, recorded.switches)

    def arguments(self, recorded: Recorded) -> list[Argument]:
        """What the frame says each slot of the call holds.

        Raises
        ------
        Misfit
            The frame's arguments are not those of the call.
        """
        first = recorded.rows[0]
        if first not in self._arguments:  # each of several replays asks
            self._arguments[first] = self._named(recorded)
        return self._arguments[first]

    def _named(self, recorded: Recorded) -> list[Argument]:
        row = self.rows[self.ops(recorded)[0]]
        call, parents = recorded.call, row["parents"]
        roles = self._facts.template(call.function, call.args, call.kwargs).roles
        holds_none = not (row["params"] or row["buffers"])
        if holds_none and roles == row["parent_args"] and len(roles) == len(parents):
            return [*map(Argument, roles, parents, repeat(""))]
        named_once = _named_once(row, roles)
        if named_once is not None:
            return named_once
        named: dict[str, list[tuple[str | None, str]]] = {}
        for role, parent in zip(row["parent_args"], row["parents"], strict=False):
            named.setdefault(role, []).append((parent, ""))
        for args, names in _HELD:
            for role, name in zip(row[args], row[names], strict=False):
                named.setdefault(role, []).append((None, name))
        found = []
        for role in roles:
            if not named.get(role):
                raise Misfit(f"no parent for the argument {role!r} of the call")
            found.append(Argument(role, *named[role].pop(0)))
        extra = [role for role, rest in named.items() if rest]
        if extra:
            raise Misfit(f"the call has no argument {extra[0]!r}")
        return found

    def tensors(
        self,
        arguments: Sequence[Argument],
        instead: Mapping[str, Tensor] | None = None,
    ) -> list[Tensor]:
        """The tensors of the slots: of `instead` by label, else the saved ones."""
        once: dict[Any, Tensor] = dict(instead or {})
        tensors = []
        for _, op, name in arguments:
            key = op if op is not None else ("held", name)
            if key not in once:
                once[key] = self.held(name) if op is None else self._saved(op)
            tensors.append(once[key])
        return tensors

    def _saved(self, op: str) -> Tensor:
        known = self._given.get(op)
        if known is not None:
            return known
        if op not in self.rows:
            raise Unreplayable(f"its parent {op!r} is not in the frame")
        if op not in self.saved:
            why = self.rows[op]["unsaved_reason"]
            raise Unreplayable(f"its parent {op!r} is not saved" + (f" ({why})" if why else ""))
        value = self.saved.argument(op)
        if self.saved.seen(op) is value:
            self._given[op] = value
        return value

    def held(self, name: str) -> Tensor:
        """A parameter or buffer as the call read it, if it was not written before."""
        if name in self._held_before:
            value = self._held_before[name]
            if value is None:
                raise Unreplayable(f"it reads {name!r}, which the run then wrote")
            return value
        tensor = self._held_now.get(name)
        if tensor is None:
            raise Unreplayable(f"the model does not hold {name!r} any more")
        return tensor


def _named_once(row: Mapping[str, Any], roles: Sequence[str]) -> list[Argument] | None:
    """What the slots hold where each is named once by the row, as most often; else None."""
    named: dict[str, Argument] = {}
    for role, op in zip(row["parent_args"], row["parents"], strict=False):
        named[role] = Argument(role, op, "")
    for args, names in _HELD:
        for role, name in zip(row[args], row[names], strict=False):
            named[role] = Argument(role, None, name)
    n = len(row["parents"]) + len(row["params"]) + len(row["buffers"])
    if not len(named) == len(roles) == n:
        return None
    found = [*map(named.get, roles)]
    return None if None in found else found  # type: ignore[return-value]


_HELD = (("param_args", "params"), ("buffer_args", "buffers"))
