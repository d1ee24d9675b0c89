"""The pages of the reference, made of the public names of the package: none is listed by hand."""

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import xarray as xr

import lensframe_pd as lf
from lensframe_pd.glance import purposes

TABLES = {
    "layers": ("pandas.DataFrame", pd.DataFrame),
    "activations": ("xarray.Dataset", xr.Dataset),
}
_INTRODUCTION = {
    "layers": "Verbs on rows of ``layers``, a DataFrame: each takes the frame as it stands.",
    "activations": "Verbs on ``activations``, a Dataset: each takes it as it stands.",
}


def functions() -> list[str]:
    """What a user calls: `trace`, `read`, ..."""
    return [name for name in lf.__all__ if callable(getattr(lf, name)) and not _is_class(name)]


def errors() -> list[str]:
    """The errors and warnings."""
    return [name for name in lf.__all__ if _is_class(name) and name != "Trace"]


def members() -> list[str]:
    """What a trace has."""
    return [name for name in vars(lf.Trace) if name[0] != "_"]


def verbs(table: str) -> dict[str, list[str]]:
    """The verbs of a table by purpose."""
    return purposes(TABLES[table][1].lens)


def _is_class(name: str) -> bool:
    return isinstance(getattr(lf, name), type)


def write_pages(folder: Path) -> None:
    """All pages but the first, as reStructuredText."""
    (folder / "functions.rst").write_text(_functions())
    (folder / "columns.rst").write_text(_columns())
    for table in TABLES:
        (folder / f"{table}.rst").write_text(_verbs(table))


def _functions() -> str:
    return "\n".join(
        [
            *_title("Functions, traces, errors"),
            *_listed([f"lensframe_pd.{name}" for name in functions()]),
            *_listed(["lensframe_pd.schema.arrow_schema"]),
            *_title("A trace", "-"),
            *_listed(["lensframe_pd.Trace"]),
            *_listed([f"lensframe_pd.Trace.{name}" for name in members()]),
            *_title("Errors", "-"),
            "Each is also the builtin a caller would expect.",
            "",
            *_listed([f"lensframe_pd.{name}" for name in errors()]),
        ]
    )


def _verbs(table: str) -> str:
    lines = [*_title(f"{table}.lens"), _INTRODUCTION[table], ""]
    for purpose, names in verbs(table).items():
        paths = [f"{TABLES[table][0]}.lens.{name}" for name in names]
        lines += [*_title(purpose.capitalize(), "-"), *_listed(paths, "accessor_method")]
    return "\n".join(lines)


def _columns() -> str:
    said = {name: re.sub(r"([*_`|])", r"\\\1", text) for name, text in lf.schema.COLUMNS.items()}
    rows = [f"   * - ``{name}``\n     - {text}" for name, text in said.items()]
    head = ["What each column of ``layers`` means, in the order of the frame.", ""]
    table = [".. list-table::", "   :widths: 20 80", "", *rows, ""]
    return "\n".join([*_title("Columns"), *head, *table])


def _title(text: str, under: str = "=") -> list[str]:
    return [text, under * len(text), ""]


def _listed(names: Iterable[str], template: str | None = None) -> list[str]:
    options = [f"   :template: autosummary/{template}.rst"] if template else []
    head = [".. autosummary::", "   :toctree: generated", "   :nosignatures:", *options, ""]
    return [*head, *(f"   {name}" for name in names), ""]
