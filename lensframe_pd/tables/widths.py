"""Which extents the weights of a model make: they are the same whatever it is shown."""

from __future__ import annotations

from lensframe_pd.tables.order import Names
from lensframe_pd.tape.tape import Tape

_OF_WEIGHTS = ("channel", "feature")
_MERGING = frozenset(
    "view reshape flatten unflatten _unsafe_view view_as reshape_as ravel view_copy cat concat "
    "concatenate stack hstack vstack dstack".split()
)
"""They can make an axis of several, whose extents may be those of the input."""


def widths_apart(
    tape: Tape, names: list[Names], row: int, shape: tuple[int, ...]
) -> tuple[str, int, int] | None:
    """An axis that weights make wider, or less wide, than a row of this shape has it.

    Parameters
    ----------
    names
        `axis_names` of the tape.

    Returns
    -------
    tuple of str, int and int, or None
        What the axis is called, its extent in `shape`, and that here; None if there is none.
    """
    here = tape.rows[row].shape
    if len(shape) != len(here):
        return None
    for name, there, n in zip(names[row], shape, here, strict=True):
        if there != n and name in _OF_WEIGHTS and _is_made_by_weights(tape, names, row, str(name)):
            return str(name), there, n
    return None


def _is_made_by_weights(tape: Tape, names: list[Names], row: int, name: str) -> bool:
    """Whether all that an axis is from are operations whose parameters have its extent."""
    waiting, seen = [row], {row}
    while waiting:
        here = waiting.pop()
        call = tape.calls[tape.rows[here].call]
        extent = _extent(tape, names, here, name)
        held = [tape.held[-1 - s] for s in call.sources if s < 0]
        if any(extent in h.shape for h in held if h.is_parameter):
            continue
        before = {s for s in call.sources if s >= 0 and name in names[s]}
        if call.function.name in _MERGING:
            before = {s for s in before if _extent(tape, names, s, name) == extent}
        if not before:
            return False
        waiting += before - seen
        seen |= before
    return True


def _extent(tape: Tape, names: list[Names], row: int, name: str) -> int:
    return tape.rows[row].shape[names[row].index(name)]
