"""Many small activations: rows of few tables, found again as they were."""

import cProfile
import json
import os
import pstats

import dask
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
from stored import DTYPES, everything, same

import lensframe_pd as lf
from lensframe_pd.files import checked, packed
from lensframe_pd.files.cells import tuples

SHAPES = [(3,), (3, 4), (4, 3), (3, 0), (), (2, 1, 2)]
DIMS = [("stimulus",), ("stimulus", "x_4"), ("x_4", "stimulus"), ("stimulus", "x_0"), (),
        ("a_2", "b_1", "a_2_")]  # fmt: skip


def many(n=400):
    """Small arrays of every dtype, shape and layout, and two that are not small among them."""
    rng = np.random.default_rng(0)
    data = {}
    for k in range(n):
        shape, dims = SHAPES[k % len(SHAPES)], DIMS[k % len(SHAPES)]
        values = (rng.normal(size=shape) * 9).astype(DTYPES[k % len(DTYPES)])
        data[f"op_{k}:1"] = (dims, values, {"layer": f"op_{k}", "pass_num": k, "none": None})
    data["zeros_1"] = ("wide_20000", np.zeros(20_000, np.float32))
    data["strided_1"] = ("x_4", rng.normal(size=8)[::-2])
    data["swapped_1"] = ("x_4", np.arange(4, dtype=">f4"))
    data["last"] = ("stimulus", np.array([1.0, np.nan, -0.0]))
    data["zeros_2"] = ("wide_20000", np.ones(20_000, np.float64))
    coords = {"stimulus": ["a", "bb", "c"], "kind": ("stimulus", ["u", "v", "u"]), "run": 3}
    return xr.Dataset(data, coords, {"model": "M", "seconds": 0.5})


@pytest.mark.parametrize("chunks", [None, "auto", {}])
@pytest.mark.parametrize("at_once", [2**28, 0])
def test_what_is_packed_is_found(at_once, chunks, tmp_path, monkeypatch):
    monkeypatch.setattr(checked, "AT_ONCE_BYTES", at_once)
    folder = lf.write(many(), tmp_path / "x.arrows")
    names = sorted(os.listdir(folder))
    assert [n for n in names if n.startswith("packed")] == sorted(
        f"packed.{dtype}.arrow" for dtype in DTYPES
    )
    own = [n for n in names if n.endswith(".arrow") and not n.startswith("packed")]
    assert own == ["swapped_1.arrow", "zeros_1.arrow", "zeros_2.arrow"]
    found = lf.read(folder, chunks=chunks)
    expected = many()
    expected["swapped_1"] = expected["swapped_1"].astype("<f4")  # as Arrow has it, in any file
    same(found.load(), expected.assign({"swapped_1": many()["swapped_1"]}))


def test_batches_of_a_table(tmp_path, monkeypatch):
    """More than is held at once while it is written."""
    monkeypatch.setattr(packed, "_BATCH_BYTES", 100)
    folder = lf.write(many(), tmp_path / "x.arrows")
    assert pa.ipc.open_file(folder / "packed.float32.arrow").num_record_batches > 3
    same(lf.read(folder).load(), many())


def test_few_are_files_of_their_own(tmp_path):
    few = many(200)
    folder = lf.write(few, tmp_path / "x.arrows")
    assert len(list(folder.glob("*.arrow"))) == len(few.data_vars)
    assert json.loads((folder / "lensframe.json").read_text())["version"] == 1


def test_folders_with_a_file_for_each_are_read(tmp_path, monkeypatch):
    """As those written before there were tables."""
    monkeypatch.setattr(packed, "_MANY", 10_000)
    folder = lf.write(many(), tmp_path / "x.arrows")
    assert not list(folder.glob("packed*"))
    monkeypatch.undo()
    same(lf.read(folder).load(), many())


def test_a_reader_that_knows_no_tables_does_not_miss_them(tmp_path):
    folder = lf.write(many(), tmp_path / "x.arrows")
    assert json.loads((folder / "lensframe.json").read_text())["version"] == 2


@pytest.mark.parametrize("format", ["polars", "duckdb"])
def test_others_read_the_tables(format, tmp_path):
    other = pytest.importorskip(format)
    ds = many()
    file = lf.write(ds, tmp_path / "x.arrows") / "packed.float32.arrow"
    if format == "polars":
        rows = other.read_ipc(file).to_dicts()
    else:
        stored = pa.ipc.open_file(file).read_all()  # noqa: F841  # duckdb finds it
        rows = other.sql("select * from stored").df().to_dict("records")
    names = [name for name in ds if ds[name].dtype == np.float32 and name != "zeros_1"]
    assert [row["name"] for row in rows] == [n for n in names if n != "swapped_1"]
    for row in rows:
        array = ds[row["name"]]
        assert tuple(row["dims"]) == array.dims
        assert tuple(row["shape"]) == array.shape
        values = np.asarray(row["value"], np.float32).reshape(row["shape"])
        np.testing.assert_array_equal(values, array.values)


def test_a_table_alone_is_refused_with_a_way_out(tmp_path):
    folder = lf.write(many(), tmp_path / "x.arrows")
    with pytest.raises(lf.LensValueError, match=f"without its coordinates; read {folder}"):
        lf.read(folder / "packed.float32.arrow")


