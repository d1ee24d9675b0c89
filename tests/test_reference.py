"""The reference has every public name, and each example in it runs by itself."""

import doctest
import inspect
import runpy
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr

import lensframe_pd as lf

FOLDER = Path(__file__).parents[1] / "tutorials" / "reference"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    runpy.run_path(str(FOLDER / "api.py"))["write_pages"](folder)
    return {path.stem: path.read_text().split() for path in folder.glob("*.rst")}


def test_every_public_name_is_there_once(pages):
    listed = pages["functions"]
    for name in [*lf.__all__, *(f"Trace.{n}" for n in vars(lf.Trace) if n[0] != "_")]:
        assert name == "schema" or listed.count(f"lensframe_pd.{name}") == 1


@pytest.mark.parametrize(("page", "table"), [("layers", pd.DataFrame), ("activations", xr.Dataset)])
def test_every_verb_is_there_once(pages, page, table):
    path = "pandas.DataFrame" if page == "layers" else "xarray.Dataset"
    verbs = [n for n, m in vars(table.lens).items() if hasattr(m, "__wrapped__")]
    assert len(verbs) > 4
    assert [v for v in verbs if pages[page].count(f"{path}.lens.{v}") != 1] == []


def test_every_column_is_there(pages):
    assert [c for c in lf.schema.COLUMNS if f"``{c}``" not in pages["columns"]] == []


def public():
    found = {f"lf.{name}": getattr(lf, name) for name in lf.__all__}
    for owner, names in (("Trace", lf.Trace), ("layers", pd.DataFrame.lens)):
        found |= {f"{owner}.{n}": m for n, m in vars(names).items() if n[0] != "_"}
    found |= {f"activations.{n}": m for n, m in vars(xr.Dataset.lens).items() if n[0] != "_"}
    return {name: o for name, o in found.items() if inspect.isfunction(o)}


@pytest.mark.parametrize("name", public())
def test_an_example_needs_nothing_that_it_does_not_import(name):
    """As somebody types it: no name of the module that the function is from."""
    function = public()[name]
    words = inspect.getdoc(function)
    test = doctest.DocTestParser().get_doctest(words, {}, name, None, None)
    assert test.examples, f"{name} has no example"
    missing = [
        example.source
        for example in test.examples
        if (first := example.source.partition("(")[0].strip()) == function.__name__ and first
    ]
    assert missing == []
