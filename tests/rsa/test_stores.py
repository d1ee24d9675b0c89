"""Layers that lie in a store: what is read of them, when, and how much of it at a time."""

import numpy as np
import pytest
import xarray as xr

import lensframe_pd as lf
from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.rsa.stores import RowBlocks, memory_of, opened

da = pytest.importorskip("dask.array")
RNG = np.random.default_rng(8)


def blocks_of(n, p, chunk, memory, dtype="float64"):
    values = RNG.normal(size=(n, p)).astype(dtype)
    data = da.from_array(values, chunks=(chunk, p))
    return values, RowBlocks(data, "'relu_1'", memory, values[0].nbytes)


# ------------------------------------------------------------------ memory=


@pytest.mark.parametrize(
    ("given", "expected"),
    [(10**9, 10**9), (1e9, 10**9), (np.int64(5), 5), ("500 MB", 500 * 10**6), ("1GiB", 2**30)],
)
def test_memory_is_bytes_or_text(given, expected):
    assert memory_of(given) == expected


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("much", LensValueError), (0, LensValueError), (-5, LensValueError),
        (float("nan"), LensValueError), (float("inf"), LensValueError),
        (None, LensTypeError), (True, LensTypeError), ([1], LensTypeError),
    ],
)  # fmt: skip
def test_memory_that_is_none(given, error):
    values = xr.Dataset({"relu_1": (("stimulus", "channel_3"), np.eye(3))})
    for verb in ("rdm", "cka"):
        with pytest.raises(error, match="memory"):
            getattr(values.lens, verb)(memory=given)


# ------------------------------------------------------------------ blocks


@pytest.mark.parametrize("n", [1, 2, 7, 40, 41])
@pytest.mark.parametrize("chunk", [1, 3, 8, 50, (5, 1, 20, 14)])
@pytest.mark.parametrize("most", [1, 2, 6, 8, 9, 39, 100])
def test_blocks_are_all_rows_once_and_end_where_chunks_do(n, chunk, most):
    if isinstance(chunk, tuple):
        chunk = tuple(c for c in chunk if n == 40) or (n,)
    _, rows = blocks_of(n, 2, (chunk if isinstance(chunk, tuple) else min(chunk, n)), 10**6)
    spans = rows.cut(most)
    assert [k for span in spans for k in range(span.start, span.stop)] == [*range(n)]
    assert all(span.stop - span.start <= most for span in spans)
    borders = {0, *np.cumsum(rows.data.chunks[0]).tolist()}
    for span in spans[:-1]:
        starts = [b for b in borders if b <= span.start]
        within = [b for b in borders if span.start < b <= span.start + most]
        assert span.stop in borders or not within, (span, starts)


@pytest.mark.parametrize("chunk", [1, 4, 7, 30])
@pytest.mark.parametrize("memory", [1600, 4000, 10**6])
def test_rows_are_read_as_they_are(chunk, memory):
    values, rows = blocks_of(30, 4, chunk, memory)
    for span in (slice(0, 30), slice(3, 17), slice(29, 30), slice(8, 12)):
        assert (rows.read(span) == values[span]).all()
        doubled = rows.read(span, lambda read: np.asarray(read) * 2)
        assert (doubled == 2 * values[span]).all()
    parts = [*rows.blocks()]
    assert (np.concatenate([part for _, part in parts]) == values).all()
    assert [span.start for span, _ in parts] == [0, *(span.stop for span, _ in parts[:-1])]


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 4, 9])
def test_each_pair_of_blocks_is_used_once_and_two_are_held(n_blocks):
    _, rows = blocks_of(4 * n_blocks, 3, 4, 10**6)
    spans, made, used = rows.cut(4), list[slice](), list[tuple[int, int]]()
    alive = set[int]()

    class Made:
        def __init__(self, span):
            made.append(span)
            alive.add(id(self))
            assert len(alive) <= 2

        def __del__(self):
            alive.discard(id(self))

    rows.each_pair(spans, Made, lambda x, y: used.append((x.rows.start // 4, y.rows.start // 4)))
    assert sorted(used) == [(i, j) for i in range(n_blocks) for j in range(i + 1)]
    assert len(made) == (n_blocks**2 - n_blocks) / 2 + 1


def test_a_part_of_a_chunk_is_all_of_it_read():
    _, rows = blocks_of(40, 3, 10, 10**6)
    rows.read(slice(0, 10))
    assert rows.rows_read == 10
    rows.read(slice(12, 13))
    assert rows.rows_read == 20
    rows.read(slice(5, 25))
    assert rows.rows_read == 50


def test_a_chunk_that_has_no_room_is_refused():
    refused = pytest.raises(LensValueError, match=r"'relu_1' is stored in chunks of 20 .* smaller")
    with refused:
        blocks_of(40, 100, 20, 20_000)
    _, rows = blocks_of(40, 100, 20, 40_000)
    with refused:
        rows.spans()
    assert len(blocks_of(40, 100, 2, 20_000)[1].spans()) > 1


def test_a_layer_of_one_chunk_that_has_room_is_one_block():
    _, rows = blocks_of(40, 100, 40, 54_000)
    assert rows.spans() == [slice(0, 40)]
    assert rows.spans(8) == [slice(0, 40)]
    with pytest.raises(LensValueError, match="chunks of 40"):
        rows.spans(9)


def test_rows_that_have_no_room_are_refused():
    rows = RowBlocks(da.zeros((4, 10**6), chunks=(1, 10**4)), "'relu_1'", 10**7, 1)
    with pytest.raises(LensValueError, match="two stimuli of 'relu_1' take 16 MB"):
        rows.spans()


# ------------------------------------------------------------------ what is opened


@pytest.fixture
def written(tmp_path):
    values = RNG.normal(size=(30, 6, 4, 4)).astype(np.float32)
    dataset = xr.Dataset(
        {"relu_1": (("stimulus", "channel_6", "y_4", "x_4"), values, {"layer": "relu_1"})},
        {"stimulus": [f"s{k}" for k in range(30)]},
    )
    return dataset, tmp_path


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
@pytest.mark.parametrize("chunks", [None, {"stimulus": 7}])
def test_what_lf_read_opens_is_computed_on_unread(written, suffix, chunks, monkeypatch):
    dataset, folder = written
    path = lf.write(dataset, folder / f"acts{suffix}")
    found = lf.read(path, chunks=chunks)
    assert opened(found)["relu_1"].chunks is not None
    small = {"memory": 100_000}
    expected = dataset.lens.rdm(metric="euclidean")
    xr.testing.assert_allclose(found.lens.rdm(metric="euclidean", **small), expected)
    xr.testing.assert_allclose(found.lens.cka(**small), dataset.lens.cka())
    assert found["relu_1"].variable._in_memory is False


def test_what_is_in_memory_stays_as_it_is(written):
    dataset, _ = written
    assert opened(dataset) is dataset


def test_small_layers_of_a_file_are_read_and_features_of_large_ones_are_not(written, monkeypatch):
    dataset, folder = written
    found = lf.read(lf.write(dataset, folder / "acts.nc"))
    assert isinstance(found.lens.features("relu_1").data, np.ndarray)
    monkeypatch.setattr("lensframe_pd.rsa.features._IN_MEMORY", 1)
    lazy = found.lens.features("relu_1")
    assert isinstance(lazy.data, da.Array)
    assert (lazy.values == dataset.lens.features("relu_1").values).all()
