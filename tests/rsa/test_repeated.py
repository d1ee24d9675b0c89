"""Axes that no operation made: one result at each of their places, as of that place alone."""

import itertools

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

import lensframe_pd as lf
from lensframe_pd.rsa.repeated import repeated_dims

RNG = np.random.default_rng(4)
N = 7
IDS = [10, 9, 2, 1, 30, 4, 5]


def variable(*dims, **sizes):
    shape = [N if d == "stimulus" else sizes.get(d, 3) for d in dims]
    return dims, RNG.normal(size=shape)


@pytest.fixture(scope="module")
def net():
    """Two layers of checkpoints and seeds, one that has neither, one with an axis less."""
    return xr.Dataset(
        {
            "a_1": variable("checkpoint", "stimulus", "channel_4", "y_3", channel_4=4),
            "b_1": variable("stimulus", "feature_5", "seed", "checkpoint", feature_5=5, seed=2),
            "c_1": variable("stimulus", "feature_5", feature_5=5),
        },
        {
            "stimulus": IDS,
            "kind": ("stimulus", list("uvuvuvu")),
            "checkpoint": [100, 200, 300],
            "loss": ("checkpoint", [3.0, 2.0, 1.0]),
        },
    )


@pytest.mark.parametrize(
    ("dims", "repeated"),
    [
        (("stimulus", "channel_8"), ()),
        (("checkpoint", "stimulus", "channel_8", "y_4"), ("checkpoint",)),
        (("stimulus", "channel_8", "anything"), ("anything",)),
        (("lesion", "stimulus", "token_3", "run"), ("lesion", "run")),
        (("stimulus", "stimulus_", "head_2"), ()),
        (("stimulus", "voxel"), ()),
        (("subject", "stimulus", "voxel"), ("subject",)),
        (("subject", "run", "stimulus", "channel", "time"), ("subject", "run")),
        (("stimulus", "run"), ("run",)),
    ],
)
def test_which_axes_are_repeats(dims, repeated):
    assert repeated_dims(xr.DataArray(np.zeros((2,) * len(dims)), dims=dims), "it") == repeated


@pytest.mark.parametrize(
    ("dims", "named"),
    [
        (("stimulus", "voxel", "roi"), r"voxel \(2\), roi \(2\)"),
        (("stimulus", "channel", "sensor"), r"sensor \(2\)"),
        (("animal", "stimulus", "voxel"), r"animal \(2\), voxel \(2\)"),
    ],
)
def test_what_cannot_be_told_from_features_is_refused(dims, named):
    with pytest.raises(lf.LensValueError, match=f"it has {named}, which is not taken"):
        repeated_dims(xr.DataArray(np.zeros((2,) * len(dims)), dims=dims), "it")


PLACES = [*itertools.product(range(3), range(2))]


@pytest.mark.parametrize("pool", [None, {"y": "mean"}])
@pytest.mark.parametrize("metric", ["correlation", "cityblock"])
def test_an_rdm_at_each_place(net, pool, metric):
    found = net.lens.rdm(metric=metric, pool=pool)
    assert found.dims == ("layer", "checkpoint", "seed", "stimulus", "stimulus_")
    assert found["loss"].dims == ("checkpoint",)
    assert found["kind"].dims == ("stimulus",)
    assert found["checkpoint"].values.tolist() == [100, 200, 300]
    for layer, (k, s) in itertools.product(found["layer"].values, PLACES):
        array = net[layer].isel(checkpoint=k, seed=s, missing_dims="ignore")
        if pool and "y_3" in array.dims:
            array = array.mean("y_3")
        values = array.transpose("stimulus", ...).to_numpy().reshape(N, -1)
        expected = squareform(pdist(values, metric))
        own = found.sel(layer=layer).isel(checkpoint=k, seed=s)
        np.testing.assert_allclose(own, expected, atol=1e-12)


def test_a_store_at_each_place(net, tmp_path):
    net.to_zarr(tmp_path / "net.zarr")
    stored = xr.open_zarr(tmp_path / "net.zarr")
    for metric in ("correlation", "cityblock"):
        found = stored.lens.rdm(metric=metric, memory=2_000)
        np.testing.assert_allclose(found, net.lens.rdm(list(stored), metric=metric), atol=1e-12)
    np.testing.assert_allclose(stored.lens.cka(), net.lens.cka(layers=list(stored)), atol=1e-12)


