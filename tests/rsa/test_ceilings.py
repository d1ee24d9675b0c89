"""Noise ceilings and intervals over subjects are rsatoolbox's, and hold the truth."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from rsatoolbox.inference import boot_noise_ceiling, eval_dual_bootstrap
from rsatoolbox.model import ModelFixed
from rsatoolbox.rdm import RDMs, compare
from scipy.spatial.distance import pdist, squareform

import lensframe_pd as lf
from lensframe_pd.rsa.ceilings import noise_ceiling, over_both
from lensframe_pd.rsa.comparisons import ALIASES, RSATOOLBOX, Pairs
from lensframe_pd.rsa.intervals import mean_of, rdm_sampled
from lensframe_pd.rsa.noise import crossnobis

RNG = np.random.default_rng(6)
N, SUBJECTS = 14, 5
IDS = [f"s{k}" for k in (10, 2, 9, 1, 30, 4, 5, 100, 8, 7, 3, 6, 11, 0)]
NAMES = [f"p{k}" for k in (10, 9, 1, 2, 3)]
TRUE = RNG.normal(size=(N, 6))
MEASURED = np.array([pdist(TRUE + RNG.normal(size=(N, 6))) for _ in range(SUBJECTS)])
tau = pytest.mark.filterwarnings("ignore:.*Kendall's tau", "ignore:Noise ceiling for tau")


def brain(vectors=MEASURED, ids=IDS, **coords):
    squares = np.array([squareform(one, checks=False) for one in vectors])
    coords = {"subject": NAMES[: len(vectors)], "stimulus": ids, "stimulus_": ids, **coords}
    return xr.DataArray(squares, coords, ("subject", "stimulus", "stimulus_"))


@pytest.fixture(scope="module")
def net():
    with torch.no_grad():
        values = torch.tensor(TRUE[::-1].copy(), dtype=torch.float32)
        return lf.trace(torch.nn.Linear(6, 5).eval(), values, stimulus=IDS[::-1])


def ties(vectors):
    return (vectors * 3).round()


@tau
@pytest.mark.parametrize("comparison", [*RSATOOLBOX])
@pytest.mark.parametrize("make", [np.asarray, ties])
def test_a_ceiling_is_rsatoolboxs(net, comparison, make):
    vectors = make(MEASURED)
    layers, activations = net
    found = activations.lens.score({"it": brain(vectors)}, layers, comparison=comparison)
    low, high = boot_noise_ceiling(RDMs(vectors), RSATOOLBOX[comparison])
    assert found["ceiling_low"].to_numpy() == pytest.approx(np.full(len(found), low), abs=1e-10)
    assert found["ceiling_high"].to_numpy() == pytest.approx(np.full(len(found), high), abs=1e-10)
    own = activations.lens.rdm().sel(stimulus=IDS, stimulus_=IDS)
    for op, rows in found.groupby("op"):
        model = RDMs(own.sel(layer=op).to_numpy()[None])
        expected = compare(model, RDMs(vectors), RSATOOLBOX[comparison])[0]
        assert rows["subject"].tolist() == NAMES
        assert rows["score"].to_numpy() == pytest.approx(expected, abs=1e-10)
        assert rows["mean"].to_numpy() == pytest.approx(expected.mean(), abs=1e-10)
    assert (found["comparison"] == comparison).all()


@tau
@pytest.mark.parametrize(("alias", "name"), [*ALIASES.items()])
def test_other_names_of_comparisons(net, alias, name):
    first, second = (
        net.activations.lens.score({"it": brain()}, comparison=one) for one in (alias, name)
    )
    pd.testing.assert_frame_equal(first, second)


def crossvalidated(patterns, rng):
    """The RDM of a subject, to which noise adds nothing on average."""
    runs = [patterns + rng.normal(size=patterns.shape) for _ in range(3)]
    values = crossnobis(runs, np.mean(runs, axis=0), None).values
    return Pairs(values[np.triu_indices(len(values), 1)])


@pytest.fixture(scope="module")
def noisy():
    """200 true RDMs, and those of five subjects each."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        patterns = rng.normal(size=(10, 8))
        true = Pairs(pdist(patterns, "sqeuclidean") / 8)
        found.append((true, [crossvalidated(patterns, rng) for _ in range(5)]))
    return found


