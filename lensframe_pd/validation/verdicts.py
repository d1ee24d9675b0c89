"""What each check found for each operation, and the report made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

CHECKS = ("replay", "dependence", "downstream", "completeness", "interference", "invariants")


@dataclass
class Verdicts:
    """What each check found for each op; an op that is not there was not checked."""

    ops: list[str]
    found: dict[str, dict[str, bool]] = field(
        default_factory=lambda: {check: {} for check in CHECKS}
    )
    reasons: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    totals: dict[str, Any] = field(default_factory=dict)

    def passes(self, check: str, op: str, note: str = "") -> None:
        self.found[check].setdefault(op, True)
        if note:
            self.notes.setdefault(op, []).append(note)

    def fails(self, check: str, op: str, reason: str) -> None:
        self.found[check][op] = False
        self.reasons.setdefault(op, []).append((check, reason))

    def could_not(self, op: str, reason: str) -> None:
        self.notes.setdefault(op, []).append(reason)

    def count(self, name: str, n: int = 1) -> None:
        """Add to one of the totals."""
        self.totals[name] = self.totals.get(name, 0) + n

    def report(self) -> pd.DataFrame:
        """One row per op; `attrs` holds the totals."""
        ops = [*dict.fromkeys([*self.ops, *self.reasons])]
        first = {op: problems[0][0] for op, problems in self.reasons.items()}
        checked = {
            op: next((c for c in CHECKS[:3] if op in self.found[c]), "invariants") for op in ops
        }
        reasons = [
            "; ".join(
                [*(f"{c}: {r}" for c, r in self.reasons.get(op, ())), *self.notes.get(op, ())]
            )
            for op in ops
        ]
        columns: dict[str, Any] = {
            "check": [first.get(op, checked[op]) for op in ops],
            "max_abs_diff": np.array([self.gaps.get(op, np.nan) for op in ops], dtype=float),
            "passed": [op not in self.reasons for op in ops],
            "reason": reasons,
        }
        for check in CHECKS:
            found = self.found[check]
            columns[check] = pd.array([found.get(op, pd.NA) for op in ops], dtype="boolean")
        report = pd.DataFrame(columns, index=pd.Index(ops, name="op"))
        failed = int((~report["passed"]).sum())
        totals = {"ops": len(ops), "passed": len(ops) - failed, "failed": failed}
        for check in CHECKS:
            cells = report[check].dropna()
            totals[f"{check}_checked"] = len(cells)
            totals[f"{check}_failed"] = int((~cells.astype(bool)).sum())
        report.attrs.update(totals | self.totals)
        return report
