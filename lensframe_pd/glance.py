"""What a trace and its two tables show of themselves: a short table, and the verbs by purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from inspect import getdoc, isfunction
from typing import Any

import pandas as pd
import xarray as xr

from lensframe_pd.quantities import quantity
from lensframe_pd.schema import COLUMNS, STIMULUS, model_class

#: What a person looks for first, in this order.
FIRST = tuple(COLUMNS)[:6]

_ROWS = 8  # as many as leave room for the verbs on one screen
_WIDE = 28  # characters of a cell
_BY_NAME = {"plot_": "plot", "to_": "hand over to other packages"}
_BY_PLACE = {
    "graph.select": "select rows",
    "graph": "fold, connect, compare",
    "draw": "picture, page",
    "profile": "time, memory, FLOPs",
    "validation": "prove",
    "rsa.view": "one layer as an array",
    "rsa.tokens": "one layer as an array",
    "rsa": "analyse",
}
"""Where the function of a verb is, to what it is for; a part before the whole."""
_ORDER = (*_BY_PLACE.values(), *_BY_NAME.values())


def purposes(accessor: type) -> dict[str, list[str]]:
    """The verbs of an accessor by what they are for."""
    found: dict[str, list[str]] = {purpose: [] for purpose in _ORDER}
    for name, method in vars(accessor).items():
        if isfunction(method) and hasattr(method, "__wrapped__"):
            found.setdefault(_purpose(name, method), []).append(name)
    return {purpose: names for purpose, names in found.items() if names}


def _purpose(name: str, method: Callable[..., Any]) -> str:
    for start, purpose in _BY_NAME.items():
        if name.startswith(start):
            return purpose
    place = method.__module__.partition(".")[2]
    room = place.partition(".")[0]
    return _BY_PLACE.get(place) or _BY_PLACE.get(room) or room


def as_text(table: Any, accessor: type) -> str:
    """A frame of layers or a Dataset of activations, short, with the verbs of its `lens`."""
    title, few, path = _shown(table)
    verbs = purposes(accessor)
    width = max(map(len, verbs), default=0)
    lines = [f"{purpose:<{width}}  {', '.join(_called(verbs[purpose]))}" for purpose in verbs]
    return "\n".join([title, "", _table_text(few), "", *lines, "", _help(path, verbs)])


def as_html(table: Any, accessor: type) -> str:
    """As `as_text`, for a notebook."""
    title, few, path = _shown(table)
    verbs = purposes(accessor)
    words = {name: _summary(accessor, name) for names in verbs.values() for name in names}
    listed = {
        purpose: ", ".join(
            f'<code title="{escape(words[name])}">{escape(shown)}</code>'
            for name, shown in zip(names, _called(names), strict=True)
        )
        for purpose, names in verbs.items()
    }
    return _titled(title) + _table_html(few) + _rows_html(listed) + _small(_help(path, verbs))


def _shown(table: Any) -> tuple[str, pd.DataFrame, str]:
    """The title of a table, its short form, and where its verbs are."""
    if isinstance(table, pd.DataFrame):
        return layers_title(table), _few_columns(table), "layers.lens"
    return activations_title(table), variables(table), "activations.lens"


def trace_html(name: str, frame: pd.DataFrame, dataset: xr.Dataset, output: str) -> str:
    """A trace for a notebook: its rows, and what there is to go on with."""
    title = f"Trace of {name or 'a function'}: {_amounts(frame)}; {activations_title(dataset)}"
    ways = {
        "tables": "layers, activations = trace",
        "output": output,
        "verbs": "trace.layers.lens, trace.activations.lens",
        "on this run": "trace.validate(), trace.gradients(loss), trace.patch(values, metric)",
        "to disk": 'lf.write(trace, "folder")',
    }
    return _titled(title) + _table_html(_few_columns(frame)) + _list_html(ways)


def layers_title(frame: pd.DataFrame) -> str:
    """The model's class, how many rows and layers there are, and their time."""
    kind = model_class(frame) if _texts(frame, "module") is not None else ""
    return (f"{kind}: " if kind else "") + _amounts(frame)


