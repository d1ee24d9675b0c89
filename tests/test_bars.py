"""What may take a while says how far it is, on a terminal; elsewhere nothing is printed."""

import io
import sys
import threading

import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd import bars


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def trace():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 4)).eval()
    with torch.no_grad():
        return lf.trace(model, torch.rand(6, 3), stimulus=list("abcdef"))


def extract(trace, folder):
    model, (data,) = trace._origin.model, trace._origin.args
    lf.extract(model, data, to=folder / "acts.zarr", save=["linear_1"], batch_size=2)


def repeat(trace, folder):
    lf.trace(trace._origin.model, trace._origin.args, repeats=2)


def encode(trace, folder):
    rates = pd.DataFrame({"V1": [1.0, 3, 2, 5, 4, 0]}, list("abcdef"))
    trace.activations.lens.encode(rates, "tanh_1", folds=3, alphas=1)


def reference():
    return {"V1": pd.DataFrame(torch.rand(6, 4).numpy(), list("abcdef"))}


def score(**options):
    return lambda trace, _: trace.activations.lens.score(reference(), trace.layers, **options)


def differences(trace, _):
    trace.activations.lens.score_differences(reference(), trace.layers, bootstrap=10)


def diff(trace, _):
    trace.layers.lens.diff(trace, activations=(trace, trace))


def store(verb):
    """A statistic of a store, with so little memory that it is read block by block."""

    def call(trace, folder):
        model, data = nn.Sequential(nn.Linear(3, 800)).eval(), torch.rand(60, 3)
        lf.extract(model, data, to=folder / "s.zarr", save=["linear_1"], batch_size=2)
        verb(lf.read(folder / "s.zarr").lens)

    return call


def monitors():
    """tqdm's own threads, which a bar may start."""
    return [t for t in threading.enumerate() if type(t).__name__ == "TMonitor"]


LONG = {
    "replay": (lambda trace, _: trace.validate(), "validate: replay"),
    "downstream": (lambda trace, _: trace.validate(downstream="all"), "validate: downstream"),
    "alignment": (lambda trace, _: trace.validate(alignment="all"), "validate: alignment"),
    "patch": (lambda trace, _: trace.patch(0, lambda y: y.sum()), "patch"),
    "rdm": (lambda trace, _: trace.activations.lens.rdm(), "rdm"),
    "cka": (lambda trace, _: trace.activations.lens.cka(), "cka"),
    "encode": (encode, "encode"),
    "score": (score(), "score"),
    "score of RDMs, samples": (score(bootstrap=20), "bootstrap"),
    "score by CKA, samples": (score(comparison="cka", bootstrap=20), "half samples"),
    "score_differences": (differences, "score_differences"),
    "stats": (lambda trace, _: trace.activations.lens.stats(), "stats"),
    "rank": (lambda trace, _: trace.activations.lens.stats(rank=True), "stats: rank"),
    "diff": (diff, "diff: values"),
    "write": (lambda trace, folder: lf.write(trace, folder / "t"), "write"),
    "rdm of a store": (store(lambda lens: lens.rdm(metric="cityblock", memory=2**18)), "pairs of"),
    "cka of a store": (store(lambda lens: lens.cka(memory=2**18)), "cka"),
    "repeats": (repeat, "repeats"),
    "extract": (extract, "acts.zarr"),
}


@pytest.mark.parametrize(("call", "words"), LONG.values(), ids=LONG)
def test_what_takes_long_has_a_bar(trace, call, words, tmp_path, monkeypatch):
    monkeypatch.setattr(bars, "DELAY", 0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    before = monitors()
    call(trace, tmp_path)
    assert words in sys.stderr.getvalue()
    assert monitors() == before


@pytest.mark.parametrize(("call", "words"), LONG.values(), ids=LONG)
def test_nothing_is_printed_where_nobody_looks(trace, call, words, tmp_path, monkeypatch):
    monkeypatch.setattr(bars, "DELAY", 0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    call(trace, tmp_path)
    assert sys.stderr.getvalue() == ""


def test_nothing_is_printed_of_what_is_quick(trace, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    trace.validate()
    assert "validate" not in sys.stderr.getvalue()


@pytest.mark.parametrize(
    ("items", "said"), [([1, 2], "0/2"), (range(1, 3), "0/2"), (iter([1, 2]), "0 items")]
)
def test_items_are_counted(items, said, monkeypatch):
    monkeypatch.setattr(bars, "DELAY", 0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(bars.counted(items, "things", "items")) == [1, 2]
    assert said in sys.stderr.getvalue()


def test_a_notebook_is_looked_at_too(monkeypatch):
    monkeypatch.setattr(bars, "DELAY", 0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as the kernel's: no terminal
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert list(bars.counted([1], "things", "items")) == [1]
    assert "things" in sys.stderr.getvalue()