def test_a_cka_at_each_place(net):
    found = net.lens.cka(debiased=True)
    assert found.dims == ("layer", "layer_", "checkpoint", "seed")
    assert found["loss"].dims == ("checkpoint",)
    for k, s in PLACES:
        expected = net.isel(checkpoint=k, seed=s).lens.cka(debiased=True)
        np.testing.assert_allclose(found.isel(checkpoint=k, seed=s), expected, atol=1e-12)


def test_cka_of_two_datasets_is_at_the_same_place(net):
    other = net[["c_1", "a_1"]].isel(stimulus=slice(None, None, -1))
    found = net.lens.cka(other)
    assert found.sel(layer="a_1", layer_="a_1").values == pytest.approx(np.ones((3, 2)))
    crossed = net[["a_1"]].lens.cka(other[["a_1"]].rename(checkpoint="checkpoint_b"))
    assert crossed.dims == ("layer", "layer_", "checkpoint", "checkpoint_b")
    for k, j in itertools.product(range(3), range(3)):
        pair = net["a_1"].isel(checkpoint=k), net["a_1"].isel(checkpoint=j)
        one = [array.drop_vars(("checkpoint", "loss")).to_dataset(name="a_1") for array in pair]
        assert crossed[0, 0, k, j].item() == pytest.approx(one[0].lens.cka(one[1]).item())
    later = other.assign_coords(checkpoint=[100, 200, 400])
    with pytest.raises(lf.LensValueError, match=r"both have checkpoint.*200, 300 and 100"):
        net.lens.cka(later)


def test_features_at_each_place(net):
    found = net.lens.features("b_1")
    assert found.dims == ("seed", "checkpoint", "stimulus", "feature")
    for k, s in PLACES:
        one = net.isel(checkpoint=k, seed=s).lens.features("b_1")
        np.testing.assert_array_equal(found.isel(checkpoint=k, seed=s), one)


def reference_values():
    return squareform(pdist(RNG.normal(size=(N, 4))))


def test_a_score_at_each_place(net):
    """Axes of layers and references are crossed; one that both have is one."""
    shuffled = IDS[::-1]
    coords = {"stimulus": shuffled, "stimulus_": shuffled, "roi": ["v1", "it"]}
    values = np.stack([reference_values() for _ in range(2)])
    brain = xr.DataArray(values, coords, ("roi", "stimulus", "stimulus_"))
    learned = xr.DataArray(
        np.stack([reference_values() for _ in range(3)]),
        {"stimulus": IDS, "stimulus_": IDS, "checkpoint": [100, 200, 300]},
        ("checkpoint", "stimulus", "stimulus_"),
    )
    found = net.lens.score({"brain": brain, "learned": learned})
    assert len(found) == 3 * 6 * (2 + 1)
    rdms = net.lens.rdm()
    pairs = np.triu_indices(N, 1)
    for row in found.to_dict("records"):
        own = rdms.sel(layer=row["op"], checkpoint=row["checkpoint"]).isel(seed=row["seed"])
        other = (
            brain.sel(roi=row["roi"])
            if row["reference"] == "brain"
            else learned.sel(checkpoint=row["checkpoint"])
        )
        other = other.sel(stimulus=IDS, stimulus_=IDS).to_numpy()
        expected = spearmanr(own.to_numpy()[pairs], other[pairs]).statistic
        assert row["score"] == pytest.approx(expected)
    assert found.loc[found["reference"] == "learned", "roi"].isna().all()