def _amounts(frame: pd.DataFrame) -> str:
    said = [f"{len(frame):,} rows"]
    if (layer := _texts(frame, "layer")) is not None:
        said.append(f"{layer.nunique():,} layers")
    if "seconds" in _numbers(frame):
        said.append(quantity(frame["seconds"].sum(), "s"))
    return ", ".join(said)


def _numbers(frame: pd.DataFrame) -> list[Any]:
    """The columns of numbers: a frame may be anybody's, and have any column under any name."""
    once = frame.columns[~frame.columns.duplicated(keep=False)]
    return [c for c in once if pd.api.types.is_numeric_dtype(frame[c].dtype)]


def _texts(frame: pd.DataFrame, name: str) -> pd.Series[Any] | None:
    column = frame.get(name)
    is_text = isinstance(column, pd.Series) and isinstance(column.dtype, pd.StringDtype)
    return column if is_text else None


def activations_title(dataset: xr.Dataset) -> str:
    """How many values there are, of how many stimuli, and their bytes."""
    said = [f"{len(dataset.data_vars):,} values"]
    if STIMULUS in dataset.sizes:
        said.append(f"{dataset.sizes[STIMULUS]:,} stimuli")
    return ", ".join([*said, quantity(sum(v.nbytes for v in dataset.values()), "B")])


def variables(dataset: xr.Dataset) -> pd.DataFrame:
    """A row for each variable: what made it, and its axes. No value is read."""
    rows = {
        str(name): {
            "func": str(array.attrs.get("func", "")),
            "module": str(array.attrs.get("module", "")),
            "axes": ", ".join(map(str, array.dims)),
            "shape": "x".join(map(str, array.shape)),
            "dtype": str(array.dtype),
        }
        for name, array in dataset.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("op")


def _few_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """What is looked for first; of a frame that has none of it, its own first columns."""
    at = [k for name in FIRST for k, column in enumerate(frame.columns) if column == name]
    return frame.take(at or [*range(min(len(FIRST), frame.shape[1]))], axis="columns")


def _table_text(table: pd.DataFrame) -> str:
    if not table.shape[1]:
        return "(no columns)"
    with pd.option_context("display.max_colwidth", _WIDE):
        return str(
            table.to_string(max_rows=_ROWS, show_dimensions=False, formatters=_formatters(table))
        )


def _table_html(table: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", _WIDE):
        return str(
            table.to_html(
                max_rows=_ROWS, show_dimensions=False, border=0, formatters=_formatters(table)
            )
        )


def _formatters(table: pd.DataFrame) -> dict[Any, Callable[[Any], str]]:
    return {"seconds": lambda n: quantity(n, "s")} if "seconds" in _numbers(table) else {}


def _list_html(rows: Mapping[str, str]) -> str:
    return _rows_html({name: f"<code>{escape(text)}</code>" for name, text in rows.items()})


def _rows_html(rows: Mapping[str, str]) -> str:
    cells = (f"<tr><th>{escape(head)}</th><td>{cell}</td></tr>" for head, cell in rows.items())
    style = ' style="text-align: left"'
    return f"<table{style}><tbody{style}>{''.join(cells)}</tbody></table>"


def _titled(title: str) -> str:
    return f"<p><b>{escape(title)}</b></p>"


def _small(text: str) -> str:
    return f"<p><small>{escape(text)}</small></p>"


def _called(names: Iterable[str]) -> Iterator[str]:
    return ("lens[name]" if name == "__getitem__" else name for name in names)


def _help(path: str, verbs: Mapping[str, list[str]]) -> str:
    named = [name for names in verbs.values() for name in names if not name.startswith("_")]
    return f"what one does: help({path}.{named[0]})" if named else ""


def _summary(accessor: type, name: str) -> str:
    return (getdoc(getattr(accessor, name)) or "").partition("\n")[0]
