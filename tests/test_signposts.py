"""What was looked for in the wrong place says where it is; each place named there is right."""

import copy
import pickle
import re

import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf


@pytest.fixture(scope="module")
def trace():
    block = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    model = nn.Sequential(block, nn.Linear(4, 2)).eval()
    return lf.trace(model, torch.rand(5, 3), stimulus=list("abcde"))


ATTRIBUTES = {
    # verbs of a table
    "draw": ["trace.layers.lens.draw"], "collapse": ["trace.layers.lens.collapse"],
    "summary": ["trace.layers.lens.summary"], "plot_time": ["trace.layers.lens.plot_time"],
    "rdm": ["trace.activations.lens.rdm"], "features": ["trace.activations.lens.features"],
    "to_sklearn": ["trace.activations.lens.to_sklearn"],
    "plot_rdm": ["lf.plot_rdm"], "extract": ["lf.extract"],
    # of pandas, xarray or both
    "loc": ["trace.layers.loc", "trace.activations.loc"], "iloc": ["trace.layers.iloc"],
    "query": ["trace.layers.query", "trace.activations.query"], "columns": ["trace.layers.columns"],
    "sel": ["trace.activations.sel"], "data_vars": ["trace.activations.data_vars"],
    "lens": ["trace.layers.lens", "trace.activations.lens"],
    "to_netcdf": ["trace.activations.to_netcdf"], "to_parquet": ["trace.layers.to_parquet"],
    # slips
    "layer": ["trace.layers"], "activation": ["trace.activations"],
    "drow": ["trace.layers.lens.draw"], "vallidate": ["trace.validate"],
}  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_that_is_elsewhere(trace, name):
    with pytest.raises(AttributeError, match=f"^a trace has no '{name}'") as caught:
        getattr(trace, name)
    assert isinstance(caught.value, lf.LensError)
    named = re.findall(r"(?:trace|lf)(?:\.\w+)+", str(caught.value))
    assert {*ATTRIBUTES[name]} <= {*named}
    for place in named:  # each is there
        eval(place, {"trace": trace, "lf": lf})


@pytest.mark.parametrize("name", ["save", "to_csv", "dump", "write"])
def test_writing_is_lf_write(trace, name):
    with pytest.raises(AttributeError, match=r"lf\.write\(trace, path\)"):
        getattr(trace, name)


def test_nothing_like_it(trace):
    with pytest.raises(AttributeError, match="it has layers, activations and output"):
        trace.qqqqqqqq
    assert not hasattr(trace, "_repr_png_")
    assert not hasattr(trace, "__array__")


@pytest.mark.parametrize(
    ("key", "kind", "words"),
    [
        ("relu_1", TypeError, "trace.activations.lens['relu_1']"),
        ("0.1", TypeError, "trace.layers.lens.find('0.1')"),
        (["relu_1", "linear_2"], TypeError, "trace.activations.lens[['relu_1', 'linear_2']]"),
        ("func", TypeError, "trace.layers['func']"),
        (0, TypeError, "layers, activations = trace"),
        (slice(2), TypeError, "layers, activations = trace"),
        (-1, TypeError, "trace.layers.iloc[-1]"),
        ("V1", KeyError, "no op, layer or module 'V1'"),
        ("rellu_1", KeyError, "did you mean 'relu_1'"),
        (2.5, TypeError, "names (labels, layers, module paths)"),
    ],
)
def test_a_trace_is_not_indexed(trace, key, kind, words):
    with pytest.raises(kind) as caught:
        trace[key]
    assert isinstance(caught.value, lf.LensError)
    assert words in str(caught.value)


def test_what_was_not_saved_is_said():
    bare = lf.trace(nn.ReLU().eval(), torch.ones(2), save=None)
    with pytest.raises(TypeError, match="the value is not saved by this trace"):
        bare["relu_1"]


@pytest.mark.parametrize(
    ("table", "name", "words"),
    [
        ("layers", "rdm", "activations.lens.rdm"),
        ("layers", "features", "activations.lens.features"),
        ("activations", "draw", "layers.lens.draw"),
        ("activations", "find", "layers.lens.find"),
        ("layers", "query", "layers.query, without lens"),
        ("activations", "sel", "activations.sel, without lens"),
        ("layers", "colapse", "did you mean collapse"),
        ("activations", "fetures", "did you mean features"),
        ("activations", "plot_rdm", "it is lf.plot_rdm(...)"),
        ("layers", "zzzz", "layers.lens shows its verbs"),
    ],
)
def test_what_lens_has_not(trace, table, name, words):
    with pytest.raises(AttributeError, match=re.escape(words)) as caught:
        getattr(getattr(trace, table).lens, name)
    assert isinstance(caught.value, lf.LensError)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("draw", "layers.lens.draw"), ("profile", "layers.lens.profile"),
        ("summary", "layers.lens.summary"), ("validate", "layers.lens.validate"),
        ("rdm", "activations.lens.rdm"), ("cka", "activations.lens.cka"),
        ("query", "layers.query"), ("sel", "activations.sel"),
    ],
)  # fmt: skip
def test_verbs_called_on_the_package(name, place):
    model, x = nn.Linear(3, 2), torch.ones(1, 3)
    with pytest.raises((AttributeError, TypeError)) as caught:
        getattr(lf, name)(model, x)
    assert isinstance(caught.value, lf.LensError)
    assert f"lf.trace(model, args).{place}" in str(caught.value)


