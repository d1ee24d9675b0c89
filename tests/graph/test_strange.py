"""Frames as plain pandas leaves them: each verb is right, or says what is wrong with the frame."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf


class Net(nn.Module):
    """A chain of blocks with shortcuts, a loop, and an output that nothing made."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4))
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x):
        y, h = self.first(x), torch.zeros_like(x)
        for block in self.blocks:
            y = block(y) + y
        for _ in range(3):
            h = self.cell(y, h)
        return h, torch.ones(2)


LAYERS = lf.trace(Net().eval(), torch.ones(2, 4), save=None).layers
VERBS = {
    "draw": lambda f: f.lens.draw().source,
    "colour": lambda f: f.lens.draw(color="func", direction="right", columns=2).source,
    "auto": lambda f: f.lens.collapse("auto").lens.draw().source,
    "collapse": lambda f: f.lens.collapse(depth=1),
    "roll": lambda f: f.lens.roll().lens.draw().source,
    "edges": lambda f: f.lens.edges(),
    "summary": lambda f: f.lens.summary(),
    "chrome_trace": lambda f: f.lens.chrome_trace("trace.json"),
    "page": lambda f: f.lens.draw().page().html,
}
each_verb = pytest.mark.parametrize("verb", VERBS)


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def from_file(frame, write, read):
    write(frame, "x.parquet")
    return read("x.parquet")


KINDS_OF_FRAME = {
    "pandas' Parquet": lambda f: from_file(f, pd.DataFrame.to_parquet, pd.read_parquet),
    "our Parquet": lambda f: from_file(f, lf.write, lf.read),
    "lists": lambda f: f.map(lambda cell: [*cell] if isinstance(cell, tuple) else cell),
    "categories": lambda f: f.astype({"func": "category", "module": "category"}),
    "merged": lambda f: (
        f.reset_index()
        .merge(pd.DataFrame({"func": ["linear"], "note": ["x"]}), on="func", how="left")
        .drop(columns="note")
    ),
}


@cache
def expected_of(verb):
    return VERBS[verb](LAYERS)


@each_verb
@pytest.mark.parametrize("kind", KINDS_OF_FRAME)
def test_the_same_from_a_frame_that_went_through_pandas(kind, verb):
    expected, found = expected_of(verb), VERBS[verb](KINDS_OF_FRAME[kind](LAYERS))
    if verb == "page":  # it shows what the columns are
        assert found.count("<script") == expected.count("<script")
    elif isinstance(expected, str):
        assert found == expected
    elif isinstance(expected, pd.DataFrame):
        assert len(found) == len(expected)
        assert [*found.index] == [*expected.index]


@pytest.mark.parametrize("verb", ["draw", "auto", "page"])
def test_a_collapsed_frame_from_a_file_is_drawn_alike(verb):
    auto = LAYERS.lens.collapse("auto")
    read = from_file(auto, pd.DataFrame.to_parquet, pd.read_parquet)
    if verb == "draw":
        assert read.lens.draw().source == auto.lens.draw().source
    elif verb == "auto":
        assert [*read.lens.collapse("auto").index] == [*auto.lens.collapse("auto").index]
    else:
        assert "<svg" in read.lens.draw().page().html


WRONG = {
    "no rows": (LAYERS.iloc[:0], "no rows"),
    "rows twice": (pd.concat([LAYERS, LAYERS]), "more than once in the frame"),
    "columns twice": (pd.concat([LAYERS, LAYERS[["func"]]], axis=1), "columns twice, 'func'"),
    "parents that are none": (LAYERS.assign(parents=None), "parents holds None"),
    "parents of their own": (
        LAYERS.assign(parents=[("nowhere_1",)] * len(LAYERS)),
        "1 parents and 0 parent_args",
    ),
    "a cycle": (LAYERS.assign(parents=[(o,) for o in np.roll(LAYERS.index, 1)]), "parent_args"),
    "stacks that are none": (LAYERS.assign(module_stack=None), "module_stack holds None"),
}


@each_verb
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said(wrong, verb):
    frame, message = WRONG[wrong]
    try:
        VERBS[verb](frame)
    except lf.LensError as error:
        assert message in str(error)  # noqa: PT017 - a verb that needs no such column works


@pytest.mark.filterwarnings("ignore:FLOPs do not include")
@each_verb
@pytest.mark.parametrize("rows", ["one", "input", "outputs", "odd", "backwards", "shuffled"])
def test_some_of_the_rows(rows, verb):
    some = {
        "one": LAYERS.iloc[[4]],
        "input": LAYERS.query("kind == 'input'"),
        "outputs": LAYERS.query("kind == 'output'"),
        "odd": LAYERS.iloc[::2],
        "backwards": LAYERS.iloc[::-1],
        "shuffled": LAYERS.sample(frac=1, random_state=0),
    }[rows]
    if verb in ("summary", "chrome_trace") and rows == "input":
        with pytest.raises(lf.LensError, match="no rows of kind 'op'"):
            VERBS[verb](some)
    else:
        VERBS[verb](some)


class Nested(nn.Module):
    """Modules with parameters at several depths, called more than once, and outputs unlike."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()))

    def forward(self, x):
        y = x
        for _ in range(2):
            y = self.block(self.attention(y, y, y)[0] + y)
        return {"mean": y.mean((1, 2)), "all": y, "first": y[:, 0]}


NESTED = lf.trace(Nested().eval(), torch.ones(2, 3, 4), save=None).layers
OF_ALL_ROWS = {
    "by 1": lambda f: f.lens.collapse(depth=1),
    "by 2": lambda f: f.lens.collapse(depth=2),
    "auto": lambda f: f.lens.collapse("auto", most=6),
    "roll": lambda f: f.lens.roll(),
    "rolled by 1": lambda f: f.lens.roll().lens.collapse(depth=1),
    "by 1, rolled": lambda f: f.lens.collapse(depth=1).lens.roll(),
    "summary": lambda f: f.lens.summary(None),
    "profile": lambda f: f.lens.profile("module"),
}


@pytest.mark.filterwarnings("ignore:FLOPs do not include")
@pytest.mark.parametrize("verb", OF_ALL_ROWS)
@pytest.mark.parametrize("layers", [LAYERS, NESTED], ids=["chain", "nested"])
@pytest.mark.parametrize("order", ["backwards", "by func", "by seconds", "shuffled"])
def test_rows_in_another_order_say_the_same(layers, order, verb):
    mixed = {
        "backwards": layers.iloc[::-1],
        "by func": layers.sort_values("func"),
        "by seconds": layers.sort_values("seconds"),
        "shuffled": layers.sample(frac=1, random_state=1),
    }[order]
    want, found = OF_ALL_ROWS[verb](layers), OF_ALL_ROWS[verb](mixed)
    pd.testing.assert_frame_equal(found.loc[want.index], want)


def test_values_that_are_missing_everywhere():
    gone = LAYERS.assign(shape_str=np.nan, seconds=np.nan)
    assert len(gone.lens.collapse("auto")) == len(LAYERS.lens.collapse("auto"))
    assert gone.lens.draw(color="seconds").source.count("->") > 10
