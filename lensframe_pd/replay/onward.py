"""Changed values carried on along a trace, and gradients taken again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from lensframe_pd.replay.call import Unreplayable, filled
from lensframe_pd.replay.recording import Argument, Misfit, Recorded, Recording, is_given
from lensframe_pd.tape.context import Surroundings
from lensframe_pd.tape.objects import tensors_of


def carry(
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
            if not _is_carried(recording, recorded, values, skipped, held):
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


def _is_carried(
    recording: Recording,
    recorded: Recorded,
    values: Collection[str],
    skipped: Collection[str],
    held: Collection[str],
) -> bool:
    """Whether a call reads what has changed, by the frame's own cells, and may be run again."""
    if not carries(recording, recorded, skipped):
        return False
    row = recording.rows[recording.ops(recorded)[0]]
    reads_changed = any([parent in values for parent in row["parents"]])
    return reads_changed or any([param in held for param in row["params"]])


def carries(recording: Recording, recorded: Recorded, skipped: Collection[str]) -> bool:
    """Whether a call is run again where something that it reads has changed."""
    ops = recording.ops(recorded)
    if not ops or not recorded.call.sources or is_given(recorded):
        return False
    return not any([op in skipped for op in ops])


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
    by_role: dict[str, list[Argument]] = {}
    for argument in arguments:
        by_role.setdefault(argument.role.split(".")[0], []).append(argument)
    inputs = by_role.get("inputs", [])
    leaves = {a.op for a in inputs if a.op is not None}
    held = {a.name for a in inputs if a.op is None}
    between = _between(recording, at, leaves, held, {a.op for a in by_role.get("outputs", [])})
    inner = leaves & between  # made of other inputs: what flows through them goes on
    values = {a.op: _leaf(recording, a) for a in inputs if a.op in leaves - inner}
    fixed = {*values}
    done_again: set[str] = set()
    for _, done in carry(recording, values, 0, fixed, at, held):
        done_again.update(done.ops)
        for op in done.ops:  # an integer, or what no gradient passes, need not be carried on
            if op in values and not values[op].requires_grad:
                del values[op]
    for op in between - done_again:
        if op in recording.rows and recording.rows[op]["requires_grad"]:
            raise Unreplayable(f"what it differentiates cannot be run again ({op!r})")
    values |= {a.op: _leaf(recording, a) for a in inputs if a.op in inner - values.keys()}
    call = recorded.call
    args, kwargs = filled(call, recording.tensors(arguments, values))
    with torch.enable_grad():
        try:
            result = call.function.func(*args, **kwargs)
        except RuntimeError as error:
            raise Unreplayable(f"what it differentiates cannot be run again ({error})") from None
    return tensors_of(result)


def _leaf(recording: Recording, argument: Argument) -> Tensor:
    (value,) = recording.tensors([argument])
    return value if value.requires_grad else value.requires_grad_()


def _between(
    recording: Recording,
    at: int,
    leaves: Collection[str],
    held: Collection[str],
    outputs: Collection[str | None],
) -> set[str]:
    """The rows before a call that are made of the leaves, and that the outputs are made of."""
    made: set[str] = set()
    parents: dict[str, Sequence[str]] = {}
    for recorded in recording.calls[:at]:
        for op in recorded.ops:
            row = recording.rows.get(op)
            if row is None:
                continue
            parents[op] = row["parents"]
            of_leaves = any([p in made or p in leaves for p in row["parents"]])
            if of_leaves or any([name in held for name in row["params"]]):
                made.add(op)
    found: set[str] = set()
    waiting = [op for op in outputs if op is not None]
    while waiting:
        op = waiting.pop()
        if op in made and op not in found:
            found.add(op)
            waiting += parents[op]
    return found
