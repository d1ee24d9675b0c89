"""One schema: the frames of any two models are one table, for every reader and with no option."""

import glob

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch
from stored import BY_PANDAS
from torch import nn

import lensframe_pd as lf
from lensframe_pd.files.files import read, write
from lensframe_pd.schema import ARROW, CELLS, COLUMNS, arrow_schema


class Loop(nn.Module):
    """All that a frame can hold: parameters, buffers, a loop, a tuple argument, a read value."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.norm(x)
        for _ in range(2):
            x = torch.relu(self.fc(x))
        if x.sum() > -1:
            x = x.permute((1, 0))
        return x + torch.rand(1)


PROGRAMS = {
    "no parameter": (nn.ReLU(), torch.ones(2)),
    "parameters": (nn.Linear(3, 2), torch.ones(4, 3)),
    "buffers": (nn.BatchNorm2d(3), torch.ones(2, 3, 4, 4)),
    "scalar": (lambda x: x.sum() * 2, torch.ones(3)),
    "no operation": (nn.Identity(), torch.ones(3)),
    "loop": (Loop(), torch.ones(2, 4)),
    "cells": (nn.LSTM(3, 2), torch.ones(5, 3)),
}


@pytest.fixture(scope="module")
def frames():
    found = {}
    for name, (model, x) in PROGRAMS.items():
        if isinstance(model, nn.Module):
            model.eval()
        with torch.no_grad():
            found[name] = lf.trace(model, x, save=None).layers
    found["rows without an edge"] = found["loop"].query("kind == 'input'")
    found["no row"] = found["loop"][:0]
    return found


def together(pattern):
    """All files of a pattern, as each reader takes them without an option: name to frame."""
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    files = sorted(glob.glob(pattern))
    return {
        "duckdb": duckdb.sql(f"select * from '{pattern}'").df(),
        "polars": polars.read_parquet(pattern).to_pandas(),
        "pandas": pd.concat([pd.read_parquet(file) for file in files]).reset_index(),
        "pandas on a folder": pd.read_parquet(files[0].rpartition("/")[0]).reset_index(),
        "pyarrow": pa.dataset.dataset(files).to_table().to_pandas().reset_index(),
    }


def as_tuples(cell):
    return tuple(map(as_tuples, cell)) if isinstance(cell, (list, tuple, np.ndarray)) else cell


def check_together(folder, frames):
    expected = pd.concat(frames)
    for reader, found in together(f"{folder}/*.parquet").items():
        assert len(found) == len(expected), reader
        found = found.sort_values(["model", "step"])
        wanted = expected.sort_values(["model", "step"])
        for column in ("op", "func", "numel", "parents", "params", "param_shapes", "shape"):
            cells = wanted.index if column == "op" else wanted[column]
            got = [as_tuples(c) for c in found[column]]
            assert got == [as_tuples(c) for c in cells], (reader, column)


def test_frames_of_many_models_are_read_together(frames, tmp_path):
    written = [frame.assign(model=name) for name, frame in frames.items()]
    for k, frame in enumerate(written):
        write(frame, tmp_path / f"{k}.parquet")
    check_together(tmp_path, written)


def test_pandas_own_writer_takes_the_schema(frames, tmp_path):
    written = [frame.assign(model=name) for name, frame in frames.items()]
    for k, frame in enumerate(written):
        if k % 2:
            frame.to_parquet(tmp_path / f"{k}.parquet", schema=arrow_schema(frame))
        else:
            write(frame, tmp_path / f"{k}.parquet")
    check_together(tmp_path, written)


def test_every_known_column_has_a_kind():
    assert {*CELLS} == {*COLUMNS, "op", "parent_passes", "unrolled"}
    assert {*CELLS.values()} == {*ARROW}


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow"])
@pytest.mark.parametrize("verb", ["as traced", "rolled", "collapsed", "collapsed rolled", "costs"])
def test_what_verbs_give_is_of_the_same_types_and_comes_back(verb, suffix, frames, tmp_path):
    for name, frame in frames.items():
        if "row" in name:
            continue
        if "rolled" in verb:
            frame = frame.lens.roll()
        if "collapsed" in verb:
            frame = frame.lens.collapse(depth=1)
        if verb == "costs":
            frame = frame.lens.costs()
        path = write(frame, tmp_path / f"x{suffix}")
        found = read(path)
        pd.testing.assert_frame_equal(found, frame)
        assert found.attrs == frame.attrs
        if suffix == ".parquet":
            schema = pa.parquet.read_schema(path)
        else:
            schema = pa.ipc.open_file(path).schema
        types = dict(zip(schema.names, schema.types, strict=True))
        assert schema.names == [*frame.columns, "op"]
        for column, kind in CELLS.items():
            if column in types:
                assert str(types[column]).replace("element", "item") == str(ARROW[kind]), column


def test_columns_of_ones_own_keep_their_type(frames, tmp_path):
    frame = frames["loop"]
    n = len(frame)
    mine = {
        "score": np.linspace(0, 1, n).astype(np.float32),
        "rank": pd.array([None, *range(n - 1)], dtype="Int16"),
        "group": pd.Categorical(["a", "b"] * (n // 2) + ["a"] * (n % 2)),
        "when": pd.date_range("2020-01-01", periods=n, tz="UTC"),
        "note": [None] * (n - 1) + ["x"],
        "weights": [[0.5] * k for k in range(n)],
    }
    frame = frame.assign(**mine)
    found = read(write(frame, tmp_path / "x.parquet"))
    assert dict(found.dtypes) == dict(frame.dtypes)
    for column in mine:
        got, wanted = (
            [as_tuples(c) for c in f[column].astype(object).fillna(0)] for f in (found, frame)
        )
        assert got == wanted


def test_known_columns_as_a_merge_or_a_user_leaves_them(frames, tmp_path):
    frame = frames["loop"]
    gaps = frame.reset_index().merge(frame[["numel"]].iloc[:3], on="op", how="left")
    changed = {
        "missing numbers": gaps.assign(numel=gaps.pop("numel_y")).set_index("op"),
        "all missing": frame.assign(module=None, seconds=None, params=None, shape=None),
        "a category": frame.assign(func=frame["func"].astype("category")),
        "lists": frame.assign(parents=[list(p) for p in frame["parents"]]),
        "nullable": frame.assign(numel=frame["numel"].astype("Int64")),
        "narrow": frame.assign(step=frame["step"].astype("int8")),
        "few columns in another order": frame[["shape", "func", "layer"]],
        "numbered": frame.reset_index(drop=True),
    }
    for name, wanted in changed.items():
        path = write(wanted, tmp_path / "x.parquet")
        schema = pa.parquet.read_schema(path)
        for column in {*schema.names} & {*CELLS}:
            kind = str(schema.field(column).type).replace("element", "item")
            assert kind == str(ARROW[CELLS[column]]), (name, column)
        found = read(path)
        assert list(found.columns) == [c for c in wanted.columns if c != "op"], name
        if name == "nullable":
            assert found["numel"].dtype == "Int64"
        for column in found.columns:
            got, cells = (
                [None if not isinstance(c, tuple) and pd.isna(c) else c for c in map(as_tuples, f)]
                for f in (found[column], wanted[column])
            )
            assert got == cells, (name, column)


@pytest.mark.parametrize(
    ("column", "cells", "message"),
    [
        ("numel", lambda n: ["many"] * n, r"'numel' holds string, not int64"),
        ("numel", lambda n: [0.5] * n, r"'numel' holds double, not int64"),
        ("parents", lambda n: ["a_1"] * n, r"'parents' holds string, not list<item: string>"),
        ("shape", lambda n: [(1, "x")] * n, r"do not fit a table of Arrow.*shape"),
        ("mine", lambda n: [object()] * n, r"do not fit a table of Arrow.*mine"),
        ("mine", lambda n: ["\ud800"] * n, r"do not fit"),
    ],
)
def test_cells_that_do_not_fit_are_refused(column, cells, message, frames, tmp_path):
    frame = frames["loop"].copy()
    frame[column] = pd.Series(cells(len(frame)), index=frame.index, dtype=object)
    with pytest.raises(lf.LensTypeError, match=f"(?s){message}"):
        write(frame, tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


TEXTS = ["a\0b", "\0", "a\0", "", "é\u2028", "x" * 3_000_000, "q\"'\\", "\r\n", "\U0001f600"]


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow"])
def test_any_text_comes_back_whole(suffix, frames, tmp_path):
    frame = frames["loop"].iloc[: len(TEXTS)]
    texts = [*TEXTS][: len(frame)]
    assert "x" * 3_000_000 in texts
    frame = frame.assign(
        func=texts, mine=[None, *texts[1:]], parents=[(t, t) for t in texts], note=texts[::-1]
    )
    frame.index = pd.Index(texts, name="op")
    frame.attrs = {"model": "a\0b"}
    found = read(write(frame, tmp_path / f"x{suffix}"))
    pd.testing.assert_frame_equal(found, frame, **BY_PANDAS)
    assert found.attrs == frame.attrs


def test_a_folder_named_like_a_partition_adds_no_column(frames, tmp_path):
    (tmp_path / "run=3").mkdir()
    path = write(frames["loop"], tmp_path / "run=3" / "layers.parquet")
    pd.testing.assert_frame_equal(read(path), frames["loop"])


def test_a_frame_is_small_on_disk(frames, tmp_path):
    """A model has 60 kB on average in the zoo; what a file has before its first row is 20 kB."""
    sizes = [write(f, tmp_path / "x.parquet").stat().st_size for f in frames.values()]
    assert max(sizes) < 22_000
