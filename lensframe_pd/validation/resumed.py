"""The forward resumed from saved values: does it reach the model's own output?"""

from __future__ import annotations

from collections.abc import Collection

from lensframe_pd.bars import counted
from lensframe_pd.replay.onward import carry
from lensframe_pd.replay.recording import Recorded, Recording
from lensframe_pd.tape.domains import may_be_given_anything
from lensframe_pd.validation.verdicts import Verdicts

_SAMPLE = (0.1, 0.4, 0.8)  # how far into the forward it is resumed from


def resume(
    recording: Recording, verdicts: Verdicts, downstream: str, excused: Collection[str]
) -> None:
    """Resume the forward from saved values, each change carried on to the outputs.

    Parameters
    ----------
    downstream
        `"all"` resumes from every call that an output depends on, `"sample"` from three.
    excused
        Rows whose replay need not be bit for bit, and is not: their saved values stand for them.
        A row whose replay failed is run again: what it gives, not what was saved, is the model's.
    """
    calls = recording.calls
    needed = _needed(recording)
    starts = [k for k, recorded in enumerate(calls) if needed[k] and _is_saved(recording, recorded)]
    if downstream == "sample" and starts:
        starts = sorted({starts[int(part * len(starts))] for part in _SAMPLE})
    last = _last_uses(recording)
    passed_over = {*excused, *_unchecked(recording, verdicts)}
    for k in counted(starts, "validate: downstream", "resumed forwards"):
        begun = calls[k].ops
        try:
            reached = _resume(recording, k, last, passed_over)
        except Exception as error:
            problems = [f"it fails: {error}"]
        else:
            problems = [f"{op!r}: {reason}" for op, reason in reached.items() if reason]
            if not reached:
                continue
        for op in begun:
            for problem in problems:
                verdicts.fails("downstream", op, f"resumed from here, {problem}")
            verdicts.holds("downstream", op)


def _unchecked(recording: Recording, verdicts: Verdicts) -> list[str]:
    """Rows whose kernel may not check what it is given, if anything known is wrong."""
    wrong = any([verdicts.failed(c, op) for c in ("replay", "invariants") for op in recording.rows])
    unchecked = [c for c in recording.calls if not may_be_given_anything(c.call.function)]
    return [op for recorded in unchecked for op in recorded.ops] if wrong else []


def _is_saved(recording: Recording, recorded: Recorded) -> bool:
    """Whether all that a call of a function gave is there to start from."""
    if not recorded.call.function.target:  # nothing was computed
        return False
    return all(op in recording.rows and op in recording.saved for op in recorded.ops)


def _resume(
    recording: Recording, start: int, last: dict[int, list[str]], excused: Collection[str]
) -> dict[str, str]:
    """The outputs that were reached, with how each differs.

    `last` has for each call the rows that nothing after it reads: their values are let go.
    """
    saved, rows = recording.saved, recording.rows
    values = {op: saved.argument(op) for op in recording.calls[start].ops}
    reached = {}
    for k, recorded in carry(recording, values, start + 1, excused):
        for op in recorded.ops:
            if op in values:
                values[op] = saved.followed(op, values[op].detach())
                if rows[op]["kind"] == "output" and op in saved:
                    reached[op] = saved.apart(op, values[op]).reason
        for op in last.get(k, ()):
            values.pop(op, None)
    return reached


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
    """For each call, the rows whose last reader it is."""
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
