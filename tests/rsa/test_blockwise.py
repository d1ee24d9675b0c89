"""RDMs and CKA of stores, by pairs of blocks of stimuli: as in memory, or refused."""

import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import cdist
from torch import nn

import lensframe_pd as lf
from lensframe_pd.errors import LensValueError
from lensframe_pd.rsa import features, tiles

da = pytest.importorskip("dask.array")
RNG = np.random.default_rng(4)
N, P = 45, 120


@pytest.fixture(autouse=True)
def always_by_blocks(monkeypatch):
    """However small."""
    monkeypatch.setattr(features, "_WORKED_ON", 10**12)


def plain():
    return RNG.normal(size=(N, P))


def twins():
    values = plain()
    values[3] = values[40] + 1e-9 * RNG.normal(size=P)
    values[7] = values[8]
    return values


def constant():
    values = plain()
    values[5], values[30] = 2.5, 0
    return values


def broken():
    values = plain()
    values[5, 3], values[31, 0] = np.nan, np.inf
    return values


VALUES = {
    "plain": plain,
    "float32": lambda: plain().astype("float32"),
    "float16": lambda: plain().astype("float16"),
    "integers": lambda: RNG.integers(0, 5, (N, P)),
    "truth": lambda: RNG.random((N, P)) > 0.5,
    "far from 0": lambda: plain() + 1e5,
    "twins": twins,
    "constant": constant,
    "broken": broken,
    "huge": lambda: plain() * 1e150,
    "tiny": lambda: plain() * 1e-150,
    "all the same": lambda: np.ones((N, P)),
    "one feature": lambda: RNG.normal(size=(N, 1)),
}
METRICS = "correlation spearman cosine euclidean sqeuclidean cityblock canberra hamming chebyshev"
STORES = [(4, 60_000), (7, 200_000), (1, 40_000), (45, 10**9)]
"""Stimuli of a chunk, and memory."""


def dataset_of(**layers):
    variables = {
        name: (("stimulus", f"channel_{values.shape[1]}"), values)
        for name, values in layers.items()
    }
    return xr.Dataset(variables, {"stimulus": [f"s{k}" for k in range(N)]})


