"""What is an RDM, what are features, and what is refused by name."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

import lensframe_pd as lf
from lensframe_pd.rsa.references import reference
from lensframe_pd.rsa.score import score

RNG = np.random.default_rng(5)
N = 12
IDS = pd.Index([f"s{i}" for i in range(N)])
FEATURES = RNG.normal(size=(N, N))
RDM = squareform(pdist(FEATURES, "correlation"))
NAN = RDM.copy()
NAN[3], NAN[:, 3] = np.nan, np.nan
NAN_DIAGONAL = RDM.copy()
np.fill_diagonal(NAN_DIAGONAL, np.nan)
NOISY = RDM + RNG.normal(size=(N, N)) * 0.1


def frame(values, ids=IDS, columns=None):
    return pd.DataFrame(values, index=ids, columns=ids if columns is None else columns)


def array(values, second=IDS):
    coords = {"stimulus": IDS, "stimulus_": second}
    return xr.DataArray(values, coords, ("stimulus", "stimulus_"))


@pytest.mark.parametrize(
    "value",
    [
        frame(RDM),
        frame(RDM.round(6) + np.triu(np.full((N, N), 1e-7), 1)),  # rounded when it was stored
        frame(RDM).loc[IDS[::-1]],
        frame(RDM).loc[IDS[::-1], IDS[[*range(3, N), 0, 1, 2]]],
        frame(RDM.astype(np.float32)),
        frame(NAN),
        frame(NAN_DIAGONAL),
        frame(RDM - 0.5 * (1 - np.eye(N))),  # crossnobis: some are below 0
        array(RDM),
        array(RDM).isel(stimulus=slice(None, None, -1)),
        array(RDM).expand_dims("layer"),
    ],
)
def test_an_rdm(value):
    found = reference("it", value, IDS)
    assert found.is_rdm
    off = ~np.eye(N, dtype=bool)
    shift = 0.5 if np.nanmin(found.values[off]) < RDM[off].min() - 0.1 else 0
    there = ~np.isnan(found.values) & off
    assert there.sum() in (N * (N - 1), (N - 1) * (N - 2))
    np.testing.assert_allclose(found.values[there] + shift, RDM[there], atol=2e-6)


@pytest.mark.parametrize("value", [frame, array])
@pytest.mark.parametrize(
    ("values", "says"),
    [
        (1 - RDM, "diagonal is not 0, as of a similarity"),
        (1 - RDM / 2, "diagonal is not 0"),
        (np.triu(RDM), "not symmetric .*triangle"),
        (np.tril(RDM), "not symmetric"),
        (NOISY - np.diag(NOISY.diagonal()), "not symmetric"),
        (NOISY + np.eye(N), "not symmetric.*; its diagonal is not 0"),
        (RDM + np.eye(N) * 0.3, "diagonal is not 0"),
        (np.where(np.arange(N) == 3, np.nan, RDM), "not symmetric"),
    ],
)
def test_named_as_an_rdm_and_none(value, values, says):
    with pytest.raises(lf.LensValueError, match=f"reference 'it' has the same ids.*{says}"):
        reference("it", value(values), IDS)


NUMBERED = pd.RangeIndex(N)


@pytest.mark.parametrize(
    ("value", "is_rdm"),
    [
        (frame(RDM, NUMBERED), True),
        (frame(FEATURES, NUMBERED), False),  # nobody named its columns
        (frame(FEATURES, NUMBERED, [f"v{i}" for i in range(N)]), False),
        (frame(FEATURES, pd.Index(range(N))[::-1], range(N)), False),
    ],
)
def test_numbered_stimuli(value, is_rdm):
    found = reference("it", value, NUMBERED)
    assert found.is_rdm is is_rdm
    np.testing.assert_array_equal(found.values, value.loc[[*NUMBERED]].to_numpy())


@pytest.mark.parametrize(
    "values", [1 - RDM, np.triu(RDM), NOISY - np.diag(NOISY.diagonal()), RDM + np.eye(N)]
)
def test_numbered_stimuli_of_what_is_no_rdm(values):
    with pytest.raises(lf.LensValueError, match="is no RDM"):
        reference("it", frame(values, NUMBERED), NUMBERED)


def test_a_table_of_features_scores_the_same_whatever_its_columns_are_called():
    ds = xr.Dataset({"a_1": (("stimulus", "feature_9"), RNG.normal(size=(N, 9)))})
    ds = ds.assign_coords(stimulus=[*NUMBERED])
    tables = {
        "numbered": pd.DataFrame(FEATURES),
        "named": frame(FEATURES, NUMBERED, [f"v{i}" for i in range(N)]),
    }
    found = score(ds, tables)["score"]
    own = pdist(ds["a_1"].to_numpy(), "correlation")
    expected = spearmanr(own, pdist(FEATURES, "correlation")).statistic
    assert found.to_list() == pytest.approx([expected] * 2)


# ------------------------------------------------------------------ axes


@pytest.mark.parametrize(
    "dims",
    [
        ("stimulus", "voxel"),
        ("neuroid", "stimulus"),
        ("stimulus", "feature"),
        ("stimulus", "channel_4"),
        ("stimulus", "channel", "y", "x"),
        ("stimulus", "head", "token", "token_"),
        ("stimulus", "dim1", "dim2_3"),
    ],
)
def test_axes_that_are_features(dims):
    shape = [N if d == "stimulus" else 2 for d in dims]
    value = xr.DataArray(RNG.normal(size=shape), {"stimulus": IDS}, dims)
    found = reference("it", value, IDS)
    assert not found.is_rdm
    expected = value.transpose("stimulus", ...).to_numpy().reshape(N, -1)
    np.testing.assert_array_equal(found.values, expected)


@pytest.mark.parametrize(
    ("dims", "named"),
    [
        (("stimulus", "run"), r"run \(2\)"),
        (("animal", "stimulus", "voxel"), r"animal \(2\), voxel \(2\)"),
        (("stimulus", "voxel", "roi"), r"voxel \(2\), roi \(2\)"),
        (("run", "stimulus", "channel", "sensor"), r"sensor \(2\)"),
    ],
)
def test_axes_that_are_refused_by_name(dims, named):
    shape = [N if d == "stimulus" else 2 for d in dims]
    value = xr.DataArray(np.ones(shape), {"stimulus": IDS}, dims)
    with pytest.raises(lf.LensValueError, match=rf"reference 'it' has {named}, which is not taken"):
        reference("it", value, IDS)


@pytest.mark.parametrize(
    ("dims", "over"),
    [
        (("subject", "stimulus", "voxel"), ("subject",)),
        (("run", "subject", "stimulus", "feature"), ("run", "subject")),
        (("checkpoint", "stimulus", "channel", "y"), ("checkpoint",)),
        (("stimulus", "pass_num", "feature"), ("pass_num",)),
        (("stimulus", "session", "time", "channel"), ("session",)),
        (("stimulus_", "animal", "stimulus"), ("animal",)),
        (("run", "stimulus", "roi", "stimulus_"), ("run", "roi")),
    ],
)
def test_axes_that_it_is_repeated_over(dims, over):
    """In any order of the axes, at each place what stands there, in the order of the ids."""
    sizes = {"stimulus": N, "stimulus_": N}
    shape = [sizes.get(d, 2) for d in dims]
    coords = {d: IDS[::-1] for d in dims if d in sizes}
    value = xr.DataArray(RNG.random(shape), coords, dims)
    if "stimulus_" in dims:
        value = value + value.rename(stimulus="stimulus_", stimulus_="stimulus")
        value = value * xr.DataArray(1 - np.eye(N), dict.fromkeys(sizes, IDS[::-1]), [*sizes])
    found = reference("it", value, IDS)
    assert found.is_rdm == ("stimulus_" in dims)
    assert found.over.dims == tuple(d for d in value.dims if d in over)
    for place in np.ndindex(found.over.shape):
        one = value.isel(dict(zip(found.over.dims, place, strict=True)))
        one = one.sel({d: IDS for d in sizes if d in one.dims}).transpose("stimulus", ...)
        np.testing.assert_array_equal(found.values[place], one.to_numpy().reshape(N, -1))


def test_places_are_named_where_something_is_wrong():
    value = xr.concat([array(RDM), array(1 - RDM)], pd.Index(["s1", "s2"], name="subject"))
    with pytest.raises(lf.LensValueError, match=r"'it' at subject='s2' has the same.*simil"):
        reference("it", value, IDS)


def test_an_rdm_named_on_one_side():
    with pytest.raises(lf.LensValueError, match=r"none along stimulus_.*both"):
        reference("it", array(RDM).drop_vars("stimulus_"), IDS)


@pytest.mark.parametrize(
    "value",
    [
        frame(np.full((N, 2), "a"), columns=["u", "v"]),
        frame(np.full((N, 2), 1j), columns=["u", "v"]),
        xr.DataArray(np.full((N, 2), "a"), {"stimulus": IDS}, ("stimulus", "unit")),
        FEATURES,
        [1, 2],
    ],
)
def test_no_numbers(value):
    with pytest.raises(lf.LensTypeError):
        reference("it", value, IDS)


def test_ids_that_are_missing():
    value = frame(FEATURES[:, :5], [*IDS[:-1], None], range(5))
    with pytest.raises(lf.LensValueError, match="reference 'it' has ids that are missing, 1"):
        reference("it", value, IDS)
