"""What the axes of each tensor are, by the operation that made them.

`axes` says what an operation does to axes; here the names are followed along the tape. An axis
nobody named is `dim{position}_{extent}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lensframe_pd.schema import STIMULUS
from lensframe_pd.tables.axes import RULES, Case, Merged, Names, Operand, broadcast, keeps
from lensframe_pd.tape.tape import Call, Row, Tape


def axis_names(tape: Tape) -> list[Names]:
    """Axis names of every row; `None` where no operation named the axis."""
    found: list[Names] = []
    batch = tape.stimulus_row
    extent = tape.rows[batch].shape[0] if batch is not None and tape.rows[batch].shape else -1
    #: Whether a row descends from the stimuli by operations that left their axis alone.
    descends = bytearray(len(tape.rows))
    memo: dict[Any, Names | None] = {}
    for i, row in enumerate(tape.rows):
        parents = [s for s in tape.calls[row.call].sources if s >= 0 and descends[s]]
        descends[i] = i == batch or bool(parents)
        names, ruled = _names_of(tape, row, found, memo)
        begins_anew = descends[i] and row.shape[:1] == (extent,) and names[0] is None
        if STIMULUS in names:
            names = _without_other_extents(names, row.shape, extent)
        elif ruled and any([_carries(found[s]) for s in parents]):
            descends[i] = _carries(names)  # a known operation took the stimulus axis away
        elif begins_anew:
            names = (STIMULUS, *names[1:])
        found.append(names)
    return found


def _without_other_extents(names: Names, shape: Sequence[int], extent: int) -> Names:
    """An axis of another extent than the stimuli is theirs no more."""
    if all([shape[k] == extent for k, name in enumerate(names) if name == STIMULUS]):
        return names
    return tuple([None if name == STIMULUS else name for name in names])


def _carries(names: Names) -> bool:
    """Whether one of the axes is the stimulus axis, or was merged from it."""
    return STIMULUS in names or any(
        [isinstance(n, Merged) and _carries(tuple([part for part, _ in n.parts])) for n in names]
    )


def dims(names: Names, shape: Sequence[int]) -> tuple[str, ...]:
    """Dimension names: `("stimulus", None)` of shape (8, 49) is `("stimulus", "dim1_49")`."""
    taken: list[str] = []
    for k, (name, n) in enumerate(zip(names, shape, strict=True)):
        if name == STIMULUS:
            dim = name
        else:
            dim = f"{name}_{n}" if isinstance(name, str) else f"dim{k}_{n}"
        while dim in taken:
            dim += "_"
        taken.append(dim)
    return tuple(taken)


def _names_of(
    tape: Tape, row: Row, found: list[Names], memo: dict[Any, Names | None]
) -> tuple[Names, bool]:
    """The names, and whether a rule gave them."""
    call = tape.calls[row.call]
    name, sources, shape = call.function.name, call.sources, row.shape
    unknown = (None,) * len(shape)
    if sources and sources[0] >= 0 and shape == tape.rows[sources[0]].shape and keeps(name):
        first = found[sources[0]]
        if None not in first or len(sources) == 1:
            return first, True
    rule = RULES.get(name) or (broadcast if keeps(name) else None)
    if rule is None:
        return unknown, False
    operands = [_operand(tape, found, s) for s in sources]
    try:
        key = (name, tuple(operands), call.args, tuple(call.kwargs.items()), shape, row.slot)
        if key in memo:
            return memo[key] or unknown, memo[key] is not None
    except TypeError:  # slices and lists among the arguments
        key = None
    names = rule(Case(operands, _arguments(call), tuple(shape), row.slot))
    if names is not None and len(names) != len(shape):
        names = None
    if key is not None:
        memo[key] = names
    return names or unknown, names is not None


def _operand(tape: Tape, found: list[Names], source: int) -> Operand:
    if source < 0:
        shape = tape.held[-1 - source].shape
        return Operand((None,) * len(shape), shape)
    return Operand(found[source], tuple(tape.rows[source].shape))


def _arguments(call: Call) -> dict[str, Any]:
    names = call.function.arg_names
    named = {names[i] if i < len(names) else str(i): a for i, a in enumerate(call.args)}
    return {**named, **call.kwargs}