def quietly(verb, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return verb(*args, **kwargs)


# ------------------------------------------------------------------ RDMs


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("metric", METRICS.split())
def test_an_rdm_is_as_in_memory(kind, metric):
    dataset = dataset_of(relu_1=VALUES[kind]())
    expected = quietly(dataset.lens.rdm, metric=metric)
    # how a store is cut goes by its shape, not by what it holds
    for chunk, memory in STORES if kind in ("plain", "twins", "broken") else STORES[::3]:
        found = quietly(dataset.chunk(stimulus=chunk).lens.rdm, metric=metric, memory=memory)
        assert found.drop_vars([]).coords.equals(expected.coords)
        square = found.values[0]
        np.testing.assert_allclose(
            square, expected.values[0], rtol=1e-8, atol=1e-11 * np.nan_to_num(expected).max()
        )
        assert ((square == square.T) | np.isnan(square)).all()
        diagonal = square.diagonal()
        assert ((diagonal == 0) | np.isnan(diagonal)).all()


@pytest.mark.parametrize("metric", ["correlation", "cosine", "sqeuclidean"])
def test_close_pairs_of_two_blocks_keep_their_digits(metric):
    """Of patterns that differ by 1e-9 of what they share, in the first block and the last."""
    values = RNG.normal(size=(N, P))
    values[-1] = values[0] * (1 + 1e-9 * RNG.normal(size=P))
    a, b = (np.asarray(v, dtype=np.longdouble) for v in (values[0], values[-1]))
    if metric == "correlation":
        a, b = a - a.mean(), b - b.mean()
    if metric != "sqeuclidean":
        a, b = a / np.sqrt(a @ a), b / np.sqrt(b @ b)
    expected = float((a - b) @ (a - b)) * (1 if metric == "sqeuclidean" else 0.5)
    store = dataset_of(relu_1=values).chunk(stimulus=4)
    found = store.lens.rdm(metric=metric, memory=60_000).values[0]
    assert found[0, -1] == pytest.approx(expected, rel=1e-5)


def test_a_metric_of_ones_own():
    values = plain()
    store = dataset_of(relu_1=values).chunk(stimulus=4)
    found = store.lens.rdm(metric=lambda a, b: np.abs(a - b).max(), memory=60_000)
    np.testing.assert_allclose(found.values[0], cdist(values, values, "chebyshev"))


@pytest.mark.parametrize("metric", ["seuclidean", "SE", "mahalanobis", "mahal", "nonsense"])
def test_metrics_that_cannot_be_had_so_are_refused_by_name(metric):
    store = dataset_of(relu_1=plain()).chunk(stimulus=4)
    with pytest.raises(LensValueError, match=metric.lower() if metric == "mahalanobis" else metric):
        store.lens.rdm(metric=metric, memory=60_000)


def test_patterns_without_a_dissimilarity_are_named():
    store = dataset_of(relu_1=constant()).chunk(stimulus=4)
    with pytest.warns(lf.LensWarning, match="'s5', 's30'"):
        store.lens.rdm(memory=60_000)
    store = dataset_of(relu_1=broken()).chunk(stimulus=4)
    with pytest.warns(lf.LensWarning, match="'s5', 's31'"):
        store.lens.rdm(memory=60_000)


def images(chunk=None, dims=("stimulus", "channel_6", "y_4", "x_5"), dtype="float32"):
    sizes = {"stimulus": N, "channel_6": 6, "y_4": 4, "x_5": 5}
    values = np.random.default_rng(1).normal(size=[sizes[d] for d in dims]).astype(dtype)
    found = xr.Dataset({"conv2d_1": (dims, values)}, {"stimulus": np.arange(N)})
    return found if chunk is None else found.chunk(chunk)


@pytest.mark.parametrize("pool", [None, "mean", {"space": "max"}, {"y": 1}])
@pytest.mark.parametrize(
    "chunk",
    [{"stimulus": 4}, {"stimulus": 10, "channel_6": 2}, {"y_4": 1}, {"stimulus": 3, "x_5": 4}],
)
@pytest.mark.parametrize("dims", [("stimulus", "channel_6", "y_4", "x_5"), ("y_4", "stimulus")])
def test_pooled_and_chunked_along_other_axes(pool, chunk, dims):
    dataset = images(dims=dims)
    if isinstance(pool, dict) and "space" in pool:
        pool = {axis: "max" for axis in ("y", "x") if f"{axis}_{4 + (axis == 'x')}" in dims}
    chunk = {dim: size for dim, size in chunk.items() if dim in dims}
    expected = quietly(dataset.lens.rdm, pool=pool, metric="euclidean")
    found = quietly(dataset.chunk(chunk).lens.rdm, pool=pool, metric="euclidean", memory=150_000)
    xr.testing.assert_allclose(found, expected)


def test_complex_values_are_two_features():
    values = RNG.normal(size=(N, 20)) + 1j * RNG.normal(size=(N, 20))
    dataset = dataset_of(fft_1=values)
    found = dataset.chunk(stimulus=4).lens.rdm(memory=60_000)
    xr.testing.assert_allclose(found, dataset.lens.rdm())


# ------------------------------------------------------------------ how often, how much


class Counted:
    """An array that counts the rows that are read of it."""

    def __init__(self, values):
        self.values, self.rows = values, 0
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, key):
        found = self.values[key]
        self.rows += len(found)
        return found


def counted(chunk=1, p=P):
    array = Counted(RNG.normal(size=(N, p)))
    data = da.from_array(array, chunks=(chunk, p), name=False, meta=np.empty((0, 0)))
    return array, xr.Dataset({"relu_1": (("stimulus", f"channel_{p}"), data)})


@pytest.mark.parametrize("metric", ["correlation", "euclidean", "cityblock"])
@pytest.mark.parametrize("n_blocks", [1, 3, 5, 9, 15])
def test_how_often_the_store_is_read(metric, n_blocks):
    array, dataset = counted()
    of_two = 2 * N // n_blocks * P * 8
    memory = int(1.01 * of_two / 0.6) if n_blocks > 1 else 10**6
    dataset.lens.rdm(metric=metric, memory=memory)
    assert array.rows / N == pytest.approx((n_blocks - 1) / 2 + 1 / n_blocks)
    assert array.rows / N <= (n_blocks + 1) / 2


@pytest.mark.parametrize("n_blocks", [1, 3, 5, 9])
@pytest.mark.parametrize("debiased", [False, True])
def test_cka_reads_as_often_as_an_rdm(n_blocks, debiased):
    array, dataset = counted(p=1500)
    of_two = 2 * N // n_blocks * 1500 * 8
    memory = int(1.01 * of_two / 0.6) if n_blocks > 1 else 10**6
    kernels = 3 * 8 * N**2  # have room beside the blocks
    dataset.lens.cka(memory=memory + kernels, debiased=debiased)
    assert array.rows / N == pytest.approx((n_blocks - 1) / 2 + 1 / n_blocks)