def test_other_names_of_the_package_are_pythons_error():
    with pytest.raises(
        AttributeError, match=r"^module 'lensframe_pd' has no attribute 'nonsense'$"
    ):
        lf.nonsense
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        from lensframe_pd import nonsense  # noqa: F401
    import lensframe_pd.draw.dot  # a room is a package still

    assert lensframe_pd.draw.dot.dot


@pytest.mark.parametrize("args", [(nn.Linear(1, 1), torch.ones(1)), (nn.Linear(1, 1),), (None,)])
def test_a_trace_is_made_by_trace(args):
    with pytest.raises(TypeError, match=r"lf\.trace\(model, args\) makes one"):
        lf.Trace(*args)


def test_a_trace_is_copied_and_not_pickled(trace):
    assert copy.copy(trace).layers.equals(trace.layers)
    for way in (pickle.dumps, copy.deepcopy):
        with pytest.raises(lf.LensTypeError, match=r"lf\.write\(trace, path\) keeps its tables"):
            way(trace)
    layers, activations = pickle.loads(pickle.dumps((trace.layers, trace.activations)))
    assert layers.equals(trace.layers)
    assert activations.equals(trace.activations)


MODEL, X = nn.Sequential(nn.Linear(3, 2)).eval(), torch.ones(4, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda t: lf.trace(MODEL, X, device="cuda"), "move both: .to(device)"),
        (lambda t: lf.trace(MODEL, X, layers=["0"]), "which values to keep is save="),
        (lambda t: lf.trace(MODEL, X, stimuli=["a"]), "are stimulus="),
        (lambda t: lf.trace(MODEL, X, batch_size=2), "lf.extract(model, data, to=...)"),
        (lambda t: lf.trace(MODEL, X, steps=3), "lf.trace(model, args, {'steps': ...})"),
        (lambda t: lf.trace(MODEL, X, sed=3), "keyword argument 'sed': did you mean seed?"),
        (lambda t: lf.extract(MODEL, X, path="x.zarr"), "where the store goes is to="),
        (lambda t: lf.extract(MODEL, X, to="x", pool="mean"), "a column of the rows in save="),
        (
            lambda t: lf.extract(MODEL, X, to="x", steps=3),
            "lambda batch: {'x': batch, 'steps'",
        ),
        (lambda t: lf.extract(MODEL, X, to="x", sync_=1), "did you mean sync?"),
        (
            lambda t: t.layers.lens.profile(byy="op"),
            "keyword argument 'byy': did you mean by?",
        ),
        (lambda t: t.layers.lens.collapse(dept=1), "did you mean depth?"),
        (lambda t: t.layers.lens.find(name="0"), "argument 'name': it has key"),
        (lambda t: t.activations.lens.rdm(layer="0"), "did you mean layers?"),
        (lambda t: t.activations.lens.stats(zzz=1), "argument 'zzz': it has layers"),
    ],
)
def test_arguments_that_there_are_not(trace, call, words):
    with pytest.raises(lf.LensTypeError) as caught:
        call(trace)
    assert words in str(caught.value)


def test_names_of_operations_where_attributes_are_looked_for(trace):
    value = "activations.lens['relu_1']"
    for table in (trace, trace.layers.lens, trace.activations.lens):
        with pytest.raises(lf.errors.LensAttributeError, match=re.escape(value)):
            _ = table.relu_1
    with pytest.raises(lf.LensTypeError, match=re.escape("layers.lens.find('relu_1')")):
        trace.layers.lens["relu_1"]
    with pytest.raises(lf.LensTypeError, match="selected with pandas"):
        trace.layers.lens[0]


def test_whether_lens_has_a_name(trace):
    lens = trace.activations.lens
    assert "relu_1" in lens
    assert "0.1" in lens
    assert "relu_9" not in lens
    for table in (lens, trace.layers.lens):
        with pytest.raises(TypeError, match="not iterable"):
            list(table)


@pytest.mark.parametrize("path", [None, 3, ["a"], pd.DataFrame(), ".", "", "/"])
def test_what_is_no_path_to_read(path):
    with pytest.raises((lf.LensTypeError, lf.LensValueError), match=r"read takes a path|to read"):
        lf.read(path)


def test_a_home_folder_is_not_expanded(trace):
    with pytest.raises(lf.LensTypeError, match=r"the path that lf\.write gave"):
        lf.read(trace)
    for call in (lambda p: lf.read(p), lambda p: lf.write(trace, p), lambda p: lf.read(f"{p}/q")):
        with pytest.raises(lf.LensValueError, match=r"Path\('~/no.*'\)\.expanduser\(\)"):
            call("~/no/t")


def test_what_is_given_wrongly_else_is_pythons_error(trace):
    with pytest.raises(TypeError, match="multiple values"):
        trace.layers.lens.find("0", key="0")
    with pytest.raises(TypeError, match="missing 1 required"):
        lf.trace()