@pytest.mark.parametrize("comparison", [*RSATOOLBOX])
def test_the_true_rdm_is_inside(comparison, noisy):
    """Its mean score, in 200 runs of noise."""
    inside = 0
    for true, subjects in noisy:
        low, high = noise_ceiling(comparison, subjects)
        nothing = np.empty((0, 10), int)
        mean = mean_of([rdm_sampled(comparison, true, one, nothing) for one in subjects]).score
        inside += low <= mean <= high
    assert inside >= 190


def test_one_subject_has_none(net):
    one = brain().isel(subject=[0])
    with pytest.warns(lf.LensWarning, match=r"no noise ceiling \(NaN\): subject of .*'it'"):
        found = net.activations.lens.score({"it": one}, bootstrap=20)
    assert found[["ceiling_low", "ceiling_high", "mean_low", "mean_high"]].isna().all(axis=None)
    assert (found["mean"] == found["score"]).all()
    assert (found["low"] < found["high"]).all()


def test_cka_has_none(net):
    values = np.stack([TRUE + RNG.normal(size=TRUE.shape) for _ in range(3)])
    coords = {"stimulus": IDS, "subject": NAMES[:3]}
    array = xr.DataArray(values, coords, ("subject", "stimulus", "voxel"))
    with pytest.warns(lf.LensWarning, match="CKA has no noise ceiling"):
        found = net.activations.lens.score({"it": array}, comparison="cka", bootstrap=50)
    assert found["ceiling_low"].isna().all()
    assert (found["mean_low"] < found["mean"]).all()
    assert (found["mean"] < found["mean_high"]).all()


@pytest.mark.parametrize("comparison", ["kendall", "tau-a"])
def test_that_ranks_are_averaged_is_said(net, comparison):
    with pytest.warns(lf.LensWarning, match="that of averaged ranks"):
        net.activations.lens.score({"it": brain()}, comparison=comparison)


def test_what_is_missing_has_none(net):
    lacking = brain()
    lacking[2, 3, 4] = lacking[2, 4, 3] = np.nan
    with pytest.warns(lf.LensWarning, match="1 of 91 pairs .* in reference 'it' at subject='p1'"):
        found = net.activations.lens.score({"it": lacking})
    assert found["ceiling_low"].isna().all()
    assert found["score"].isna().tolist() == [name == "p1" for name in NAMES] * 3


@pytest.mark.parametrize("kind", ["subject", "run"])
def test_several_references(net, kind):
    """One of subjects or runs, one of neither: all columns in all rows, NaN where they are none."""
    other = brain().isel(subject=0, drop=True)
    layers, activations = net
    given = {"model": other, "it": brain().rename(subject=kind)}
    found = activations.lens.score(given, layers, bootstrap=30)
    first = found.columns.get_loc("reference")
    assert [*found.columns[first : first + 11]] == [
        "reference", kind, "comparison", "score", "low", "high", "mean", "mean_low", "mean_high",
        "ceiling_low", "ceiling_high",
    ]  # fmt: skip
    alone = found[found["reference"] == "model"]
    assert alone[[kind, "mean", "mean_low", "ceiling_low"]].isna().all(axis=None)
    each = found[found["reference"] == "it"]
    assert each[["mean", "mean_low", "mean_high", "ceiling_low"]].notna().all(axis=None)
    assert (
        each.groupby("op")["score"].mean() - each.groupby("op")["mean"].first()
    ).abs().max() < 1e-12


def test_subjects_and_runs(net):
    """A ceiling over subjects in each run."""
    runs = xr.concat([brain(), brain(MEASURED[::-1] ** 2)], pd.Index(["b", "a"], name="run"))
    found = net.activations.lens.score({"it": runs}, "linear_1")
    assert len(found) == 2 * SUBJECTS
    for run, vectors in (("b", MEASURED), ("a", MEASURED[::-1] ** 2)):
        rows = found[found["run"] == run]
        assert rows["subject"].tolist() == NAMES
        expected = boot_noise_ceiling(RDMs(vectors), "spearman")
        assert rows[["ceiling_low", "ceiling_high"]].iloc[0].tolist() == pytest.approx(
            expected, abs=1e-10
        )


def test_without_rsatoolbox_it_says_what_to_install(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "rsatoolbox", None)
    with pytest.raises(lf.LensRuntimeError, match=r"noise ceilings need .* rsatoolbox"):
        net.activations.lens.score({"it": brain()})
    assert net.activations.lens.score({"it": brain()[0]})["score"].notna().all()