@pytest.mark.parametrize("memory", [30_000, 60_000, 90_000])
@pytest.mark.parametrize("debiased", [False, True])
def test_cka_by_tiles_reads_each_pair_once(memory, debiased, monkeypatch):
    monkeypatch.setattr(tiles, "have_room", lambda *_: False)
    array, dataset = counted()
    blocks = []
    monkeypatch.setattr(tiles, "_work", lambda layers, work=tiles._work: blocks.append(
        work(layers)) or blocks[-1])  # fmt: skip
    dataset.lens.cka(memory=memory, debiased=debiased)
    ((spans, beside),) = blocks
    n = len(spans)
    assert array.rows / N <= (n - 1) / 2 + (n - 1) / (2 * beside) + 1 + 1e-9
    if beside >= n:
        assert array.rows / N == pytest.approx((n + 1) / 2, rel=0.1)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_of_few_features_reads_once_however_many_stimuli(debiased):
    array, dataset = counted(chunk=5, p=10)
    dataset.lens.cka(memory=20_000, debiased=debiased)
    assert array.rows == (2 if debiased else 1) * N
    assert 8 * N**2 * 3 > 20_000 / 2


def test_scores_of_features_read_as_often_as_an_rdm():
    array, dataset = counted()
    dataset = dataset.assign_coords(stimulus=np.arange(N))
    reference = pd.DataFrame(RNG.normal(size=(N, 3)))
    dataset.lens.score({"brain": reference}, comparison="cka", memory=10**6)
    assert array.rows == N


# ------------------------------------------------------------------ CKA


UNLIKE_THE_FIRST = {
    "a drift": lambda: plain() + 1e3 * np.arange(N)[:, None],
    "first rows far off": lambda: plain() + 1e6 * (np.arange(N) < 3)[:, None],
    "first rows alike": lambda: plain() * (np.arange(N) > 5)[:, None] + 0.1,
}
"""Of which the mean of the first block, which is taken off, is not that of all."""


@pytest.mark.parametrize("kind", [*VALUES, *UNLIKE_THE_FIRST])
@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("way", ["tiles", "wide tiles", "covariances", "kernels"])
def test_cka_is_as_in_memory(kind, debiased, way, monkeypatch):
    monkeypatch.setattr(tiles, "have_room", lambda *_: way == "covariances")
    memory = {"wide tiles": 150_000, "kernels": 400_000}.get(way, 60_000)
    values = {**VALUES, **UNLIKE_THE_FIRST}[kind]()
    dataset = dataset_of(relu_1=values, relu_2=plain()[:, :20])
    other = dataset.isel(stimulus=RNG.permutation(N))[["relu_2"]]
    with np.errstate(over="ignore", invalid="ignore"):
        for second in (None, other):
            expected = quietly(dataset.lens.cka, second, debiased=debiased)
            store = None if second is None else second.chunk(stimulus=5)
            found = quietly(
                dataset.chunk(stimulus=4).lens.cka, store, debiased=debiased, memory=memory
            )
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["plain", "twins", "far from 0", "broken"])
def test_rbf_kernels_need_room(kind):
    dataset = dataset_of(relu_1=VALUES[kind](), relu_2=plain()[:, :20])
    store = dataset.chunk(stimulus=4)
    expected = quietly(dataset.lens.cka, kernel="rbf")
    found = quietly(store.lens.cka, kernel="rbf", memory=10**6)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    with pytest.raises(LensValueError, match=r"kernel='rbf' .* no room in memory=60000"):
        store.lens.cka(kernel="rbf", memory=60_000)


@pytest.mark.parametrize("memory", [60_000, 10**6])
def test_layers_without_cka_are_named(memory):
    same = np.ones((N, P))
    dataset = dataset_of(relu_1=same, relu_2=broken(), relu_3=plain())
    with pytest.warns(lf.LensWarning, match=r"(?s)'relu_1', 'relu_2'.*2 of 45 .*'s5', 's31'"):
        found = dataset.chunk(stimulus=4).lens.cka(memory=memory)
    assert np.isnan(found.values[:2]).all()
    assert found.values[2, 2] == pytest.approx(1)


def test_a_store_beside_what_is_in_memory():
    dataset = dataset_of(relu_1=plain(), relu_2=plain())
    mixed = dataset.assign(relu_1=dataset["relu_1"].chunk(stimulus=4))
    expected = dataset.lens.cka()
    for memory in (60_000, 10**6):
        np.testing.assert_allclose(mixed.lens.cka(memory=memory), expected, atol=1e-10)
        np.testing.assert_allclose(
            dataset.lens.cka(mixed[["relu_1"]], memory=memory),
            expected.sel(layer_=["relu_1"]),
            atol=1e-10,
        )


# ------------------------------------------------------------------ scores


