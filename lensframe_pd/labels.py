"""Names of rows: labels of operations, layers, calls of modules; and what a verb was asked for.

Each small language is read and written here only: `"linear_1:2"` (an op), `"enc.0:3"` (a call of
a module), `"module=enc.0"` (a module, whatever else has its name).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr

from lensframe_pd.cells import listed
from lensframe_pd.errors import LensKeyError, LensTypeError, LensValueError, shown, unknown_names
from lensframe_pd.schema import require


def label(layer: str, pass_num: int, n_passes: int) -> str:
    """The label of one execution: the layer, with the pass where there are several."""
    return layer if n_passes == 1 else f"{layer}:{pass_num}"


def labels_of(
    layers: Sequence[str], pass_nums: Sequence[int], n_passes: Sequence[int]
) -> list[str]:
    """As `label`, of many executions."""
    most = max(n_passes, default=1)
    if most == 1:
        return [*layers]
    ends = [f":{p}" for p in range(most + 1)]  # put behind several layers, and dear to make
    return [
        layer if n == 1 else layer + ends[p]
        for layer, p, n in zip(layers, pass_nums, n_passes, strict=True)
    ]


class Label(NamedTuple):
    """What a label says: the n-th layer of a function, and which pass of it (0: not said)."""

    func: str
    n: int
    pass_num: int


def parsed(label: str) -> Label | None:
    """A label, or the name of a layer, taken apart; None if it can be neither.

    Examples
    --------
    >>> parsed("linear_1:2")
    Label(func='linear', n=1, pass_num=2)
    >>> parsed("layer1.conv") is None
    True
    """
    match = _LABEL.fullmatch(label)
    return Label(match["func"], int(match["n"]), int(match["pass"] or 0)) if match else None


_LABEL = re.compile(r"(?P<func>.+)_(?P<n>\d+)(?::(?P<pass>\d+))?")


def main_path(path: str, aliases: Mapping[str, str]) -> str:
    """The path that names a module, for any path on which it can be reached.

    Parameters
    ----------
    aliases
        For modules that are held in several places: each further place to the first.

    Examples
    --------
    >>> main_path("decoder.embed.norm", {"decoder.embed": "encoder.embed"})
    'encoder.embed.norm'
    """
    main = ""
    for name in path.split("."):
        main = f"{main}.{name}" if main else name
        main = aliases.get(main, main)
    return main


def path_of(call: str) -> str:
    """The module's path in a call of it: `"enc.0"` of `"enc.0:3"`; of a bare path itself."""
    path, colon, number = call.rpartition(":")
    return path if colon and number.isdigit() else call


def split_call(call: str) -> tuple[str, int]:
    """Path and number of a module call: `("enc.0", 3)` of `"enc.0:3"`; 0 where there is none."""
    path, colon, number = call.rpartition(":")
    return (path, int(number)) if colon and number.isdigit() else (call, 0)


def names_of(call: str) -> int:
    """How many names the path of a module has, which is its depth: 0 of the model itself.

    Examples
    --------
    >>> names_of("layer1.0:2"), names_of("layer1"), names_of("")
    (2, 1, 0)
    """
    path = path_of(call)
    return path.count(".") + 1 if path else 0


def module_asked(name: str) -> str | None:
    """The path in `"module=enc.0"`, which means the module whatever else has its name; else None.

    Examples
    --------
    >>> module_asked("module=relu_1"), module_asked("relu_1")
    ('relu_1', None)
    """
    return name.removeprefix(MODULE) if name.startswith(MODULE) else None


MODULE = "module="


def call_text(call: str) -> str:
    """As `calls_text`, of one."""
    return f"[{encode_basestring(call)}]"


def calls_text(calls: Iterable[str]) -> str:
    """Module calls as one text, for an attribute that can be no list; '' of none.

    Examples
    --------
    >>> calls_text(["enc.0:1", "a,b:2"])
    '["enc.0:1", "a,b:2"]'
    """
    listed = ", ".join(map(encode_basestring, calls))  # json.dumps, once for each variable
    return f"[{listed}]" if listed else ""


