"""Mahalanobis and crossnobis are rsatoolbox's numbers, with ids in their own order."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from rsatoolbox.data import Dataset
from rsatoolbox.data.noise import prec_from_residuals
from rsatoolbox.rdm import calc_rdm
from scipy.spatial.distance import squareform

import lensframe_pd as lf

RNG = np.random.default_rng(8)
N, P, RUNS = 12, 6, 4
IDS = [f"s{k}" for k in (10, 2, 9, 1, 30, 4, 5, 100, 8, 7, 3, 6)]
SIGNAL = RNG.normal(size=(N, P))
VALUES = SIGNAL + RNG.normal(size=(RUNS, N, P))
PRECISION = prec_from_residuals(RNG.normal(size=(60, P)) @ RNG.normal(size=(P, P)))
DIAGONAL = RNG.random(P) + 0.5


def measured(values=VALUES, ids=IDS, **coords):
    dims = ("run", "stimulus", "voxel")[-values.ndim :]
    return xr.Dataset({"it": (dims, values)}, {"stimulus": ids, **coords})


def theirs(method, values=VALUES, noise=None, ids=IDS, runs=None):
    """rsatoolbox's, which sorts ids as text, back in their own order."""
    flat = values.reshape(-1, values.shape[-1])
    runs = range(len(values)) if runs is None else runs
    descriptors = {"id": [*ids] * (len(flat) // len(ids)), "run": np.repeat(runs, len(ids))}
    options = {"cv_descriptor": "run"} if method == "crossnobis" else {}
    data = Dataset(flat, obs_descriptors=descriptors if values.ndim == 3 else {"id": [*ids]})
    found = calc_rdm(data, method, descriptor="id", noise=noise, **options)
    square = pd.DataFrame(found.get_matrices()[0], *[found.pattern_descriptors["id"]] * 2)
    return square.loc[ids, ids].to_numpy()


NOISES = {
    "identity": ("identity", np.eye(P)),
    "precision": (PRECISION, PRECISION),
    "diagonal": (DIAGONAL, np.diag(DIAGONAL)),
    "frame": (pd.DataFrame(PRECISION), PRECISION),
    "array": (xr.DataArray(PRECISION, dims=("voxel", "voxel_")), PRECISION),
    "by label": ({"it": PRECISION, "v1": "identity"}, PRECISION),
    "singular": (np.ones((P, P)), np.ones((P, P))),
    "float32": (np.eye(P, dtype=np.float32) * 2, np.eye(P) * 2),
}


@pytest.mark.parametrize("noise", [*NOISES])
def test_mahalanobis_is_rsatoolboxs(noise):
    own, precision = NOISES[noise]
    found = measured(SIGNAL).lens.rdm(metric="mahalanobis", noise=own)
    np.testing.assert_allclose(found[0], theirs("mahalanobis", SIGNAL, precision), atol=1e-10)
    assert found["stimulus"].values.tolist() == found["stimulus_"].values.tolist() == IDS
    assert found.attrs["metric"] == "mahalanobis"
    assert found.attrs["noise"] == ("identity" if noise == "identity" else "given")


@pytest.mark.parametrize("noise", [*NOISES])
@pytest.mark.parametrize("runs", [2, 3, RUNS])
def test_crossnobis_is_rsatoolboxs(noise, runs):
    own, precision = NOISES[noise]
    values = VALUES[:runs]
    found = measured(values).lens.rdm(metric="crossnobis", over="run", noise=own)
    expected = theirs("crossnobis", values, precision)
    np.testing.assert_allclose(found[0], expected, atol=1e-10)
    assert found.dims == ("layer", "stimulus", "stimulus_")
    assert (found[0].values == found[0].values.T).all()
    assert (found[0].values.diagonal() == 0).all()


@pytest.mark.parametrize(
    "ids",
    [[*range(N)][::-1], IDS, [f"{k}.png" for k in range(N)], pd.date_range("2020", periods=N)],
)
@pytest.mark.parametrize("runs", [["b", "a", "c", "d"], [10, 9, 2, 1], None])
def test_ids_and_runs_of_any_kind_and_order(ids, runs):
    coords = {} if runs is None else {"run": runs}
    found = measured(ids=ids, **coords).lens.rdm(metric="crossnobis", over="run", noise="identity")
    expected = theirs("crossnobis", noise=np.eye(P))
    np.testing.assert_allclose(found[0], expected, atol=1e-10)
    assert (found["stimulus"].values == pd.Index(ids)).all()


def test_noise_adds_nothing_on_average():
    """Of pure noise the mean crossnobis is 0; that of squared distances is not."""
    values = np.random.default_rng(0).normal(size=(4, 60, 30))
    ds = measured(values, [*range(60)])
    found = ds.lens.rdm(metric="crossnobis", over="run", noise="identity")[0].values
    pairs = found[np.triu_indices(60, 1)]
    assert abs(pairs.mean()) < 0.05
    assert (pairs < 0).mean() > 0.4
    biased = ds.mean("run").lens.rdm(metric="mahalanobis", noise="identity")[0].values
    assert biased[np.triu_indices(60, 1)].mean() == pytest.approx(2 / 4, abs=0.05)


def test_names_of_features_join_the_noise():
    names = [f"v{k}" for k in range(P)]
    ds = measured(voxel=names)
    shuffled = RNG.permutation(P)
    frame = pd.DataFrame(PRECISION, names, names).iloc[shuffled, shuffled[::-1]]
    for noise in (frame, frame.to_xarray().to_dataarray("v").transpose("index", "v")):
        found = ds.lens.rdm(metric="crossnobis", over="run", noise=noise)
        np.testing.assert_allclose(found[0], theirs("crossnobis", noise=PRECISION), atol=1e-10)
    series = pd.Series(DIAGONAL, names).iloc[shuffled]
    found = ds.lens.rdm(metric="crossnobis", over="run", noise=series)
    np.testing.assert_allclose(found[0], theirs("crossnobis", noise=np.diag(DIAGONAL)), atol=1e-10)
    with pytest.raises(lf.LensValueError, match=r"is about 'u[0-5]', .*'it' are 'v0'"):
        ds.lens.rdm(metric="crossnobis", over="run", noise=frame.rename(index=lambda v: f"u{v[1]}"))


def test_of_subjects_and_rsatoolboxs_own_object():
    values = np.stack([VALUES, VALUES[::-1] * 2 + 1])
    ds = xr.Dataset({"it": (("subject", "run", "stimulus", "voxel"), values)}, {"stimulus": IDS})
    found = ds.lens.rdm(metric="crossnobis", over="run", noise=PRECISION)
    assert found.dims == ("layer", "subject", "stimulus", "stimulus_")
    for k in range(2):
        expected = theirs("crossnobis", values[k], PRECISION)
        np.testing.assert_allclose(found[0, k], expected, atol=1e-9)
    rdms = ds.lens.to_rsatoolbox_rdms(metric="crossnobis", over="run", noise=PRECISION)
    assert (rdms.n_rdm, rdms.dissimilarity_measure) == (2, "crossnobis")
    np.testing.assert_allclose(
        rdms.dissimilarities, [squareform(one.values, checks=False) for one in found[0]]
    )


def test_each_subject_has_its_own_noise():
    values = np.stack([VALUES, VALUES[::-1] * 2 + 1])
    dims = ("subject", "run", "stimulus", "voxel")
    ds = xr.Dataset({"it": (dims, values)}, {"stimulus": IDS, "subject": ["b", "a"]})
    both = np.stack([PRECISION, np.diag(DIAGONAL)])
    noise = xr.DataArray(both, {"subject": ["b", "a"]}, ("subject", "voxel", "voxel_"))
    found = ds.lens.rdm(metric="crossnobis", over="run", noise=noise)
    for k in range(2):
        expected = theirs("crossnobis", values[k], both[k])
        np.testing.assert_allclose(found[0, k], expected, atol=1e-9)
    other = noise.assign_coords(subject=["a", "b"])
    with pytest.raises(lf.LensValueError, match="the layers and noise= both have subject"):
        ds.lens.rdm(metric="crossnobis", over="run", noise=other)
    with pytest.raises(lf.LensValueError, match="noise= is 2 x 6 x 6"):
        ds.isel(subject=0).lens.rdm(metric="crossnobis", over="run", noise=noise)


@pytest.mark.parametrize("noise", ["identity", "precision", "diagonal"])
def test_a_store_is_read_by_blocks(tmp_path, noise):
    measured(ids=[*range(N)]).chunk(stimulus=2).to_zarr(tmp_path / "it.zarr")
    stored, own = xr.open_zarr(tmp_path / "it.zarr"), NOISES[noise][0]
    options = {"metric": "crossnobis", "over": "run", "noise": own}
    expected = measured().lens.rdm(**options)
    for memory in (2_500, "1 GB"):
        found = stored.lens.rdm(memory=memory, **options)
        np.testing.assert_allclose(found, expected, atol=1e-10)
    one = {"metric": "mahalanobis", "noise": own}
    found = stored.isel(run=0).lens.rdm(memory=2_500, **one)
    np.testing.assert_allclose(found, measured(VALUES[0]).lens.rdm(**one), atol=1e-10)


def test_pooled_in_each_run():
    values = RNG.normal(size=(3, N, 4, 5))
    ds = xr.Dataset({"a_1": (("run", "stimulus", "channel_4", "token_5"), values)})
    ds = ds.assign_coords(stimulus=IDS)
    options = {"metric": "crossnobis", "over": "run", "noise": "identity"}
    found = ds.lens.rdm(pool={"token": "max"}, **options)
    np.testing.assert_allclose(
        found[0], theirs("crossnobis", values.max(-1), np.eye(4)), atol=1e-10
    )


def test_far_from_the_origin():
    """Runs with large means of their own: what all stimuli share is in no difference."""
    values = VALUES + 1e6 * RNG.normal(size=(RUNS, 1, P))
    found = measured(values).lens.rdm(metric="crossnobis", over="run", noise=PRECISION)
    np.testing.assert_allclose(found[0], theirs("crossnobis", noise=PRECISION), atol=1e-7)


def test_a_stimulus_missing_from_a_run_is_named():
    values = VALUES.copy()
    values[2, 3] = np.nan
    with pytest.warns(lf.LensWarning, match="NaN or infinity in it, .* is NaN: 's1'$"):
        found = measured(values).lens.rdm(metric="crossnobis", over="run", noise="identity")[0]
    whole = [k for k in range(N) if k != 3]
    assert np.isnan(found.values[3]).all()
    expected = theirs("crossnobis", VALUES[:, whole], np.eye(P), [IDS[k] for k in whole])
    np.testing.assert_allclose(found.values[np.ix_(whole, whole)], expected, atol=1e-10)


def as_rows(keep=None, **coords):
    """Rows of all runs in one, in no order: a stimulus, a run, and what is measured."""
    rows = [(r, k) for r in range(RUNS) for k in range(N)]
    order = np.random.default_rng(3).permutation(len(rows))
    rows = [rows[i] for i in order if keep is None or keep(*rows[i])]
    names = ["r2", "r10", "r1", "r3"]
    return xr.Dataset(
        {"it": (("stimulus", "voxel"), np.array([VALUES[r, k] for r, k in rows]))},
        {
            "stimulus": [IDS[k] for _, k in rows],
            "run": ("stimulus", [names[r] for r, _ in rows]),
            "kind": ("stimulus", [IDS[k][-1] for _, k in rows]),
            "onset": ("stimulus", np.arange(len(rows))),
            **coords,
        },
    )


@pytest.mark.parametrize("noise", ["identity", "precision"])
def test_runs_that_are_rows(noise, tmp_path):
    own, precision = NOISES[noise]
    rows = as_rows()
    found = rows.lens.rdm(metric="crossnobis", over="run", noise=own)[0]
    expected = theirs("crossnobis", noise=precision)
    np.testing.assert_allclose(found.sel(stimulus=IDS, stimulus_=IDS), expected, atol=1e-10)
    assert (found["kind"].values == [one[-1] for one in found["stimulus"].values]).all()
    assert "onset" not in found.coords  # of a row, not of a stimulus
    rows.drop_vars("kind").to_zarr(tmp_path / "it.zarr")
    stored = xr.open_zarr(tmp_path / "it.zarr")
    again = stored.lens.rdm(metric="crossnobis", over="run", noise=own)[0]
    np.testing.assert_allclose(again, found, atol=1e-10)


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        (lambda r, k: (r, k) != (1, 3), r"missing from run 'r10': 's1'"),
        (lambda r, k: r != 2 or k > 2, r"missing from run 'r1': .*'s10'"),
        (lambda r, k: r == 0 or k == 0, r"missing from run 'r3': .*\(11 in all\)"),
    ],
)
def test_rows_that_lack_a_stimulus_in_a_run(keep, says):
    with pytest.raises(lf.LensValueError, match=f"each stimulus is to be once(?s:.)*{says}"):
        as_rows(keep).lens.rdm(**OPTIONS)