@pytest.mark.parametrize("comparison", ["spearman", "pearson", "kendall", "cka", "cka-debiased"])
def test_scores_are_as_in_memory(comparison):
    dataset = dataset_of(relu_1=plain(), relu_2=constant()[:, :30])
    references = {"brain": dataset["relu_1"] + RNG.normal(size=(N, P))}
    how = {"comparison": comparison, "bootstrap": 20}
    expected = quietly(dataset.lens.score, references, **how)
    found = quietly(dataset.chunk(stimulus=4).lens.score, references, **how, memory=60_000)
    for column in ("score", "low", "high"):
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------ stores of lf.extract


class Pictures(torch.utils.data.Dataset):
    def __init__(self, there):
        self.there = there

    def __len__(self):
        return 40

    def __getitem__(self, k):
        if k >= self.there:
            raise OSError(f"no picture {k}")
        return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(k))


def opened_thrice(path):
    return [lf.read(path), lf.read(path, chunks={}), xr.open_zarr(path)]


def test_an_unfinished_store_says_how_many_stimuli_are_missing(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    whole = torch.stack([Pictures(40)[k] for k in range(40)])
    layers, activations = lf.trace(model, whole)
    rows, path = layers.loc[["relu_1", "linear_1"]], tmp_path / "acts.zarr"
    call = {"to": path, "save": rows, "batch_size": 4}
    with pytest.raises(OSError, match="no picture"):
        lf.extract(model, Pictures(26), **call)
    names = ["relu_1", "linear_1"]
    for dataset in opened_thrice(path):
        for verb in (
            dataset.lens.rdm, dataset.lens.cka, dataset[["relu_1"]].lens.rdm,
            lambda d=dataset: d.lens.features("relu_1"), lambda d=dataset: d.lens.score({}),
            lambda d=dataset: activations.lens.cka(d), dataset.lens.to_stacked,
            lambda d=dataset: d.isel(stimulus=slice(9)).lens.to_rsatoolbox("relu_1"),
        ):  # fmt: skip
            with pytest.raises(LensValueError, match="16 stimuli are missing"):
                verb()
    lf.extract(model, Pictures(40), **call)
    expected = activations.lens.rdm(names), activations.lens.cka(layers=names)
    for dataset in opened_thrice(path):
        for memory in (150_000, 10**9):
            found = dataset.lens.rdm(names, memory=memory)
            np.testing.assert_allclose(found, expected[0], atol=1e-6)
            found = dataset.lens.cka(layers=names, memory=memory)
            np.testing.assert_allclose(found, expected[1], atol=1e-6)


# ------------------------------------------------------------------ memory


def generated(n, p, layers=1, dtype="float32", chunk=4):
    """A store of which nothing is in memory: chunks are made when they are asked for."""

    def made(block_id, layer):
        rng = np.random.default_rng((layer, block_id[0]))
        return rng.random((chunk, p), dtype=np.float32).astype(dtype)

    arrays = {
        f"relu_{k}": da.map_blocks(
            made,
            chunks=((chunk,) * (n // chunk), (p,)),
            dtype=dtype,
            meta=np.empty((0, 0), dtype),
            layer=k,
        )
        for k in range(layers)
    }
    return xr.Dataset(
        {name: (("stimulus", f"feature_{p}"), array) for name, array in arrays.items()}
    )


def peak_of(verb, **kwargs):
    """Bytes that NumPy and Python held at most, beyond those before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        found = verb(**kwargs)
        return found, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("verb", ["correlation", "euclidean", "spearman", "cityblock", "cka"])
def test_memory_is_the_result_and_what_is_given(verb, dtype):
    n = 100 if verb == "spearman" else 240  # ranks are of 8 bytes, and take long
    dataset = generated(n, 20_000, layers=2 if verb == "cka" else 1, dtype=dtype)
    memory = 12 * 10**6
    how = {"memory": memory} if verb == "cka" else {"memory": memory, "metric": verb}
    measured = dataset.lens.cka if verb == "cka" else dataset.lens.rdm
    small = dataset.isel(stimulus=slice(8))
    getattr(small.lens, measured.__name__)(**how)  # what is imported at first is not counted
    found, peak = peak_of(measured, **how)
    assert peak <= found.nbytes + memory


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("p", [100, 500])
def test_kernels_without_room_are_never_there(debiased, p):
    """Of few features their covariances are, of many neither."""
    dataset = generated(1000, p, layers=3, chunk=50)
    dataset.isel(stimulus=slice(50)).lens.cka(debiased=debiased)  # imports
    found, peak = peak_of(dataset.lens.cka, memory=6 * 10**6, debiased=debiased)
    assert peak < 6 * 10**6 < 8 * 1000**2
    expected = dataset.load().lens.cka(debiased=debiased)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
