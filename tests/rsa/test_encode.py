"""Encoding models, against himalaya's own pipeline and scikit-learn's ridge regression."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lensframe_pd as lf
from lensframe_pd.errors import LensKeyError, LensTypeError, LensValueError, LensWarning

pytest.importorskip("himalaya")
from himalaya import backend
from himalaya.kernel_ridge import KernelRidgeCV, WeightedKernelRidge
from himalaya.ridge import RidgeCV

from lensframe_pd.rsa import ridge

ALPHAS = np.logspace(-2, 7, 19)
COLUMNS = "op depth target fold alpha score measure n_train n_test".split()
quiet = pytest.mark.filterwarnings("ignore::lensframe_pd.errors.LensWarning")


def seen(n=60, few=8, many=150, seed=0):
    """Two layers of n stimuli: one of few features, one of many, of unlike scales."""
    rng = np.random.default_rng(seed)
    wide = rng.normal(size=(n, many)) * rng.uniform(0.1, 30, many) + rng.uniform(-9, 9, many)
    ids = [f"im_{k:03d}" for k in rng.permutation(n)]
    return xr.Dataset(
        {
            "linear_1": (("stimulus", f"feature_{few}"), rng.normal(size=(n, few)) + 4),
            "relu_1": (("stimulus", f"channel_{many}"), wide.astype("float32")),
        },
        {"stimulus": ids},
    )


def responses(data, trials=1, seed=1):
    """Four targets: two read off one layer, one off the other, one off none; rows in no order."""
    rng = np.random.default_rng(seed)
    few, many = data["linear_1"].values, StandardScaler().fit_transform(data["relu_1"].values)
    clean = np.column_stack([few[:, 0], few[:, :3].sum(1), many.sum(1) / 9, 0 * few[:, 0]])
    values = np.repeat(clean, trials, axis=0) + rng.normal(size=(trials * len(clean), 4))
    frame = pd.DataFrame(values, np.repeat(data["stimulus"].values, trials), list("abcd"))
    return frame.sample(frac=1, random_state=3)


def matrices(data, frame, op):
    """Features and responses with a row for each of the sorted rows, and groups as numbers."""
    frame = frame.sort_index(kind="stable")
    features = data[op].sel(stimulus=frame.index).values.astype("float64")
    return features, frame.to_numpy(), pd.factorize(frame.index)[0]


# ------------------------------------------------------------------ against others


@quiet
@pytest.mark.parametrize(("folds", "trials"), [(2, 1), (2, 3), (5, 1)])
@pytest.mark.parametrize("op", ["linear_1", "relu_1"])
def test_equals_a_pipeline_of_himalaya(op, folds, trials):
    data = seen()
    frame = responses(data, trials)
    found = data.lens.encode(frame, op, folds=folds, seed=7)
    x, y, groups = matrices(data, frame, op)
    outer = GroupKFold(folds, shuffle=True, random_state=7).split(x, groups=groups)
    for number, (train, test) in enumerate(outer):
        inner = list(GroupKFold(folds).split(x[train], groups=groups[train]))
        kind = RidgeCV(ALPHAS, fit_intercept=True, cv=inner)
        if op == "relu_1":
            kind = KernelRidgeCV(ALPHAS, fit_intercept=True, cv=inner)
        model = make_pipeline(StandardScaler(), kind).fit(x[train], y[train])
        predicted = model.predict(x[test])
        expected = [pearsonr(p, t).statistic for p, t in zip(predicted.T, y[test].T, strict=True)]
        mine = found.query(f"fold == {number}").set_index("target")
        np.testing.assert_allclose(mine["score"], expected, rtol=0, atol=1e-8)
        np.testing.assert_allclose(mine["alpha"], model[-1].best_alphas_, rtol=1e-12)
        assert (mine["n_train"] == len(train)).all()
        assert (mine["n_test"] == len(test)).all()


@quiet
@pytest.mark.parametrize("measure", ["r", "r2"])
@pytest.mark.parametrize("op", ["linear_1", "relu_1"])
def test_equals_ridge_regression_of_scikit_learn(op, measure):
    data = seen()
    frame = responses(data)
    found = data.lens.encode(frame, op, measure=measure, alphas=[1, 30, 1000])
    x, y, groups = matrices(data, frame, op)
    splits = list(GroupKFold(5, shuffle=True, random_state=0).split(x, groups=groups))
    for row in found.itertuples():
        (train, test), target = splits[row.fold], "abcd".index(row.target)
        model = make_pipeline(StandardScaler(), Ridge(row.alpha)).fit(x[train], y[train, target])
        predicted, true = model.predict(x[test]), y[test, target]
        expected = (
            np.corrcoef(predicted, true)[0, 1] if measure == "r" else r2_score(true, predicted)
        )
        assert row.score == pytest.approx(expected, abs=1e-8)
    assert {*found["measure"]} == {measure}
    assert {*found["alpha"]} <= {1.0, 30.0, 1000.0}


@quiet
@pytest.mark.parametrize("few", [8, 150])
def test_bands_equal_kernels_of_their_weights(few):
    """150 and 8 features of 60 stimuli are products, 8 and 8 are not."""
    data = seen(many=8 if few == 8 else 150)
    frame = responses(data)
    found = data.lens.encode(frame, ["relu_1", "linear_1"], alphas=np.logspace(-1, 4, 6))
    assert [*found] == [*COLUMNS[:2], "band", *COLUMNS[2:5], "delta", *COLUMNS[5:]]
    assert len(found) == 2 * 4 * 5
    assert (found["op"] == found["band"]).all()
    groups = matrices(data, frame, "relu_1")[2]
    splits = GroupKFold(5, shuffle=True, random_state=0).split(groups, groups=groups)
    for number, (train, test) in enumerate(splits):
        mine = found.query(f"fold == {number}")
        deltas = mine.pivot_table("delta", "band", "target")
        tr, te = [], []
        for op in ("relu_1", "linear_1"):
            x, y, _ = matrices(data, frame, op)
            z = StandardScaler().fit(x[train]).transform(x)
            tr.append(z[train] @ z[train].T)
            te.append(z[test] @ z[train].T)
        weights = deltas.loc[["relu_1", "linear_1"]].to_numpy()
        params = {"max_iter": 20_000, "tol": 1e-12}
        model = WeightedKernelRidge(1, weights, "precomputed", solver_params=params)
        model.fit(np.array(tr), y[train] - y[train].mean(axis=0))
        predicted = model.predict(np.array(te))
        expected = [pearsonr(p, t).statistic for p, t in zip(predicted.T, y[test].T, strict=True)]
        for band in ("relu_1", "linear_1"):
            scores = mine.query(f"band == {band!r}").set_index("target")["score"]
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
    total = np.exp(found["delta"]).groupby([found["target"], found["fold"]]).sum()
    alpha = found.groupby(["target", "fold"])["alpha"].first()
    np.testing.assert_allclose(total, 1 / alpha, rtol=1e-9)


@quiet
def test_bands_weigh_what_predicts():
    data = seen()
    frame = responses(data)[["a", "c"]]
    found = data.lens.encode(frame, ["linear_1", "relu_1"], folds=3)
    mean = found.groupby(["target", "band"])["delta"].mean()
    assert mean["a", "linear_1"] > mean["a", "relu_1"] + 3
    alone = data.lens.encode(frame, "linear_1", folds=3).groupby("target")["score"].mean()
    assert found.groupby("target")["score"].mean()["c"] > alone["c"] + 0.2


# ------------------------------------------------------------------ what changes nothing


@quiet
@pytest.mark.parametrize("layers", ["linear_1", "relu_1", ["linear_1", "relu_1"]])
@pytest.mark.parametrize(
    "what", ["offset", "scale", "tiny", "huge", "rows", "stimuli", "array", "index"]
)
def test_what_changes_nothing(monkeypatch, what, layers):
    monkeypatch.setattr(ridge, "_SEARCHED", 30)
    data = seen(n=40)
    frame = responses(data)
    options = {"alphas": [1, 100, 1e4], "folds": 3}
    expected = data.lens.encode(frame, layers, **options)
    given = frame
    if what == "offset":
        given = frame + 50
    elif what in ("scale", "tiny", "huge"):
        given = frame * {"scale": 1000, "tiny": 1e-200, "huge": 1e200}[what]
    elif what == "rows":
        given = frame.sample(frac=1, random_state=8)
    elif what == "stimuli":
        data = data.isel(stimulus=np.random.default_rng(3).permutation(40))
    elif what == "array":
        given = xr.DataArray(frame, dims=("stimulus", "voxel"))
    else:
        run = pd.MultiIndex.from_arrays([range(40), frame.index], names=["run", "stimulus"])
        given = frame.set_axis(run)
    found = data.lens.encode(given, layers, **options)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-9)


@quiet
@pytest.mark.parametrize("groups", [None, "stimuli", "rows"])
@pytest.mark.parametrize("trials", [1, 3])
@pytest.mark.parametrize("many", [10, 150])
def test_random_labels_are_not_predicted(many, trials, groups):
    """A stimulus has one label in all its trials, by which it would be known again."""
    data, n = seen(many=many, n=80), 80
    rng = np.random.default_rng(many + trials)
    labels = pd.DataFrame(rng.normal(size=(n, 20 * 8)), data["stimulus"].values)
    frame = labels.loc[np.repeat(labels.index, trials)]
    of = {"stimuli": pd.Series(np.arange(n) // 4, labels.index), "rows": np.arange(len(frame))}
    found = data.lens.encode(frame, "relu_1", groups=of.get(groups), alphas=np.logspace(0, 4, 5))
    draws = found.groupby(found["target"] // 8)["score"].mean()
    assert len(draws) == 20
    assert abs(draws.mean()) < 0.02


# ------------------------------------------------------------------ what has no score


def test_targets_that_are_missing_or_constant():
    data = seen()
    frame = responses(data)[["a", "b"]]
    frame.insert(0, "hole", frame["a"].where(frame.index != "im_007"))
    frame["inf"] = frame["a"].where(frame.index != "im_009", np.inf)
    frame["same"] = 0.1
    frame["one"] = (frame.index == "im_003").astype(float)
    with pytest.warns(LensWarning, match="2 of 6 targets that hold NaN") as caught:
        found = data.lens.encode(frame, "linear_1", alphas=[0.01, 1, 100, 1e5])
    (warning,) = caught
    assert "'hole', 'inf'" in str(warning.message)
    assert "2 of 6 targets that do not vary" in str(warning.message)
    assert "'same', 'one'" in str(warning.message)
    assert found.query("target in ('hole', 'inf', 'same')")["score"].isna().all()
    # it varies either where it is trained or where it is tested
    assert found.query("target == 'one'")["score"].isna().all()
    assert found.query("target == 'one'")["alpha"].notna().sum() == 4
    whole = data.lens.encode(frame[["a", "b"]], "linear_1", alphas=[0.01, 1, 100, 1e5])
    pd.testing.assert_frame_equal(
        found.query("target in ('a', 'b')").reset_index(drop=True), whole, rtol=1e-9
    )


@pytest.mark.parametrize("layers", ["relu_1", ["linear_1", "relu_1"]])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_layers_that_hold_nan(value, layers):
    data = seen().copy(deep=True)
    data["relu_1"][{"stimulus": 3, "channel_150": 5}] = value
    frame = responses(seen())
    with pytest.warns(LensWarning, match="1 of 60 stimuli have NaN or infinity in 'relu_1'"):
        found = data.lens.encode(frame, layers)
    assert found["score"].isna().all()
    assert len(found) == 20 * (1 if layers == "relu_1" else 2)


@pytest.mark.parametrize("op", ["linear_1", "relu_1"])
def test_layers_that_do_not_vary(op):
    data = seen()
    frame = responses(data)
    data[op] = data[op] * 0 + 0.1
    with pytest.warns(LensWarning, match="layers that do not vary .*: '" + op):
        found = data.lens.encode(frame, op)
    assert found["score"].isna().all()


@quiet
@pytest.mark.parametrize("scale", [1, 1e-4, 1e4])
def test_features_of_one_stimulus_only_do_not_matter(scale):
    """Constant where it is trained, they have no variance but that of rounding."""
    data = seen(n=30)
    frame = responses(data)[["c"]]
    expected = data.lens.encode(frame, "relu_1", alphas=[0.001, 10, 1e6])
    values = np.full((30, 30), 0.1 * scale)
    np.fill_diagonal(values, 5 * scale)
    data["once"] = ("stimulus", "channel_30"), values
    data["relu_1"] = xr.concat([data["relu_1"].rename(channel_150="c_1"),
                                data["once"].rename(channel_30="c_1")], "c_1")  # fmt: skip
    x, y, groups = matrices(data, frame, "relu_1")
    found = data.lens.encode(frame, "relu_1", alphas=[0.001, 10, 1e6])
    for fold, (train, test) in enumerate(
        GroupKFold(5, shuffle=True, random_state=0).split(x, groups=groups)
    ):
        row = found.iloc[fold]
        model = make_pipeline(StandardScaler(), Ridge(row["alpha"])).fit(x[train], y[train, 0])
        assert row["score"] == pytest.approx(pearsonr(model.predict(x[test]), y[test, 0])[0])
    assert len(expected) == len(found)


@pytest.mark.parametrize(
    ("alphas", "message"),
    [
        ([1e6, 1e7], r"alpha is the least given, 1e\+06"),
        ([1e-9, 1e-8, 1e-7], "alpha is the largest given, 1e-07"),
        ([3.0, 1e9], "the least given, 3"),
    ],
)
def test_alphas_at_an_edge_are_told(alphas, message):
    data = seen()
    with pytest.warns(LensWarning, match=message):
        data.lens.encode(responses(data)[["a"]], "linear_1", alphas=alphas)


def test_one_alpha_is_no_choice():
    data = seen()
    found = data.lens.encode(responses(data), "linear_1", alphas=30)
    assert (found["alpha"] == 30).all()


# ------------------------------------------------------------------ what is given back


@quiet
def test_rows_and_columns():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 5)
    ).eval()
    ids = [f"i{k}" for k in range(40)]
    with torch.no_grad():
        layers, activations = lf.trace(model, torch.randn(40, 1, 6, 6), stimulus=ids)
    brain = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), ids, [5, 7, 9])
    found = activations.lens.encode(brain, "relu_1", pool="mean")
    assert [*found] == COLUMNS
    assert found["target"].tolist() == [t for t in (5, 7, 9) for _ in range(5)]
    assert found["fold"].tolist() == [*range(5)] * 3
    assert {*found["op"]} == {"relu_1"}
    order = ["input_1", "conv2d_1", "relu_1", "flatten_1", "linear_1", "output_1"]
    depth = {op: activations.lens.encode(brain, op)["depth"].iloc[0] for op in order}
    assert depth == {op: k / 5 for k, op in enumerate(order)}
    assert found.attrs["seed"] == 0
    assert found.attrs["pool"] == "mean"
    assert found.attrs["n_stimuli"] == 40
    rows = layers.loc[["relu_1", "linear_1"]]
    assert {*activations.lens.encode(brain, rows)["band"]} == {"relu_1", "linear_1"}
    assert pd.concat([found, activations.lens.encode(brain, "linear_1")]).shape == (30, 9)


@quiet
def test_pooled_features_are_what_is_fitted():
    rng = np.random.default_rng(0)
    data = xr.Dataset(
        {"conv2d_1": (("stimulus", "channel_5", "y_4", "x_4"), rng.normal(size=(40, 5, 4, 4)))},
        {"stimulus": np.arange(40)},
    )
    frame = pd.DataFrame(rng.normal(size=(40, 3)))
    found = data.lens.encode(frame, "conv2d_1", pool={"space": "mean"})
    mean = data.mean(["y_4", "x_4"]).rename(conv2d_1="mean_1")
    expected = mean.lens.encode(frame, "mean_1")
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-10)


@quiet
def test_seeds():
    data = seen()
    frame = responses(data)
    first, again = (data.lens.encode(frame, "linear_1", seed=4) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = data.lens.encode(frame, "linear_1", seed=5)
    assert not np.allclose(first["score"], other["score"])


# ------------------------------------------------------------------ himalaya and memory


@quiet
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("op", ["linear_1", "relu_1"])
def test_the_backend_is_put_back(monkeypatch, op, fails):
    data = seen(n=30)
    if fails:
        for kind in (KernelRidgeCV, RidgeCV):
            monkeypatch.setattr(kind, "fit", lambda *_: 1 / 0)
    backend.set_backend("torch")
    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                data.lens.encode(responses(data), op)
        else:
            found = data.lens.encode(responses(data), op)
            backend.set_backend("numpy")
            pd.testing.assert_frame_equal(found, data.lens.encode(responses(data), op))
            backend.set_backend("torch")
        assert backend.get_backend().name == "torch"
    finally:
        backend.set_backend("numpy")


@quiet
def test_many_features_have_no_weights():
    """50,000 features x 1,000 targets would be 400 MB."""
    rng = np.random.default_rng(0)
    data = xr.Dataset(
        {"relu_1": (("stimulus", "feature_50000"), rng.normal(size=(60, 50_000)).astype("f4"))},
        {"stimulus": np.arange(60)},
    )
    frame = pd.DataFrame(rng.normal(size=(60, 1000)))
    tracemalloc.start()
    found = data.lens.encode(frame, "relu_1", folds=2, memory="50 MB")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 2000
    assert peak < 250e6


@quiet
@pytest.mark.parametrize("layers", ["relu_1", ["linear_1", "relu_1"]])
def test_stores_are_read_by_blocks(monkeypatch, layers):
    monkeypatch.setattr(ridge, "_SEARCHED", 30)
    data = seen(many=300)
    stored = data.chunk(stimulus=7)
    frame = responses(data, trials=2)
    options = {"alphas": [1, 100, 1e4], "folds": 3}
    expected = data.lens.encode(frame, layers, **options)
    for memory in ("1 GB", "80 kB", "45 kB"):
        found = stored.lens.encode(frame, layers, memory=memory, **options)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-8)


def test_few_features_of_a_store_need_room():
    data = seen()
    stored = data.chunk(stimulus=7)
    with pytest.raises(LensValueError, match=r"'linear_1' has 8 features of 60 stimuli.*memory="):
        stored.lens.encode(responses(data), "linear_1", memory="20 kB")


@quiet
def test_stores_of_a_data_set(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 90), torch.nn.ReLU()).eval()
    images, ids = torch.randn(50, 1, 6, 6), [f"i{k:02d}" for k in range(50)]
    with torch.no_grad():
        layers, activations = lf.trace(model, images, stimulus=ids)
        stored = lf.extract(
            model, images, to=tmp_path / "x.zarr", save=layers.loc[["relu_1", "linear_1"]],
            stimulus=ids, batch_size=8,
        )  # fmt: skip
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 2)), ids[::-1])
    expected = activations.lens.encode(frame, "relu_1")
    expected["depth"] = 1.0  # the last of those stored, whose names are sorted by xarray
    path = tmp_path / "x.zarr"
    for opened in (stored, lf.read(path), xr.open_zarr(path, consolidated=False)):
        pd.testing.assert_frame_equal(opened.lens.encode(frame, "relu_1"), expected, rtol=1e-5)


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layers": "relu_9"}, LensKeyError, "no op, layer or module 'relu_9'"),
        ({"layers": []}, LensValueError, "none is named"),
        ({"layers": None}, LensValueError, "none is named"),
        ({"alphas": [0, 1]}, LensValueError, "above 0"),
        ({"alphas": []}, LensValueError, "above 0"),
        ({"alphas": [np.nan]}, LensValueError, "above 0"),
        ({"alphas": [[1, 2]]}, LensValueError, "above 0"),
        ({"alphas": "many"}, LensTypeError, "above 0"),
        ({"folds": 1}, LensValueError, "at least 2"),
        ({"folds": 2.5}, LensTypeError, "how many"),
        ({"folds": 61}, LensValueError, "61 folds of 60 groups"),
        ({"folds": 60}, LensValueError, "a fold has one row only"),
        ({"measure": "mse"}, LensValueError, "no measure 'mse'; there are 'r', 'r2'"),
        ({"seed": 1.5}, LensTypeError, "whole number"),
        ({"seed": -1}, LensValueError, "seed is from 0"),
        ({"pool": {"token": 0}}, LensValueError, "cannot pool 'token'"),
        ({"memory": 0}, LensValueError, "memory"),
        ({"responses": np.ones((60, 2))}, LensTypeError, "DataFrame indexed by id.*not ndarray"),
        ({"responses": pd.DataFrame({"a": [1.0, 2]}, ["im_000", "x"])}, LensValueError, "'x'"),
        ({"groups": 3}, LensTypeError, "not int"),
        ({"groups": "category"}, LensValueError, "no coordinate 'category'"),
        ({"groups": [1, 2]}, LensValueError, "each of the 60 rows"),
        ({"groups": {"im_001": 1}}, LensValueError, "no group, or one that is missing"),
        ({"groups": np.zeros(60)}, LensValueError, "5 folds of 1 groups"),
    ],
)  # fmt: skip
def test_bad_input(change, error, message):
    data = seen()
    options = {"responses": responses(data), "layers": "linear_1"} | change
    with pytest.raises(error, match=message):
        data.lens.encode(**options)


def test_no_features():
    data = xr.Dataset({"empty_1": (("stimulus", "x_0"), np.ones((9, 0)))}, {"stimulus": range(9)})
    with pytest.raises(LensValueError, match="no features to predict from: 'empty_1'"):
        data.lens.encode(pd.DataFrame(np.ones((9, 1))), "empty_1", folds=3)


def test_no_ids_no_join():
    data = seen()
    with pytest.raises(LensValueError, match="no stimulus ids"):
        data.drop_vars("stimulus").lens.encode(responses(data), "linear_1")


def test_repeated_measurements_are_no_features():
    data = xr.concat([seen(), seen(seed=1)], pd.Index([0, 1], name="checkpoint"), join="override")
    with pytest.raises(LensValueError, match="checkpoint"):
        data.lens.encode(responses(seen()), "linear_1")


def test_without_himalaya_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "himalaya", None)
    with pytest.raises(RuntimeError, match="pip install himalaya"):
        seen().lens.encode(responses(seen()), "linear_1")