def test_a_store(net, tmp_path):
    """Read by blocks, with references of several subjects and runs."""
    many = [f"s{k}" for k in range(60)]
    values = RNG.normal(size=(60, 40))
    dims = ("stimulus", "feature_40")
    whole = xr.Dataset({"a_1": (dims, values), "b_1": (dims, values**2)}, {"stimulus": many})
    whole.chunk(stimulus=6).to_zarr(tmp_path / "a.zarr")
    stored = xr.open_zarr(tmp_path / "a.zarr")
    coords = {"stimulus": many[::-1], "subject": NAMES[:3]}
    array = values[::-1] + RNG.normal(size=(3, 60, 40))
    reference = xr.DataArray(array, coords, ("subject", "stimulus", "voxel"))
    options = {"references": {"it": reference}, "layers": ["a_1", "b_1"], "bootstrap": 20}
    for verb in ("score", "score_differences"):
        found = getattr(stored.lens, verb)(**options, memory=9_000)
        expected = getattr(whole.lens, verb)(**options)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-9)


def test_rdms_of_levels(net):
    """Rows of a subject and a stimulus, columns that are stimuli."""
    squares = brain()
    rows = pd.concat({s: squares.sel(subject=s).to_pandas() for s in NAMES}, names=["subject"])
    table = rows.sample(frac=1, random_state=0)[IDS[::-1]]
    found = net.activations.lens.score({"it": table}).set_index(["op", "subject"])
    expected = net.activations.lens.score({"it": squares}).set_index(["op", "subject"])
    pd.testing.assert_frame_equal(found.loc[expected.index], expected, rtol=1e-12)


def test_layers_with_the_same_axis(net):
    layers = net.activations.expand_dims(subject=NAMES)
    with pytest.raises(lf.LensValueError, match=r"both have subject, over which .* rename"):
        layers.lens.score({"it": brain()})


# ------------------------------------------------------------------ dual bootstrap


@pytest.mark.parametrize("comparison", ["spearman", "pearson", "cosine", "whitened-pearson"])
@pytest.mark.parametrize("subjects", [2, 5])
def test_the_interval_is_rsatoolboxs(drawn, comparison, subjects):
    """Of the very same samples: those that it drew are given to ours."""
    vectors, model = MEASURED[:subjects], pdist(TRUE)
    np.random.seed(3)  # noqa: NPY002  (rsatoolbox draws from it)
    result = eval_dual_bootstrap(
        ModelFixed("m", RDMs(model[None])), RDMs(vectors), RSATOOLBOX[comparison], N=40
    )
    expected = result.get_ci(0.9)
    centre = result.get_means()
    of_stimuli = np.array([patterns for _, patterns in drawn])
    each = [rdm_sampled(comparison, Pairs(model), Pairs(v), of_stimuli) for v in vectors]
    found = over_both(each, np.array([rdms for rdms, _ in drawn]), N, 0.9)
    assert found.failed == 0
    half = float(np.squeeze(expected[1] - centre))
    if found.score + half <= 1:  # theirs may end above 1
        assert found.high - found.score == pytest.approx(half, rel=1e-8)
    if found.score - half >= -1:
        assert found.score - found.low == pytest.approx(half, rel=1e-8)


def test_intervals_hold_the_truth_of_other_stimuli_and_subjects():
    """The mean score of a model that shares a part, against that of many of both."""
    ways = np.random.default_rng(1).normal(size=(2, 4, 8))

    def draw(rng, n, subjects):
        common = rng.normal(size=(n, 4))
        model = Pairs(pdist(common @ ways[0]))
        strengths = rng.uniform(0.5, 2.5, subjects)  # that of noise, by subject
        measured = [Pairs(pdist(common @ ways[1] + s * rng.normal(size=(n, 8)))) for s in strengths]
        return model, measured

    nothing = np.empty((0, 0), int)
    model, measured = draw(np.random.default_rng(2), 300, 40)
    truth = mean_of([rdm_sampled("pearson", model, one, nothing) for one in measured]).score
    held, widths, means = 0, [], []
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        model, measured = draw(rng, 24, 8)
        of_stimuli = rng.integers(0, 24, size=(60, 24))
        each = [rdm_sampled("pearson", model, one, of_stimuli) for one in measured]
        found = over_both(each, rng.integers(0, 8, size=(60, 8)), 24, 0.95)
        held += found.low <= truth <= found.high
        widths.append(found.high - found.low)
        means.append(found.score)
    assert held >= 52  # 57 less 3 standard errors
    assert np.mean(widths) < 3 * np.diff(np.percentile(means, [2.5, 97.5]))[0]