def test_a_table_of_another_write_is_refused(tmp_path):
    one, two = (lf.write(many(), tmp_path / f"{k}.arrows") for k in "ab")
    os.replace(two / "packed.int8.arrow", one / "packed.int8.arrow")
    with pytest.raises(lf.LensValueError, match=r"packed.int8.arrow is of another write"):
        lf.read(one)


@pytest.mark.parametrize("at_once", [2**28, 0])
def test_a_changed_value_names_its_array(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(checked, "AT_ONCE_BYTES", at_once)
    ds = many()
    needle = np.array([1.25, 2.5, 5.0], np.float32)
    ds["op_1:1"] = ("stimulus", needle)
    folder = lf.write(ds, tmp_path / "x.arrows")
    file = folder / "packed.float32.arrow"
    file.write_bytes(file.read_bytes().replace(needle.tobytes(), (needle * 2).tobytes()))
    with pytest.raises(lf.LensValueError, match=r"packed.float32.arrow is damaged"):
        lf.read(folder).load()


def test_lazy_values_are_computed_once(tmp_path):
    ds = many()
    before = ds["op_1:1"].chunk({"stimulus": 2})
    calls = []

    def count(block):
        calls.append(1)
        return block + 1

    blocks = before.data.map_blocks(count, meta=np.zeros((0, 0), np.float32))
    ds["op_1:1"] = before.copy(data=blocks)
    with dask.config.set(scheduler="synchronous"):
        found = lf.read(lf.write(ds, tmp_path / "x.arrows")).load()
    assert len(calls) == 2
    np.testing.assert_array_equal(found["op_1:1"], many()["op_1:1"] + 1)


def calls_of(function):
    profile = cProfile.Profile()
    found = profile.runcall(function)
    return pstats.Stats(profile).total_calls, found


def test_thousands_cost_a_few_calls_each(tmp_path):
    """Ten times the arrays is ten times the work, and that is little: a file each has 600 calls."""
    made = {}
    for n in (400, 4_000):
        arrays = {f"add_{k}": (("stimulus", "x_4"), np.ones((3, 4)), {"k": k}) for k in range(n)}
        ds = xr.Dataset(arrays)
        written, folder = calls_of(lambda ds=ds, n=n: lf.write(ds, tmp_path / f"{n}.arrows"))
        read, found = calls_of(lambda folder=folder: lf.read(folder))
        assert len(found) == n
        assert len(os.listdir(folder)) == 2
        made[n] = np.array([written, read])
    grown = (made[4_000] - made[400]) / 3_600
    assert grown[0] < 80, grown
    assert grown[1] < 70, grown


def test_what_stands_in_a_table_is_checked_for_its_size(tmp_path, monkeypatch):
    """A dimension of two sizes, in a folder whose checksums fit."""
    real = packed.write_packed

    def forged(variables, folder, write):
        changed = (
            (place, name, v if name != "op_1:1" else xr.Variable(("x_4", "q"), np.ones((5, 1))), a)
            for place, name, v, a in variables
        )
        return real(changed, folder, write)

    monkeypatch.setattr("lensframe_pd.files.arrow.write_packed", forged)
    folder = lf.write(many(), tmp_path / "x.arrows")
    with pytest.raises(lf.LensValueError, match="along 'x_4'"):
        lf.read(folder)


def test_everything_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "_MANY", 0)
    for ids in ([1, 2, 3], None, np.array(["a", "b", "c"])):
        folder = lf.write(everything(ids), tmp_path / "x.arrows")
        assert [n for n in os.listdir(folder) if n.startswith("T_1")] == []
        same(lf.read(folder).load(), everything(ids))


LISTS = {
    "lists": (pa.array([["a", "b"], [], ["c"]]), [("a", "b"), (), ("c",)]),
    "sliced": (pa.array([[1, 2], [3], []]).slice(1), [(3,), ()]),
    "missing": (pa.array([["a", None], None]), [("a", None), None]),
    "lists of lists": (pa.array([[[1], []], [], [[2, 3]]]), [((1,), ()), (), ((2, 3),)]),
    "none typed": (pa.array([[], []], pa.list_(pa.null())), [(), ()]),
    "fixed": (pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), [(1, 2), (3, 4)]),
    "nothing": (pa.array([], pa.list_(pa.string())), []),
    "flat": (pa.array([1.5, 2.5]), [1.5, 2.5]),
    "dictionary": (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_are_tuples(case):
    array, expected = LISTS[case]
    assert tuples(array) == expected
    assert tuples(pa.chunked_array([array, array])) == expected * 2


def test_sequences_stand_where_they_stood(tmp_path):
    """Frames with columns of their own, in an order of their own, with and without an index."""
    layers = pd.DataFrame(
        {"shape": [(1, 2), ()], "mine": [1.5, 2.5], "parents": [(), ("a_1",)], "func": ["a", "b"],
         "param_shapes": [((2, 3), (2,)), ()], "yours": [["x"], None]},
        index=pd.Index(["a_1", "b_1"], name="op"),
    )  # fmt: skip
    for name in ("l.parquet", "l.feather", "l.arrow"):
        for frame in (layers, layers.iloc[:0], layers.reset_index(drop=True)):
            found = lf.read(lf.write(frame, tmp_path / name))
            assert list(found.columns) == list(layers.columns)
            for column in ("shape", "parents", "param_shapes"):
                assert found[column].tolist() == frame[column].tolist()
            assert found.index.equals(frame.index)
