"""What a model keeps of its first forward, as a cache, told where a second one differs for it.

A frame does not hold the state its run began from, and the model has moved on. So a second run of
a model that fills a cache, counts its calls or goes on from a membrane does other things, and its
frame cannot be told from a wrong one. It can be told that this may be why, and of which names.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from lensframe_pd.capture.process import switched
from lensframe_pd.capture.roots import find_roots, named_modules
from lensframe_pd.capture.snapshot import Snapshot
from lensframe_pd.capture.state import State
from lensframe_pd.cells import Cells, Rows
from lensframe_pd.errors import shown
from lensframe_pd.validation.evidence import Evidence
from lensframe_pd.validation.twice import one_state
from lensframe_pd.validation.verdicts import Verdicts

_WHAT_TO_DO = (
    "forward (a cache), and nobody can put that back: trace.validate() judges by the traced run "
    "itself; or give model and arguments as they were before the trace"
)


def say_what_was_kept(evidence: Evidence, fresh: Cells, verdicts: Verdicts) -> None:
    """Note it at the rows that failed and may have failed for it.

    Parameters
    ----------
    fresh
        A new trace of the model, as it is now.
    """
    rows = evidence.rows
    if evidence.tape is not None or not verdicts.reasons:
        return
    known = {*_reads(rows)}
    anew = [name for name in _reads(fresh.rows) if name not in known]
    moved = _moved(evidence)
    names = [*dict.fromkeys([*anew, *_written(rows), *moved])]
    constants = [row["path"] for row in rows.values() if row["kind"] == "constant"]
    goes_on = bool(anew) or {*rows} != {*fresh.ops} or not {*constants}.isdisjoint(moved)
    for op, reasons in verdicts.reasons.items():
        checks = {check for check, _ in reasons}
        given = op in rows and rows[op]["kind"] in ("input", "constant") and "replay" in checks
        reads_moved = op in rows and not {*moved}.isdisjoint(_reads({op: rows[op]}))
        if given or reads_moved or (goes_on and "invariants" in checks):
            verdicts.could_not(op, _note([rows[op]["path"]] if given else names))


def _note(names: list[str]) -> str:
    what = "what it keeps or was given" + (f", such as {shown(names)}," if names else "")
    return f"if the frame is whole, the model may have changed {what} in the traced {_WHAT_TO_DO}"


def _reads(rows: Rows) -> Iterator[str]:
    """Names of what was there before the run and is read in it: state, constants, arguments."""
    for row in rows.values():
        yield from chain(row["params"], row["buffers"])
        if row["kind"] in ("input", "constant") and row["path"]:
            yield row["path"]


def _written(rows: Rows) -> Iterator[str]:
    """Names of parameters and buffers that the traced run wrote into."""
    for row in rows.values():
        if row["inplace"]:
            yield from chain(row["params"], row["buffers"])


def _moved(evidence: Evidence) -> list[str]:
    """Names of what a forward leaves otherwise than it found it."""
    model, args, kwargs = evidence.origin[:3]
    named = named_modules(find_roots(model))
    with one_state(evidence) as again:
        snapshot: Snapshot = again()
        before = State(named, snapshot)
        with switched():
            model(*args, **kwargs)
        return State(named, snapshot).moved(before)
