"""Differences of layers are those of their scores, sample by sample."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from rsatoolbox.inference import eval_dual_bootstrap
from rsatoolbox.model import ModelFixed
from rsatoolbox.rdm import RDMs
from rsatoolbox.util.inference_util import bootstrap_pair_tests
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

import lensframe_pd as lf
from lensframe_pd.rsa.ceilings import over_both, p_over_both
from lensframe_pd.rsa.comparisons import Pairs
from lensframe_pd.rsa.intervals import difference_of, rdm_sampled

RNG = np.random.default_rng(9)
N = 16
IDS = [f"s{k}" for k in range(N)]
TRUE = RNG.normal(size=(N, 6))


@pytest.fixture(scope="module")
def net():
    variables = {
        f"{name}_1": (("stimulus", "feature_6"), TRUE + noise * RNG.normal(size=(N, 6)))
        for name, noise in (("near", 0.3), ("far", 2.0), ("middle", 1.0))
    }
    variables["same_1"] = variables["near_1"]
    return xr.Dataset(variables, {"stimulus": IDS})


@pytest.fixture(scope="module")
def brain():
    return pd.DataFrame(TRUE, IDS)


def test_sample_by_sample(net, brain):
    found = net.lens.score_differences({"it": brain}, bootstrap=80, confidence=0.9, seed=4)
    assert list(found.columns) == [
        "op", "op_", "reference", "comparison", "difference", "low", "high", "p",
    ]  # fmt: skip
    assert len(found) == 6
    draws = np.random.default_rng(4).integers(0, N, size=(80, N))
    scores = net.lens.score({"it": brain}).set_index("op")["score"]
    by_op = {op: [] for op in net}
    for chosen in draws:
        i, j = np.triu_indices(N, 1)
        apart = chosen[i] != chosen[j]
        i, j = chosen[i][apart], chosen[j][apart]
        reference = distances(brain.to_numpy())[i, j]
        for op, values in by_op.items():
            values.append(spearmanr(distances(net[op].to_numpy())[i, j], reference).statistic)
    for row in found.to_dict("records"):
        drawn = np.subtract(by_op[row["op"]], by_op[row["op_"]])
        assert row["difference"] == pytest.approx(scores[row["op"]] - scores[row["op_"]])
        assert [row["low"], row["high"]] == pytest.approx([*np.percentile(drawn, [5, 95])])
        both = np.array([by_op[row["op"]], by_op[row["op_"]]]).T
        if (drawn != 0).any():
            assert row["p"] == pytest.approx(bootstrap_pair_tests(both)[0, 1])
    same = found[(found["op"] == "near_1") & (found["op_"] == "same_1")].iloc[0]
    assert same[["difference", "low", "high", "p"]].tolist() == [0, 0, 0, 1]


def distances(values):
    return squareform(pdist(values, "correlation"))  # symmetric to the last bit, for ties


def test_pairs_are_told_apart_where_intervals_overlap(net, brain):
    pair = ["near_1", "middle_1"]
    scores = net.lens.score({"it": brain}, pair, bootstrap=300).set_index("op")
    difference = net.lens.score_differences({"it": brain}, pair, bootstrap=300).iloc[0]
    apart = scores.loc["near_1", "high"] - scores.loc["middle_1", "low"]
    assert difference["high"] - difference["low"] < apart
    assert difference["low"] > 0
    assert difference["p"] < 0.05


def test_over_subjects_is_rsatoolboxs(drawn):
    """Of the very same samples."""
    models = [pdist(TRUE + s * RNG.normal(size=TRUE.shape)) for s in (0.5, 1.5)]
    vectors = np.array([pdist(TRUE + RNG.normal(size=TRUE.shape)) for _ in range(6)])
    np.random.seed(3)  # noqa: NPY002  (rsatoolbox draws from it)
    fixed = [ModelFixed(str(k), RDMs(m[None])) for k, m in enumerate(models)]
    result = eval_dual_bootstrap(fixed, RDMs(vectors), "corr", N=40)
    of_stimuli = np.array([patterns for _, patterns in drawn])
    each = [
        difference_of(*(rdm_sampled("pearson", Pairs(m), Pairs(v), of_stimuli) for m in models))
        for v in vectors
    ]
    of_subjects = np.array([rdms for rdms, _ in drawn])
    found = over_both(each, of_subjects, N, 0.95)
    from scipy.stats import t

    sem = float(np.sqrt(result.diff_var[0]))
    assert found.high - found.score == pytest.approx(sem * t.ppf(0.975, 5), rel=1e-8)
    expected = 2 * t.sf(abs(found.score) / sem, 5)
    assert p_over_both(each, of_subjects, N) == pytest.approx(expected)


def test_by_subject_and_place(net):
    values = np.stack([TRUE + RNG.normal(size=TRUE.shape) for _ in range(4)])
    coords = {"stimulus": IDS[::-1], "subject": [*"abcd"]}
    brain = xr.DataArray(values[:, ::-1], coords, ("subject", "stimulus", "voxel"))
    joined = xr.concat([net, net * 2], pd.Index([10, 20], name="checkpoint"))
    found = joined.lens.score_differences({"it": brain}, ["near_1", "far_1"], bootstrap=50)
    assert found["checkpoint"].tolist() == [10, 20]
    assert found.attrs["resampled"] == "stimulus and subject"
    scores = joined.lens.score({"it": brain}, bootstrap=50).groupby(["op", "checkpoint"])["mean"]
    for row in found.to_dict("records"):
        means = scores.first().xs(row["checkpoint"], level="checkpoint")
        assert row["difference"] == pytest.approx(means["near_1"] - means["far_1"])
        assert row["low"] < row["difference"] < row["high"]


@pytest.mark.parametrize("comparison", ["cka", "cka-debiased"])
def test_of_cka(net, brain, comparison):
    found = net.lens.score_differences({"it": brain}, comparison=comparison, bootstrap=60)
    scores = net.lens.score({"it": brain}, comparison=comparison).set_index("op")["score"]
    for row in found.to_dict("records"):
        assert row["difference"] == pytest.approx(scores[row["op"]] - scores[row["op_"]])
        assert row["low"] <= row["difference"] <= row["high"]
        assert 0 < row["p"] <= 1


def test_what_leaves_nothing(net, brain):
    with pytest.raises(lf.LensValueError, match="bootstrap=0 leaves no samples"):
        net.lens.score_differences({"it": brain}, bootstrap=0)
    with pytest.raises(lf.LensValueError, match="'far_1' alone, and a pair takes two"):
        net.lens.score_differences({"it": brain}, "far_1")
    with pytest.raises(lf.LensValueError, match="bootstrap is a number of samples"):
        net.lens.score_differences({"it": brain}, bootstrap=-5)