def test_rows_of_levels(net):
    """A table with a row for each subject and stimulus, in any order."""
    whole = RNG.normal(size=(3, N, 4))
    index = pd.MultiIndex.from_product([["s10", "s9", "s1"], IDS], names=["subject", "stimulus"])
    table = pd.DataFrame(whole.reshape(-1, 4), index).sample(frac=1, random_state=1)
    array = xr.DataArray(
        whole, {"subject": ["s10", "s9", "s1"], "stimulus": IDS}, ("subject", "stimulus", "voxel")
    )
    found = net[["c_1"]].lens.score({"it": table}).set_index("subject")
    expected = net[["c_1"]].lens.score({"it": array}).set_index("subject")
    names = pd.CategoricalIndex(["s10", "s9", "s1"], categories=["s0", "s1", "s9", "s10"])
    levels = table.index.set_levels(names.reindex(table.index.levels[0])[0], level="subject")
    of_categories = net[["c_1"]].lens.score({"it": table.set_axis(levels)})
    assert sorted(of_categories["subject"]) == ["s1", "s10", "s9"]  # "s0" has no rows
    for subject in ("s10", "s9", "s1"):
        for column in ("score", "ceiling_low", "ceiling_high", "mean"):
            assert found.loc[subject, column] == pytest.approx(expected.loc[subject, column])
    with pytest.raises(lf.LensValueError, match="levels 'subject', None; name them"):
        net[["c_1"]].lens.score({"it": table.rename_axis(["subject", None])})
    with pytest.raises(lf.LensValueError, match=r"at subject='s9'.*not about the same(?s:.)*30"):
        net[["c_1"]].lens.score({"it": table.drop(("s9", 30))})
    both = pd.concat([table, table.drop("s9", level="subject")], keys=["one", "two"], names=["run"])
    with pytest.raises(lf.LensValueError, match="at run='two', subject='s9' has no rows"):
        net[["c_1"]].lens.score({"it": both})


@pytest.mark.parametrize("name", ["op", "score", "depth", "reference", "low", "ceiling_low"])
def test_an_axis_with_the_name_of_a_column(net, name):
    with pytest.raises(lf.LensValueError, match=f"score: the axis '{name}' has the name of some"):
        net.rename(seed=name).lens.score({"it": pd.DataFrame(RNG.normal(size=(N, 3)), IDS)})


def test_an_axis_with_the_name_of_one_of_the_result(net):
    with pytest.raises(lf.LensValueError, match="rdm: the axis 'layer' has the name"):
        net.rename(seed="layer").lens.rdm()
    with pytest.raises(lf.LensValueError, match="cka: the axis 'layer_' has the name"):
        net.rename(seed="layer_").lens.cka()


def test_labels_that_come_twice(net):
    with pytest.raises(lf.LensValueError, match="labels more than once: 100"):
        net.assign_coords(checkpoint=[100, 100, 200]).lens.rdm()


@pytest.mark.parametrize("verb", ["rdm", "cka", "score"])
def test_an_axis_of_no_places(net, verb):
    given = {"score": [{"it": pd.DataFrame(RNG.normal(size=(N, 3)), IDS)}]}.get(verb, [])
    with pytest.raises(lf.LensValueError, match="a_1 is empty: checkpoint has extent 0"):
        getattr(net.isel(checkpoint=[]).lens, verb)(*given)


def test_what_is_missing_is_said_with_its_place(net):
    broken = net.copy(deep=True)
    broken["a_1"][{"checkpoint": 1, "stimulus": 2, "channel_4": 0, "y_3": 0}] = np.nan
    with pytest.warns(lf.LensWarning, match="NaN or infinity in a_1 at checkpoint=200.* 2$"):
        found = broken.lens.rdm("a_1")
    assert found.isnull().sum(("stimulus", "stimulus_")).values.tolist() == [[0, 2 * N - 1, 0]]
    with pytest.warns(lf.LensWarning, match=r"'a_1' at checkpoint=200(?s:.)*1 of 7 stimuli"):
        broken.lens.cka(layers="a_1")


def test_handed_to_rsatoolbox_one_by_one(net):
    rdms = net.lens.to_rsatoolbox_rdms(metric="sqeuclidean")
    assert rdms.n_rdm == 3 * 3 * 2
    own = net.lens.rdm(metric="sqeuclidean")
    for k, layer in enumerate(rdms.rdm_descriptors["layer"]):
        place = {d: rdms.rdm_descriptors[d][k] for d in ("checkpoint",)}
        expected = own.sel(layer=layer, **place).isel(seed=rdms.rdm_descriptors["seed"][k])
        p = rdms.rdm_descriptors["n_features"][k]
        assert p == {"a_1": 12, "b_1": 5, "c_1": 5}[layer]
        np.testing.assert_allclose(rdms.get_matrices()[k] * p, expected, atol=1e-12)
