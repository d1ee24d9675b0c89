"""Step times as a trace file that Perfetto, chrome://tracing and speedscope open."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd

from lensframe_pd.cells import names
from lensframe_pd.files.atomic import new_file
from lensframe_pd.files.places import place_to_write
from lensframe_pd.labels import labels, split_call
from lensframe_pd.profile.profile import check_operations
from lensframe_pd.schema import model_class, require

_US = 1e6
_NEEDED = (
    "step", "kind", "func", "call", "module", "module_stack", "shape_str", "source", "seconds",
)  # fmt: skip


def chrome_trace(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write the time of each operation within its modules, to open at https://ui.perfetto.dev.

    A frame knows how long each operation took, not when it began: they stand one after another
    without gaps, and a module lasts as long as what is inside. Times are in microseconds.

    Parameters
    ----------
    frame
        Rows of `layers`.
    path
        Where to write the JSON; its format is Google's "Trace Event Format" (2016).

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    LensFileError
        Nothing can be written at `path`: there is no such folder, or you may not.
    LensKeyError
        The frame lacks a column.
    LensValueError
        A filter kept no operations.

    Examples
    --------
    >>> import json, tempfile, torch, lensframe_pd as lf
    >>> layers, _ = lf.trace(torch.nn.Sequential(torch.nn.ReLU()).eval(), torch.ones(4, 3))
    >>> path = layers.lens.chrome_trace(f"{tempfile.mkdtemp()}/trace.json")
    >>> [event["name"] for event in json.loads(path.read_text())["traceEvents"]]
    ['process_name', 'model', '0', 'relu_1']
    """
    place = place_to_write(path, folder=False)
    content = json.dumps(trace_events(frame))
    with new_file(place) as new:
        new.write_text(content, encoding="utf-8")
    return Path(path)


def trace_events(frame: pd.DataFrame) -> dict[str, Any]:
    """What `chrome_trace` writes.

    Returns
    -------
    dict
        For `json.dump`: `traceEvents` holds a complete event (`"ph": "X"`) for each call and for
        each module call around it, and one for the model.
    """
    require(frame, "chrome_trace", *_NEEDED)
    check_operations(frame, "chrome_trace")
    ops = frame.set_axis(labels(frame, "chrome_trace")).sort_values("step")
    ops = ops[(ops["kind"] == "op") & ~ops["call"].duplicated()]
    process = {"name": model_class(frame) or "model"}
    whole = _event("model", "module", 0.0, 0.0, {})
    events = [{"ph": "M", "pid": 0, "name": "process_name", "args": process}, whole]
    now = 0.0
    opened = {"": whole}  # module calls that hold the operation, outermost first
    for label, row in zip(ops.index, ops[list(_NEEDED)].to_dict("records"), strict=True):
        stack = names("module_stack", row["module_stack"])
        opened = {call: event for call, event in opened.items() if call in ("", *stack)}
        for call in stack:
            if call not in opened:
                path, number = split_call(call)
                opened[call] = _event(path, "module", now, 0.0, {"call": number})
                events.append(opened[call])
        spent = float(row["seconds"]) * _US
        facts = {name: str(row[name]) for name in ("func", "module", "shape_str", "source")}
        events.append(_event(str(label), "op", now, spent, facts))
        now += spent
        for event in opened.values():  # what holds the operation lasts as long as it, at least
            event["dur"] = now - event["ts"]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _event(
    name: str, category: str, start: float, spent: float, facts: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X", "pid": 0, "tid": 0, "name": name, "cat": category, "ts": start, "dur": spent,
        "args": facts,
    }  # fmt: skip
