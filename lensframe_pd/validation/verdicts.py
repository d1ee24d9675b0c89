"""What each check found for each operation, and the report made of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat
from operator import is_
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.cells import frame_of, text_array

CHECKS = (
    "replay", "dependence", "downstream", "completeness", "interference", "invariants",
    "alignment", "facts",
)  # fmt: skip
_STRONGEST = CHECKS[:3]  # those that look at the value of the row, best first
_NAMES = pd.Index(["check", "max_abs_diff", "passed", "reason", *CHECKS])


@dataclass
class Verdicts:
    """What each check found for each op; an op that is not there was not checked."""

    ops: list[str]
    """The rows of the frame; only failures can add some, of rows that it lacks."""
    found: dict[str, dict[str, bool]] = field(
        default_factory=lambda: {check: {} for check in CHECKS}
    )
    """By check and op, whether it holds."""
    undecided: dict[str, dict[str, str]] = field(
        default_factory=lambda: {check: {} for check in CHECKS}
    )
    """By check and op, why it could not be run."""
    reasons: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Of each op that failed, the checks and why, in the order they failed."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """What is exempt or was not checked, and why."""
    largest: dict[str, float] = field(default_factory=dict)
    """The largest absolute difference of each replay."""
    totals: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0.0))
    """What each check took, without what others took inside it."""
    _timed: list[str] = field(default_factory=list)
    _since: float = field(default_factory=perf_counter)
    _began: float = field(default_factory=perf_counter)

    def timing(self, check: str) -> _Timing:
        """What runs inside is for this check."""
        return _Timing(self, check)

    def begin(self, check: str) -> None:
        """What runs from here on is for this check."""
        self._lap()
        self._timed.append(check)

    def end(self) -> None:
        """What runs from here on is for the check that was before."""
        self._lap()
        self._timed.pop()

    def was_for(self, check: str, seconds: float) -> None:
        """So much of the time since the check that runs began was for another."""
        self.seconds[self._timed[-1]] -= seconds
        self.seconds[check] += seconds

    def _lap(self) -> None:
        now = perf_counter()
        if self._timed:
            self.seconds[self._timed[-1]] += now - self._since
        self._since = now

    def holds(self, check: str, op: str, note: str = "") -> None:
        """It holds, unless it has failed or fails yet."""
        self.found[check].setdefault(op, True)
        if note:
            self.could_not(op, note)

    def all_hold(self, check: str, ops: Iterable[str]) -> None:
        """Each holds, unless it has failed or fails yet."""
        self.found[check] = {**dict.fromkeys(ops, True), **self.found[check]}

    def fails(self, check: str, op: str, reason: str) -> None:
        self.found[check][op] = False
        self.reasons.setdefault(op, []).append((check, reason))

    def not_run(self, check: str, op: str, reason: str) -> None:
        """It could not be run, which decides nothing and is said in its column."""
        self.undecided[check].setdefault(op, f"not run: {reason}")

    def could_not(self, op: str, reason: str) -> None:
        """Something was not checked; that decides nothing, but is said."""
        self.notes.setdefault(op, []).append(reason)

    def failed(self, check: str, op: str) -> bool:
        return self.found[check].get(op) is False

    def count(self, name: str, n: int = 1) -> None:
        """Add to one of the totals."""
        self.totals[name] = self.totals.get(name, 0) + n

    def report(self) -> pd.DataFrame:
        """One row per op; `attrs` holds the totals."""
        ops = [*dict.fromkeys([*self.ops, *self.reasons])]
        largest = [*map(self.largest.get, ops, repeat(np.nan))]
        passed = [op not in self.reasons for op in ops]
        cells = {check: self._cells(check, ops) for check in CHECKS}
        columns = [
            text_array(self._checks_shown(ops)),
            np.array(largest, dtype=float),
            np.array(passed, dtype=bool),
            text_array(self._reasons_shown(ops)),
            *map(_column, cells.values()),
        ]
        report = frame_of(_NAMES, columns, text_array(ops))
        took = {f"{check}_seconds": seconds for check, seconds in self.seconds.items()}
        took["seconds"] = perf_counter() - self._began
        report.attrs.update(_counts(passed, cells) | self.totals | took)
        return report

    def _cells(self, check: str, ops: list[str]) -> list[Any]:
        """Whether it holds, missing where it was not made, a text where it could not be run."""
        known: dict[str, Any] = self.found[check]
        if self.undecided[check]:
            known = {**self.undecided[check], **known}
        return [*map(known.get, ops, repeat(pd.NA))]

    def _checks_shown(self, ops: list[str]) -> list[str]:
        """The first check that failed, else the strongest that was made."""
        shown: dict[str, str] = {}
        for check in reversed(_STRONGEST):
            shown.update(dict.fromkeys(self.found[check], check))
        shown.update({op: reasons[0][0] for op, reasons in self.reasons.items()})
        return [*map(shown.get, ops, repeat("invariants"))]

    def _reasons_shown(self, ops: list[str]) -> list[str]:
        if not (self.reasons or self.notes):  # as most often
            return [""] * len(ops)
        return [self._reason_shown(op) for op in ops]

    def _reason_shown(self, op: str) -> str:
        failures = [f"{check}: {reason}" for check, reason in self.reasons.get(op, ())]
        return "; ".join([*failures, *self.notes.get(op, ())])


class _Timing:
    """A context in which time is one check's; a class, as it is entered at every call."""

    __slots__ = ("_check", "_verdicts")

    def __init__(self, verdicts: Verdicts, check: str) -> None:
        self._verdicts = verdicts
        self._check = check

    def __enter__(self) -> None:
        self._verdicts.begin(self._check)

    def __exit__(self, *_: object) -> None:
        self._verdicts.end()


def _column(cells: list[Any]) -> Any:
    kinds = {*map(type, cells)}
    if str in kinds:
        return np.fromiter(cells, dtype=object, count=len(cells))
    if kinds == {bool}:
        holds, missing = np.array(cells, np.bool_), np.zeros(len(cells), np.bool_)
    else:
        holds = np.array([*map(is_, cells, repeat(True))], np.bool_)
        missing = np.array([*map(is_, cells, repeat(pd.NA))], np.bool_)
    return pd.arrays.BooleanArray(holds, missing)


def _counts(passed: list[bool], cells: dict[str, list[Any]]) -> dict[str, int]:
    counts = {"ops": len(passed), "passed": sum(passed), "failed": len(passed) - sum(passed)}
    for check, found in cells.items():
        kinds = [*map(type, found)]
        checked, held = kinds.count(bool), sum(map(is_, found, repeat(True)))
        counts[f"{check}_checked"] = checked
        counts[f"{check}_failed"] = checked - held
        counts[f"{check}_not_run"] = kinds.count(str)
    return counts
