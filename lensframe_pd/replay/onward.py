"""Carry values on along a trace: the forward resumed, and gradients taken again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from lensframe_pd.replay.call import Surroundings, Unreplayable, filled
from lensframe_pd.replay.recording import Argument, Misfit, Recorded, Recording
from lensframe_pd.tape.compare import difference
from lensframe_pd.tape.tape import tensors_in
from lensframe_pd.validation.verdicts import Verdicts

_SAMPLE = (0.1, 0.4, 0.8)  # how far into the forward it is resumed from


def resume(
    recording: Recording, verdicts: Verdicts, downstream: str, inexact: Collection[str]
) -> None:
    """Resume the forward from saved values, each change carried on to the outputs.

    Parameters
    ----------
    downstream
        `"all"` resumes from every call that an output depends on, `"sample"` from three.
    inexact
        Rows whose replay is not bit for bit: their saved values stand for them.
    """
    calls = recording.calls
    needed = _needed(recording)
    starts = [
        k
        for k, recorded in enumerate(calls)
        if needed[k]
        and recorded.call.function.target
        and all(op in recording.rows and op in recording.saved for op in recorded.ops)
    ]
    if downstream == "sample" and starts:
        starts = sorted({starts[int(part * len(starts))] for part in _SAMPLE})
    last = _last_uses(recording)
    for k in starts:
        begun = calls[k]
        try:
            reached = _resume(recording, k, last, inexact)
        except Exception as error:
            verdicts.fails("downstream", begun.ops[0], f"resumed from here, it fails: {error}")
            continue
        for op, reason in reached.items():
            if reason:
                verdicts.fails("downstream", begun.ops[0], f"resumed from here, {op!r}: {reason}")
        if reached:
            for op in begun.ops:
                verdicts.passes("downstream", op)


def _resume(
    recording: Recording, start: int, last: dict[int, list[str]], inexact: Collection[str]
) -> dict[str, str]:
    """The outputs that were reached, with how each differs."""
    saved, rows = recording.saved, recording.rows
    values = {op: saved.argument(op) for op in recording.calls[start].ops}
    reached = {}
    for k, recorded in _carry(recording, values, start + 1, inexact):
        for op in recorded.ops:
            if op in values:
                values[op] = saved.followed(op, values[op].detach())
                if rows[op]["kind"] == "output" and op in saved:
                    reached[op] = difference(values[op], saved.tensor(op)).reason
        for op in last.get(k, ()):
            values.pop(op, None)
    return reached


def _carry(
    recording: Recording,
    values: dict[str, Tensor],
    start: int,
    skipped: Collection[str] = (),
    stop: int | None = None,
    held: Collection[str] = (),
) -> Iterator[tuple[int, Recorded]]:
    """Run every later call that reads one of `values` again, and put what it gives in there.

    A call that cannot be run again is passed over: its saved value stands for it. So are the
    rows in `skipped`. A call that reads a parameter in `held` is run as well.
    """
    with Surroundings() as surroundings:
        for k in range(start, len(recording.calls) if stop is None else stop):
            recorded = recording.calls[k]
            ops = recording.ops(recorded)
            if not ops or not recorded.call.sources:
                continue
            row = recording.rows[ops[0]]
            reads = any(p in values for p in row["parents"]) or any(
                p in held for p in row["params"]
            )
            if not reads or any(op in skipped for op in ops):
                continue
            surroundings.enter(recorded.call.context)
            try:
                tensors = recording.tensors(recording.arguments(recorded), values)
                result = recording.rerun(recorded)(tensors)
            except (Unreplayable, Misfit):
                continue
            for i, op in zip(recorded.rows, recorded.ops, strict=True):
                slot = recording.tape.rows[i].slot
                if op in recording.rows and slot < len(result):
                    values[op] = result[slot]
            yield k, recorded


def differentiated(
    recording: Recording, recorded: Recorded, arguments: Sequence[Argument]
) -> list[Tensor]:
    """What a call of `torch.autograd.grad` gives, the operations between taken again.

    Raises
    ------
    Unreplayable
        What it differentiates cannot be run again.
    """
    at = next(k for k, other in enumerate(recording.calls) if other is recorded)
    leaves = [a for a in arguments if a.role.split(".")[0] == "inputs"]
    values: dict[str, Tensor] = {}
    for argument in leaves:
        if argument.op is not None:
            value = recording.tensors([argument])[0]
            values[argument.op] = value if value.requires_grad else value.requires_grad_()
    fixed = dict(values)
    held = {argument.name for argument in leaves if argument.op is None}
    for _, done in _carry(recording, values, 0, fixed, at, held):
        for op in done.ops:  # an integer, or what no gradient passes, need not be carried on
            if op in values and not values[op].requires_grad:
                del values[op]
    call = recorded.call
    args, kwargs = filled(call, recording.tensors(arguments, values))
    with torch.enable_grad():
        try:
            result = call.function.func(*args, **kwargs)
        except RuntimeError as error:
            raise Unreplayable(f"what it differentiates cannot be run again ({error})") from None
    return [tensor for _, tensor in tensors_in(result)]


def _needed(recording: Recording) -> list[bool]:
    """Which calls an output depends on."""
    call_of = {i: k for k, recorded in enumerate(recording.calls) for i in recorded.rows}
    reach = [False] * len(recording.calls)
    for k in range(len(recording.calls) - 1, -1, -1):
        recorded = recording.calls[k]
        if recording.tape.kinds.get(recorded.rows[0]) == "output":
            reach[k] = True
        if reach[k]:
            for source in recorded.call.sources:
                if source >= 0:
                    reach[call_of[source]] = True
    return reach


def _last_uses(recording: Recording) -> dict[int, list[str]]:
    last: dict[str, int] = {}
    for k, recorded in enumerate(recording.calls):
        for op in recorded.ops:
            last[op] = k
            for parent in recording.rows.get(op, {}).get("parents", ()):
                last[parent] = k
    uses: dict[int, list[str]] = {}
    for op, k in last.items():
        uses.setdefault(k, []).append(op)
    return uses
