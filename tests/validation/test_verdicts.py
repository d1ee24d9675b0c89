"""What was found becomes one row per op, and totals."""

import pandas as pd

from lensframe_pd.validation.verdicts import Verdicts


def test_a_report():
    verdicts = Verdicts(["a", "b", "c"])
    verdicts.holds("replay", "a", "rounded")
    verdicts.largest["a"] = 0.5
    verdicts.fails("dependence", "a", "on 'x'")
    verdicts.fails("replay", "a", "another value")
    verdicts.holds("invariants", "b")
    verdicts.holds("downstream", "b")
    verdicts.could_not("c", "not replayed")
    verdicts.fails("invariants", "d", "lacks this row")
    verdicts.count("edges", 2)
    verdicts.count("edges")
    report = verdicts.report()
    assert report["check"].to_dict() == {
        "a": "dependence", "b": "downstream", "c": "invariants", "d": "invariants",
    }  # fmt: skip
    assert report["passed"].to_dict() == {"a": False, "b": True, "c": True, "d": False}
    assert report["reason"].to_dict() == {
        "a": "dependence: on 'x'; replay: another value; rounded", "b": "", "c": "not replayed",
        "d": "invariants: lacks this row",
    }  # fmt: skip
    assert report["max_abs_diff"].dropna().to_dict() == {"a": 0.5}
    assert report["replay"].tolist() == [False, pd.NA, pd.NA, pd.NA]
    totals = report.attrs
    assert (totals["ops"], totals["passed"], totals["failed"]) == (4, 2, 2)
    assert (totals["invariants_checked"], totals["invariants_failed"]) == (2, 1)
    assert totals["edges"] == 3


def test_a_failure_stays():
    verdicts = Verdicts(["a"])
    verdicts.fails("replay", "a", "no")
    verdicts.holds("replay", "a")
    verdicts.holds("dependence", "a")
    verdicts.fails("dependence", "a", "neither")
    assert not verdicts.found["replay"]["a"]
    assert not verdicts.found["dependence"]["a"]


def test_what_could_not_be_run_decides_nothing():
    verdicts = Verdicts(["a", "b", "c"])
    verdicts.not_run("alignment", "a", "alike")
    verdicts.not_run("alignment", "b", "alike")
    verdicts.holds("alignment", "b")
    verdicts.not_run("facts", "a", "unknown")
    report = verdicts.report()
    assert report["alignment"].tolist() == ["not run: alike", True, pd.NA]
    assert report["facts"].tolist() == ["not run: unknown", pd.NA, pd.NA]
    assert report["passed"].all()
    assert report["replay"].dtype == "boolean"
    assert report.attrs["alignment_not_run"] == 1
    assert report.attrs["alignment_checked"] == 1
    assert report.attrs["facts_not_run"] == 1
    assert (report["alignment"] == False).sum() == 0  # noqa: E712 (a text is not False)