def test_rows_that_come_twice_or_have_no_run():
    rows = as_rows()
    twice = rows.isel(stimulus=[*range(RUNS * N), 4])
    with pytest.raises(lf.LensValueError, match="more than once in run"):
        twice.lens.rdm(**OPTIONS)
    lost = rows["run"].astype(object)
    lost[3] = None
    with pytest.raises(lf.LensValueError, match="rows without a run or without an id"):
        rows.assign_coords(run=lost).lens.rdm(**OPTIONS)
    with pytest.raises(lf.LensValueError, match="'it' has one run"):
        as_rows(lambda r, k: r == 0).lens.rdm(**OPTIONS)


NEGATIVE = np.diag([1.0, 1, 1, 1, 1, -1])
OPTIONS = {"metric": "crossnobis", "over": "run", "noise": "identity"}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"noise": None}, ValueError, "covariance of the noise: give noise=, .*'identity'"),
        ({"metric": "mahalanobis", "over": None, "noise": None}, ValueError, "'identity'"),
        ({"over": None}, ValueError, "give over=, the axis .*over='run'"),
        ({"over": "session"}, ValueError, "no axis of repeats of 'it': .* over 'run'"),
        ({"over": "voxel"}, ValueError, "no axis of repeats of 'it'"),
        ({"over": "stimulus"}, ValueError, "no axis of repeats of 'it'"),
        ({"metric": "mahalanobis"}, ValueError, r"average first, .mean\('run'\)"),
        ({"metric": "correlation"}, ValueError, "over= is for metric='crossnobis', and"),
        ({"metric": "euclidean", "over": None}, ValueError, "noise= is for .* or mahalanobis"),
        ({"noise": "shrinkage"}, ValueError, "noise='shrinkage'; .* 'identity' only"),
        ({"noise": np.eye(P + 1)}, ValueError, f"noise= is 7 x 7, and 'it' has {P} features"),
        ({"noise": np.eye(P)[None]}, ValueError, "noise= is 1 x 6 x 6"),
        ({"noise": np.triu(np.ones((P, P)))}, ValueError, "it is not symmetric"),
        ({"noise": NEGATIVE}, ValueError, "eigenvalues below 0"),
        ({"noise": -DIAGONAL}, ValueError, "values below 0"),
        ({"noise": 2.0}, ValueError, "noise= is one number, and 'it' has 6 features"),
        ({"noise": np.full((P, P), np.nan)}, ValueError, "NaN or infinity"),
        ({"noise": np.full(P, "a")}, TypeError, "no real numbers"),
        ({"noise": np.full(P, 1j)}, TypeError, "no real numbers: complex"),
        ({"noise": {"v1": np.eye(P)}}, KeyError, "noise= has 'v1' and nothing for 'it'"),
    ],
)
def test_what_means_nothing_is_refused(options, error, says):
    with pytest.raises(lf.LensError, match=says) as caught:
        measured().lens.rdm(**{**OPTIONS, **options})
    assert isinstance(caught.value, error)


def test_one_run_is_refused():
    with pytest.raises(lf.LensValueError, match=r"'it' has one run: .*two at least"):
        measured().isel(run=[0]).lens.rdm(**OPTIONS)
    with pytest.raises(lf.LensValueError, match="'it' has no run"):
        measured().isel(run=[]).lens.rdm(**OPTIONS)
    with pytest.raises(lf.LensTypeError, match="metric is a name"):
        measured().isel(run=0).lens.rdm(metric=None)
    with pytest.raises(lf.LensValueError, match="repeated over nothing"):
        measured().isel(run=0).lens.rdm(**OPTIONS)


def test_score_takes_their_rdms_as_references():
    ds = xr.Dataset({"a_1": (("stimulus", "feature_9"), RNG.normal(size=(N, 9)))})
    ds = ds.assign_coords(stimulus=IDS[::-1])
    brain = measured().lens.rdm(**OPTIONS)
    assert ds.lens.score({"it": brain})["score"].notna().all()
    for metric in ("crossnobis", "mahalanobis"):
        with pytest.raises(lf.LensValueError, match="give those as references"):
            ds.lens.score({"it": measured(SIGNAL)["it"]}, metric=metric)
