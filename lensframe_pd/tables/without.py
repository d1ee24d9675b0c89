"""Why rows have no gradient."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lensframe_pd.capture.gradients import Births
from lensframe_pd.tape.passes import FACTORIES
from lensframe_pd.tape.tape import Call, Tape

_OFF = "detached"
_CUT = "not differentiable"
_NOTHING = "nothing upstream requires grad"
_DETACHING = frozenset("detach data deepcopy edit".split())


class Reasons(str):
    """Why rows have no gradient: a JSON object as text, which every file format has room for.

    It is read by label as the dict that it is in JSON.

    Examples
    --------
    >>> Reasons({"argmax_1": "integer"})["argmax_1"]
    'integer'
    """

    _by_label: dict[str, str]

    def __new__(cls, reasons: dict[str, str]) -> Reasons:
        text = super().__new__(cls, json.dumps(reasons))
        text._by_label = dict(reasons)
        return text

    def __getnewargs__(self) -> tuple[Any, ...]:  # so that it can be pickled and copied
        return (self._by_label,)

    def __getitem__(self, label: Any) -> str:
        return self._by_label[label] if isinstance(label, str) else super().__getitem__(label)

    def __contains__(self, label: object) -> bool:
        return label in self._by_label

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_label)

    def keys(self) -> Iterable[str]:
        return self._by_label.keys()

    def items(self) -> Iterable[tuple[str, str]]:
        return self._by_label.items()


def reasons(tape: Tape, births: Births, rows: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Why each of these rows has no gradient."""
    cuts = _cuts(tape, births, max(rows, default=-1) + 1)
    for row in rows:
        made = tape.rows[row]
        if made.call in tape.wrapped:
            reason = "inside torch.func"
        elif not (made.dtype.is_floating_point or made.dtype.is_complex):
            reason = "integer"
        elif row in births.overwritten:
            reason = "a view that was then written"
        elif row in births.edges:
            reason = "not on the way to the loss"
        elif row in births.inference or tape.calls[made.call].context.inference:
            reason = "an inference tensor"
        else:
            reason = cuts[row]
        yield row, reason


def _cuts(tape: Tape, births: Births, n: int) -> list[str]:
    """For the first n rows, what ended the gradient there or above; '' where nothing did."""
    cuts: list[str] = []
    for row in range(n):
        call = tape.calls[tape.rows[row].call]
        if row in births.edges or tape.rows[row].call in tape.wrapped:
            cuts.append("")
            continue
        if call.function.name in FACTORIES:
            cuts.append(_NOTHING)
            continue
        above = [cuts[s] if s >= 0 else _held_cut(tape, s) for s in call.sources if s < row]
        if "" in above:
            cuts.append(_OFF if _detaches(call) else _CUT)
        else:
            cuts.append(next((cut for cut in above if cut != _NOTHING), _NOTHING))
    return cuts


def _held_cut(tape: Tape, source: int) -> str:
    return "" if tape.held[-1 - source].requires_grad else _NOTHING


def _detaches(call: Call) -> bool:
    return not call.context.grad or call.function.name in _DETACHING
