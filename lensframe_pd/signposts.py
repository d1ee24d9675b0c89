"""Where a thing is that was looked for elsewhere: `trace.draw()`, `trace["relu_1"]`, `lf.rdm`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, isfunction, signature
from types import ModuleType
from typing import Any, NoReturn, ParamSpec, TypeVar

import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensAttributeError, LensKeyError, LensTypeError, near_misses
from lensframe_pd.graph.select import find
from lensframe_pd.labels import parsed

P = ParamSpec("P")
R = TypeVar("R")

_TRACED = "lf.trace(model, args)"
_ON_DISK = frozenset(
    "dump save store to_csv to_excel to_feather to_hdf to_json to_netcdf to_parquet to_pickle"
    " to_zarr write".split()
)


def verbs_of(table: type) -> Mapping[str, Any]:
    """The verbs that are registered as `lens` on DataFrames or Datasets, by name."""
    accessor: type = table.lens  # type: ignore[attr-defined]
    return {name: f for name, f in vars(accessor).items() if isfunction(f) and name[0] != "_"}


def public() -> frozenset[str]:
    """The names of the package itself."""
    return frozenset(getattr(sys.modules["lensframe_pd"], "__all__", ()))


def places(name: str, trace: str) -> list[str]:
    """Every place below a trace that has `name`: verbs first, then what the tables have."""
    tables: tuple[tuple[str, type], ...] = (
        ("layers", pd.DataFrame),
        ("activations", xr.Dataset),
    )
    verbs = [f"{trace}.{where}.lens.{name}(...)" for where, t in tables if name in verbs_of(t)]
    if name in public() - _ON_DISK:
        return [f"lf.{name}(...)"]
    if verbs or name.startswith("_"):
        return verbs
    found = [f"{trace}.{where}.{name}" for where, table in tables if hasattr(table, name)]
    return [f"lf.write({trace}, path)", *found] if name in _ON_DISK else found


def not_in_trace(name: str, own: Iterable[str]) -> LensAttributeError:
    """The error for an attribute that a trace has not."""
    found = places(name, "trace")
    if found:
        return LensAttributeError(f"a trace has no {name!r} of its own; it is {_either(found)}")
    names = dict.fromkeys([*own, *verbs_of(pd.DataFrame), *verbs_of(xr.Dataset)])
    known = [n for n in names if n[0] != "_"]
    close = near_misses(name, known)
    shown = [c for n in close for c in ([f"trace.{n}"] if n in {*own} else places(n, "trace"))]
    hint = f"did you mean {_either(shown)}?" if shown else "it has layers, activations and output"
    if parsed(name) is not None:
        hint = f"of an operation the value is trace.activations.lens[{name!r}]"
    return LensAttributeError(f"a trace has no {name!r}; {hint}")


def not_a_verb(name: str, accessor: type) -> LensAttributeError:
    """The error for what the `lens` of one table has not."""
    tables: list[type] = [pd.DataFrame, xr.Dataset]
    own, other = sorted(tables, key=lambda table: table.lens is not accessor)  # type: ignore[attr-defined]
    path = {pd.DataFrame: "layers", xr.Dataset: "activations"}
    if name in verbs_of(other):
        return LensAttributeError(
            f"{name!r} is a verb of the other table: {path[other]}.lens.{name}(...)"
        )
    close = near_misses(name, [*verbs_of(own)])
    if name in public():
        hint = f"it is lf.{name}(...)"
    elif hasattr(own, name) and name[0] != "_":
        hint = f"it is {path[own]}.{name}, without lens"
    elif close:
        hint = f"did you mean {', '.join(close)}?"
    elif parsed(name) is not None:
        hint = f"the operation is {_one_row(own, name)}"
    else:
        hint = f"{path[own]}.lens shows its verbs"
    return LensAttributeError(f"{path[own]}.lens has no verb {name!r}; {hint}")


def _one_row(table: type, name: str) -> str:
    if table is xr.Dataset:
        return f"activations.lens[{name!r}]"
    return f"layers.lens.find({name!r}), and its value activations.lens[{name!r}]"


def no_items(key: Any) -> LensTypeError:
    """The error for `layers.lens[key]`."""
    if isinstance(key, str):
        return LensTypeError(f"layers.lens is verbs; rows are {_one_row(pd.DataFrame, key)}")
    return LensTypeError("layers.lens is verbs; rows are selected with pandas: layers[...]")


def explains_keywords(
    elsewhere: Mapping[str, str], more: Callable[[str], str]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that says of keywords it has not where they belong.

    Parameters
    ----------
    elsewhere
        What others call it, to what to write.
    more
        What to say of any other.
    """

    def explained(function: Callable[P, R]) -> Callable[P, R]:
        known = keywords(function)

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs.keys() - {*known}:
                if name in elsewhere:
                    raise LensTypeError(f"{_unexpected(function, name)}: {elsewhere[name]}")
                raise no_such_keyword(function, name, known, more(name))
            return function(*args, **kwargs)

        return checked

    return explained


def keywords(function: Callable[..., Any]) -> list[str]:
    """The arguments that can be given by name."""
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    return [p.name for p in signature(function).parameters.values() if p.kind in by_name]


def no_such_keyword(
    function: Callable[..., Any], name: str, known: Sequence[str], more: str = ""
) -> LensTypeError:
    """Python's error for an argument that a function has not, with what it has."""
    close = near_misses(name, known)
    hints = [f"did you mean {', '.join(close)}?"] if close else []
    hints += [more] if more else []
    said = " ".join(hints) or f"it has {', '.join(known)}"
    return LensTypeError(f"{_unexpected(function, name)}: {said}")


def _unexpected(function: Callable[..., Any], name: str) -> str:
    return f"{function.__name__}() got an unexpected keyword argument {name!r}"


def not_subscriptable(key: Any, layers: pd.DataFrame, activations: xr.Dataset) -> Exception:
    """The error for `trace[key]`, which says where `key` is."""
    if isinstance(key, str) and key in layers.columns:
        return LensTypeError(f"{key!r} is a column: trace.layers[{key!r}]")
    if isinstance(key, (int, slice)):
        return LensTypeError(
            "a trace is unpacked, not indexed: layers, activations = trace; a row by its number is "
            f"trace.layers.iloc[{key if isinstance(key, int) else '...'}]"
        )
    try:
        rows = find(layers, key)
    except LensKeyError as error:
        return LensKeyError(
            f"{error}\nrows are trace.layers.lens.find(name), values trace.activations.lens[name]"
        )
    kept = set(rows.index) & {*activations.data_vars}
    asked = repr(key) if isinstance(key, (str, list, tuple)) else "rows"
    value = f"trace.activations.lens[{asked}]" if kept else "not saved by this trace"
    return LensTypeError(
        "a trace has two tables and is not indexed itself: rows are "
        f"trace.layers.lens.find({asked}), and the value is {value}"
    )


def not_here(name: str, package: str) -> AttributeError:
    """The error for what is no public name of the package, but is in a trace."""
    found = places(name, _TRACED)
    if not found:
        return AttributeError(f"module {package!r} has no attribute {name!r}")
    return LensAttributeError(f"{package} has no {name!r}; trace first: {_either(found)}")


class Room(ModuleType):
    """A part of the package that has the name of a verb, which people call."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        name = self.__name__.rpartition(".")[2]
        raise LensTypeError(
            f"lf.{name} is a part of the package; trace first: {_either(places(name, _TRACED))}"
        )


def _either(found: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(found))
