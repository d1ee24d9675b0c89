"""The score frame beside rsatoolbox's comparisons."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from rsatoolbox.rdm import RDMs, compare
from scipy.spatial.distance import pdist, squareform
from torch import nn

import lensframe_pd as lf
from lensframe_pd.rsa.cka import cka
from lensframe_pd.rsa.handoff import as_rsatoolbox_rdms
from lensframe_pd.rsa.rdm import rdm
from lensframe_pd.rsa.score import score

IDS = [f"s{i}" for i in range(15)]
SHUFFLED = [IDS[i] for i in np.random.default_rng(3).permutation(15)]


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Linear(6, 8)
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        h = self.read(x)
        for _ in range(2):
            h = torch.tanh(self.fc(h))
        return h


@pytest.fixture(scope="module")
def trace():
    torch.manual_seed(0)
    with torch.no_grad():
        return lf.trace(Loop().eval(), torch.randn(15, 6), stimulus=IDS)


@pytest.fixture(scope="module")
def brain():
    return pd.DataFrame(np.random.default_rng(0).normal(size=(15, 9)), index=IDS)


@pytest.fixture(scope="module")
def brain_rdm(brain):
    return pd.DataFrame(squareform(pdist(brain, "correlation")), index=IDS, columns=IDS)


@pytest.mark.parametrize(
    ("comparison", "theirs"),
    [
        ("spearman", "spearman"), ("pearson", "corr"), ("kendall", "kendall"),
        ("cosine", "cosine"), ("rho-a", "rho-a"),
    ],
)  # fmt: skip
def test_equals_rsatoolbox(trace, brain_rdm, comparison, theirs):
    layers, activations = trace
    found = score(activations, {"it": brain_rdm}, layers, comparison=comparison)
    rdms = as_rsatoolbox_rdms(rdm(activations))
    expected = compare(rdms, RDMs(squareform(brain_rdm, checks=False)), method=theirs).ravel()
    np.testing.assert_allclose(found["score"], expected, atol=1e-12)
    assert list(found["op"]) == list(rdms.rdm_descriptors["layer"])


def test_any_form_and_order_of_a_reference(trace, brain, brain_rdm):
    table = brain_rdm.loc[SHUFFLED, SHUFFLED[::-1]]
    array = xr.DataArray(
        table.to_numpy(),
        {"stimulus": SHUFFLED, "stimulus_": SHUFFLED[::-1]},
        ("stimulus", "stimulus_"),
    )
    responses = brain.loc[SHUFFLED]
    references = {
        "rdm": brain_rdm,
        "shuffled": table,
        "array": array,
        "with layer": array.expand_dims("layer"),
        "features": responses,
        "feature array": xr.DataArray(responses, dims=("stimulus", "unit")),
    }
    found = score(trace.activations, references, ["linear_1", "tanh_1"])
    wide = found.set_index(["op", "reference"])["score"].to_xarray().to_pandas()
    assert sorted(wide.index) == ["linear_1", "tanh_1:1", "tanh_1:2"]
    for name in references:
        np.testing.assert_allclose(wide[name], wide["rdm"], atol=1e-12)


def test_a_layer_scores_one_with_itself(trace):
    own = rdm(trace.activations, "linear_2:1")
    found = score(trace.activations, {"self": own}, "linear_2")
    assert found.set_index("op").loc["linear_2:1", "score"] == pytest.approx(1)


def test_tidy_and_joined(trace, brain_rdm):
    layers, activations = trace
    ops = layers[layers["func"] != "input"]
    found = score(activations, {"it": brain_rdm, "v4": brain_rdm * 2}, ops)
    assert list(found.columns) == [
        "op", "depth", "layer", "pass_num", "n_passes", "step", "func", "module", "module_type",
        "reference", "comparison", "score", "low", "high", "metric", "pool", "n_stimuli", "n_pairs",
        "bootstrap", "confidence", "seed", "resampled",
    ]  # fmt: skip
    kept = [op for op in ops.index if op in activations]
    assert list(found["op"]) == list(np.repeat(kept, 2))
    assert list(found["reference"]) == ["it", "v4"] * len(kept)
    by_op = found.drop_duplicates("op").set_index("op")
    assert by_op.loc["tanh_1:2", "module"] == layers.loc["tanh_1:2", "module"]
    assert by_op["depth"].to_dict() == pytest.approx(
        {
            "linear_1": 0, "linear_2:1": 1 / 3, "tanh_1:1": 2 / 3, "linear_2:2": 1 / 3,
            "tanh_1:2": 2 / 3, "output_1": 1,
        }
    )  # fmt: skip
    assert list(by_op["pass_num"]) == [1, 1, 1, 2, 2, 1]


def test_without_a_frame(trace, brain_rdm):
    found = score(trace.activations, {"it": brain_rdm}, ["tanh_1", "linear_1"])
    assert list(found["pass_num"]) == [1, 2, 1]
    assert list(found["layer"]) == ["tanh_1", "tanh_1", "linear_1"]
    assert list(found["depth"]) == [0, 0, 1]


def test_it_draws(trace, brain_rdm):
    import matplotlib as mpl

    mpl.use("agg")
    import seaborn

    layers, activations = trace
    found = score(activations, {"it": brain_rdm}, layers)
    axes = seaborn.lineplot(found, x="depth", y="score", hue="reference", style="pass_num")
    assert axes.get_xlabel() == "depth"


@pytest.mark.parametrize(("comparison", "debiased"), [("cka", False), ("cka-debiased", True)])
def test_cka(trace, brain, comparison, debiased):
    activations = trace.activations
    found = score(activations, {"it": brain.loc[SHUFFLED]}, comparison=comparison)
    other = xr.Dataset({"b_1": (("stimulus", "unit_9"), brain)}, {"stimulus": IDS})
    expected = cka(activations, other, debiased=debiased)
    np.testing.assert_allclose(found["score"], expected[:, 0], rtol=1e-9)


def test_cka_needs_features(trace, brain_rdm):
    with pytest.raises(lf.LensValueError, match="reference 'it' is an RDM"):
        score(trace.activations, {"it": brain_rdm}, comparison="cka")


@pytest.mark.parametrize("comparison", ["spearman", "cka"])
def test_intervals(trace, brain, comparison):
    activations = trace.activations
    options = {"comparison": comparison, "bootstrap": 50}
    found = score(activations, {"it": brain}, ["linear_1", "output_1"], **options)
    assert (found["low"] < found["high"]).all()
    again = score(activations, {"it": brain}, ["linear_1", "output_1"], **options)
    pd.testing.assert_frame_equal(found, again)
    narrow = score(activations, {"it": brain}, "linear_1", confidence=0.5, **options)
    assert narrow["high"][0] - narrow["low"][0] < found["high"][0] - found["low"][0]
    assert score(activations, {"it": brain})[["low", "high"]].isna().all(axis=None)


def test_intervals_by_hand(trace, brain_rdm):
    """Percentiles over resampled stimuli, pairs of a stimulus with itself left out."""
    from scipy.stats import spearmanr

    own = rdm(trace.activations, "linear_1")[0].to_numpy()
    other = brain_rdm.to_numpy()
    rng, draws = np.random.default_rng(0), []
    for chosen in rng.integers(0, 15, size=(99, 15)):
        pairs = [(a, b) for k, a in enumerate(chosen) for b in chosen[k + 1 :] if a != b]
        draws.append(spearmanr([own[p] for p in pairs], [other[p] for p in pairs]).statistic)
    found = score(trace.activations, {"it": brain_rdm}, "linear_1", bootstrap=99)
    assert found["low"][0] == pytest.approx(np.percentile(draws, 2.5))
    assert found["high"][0] == pytest.approx(np.percentile(draws, 97.5))


def test_interval_of_a_perfect_score_has_no_width(trace):
    found = score(
        trace.activations, {"self": rdm(trace.activations, "linear_1")}, "linear_1", bootstrap=20
    )
    assert [found["low"][0], found["high"][0]] == pytest.approx([1, 1])


def test_ids_must_agree(trace, brain_rdm):
    activations = trace.activations
    with pytest.raises(lf.LensValueError, match="none is in both: are they written alike"):
        score(activations, {"it": pd.DataFrame(brain_rdm.to_numpy())})
    with pytest.raises(lf.LensTypeError, match=r"not ndarray: .*give pd\.DataFrame\(values"):
        score(activations, {"it": brain_rdm.to_numpy()})
    with pytest.raises(lf.LensKeyError, match="which has 'mine'; give both tables of one trace"):
        score(activations[["linear_1"]].rename(linear_1="mine"), {"it": brain_rdm}, trace.layers)
    with pytest.raises(lf.LensValueError, match="only in the Dataset: 's0'"):
        score(activations, {"it": brain_rdm.iloc[1:, 1:]})
    with pytest.raises(lf.LensValueError, match="the Dataset has no stimulus ids"):
        score(activations.drop_vars("stimulus"), {"it": brain_rdm})
    with pytest.raises(lf.LensTypeError, match="reference 'it' is a DataFrame or DataArray"):
        score(activations, {"it": brain_rdm.to_numpy()})
    with pytest.raises(lf.LensValueError, match="no comparison 'spearmen'; there are spearman"):
        score(activations, {"it": brain_rdm}, comparison="spearmen")


def test_no_score_is_named(brain_rdm):
    values = np.tile(np.eye(15), (1, 2))
    data = {
        "a_1": (("stimulus", "feature_30"), values),
        "b_1": (("stimulus", "feature_30"), values),
    }
    ds = xr.Dataset(data, {"stimulus": IDS})
    with pytest.warns(lf.LensWarning, match=r"no score \(NaN\).* in 'a_1', 'b_1'"):
        found = score(ds, {"it": brain_rdm})
    assert found["score"].isna().all()


def with_nan(where):
    values = np.random.default_rng(1).normal(size=(15, 9))
    values[where] = np.nan
    return values


@pytest.mark.parametrize("comparison", ["spearman", "pearson", "kendall", "cka", "cka-debiased"])
@pytest.mark.parametrize("in_layer", [True, False])
@pytest.mark.parametrize(
    ("where", "pairs", "stimuli"),
    [
        ((3, 2), "14 of 105 pairs .*'s3'", "1 of 15 stimuli .*'s3'"),
        ((3, slice(None)), "14 of 105 pairs .*'s3'", "1 of 15 stimuli .*'s3'"),
        (
            ([3, 5, 6], 0),
            "39 of 105 pairs .*'s3', 's5', 's6'",
            "3 of 15 stimuli .*'s3', 's5', 's6'",
        ),
        ((slice(None), 4), "105 of 105 pairs .*'s0', 's1'", "15 of 15 stimuli .*'s0', 's1'"),
    ],
)
def test_nothing_missing_is_left_out(comparison, in_layer, where, pairs, stimuli):
    whole = np.random.default_rng(2).normal(size=(15, 9))
    layer, brain = (with_nan(where), whole) if in_layer else (whole, with_nan(where))
    ds = xr.Dataset({"a_1": (("stimulus", "feature_9"), layer)}, {"stimulus": IDS})
    of = "'a_1'" if in_layer else "reference 'it'"
    counted = (
        stimuli.replace(".*", f"have NaN or infinity in {of}: ")
        if "cka" in comparison
        else (pairs.replace(".*", f"of stimuli have no dissimilarity in {of}, those of "))
    )
    with pytest.warns(lf.LensWarning, match=f"{counted}(?s:.)*no score") as caught:
        found = score(ds, {"it": pd.DataFrame(brain, IDS)}, comparison=comparison, bootstrap=5)
    assert len(caught) == 1
    assert found[["score", "low", "high"]].isna().all(axis=None)


def test_pairs_missing_in_an_rdm_are_counted(trace, brain_rdm):
    lacking = brain_rdm.copy()
    lacking.iloc[2, 5] = lacking.iloc[5, 2] = np.nan
    lacking.iloc[7, 8] = lacking.iloc[8, 7] = np.nan
    with pytest.warns(lf.LensWarning, match="2 of 105 pairs of stimuli .* in reference 'it'\n"):
        found = score(trace.activations, {"it": lacking, "whole": brain_rdm}, "linear_1")
    assert found["score"].isna().tolist() == [True, False]


@pytest.mark.parametrize("comparison", ["spearman", "cka"])
def test_few_stimuli(comparison):
    def scored(n, **options):
        values = np.random.default_rng(1).normal(size=(n, 9))
        ds = xr.Dataset({"a_1": (("stimulus", "feature_9"), values)}, {"stimulus": IDS[:n]})
        return score(ds, {"it": pd.DataFrame(values**2, IDS[:n])}, comparison=comparison, **options)

    fewest = {"spearman": 3, "cka": 2}[comparison]
    with pytest.raises(lf.LensValueError, match=f"{comparison} needs at least {fewest} stimuli"):
        scored(fewest - 1)
    scored(fewest)


def test_samples_without_a_score_are_said():
    values = np.random.default_rng(1).normal(size=(4, 9))
    ds = xr.Dataset({"a_1": (("stimulus", "feature_9"), values)}, {"stimulus": IDS[:4]})
    reference = {"it": pd.DataFrame(values**2, IDS[:4])}
    with pytest.warns(
        lf.LensWarning, match=r"\d+ of 100 samples of stimuli have no score of 'a_1'"
    ):
        found = score(ds, reference, bootstrap=100)
    assert found[["score", "low", "high"]].notna().all(axis=None)


@pytest.mark.parametrize(
    "wrong", [{"bootstrap": -1}, {"confidence": 95}, {"confidence": 1.0}, {"confidence": 0}]
)
def test_options_that_mean_nothing(trace, brain_rdm, wrong):
    with pytest.raises(lf.LensValueError, match=next(iter(wrong))):
        score(trace.activations, {"it": brain_rdm}, **wrong)


def test_an_interval_of_cka_holds_its_score(trace, brain):
    activations = trace.activations
    for comparison in ("cka", "cka-debiased"):
        found = score(activations, {"it": brain}, comparison=comparison, bootstrap=100)
        assert (found["low"] <= found["score"]).all()
        assert (found["score"] <= found["high"]).all()


def test_frame_of_another_model(trace, brain_rdm):
    other = trace.layers.rename(index=lambda op: f"x{op}")
    with pytest.raises(lf.LensKeyError, match="no row of this frame"):
        score(trace.activations, {"it": brain_rdm}, other)