def test_equal_seeds_and_none(net):
    options = {"references": {"it": brain()}, "bootstrap": 30}
    columns = ["low", "high", "mean_low", "mean_high"]
    first = net.activations.lens.score(**options, seed=5)
    pd.testing.assert_frame_equal(first, net.activations.lens.score(**options, seed=5))
    for seed in (6, None):
        other = net.activations.lens.score(**options, seed=seed)
        assert (first[columns] != other[columns]).any(axis=None)
        pd.testing.assert_series_equal(first["score"], other["score"])


def test_what_is_reported(net):
    found = net.activations.lens.score({"it": brain()}, bootstrap=30, confidence=0.9, seed=2)
    expected = {
        "comparison": "spearman", "metric": "correlation", "pool": "none", "n_stimuli": N,
        "n_pairs": N * (N - 1) // 2, "bootstrap": 30, "confidence": 0.9, "seed": 2,
        "resampled": "stimulus; the mean: stimulus and subject",
    }  # fmt: skip
    for name, fact in expected.items():
        assert found.attrs[name] == fact
        assert (found[name] == fact).all()
    for package in ("lensframe-pd", "numpy", "scipy", "rsatoolbox"):
        assert f"{package} " in found.attrs["versions"]
    plain = net.activations.lens.score({"it": pd.DataFrame(TRUE, IDS)}, comparison="cka", seed=None)
    assert plain.attrs["resampled"] == plain.attrs["seed"] == "none"
    pooled = net.activations.lens.score(
        {"it": pd.DataFrame(TRUE, IDS)}, comparison="cka", bootstrap=5, pool={"feature": "mean"}
    )
    assert pooled.attrs["resampled"] == "stimulus, halves"
    assert pooled.attrs["pool"] == "feature: mean"


@pytest.mark.parametrize("references", [{}, [brain()], brain(), None])
def test_references_are_a_mapping(net, references):
    with pytest.raises(lf.LensError, match="references"):
        net.activations.lens.score(references)


@pytest.mark.parametrize(
    "wrong",
    [{"bootstrap": 1.5}, {"bootstrap": "100"}, {"seed": "a"}, {"confidence": "0.9"}, {"seed": 1.5}],
)
def test_no_numbers(net, wrong):
    with pytest.raises(lf.LensTypeError, match=next(iter(wrong))):
        net.activations.lens.score({"it": brain()}, **wrong)


@pytest.mark.parametrize("comparison", [None, ["spearman"], 3, "spearmann"])
def test_no_comparison(net, comparison):
    with pytest.raises(lf.LensValueError, match=r"no comparison .*; there are spearman, pearson"):
        net.activations.lens.score({"it": brain()}, comparison=comparison)


def test_no_subjects_and_one_that_comes_twice(net):
    with pytest.raises(lf.LensValueError, match="reference 'it' is empty: subject has extent 0"):
        net.activations.lens.score({"it": brain().isel(subject=[])})
    twice = brain().assign_coords(subject=list("aabcd"))
    with pytest.raises(lf.LensValueError, match=r"subject of reference 'it' has labels .*: 'a'"):
        net.activations.lens.score({"it": twice})


@pytest.mark.parametrize("comparison", ["spearman", "pearson", "cosine", "whitened-pearson"])
def test_a_subject_that_does_not_vary_has_no_ceiling(net, comparison):
    flat = MEASURED.copy()
    flat[2] = 1.0
    with pytest.warns(lf.LensWarning, match=r"no score \(NaN\)"):
        found = net.activations.lens.score({"it": brain(flat)}, comparison=comparison)
    assert found["ceiling_low"].isna().all()
    assert found["score"].isna().tolist() == [name == "p1" for name in NAMES] * 3


def test_many_lines_of_a_warning_are_few(net):
    values = RNG.normal(size=(40, 3, 4))
    coords = {"stimulus": IDS[:3]}
    few = net.activations.sel(stimulus=IDS[:3])
    with pytest.warns(lf.LensWarning, match="no score of") as caught:
        few.lens.score(
            {"it": xr.DataArray(values, coords, ("subject", "stimulus", "voxel"))}, bootstrap=40
        )
    assert str(caught[0].message).count("samples of stimuli") == 12
    assert "... and 108 more" in str(caught[0].message)


def test_a_negative_seed(net):
    with pytest.raises(lf.LensValueError, match="seed is a number from 0, or None, not -1"):
        net.activations.lens.score({"it": brain()}, seed=-1)
