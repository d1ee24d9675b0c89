"""Texts of any kind as ids, in coordinates, attributes and dimensions: right, or refused."""

import numpy as np
import pytest
import xarray as xr
from stored import FORMATS, same

import lensframe_pd as lf
from lensframe_pd.files.files import read, write

TEXTS = {
    "NUL inside": ["a\0b", "a\0c", "a"],
    "NUL first": np.array(["\0", "\0a", "a"], object),
    "NUL last": np.array(["a\0", "a", "b"], object),
    "empty": ["", "a", "b"],
    "spaces": [" a", "a ", "a\u00a0"],
    "lines": ["a\nb", "a\r\nb", "a\u2028b"],
    "beyond ASCII": ["é", "e\u0301", "\U0001f600"],
    "quotes": ['"', "'", "\\"],
    "numbers": ["1", "01", "1.0"],
    "words of missing": ["nan", "None", "NA"],
    "very long": np.array(["x" * 2_000_000, "y", "z"], object),
    "objects": np.array(["a", "bb", "ccc"], object),
}


def dataset(texts, coordinate):
    values = {"relu_1": (("stimulus", "feature_2"), np.arange(6.0).reshape(3, 2), {"module": ""})}
    ids = texts if coordinate == "stimulus" else ["a", "b", "c"]
    coords = {"stimulus": np.asarray(ids)}
    if coordinate == "category":
        coords["category"] = ("stimulus", np.asarray(texts))
    return xr.Dataset(values, coords)


@pytest.mark.parametrize("coordinate", ["stimulus", "category"])
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("suffix", FORMATS.values())
def test_texts_come_back_or_are_refused(suffix, kind, coordinate, tmp_path):
    expected = dataset(TEXTS[kind], coordinate)
    if suffix == ".nc" and "NUL" in kind:
        with pytest.raises(lf.LensTypeError, match=f"'{coordinate}' holds a NUL.*zarr or .arrows"):
            write(expected, tmp_path / "x.nc")
        return
    with read(write(expected, tmp_path / f"x{suffix}")) as found:
        assert list(found[coordinate].values) == list(TEXTS[kind])
        assert float(found["relu_1"].sel(stimulus=found["stimulus"].values[2])[0]) == 4
        same(found.load(), expected)


@pytest.mark.parametrize("missing", [None, np.nan, float("nan")])
@pytest.mark.parametrize("suffix", FORMATS.values())
def test_missing_texts(suffix, missing, tmp_path):
    texts = np.array(["im1", missing, ""], object)
    with read(write(dataset(texts, "category"), tmp_path / f"x{suffix}")) as found:
        cells = list(found["category"].values)
        assert (cells[0], cells[2]) == ("im1", "")
        assert cells[1] != cells[1]  # missing, as pandas has it
    with pytest.raises(lf.LensTypeError, match=r"ids of stimuli \[1\] are missing"):
        write(dataset(texts, "stimulus"), tmp_path / f"x{suffix}")


@pytest.mark.parametrize("cells", [["\ud800", "a", "b"], [b"a", b"b", b"c"], [1, "a", None],
                                   [None, None, None], [{1}, "a", "b"]])  # fmt: skip
@pytest.mark.parametrize("suffix", FORMATS.values())
def test_what_is_no_text_is_refused(suffix, cells, tmp_path):
    column = np.array(cells, np.str_ if cells[0] == "\ud800" else object)
    with pytest.raises(lf.LensTypeError, match="'category' holds"):
        write(dataset(column, "category"), tmp_path / f"x{suffix}")
    assert list(tmp_path.iterdir()) == []


ATTRS = {
    "a": "x\0y", "b": "", "c": "é\n", "units": "ms", "dtype": "bool", "coordinates": "u v",
    "_FillValue": 0, "scale_factor": 2, "lensframe": 7, "lensframe_write": "x", "a/b": 1,
    "é": 2**63, "d": [1, "x\0", None], "e": float("inf"), "f": -0.0, "CLASS": "x", "g": {"h": 1},
    "missing_value": 1.0, "calendar": "none", "x" * 300: "y" * 70_000,
}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS.values())
def test_any_attribute_comes_back(suffix, tmp_path):
    expected = dataset(["a", "b", "c"], "stimulus").assign_attrs(ATTRS)
    expected["relu_1"].attrs = ATTRS
    expected["stimulus"].attrs = ATTRS
    with read(write(expected, tmp_path / f"x{suffix}")) as found:
        for attrs in (found.attrs, found["relu_1"].attrs, found["stimulus"].attrs):
            assert attrs == ATTRS
        np.testing.assert_array_equal(found["relu_1"], expected["relu_1"])


@pytest.mark.parametrize("suffix", FORMATS.values())
def test_any_number_comes_back_bit_for_bit(suffix, tmp_path):
    """NaN with its payload, minus zero, the smallest and the largest."""
    bits = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 1, 0x7F7FFFFF, 0x7F800000], np.uint32)
    expected = xr.Dataset(
        {
            "a_1": ("stimulus", bits.view(np.float32)),
            "b_1": ("stimulus", np.array([-(2**63), 2**63 - 1, 0, -1, 1, 2])),
        },
        {"stimulus": np.arange(6), "x": ("stimulus", bits.view(np.float32))},
    )
    with read(write(expected, tmp_path / f"x{suffix}")) as found:
        for name in ("a_1", "x"):
            assert np.array_equal(found[name].values.view(np.uint32), bits)
        assert np.array_equal(found["b_1"], expected["b_1"])


@pytest.mark.parametrize("suffix", FORMATS.values())
def test_any_name_and_dimension_comes_back(suffix, tmp_path):
    names = ["a/b", "con", "x.y:2", "é", "a b", "T_1", "t_1", "z" * 300, "1", "units"]
    expected = xr.Dataset({n: ((f"dim {n}",), np.ones(k + 1)) for k, n in enumerate(names)})
    with read(write(expected, tmp_path / f"x{suffix}")) as found:
        same(found.load(), expected)