def calls_of(text: Any) -> list[str]:
    """The module calls in what `calls_text` made; none in a text that it did not make."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return []
    return [str(call) for call in found] if isinstance(found, list) else []


def labels(frame: pd.DataFrame, verb: str) -> list[str]:
    """The labels of rows: the index, the column `op`, or else made of what tells them.

    Raises
    ------
    LensKeyError
        None of these is there, as after a merge that kept too little.
    """
    if frame.index.name == "op":
        return [*map(str, listed(frame.index.array))]
    if "op" in frame.columns:
        return [str(op) for op in frame["op"]]
    require(frame, verb, "layer", "pass_num", "n_passes")
    columns = (frame["layer"], frame["pass_num"], frame["n_passes"])
    return [label(*cells) for cells in zip(*columns, strict=True)]


def distinct_labels(frame: pd.DataFrame, verb: str) -> list[str]:
    """The labels of rows, for verbs that follow edges by them.

    Raises
    ------
    LensKeyError
        As of `labels`.
    LensValueError
        Labels that several rows have, as in a concatenation of two traces.
    """
    ops = labels(frame, verb)
    if len({*ops}) < len(ops):
        twice = [op for op, n in Counter(ops).items() if n > 1]
        raise LensValueError(
            f"{verb}: {shown(twice, 5)}: more than once in the frame; labels that stand for "
            "several rows do not say which of them a parent is: give the rows of one trace"
        )
    return ops


def asked_names(given: Any, verb: str) -> list[str]:
    """What a verb was asked for, as names: one name, several, rows of a frame, or their values.

    Parameters
    ----------
    given
        A label, layer or module path, or several in any collection; rows of `layers`, one row, a
        boolean column; a variable of the activations, or some of them as a Dataset.
    verb
        What an error calls the caller.

    Raises
    ------
    LensTypeError
        It is none of these.

    Examples
    --------
    >>> asked_names("relu_1", "find"), asked_names(("relu_1", "fc"), "find")
    (['relu_1'], ['relu_1', 'fc'])
    """
    if isinstance(given, str):
        return [given]
    if isinstance(given, pd.DataFrame):
        return labels(given, verb)
    if isinstance(given, pd.Series):
        given = _of_series(given)
    elif isinstance(given, xr.DataArray) and given.name is not None:
        given = [given.name]
    listed = texts_in(given)
    if listed is None:
        raise LensTypeError(
            f"{verb} got {_brief(given)}; it takes names (labels, layers, module paths) or rows of "
            "layers; the label of the n-th row is layers.index[n]"
        )
    return listed


def texts_in(given: Any) -> list[str] | None:
    """What holds texts and nothing else as a list of them; None for all else."""
    try:
        listed = [*given]
    except TypeError:
        return None
    return listed if all(isinstance(name, str) for name in listed) else None


def activations_of(given: Any) -> Any:
    """Of a trace, or of one that was read, its activations; anything else as it is."""
    found = getattr(given, "activations", None)
    return found if isinstance(found, xr.Dataset) else given


def unknown_rows(asked: Iterable[str], known: Iterable[str], what: str) -> LensKeyError:
    """As `unknown_names`, of names of rows; with what to do about functions and patterns.

    Parameters
    ----------
    known
        Labels, layers, paths of modules.
    """
    asked, known = [*asked], [*known]
    functions = {said.func for name in known if (said := parsed(name)) is not None}
    lines = [str(unknown_names(asked, known, what))]
    for name in asked:
        if name in functions:
            lines.append(f'{name!r} is a function; its rows: layers.query("func == {name!r}")')
        elif _PATTERN.search(name):
            lines.append(
                f"{name!r}: names are taken letter by letter; the rows whose module has a pattern: "
                f"layers[layers['module'].str.contains({_as_pattern(name)!r})]"
            )
    return LensKeyError("\n".join(lines))


_PATTERN = re.compile(r"[*?^$|\\+()\[\]]")


def _as_pattern(name: str) -> str:
    """A regular expression as it is; of wildcards, as of files, the expression that means them."""
    if re.search(r"[.)\]][*?]|[\\^$|+()]", name):
        return name
    return re.escape(name).replace(r"\*", ".*").replace(r"\?", ".")


def one_name(given: Any, verb: str) -> str:
    """As `asked_names`, for a verb that takes one.

    Raises
    ------
    LensTypeError
        It names nothing, or several.
    """
    found = asked_names(given, verb)
    if len(found) != 1:
        several = f"{len(found)} ({shown(found, 3)})" if found else "none"
        raise LensTypeError(f"{verb} takes one layer and got {several}; call it for each")
    return found[0]


def _of_series(given: pd.Series[Any]) -> Iterable[Any]:
    """One row of a frame by its name, a mask by the rows where it is true, else its cells."""
    if "func" in given.index:
        return [given.name]
    if given.dtype == bool:
        return given.index[given.to_numpy()]
    return given


def _brief(given: Any) -> str:
    text = repr(given)
    is_short = len(text) < 80 and "\n" not in text
    return text if is_short else f"a {type(given).__name__}"
