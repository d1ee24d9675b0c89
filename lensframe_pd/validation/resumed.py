"""The forward resumed from saved values: does it reach the model's own output?

A resumed forward runs each later call that reads what was carried on. Where the replay of such a
call gave, on the saved values, each of its rows to the bit and in the recorded layout, the carried
values are the saved ones over again, one call after the other: the call would be the very one that
was replayed, on the same arguments. So where that holds of every call from a start to the outputs,
the outputs are reached, and nothing need be run twice. Where it does not of one (a row that was not
saved, not replayed, excused or wrong), the forward is run.
"""

from __future__ import annotations

from collections.abc import Collection

from lensframe_pd.bars import counted
from lensframe_pd.replay.onward import carries, carry
from lensframe_pd.replay.recording import Recorded, Recording
from lensframe_pd.tape.domains import may_be_given_anything
from lensframe_pd.validation.replayed import Replayed
from lensframe_pd.validation.verdicts import Verdicts

_SAMPLE = (0.1, 0.4, 0.8)  # how far into the forward it is resumed from


def resume(recording: Recording, verdicts: Verdicts, downstream: str, replayed: Replayed) -> None:
    """Resume the forward from saved values, each change carried on to the outputs.

    Parameters
    ----------
    downstream
        `"all"` resumes from every call that an output depends on, `"sample"` from three.
    replayed
        For rows whose replay need not be bit for bit, and is not, their saved values stand. A row
        whose replay failed is run again: what it gives, not what was saved, is the model's.
    """
    calls = recording.calls
    needed = _needed(recording)
    starts = [k for k, recorded in enumerate(calls) if needed[k] and _is_saved(recording, recorded)]
    if downstream == "sample" and starts:
        starts = sorted({starts[int(part * len(starts))] for part in _SAMPLE})
    last: dict[int, list[str]] | None = None
    passed_over = {*replayed.excused, *_unchecked(recording, verdicts)}
    shown = _shown(recording, replayed, passed_over)
    for k in counted(starts, "validate: downstream", "resumed forwards"):
        begun = calls[k].ops
        try:
            reached = shown[k]
            if not reached:
                last = _last_uses(recording) if last is None else last
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
    failed = [
        op
        for check in ("replay", "invariants")
        if False in verdicts.found[check].values()
        for op in recording.rows
        if verdicts.failed(check, op)
    ]
    if not failed:
        return []
    unchecked = [c for c in recording.calls if not may_be_given_anything(c.call.function)]
    return [op for recorded in unchecked for op in recorded.ops]


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


def _shown(
    recording: Recording, replayed: Replayed, passed_over: Collection[str]
) -> list[dict[str, str]]:
    """By call an output that the forward resumed from it is known to reach; empty where it is not.

    It is known if each call that would be carried on gives what was saved.
    """
    calls, rows = recording.calls, recording.rows
    call_of = {op: k for k, recorded in enumerate(calls) for op in recorded.ops}
    settled = [True] * len(calls)
    reached: list[dict[str, str]] = [{} for _ in calls]
    for k in range(len(calls) - 1, -1, -1):
        recorded = calls[k]
        if not carries(recording, recorded, passed_over):
            continue
        ops = recording.ops(recorded)
        exact = recorded.rows[0] in replayed.exact
        outputs = {op: "" for op in ops if rows[op]["kind"] == "output"}
        for parent in rows[ops[0]]["parents"]:
            above = call_of.get(parent, k)
            if above < k:
                settled[above] &= exact and settled[k]
                reached[above] = reached[above] or outputs or reached[k]
    return [to if known else {} for to, known in zip(reached, settled, strict=True)]


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
