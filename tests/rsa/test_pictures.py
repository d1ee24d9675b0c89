"""What pictures show is read back from them."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import lensframe_pd as lf

mpl.use("agg")
import matplotlib.pyplot as plt

RNG = np.random.default_rng(5)
N = 9
IDS = [f"im{k}" for k in range(N)]
KINDS = list("bacbacbac")


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def net():
    names = ("a_1", "b_1", "c_1")
    variables = {k: (("stimulus", "feature_5"), RNG.normal(size=(N, 5))) for k in names}
    return xr.Dataset(variables, {"stimulus": IDS, "kind": ("stimulus", KINDS)})


def images(figure):
    return [ax.images[0] for ax in figure.axes if ax.images and ax.get_title()]


# ------------------------------------------------------------------ RDMs


def test_panels_share_a_scale(net):
    rdms = net.lens.rdm(metric="sqeuclidean")
    figure = lf.plot_rdm(rdms)
    shown = images(figure)
    assert len(shown) == 3
    assert {image.get_clim() for image in shown} == {(0, rdms.values.max())}
    for image, one in zip(shown, rdms, strict=True):
        np.testing.assert_array_equal(image.get_array(), one)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["a_1", "b_1", "c_1"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == IDS
    assert figure.axes[-1].get_ylabel() == "squared Euclidean distance"


@pytest.mark.parametrize("label", [None, "kind"])
def test_sorted_by_a_column(net, label):
    rdms = net.lens.rdm()
    figure = lf.plot_rdm(rdms, sort="kind", label=label)
    order = sorted(range(N), key=lambda k: KINDS[k])  # stable
    for image, one in zip(images(figure), rdms.values, strict=True):
        np.testing.assert_array_equal(image.get_array(), one[np.ix_(order, order)])
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    assert list(ax.get_yticks()) == [1, 4, 7]
    assert [line.get_ydata()[0] for line in ax.lines[::2]] == [2.5, 5.5]


def test_sorted_by_ids_and_labelled_by_them(net):
    rdms, wanted = net.lens.rdm("a_1"), IDS[::-2] + IDS[-2::-2]
    figure = lf.plot_rdm(rdms, sort=wanted, label="stimulus")
    expected = rdms[0].sel(stimulus=wanted, stimulus_=wanted)
    np.testing.assert_array_equal(images(figure)[0].get_array(), expected)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == wanted


def test_scores_with_columns_of_categories(net):
    """As of a frame that was read with them: a category that no row has is no line."""
    brain = pd.DataFrame(np.random.default_rng(0).normal(size=(len(IDS), 4)), IDS)
    scores = net.lens.score({"V1": brain, "V4": brain}).astype({"reference": "category"})
    scores = scores.astype({"op": "category"}).query("reference == 'V1'")
    ax = lf.plot_scores(scores, x="op")
    labels = [line.get_label() for line in ax.lines]
    assert "V1" in labels
    assert "V4" not in labels


def test_sides_in_other_orders_are_joined(net):
    """As `.sortby("kind")` leaves them."""
    rdms = net.lens.rdm("a_1")
    figure = lf.plot_rdm(rdms.sortby("kind"))
    expected = rdms[0].sel(stimulus=(ids := rdms.sortby("kind")["stimulus"].values), stimulus_=ids)
    np.testing.assert_array_equal(images(figure)[0].get_array(), expected)
    frame = rdms[0].to_pandas().iloc[::-1]
    shown = lf.plot_rdm(frame).axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown, frame.loc[:, frame.index])


def test_places_are_panels(net):
    joined = xr.concat([net, net + 1, net * 3], pd.Index([10, 20, 30], name="checkpoint"))
    figure = lf.plot_rdm(joined.lens.rdm(["a_1", "c_1"], metric="cityblock"))
    titles = [ax.get_title() for ax in figure.axes[:6]]
    assert titles == [f"{layer}\ncheckpoint {k}" for layer in ("a_1", "c_1") for k in (10, 20, 30)]


def test_missing_values_and_values_below_0(net):
    rdm = net.lens.rdm("a_1")[0] - 0.5
    rdm[2], rdm[:, 2] = np.nan, np.nan
    image = images(lf.plot_rdm(rdm))[0]
    assert image.get_array().mask.sum() == 2 * N - 1
    assert image.get_clim() == (np.nanmin(rdm), np.nanmax(rdm))
    assert image.cmap.get_bad() == pytest.approx(mpl.colors.to_rgba("#999999"))


def test_many_stimuli_and_many_layers():
    ds = xr.Dataset(
        {f"a_{k}": (("stimulus", "feature_3"), RNG.normal(size=(80, 3))) for k in range(8)}
    )
    figure = lf.plot_rdm(ds.lens.rdm())
    assert len(images(figure)) == 8
    assert not figure.axes[0].get_yticklabels()
    with pytest.raises(lf.LensValueError, match=r"80 RDMs, along 'layer', 'run', .* 60 at most"):
        lf.plot_rdm(ds.expand_dims(run=10).lens.rdm())


@pytest.mark.parametrize(
    ("make", "options", "error", "says"),
    [
        (lambda r: r.values, {}, TypeError, "not a ndarray"),
        (lambda r: r[0, 0], {}, ValueError, "this has stimulus_"),
        (lambda r: r[:, :4], {}, ValueError, "one side has 4 stimuli, the other 9"),
        (lambda r: r.assign_coords(stimulus_=IDS[:-1] + ["x"]), {}, ValueError, "same stimuli"),
        (lambda r: r * np.nan, {}, ValueError, "no dissimilarity that is a number"),
        (lambda r: r, {"sort": "knid"}, KeyError, "did you mean 'kind'"),
        (lambda r: r, {"label": "layer"}, KeyError, "no coordinate of the stimuli 'layer'"),
        (lambda r: r, {"sort": IDS[1:]}, ValueError, "only in the RDM: 'im0'"),
        (lambda r: r, {"sort": [*IDS, "im0"]}, ValueError, "more than once: 'im0'"),
    ],
)
def test_no_rdm(net, make, options, error, says):
    with pytest.raises(lf.LensError, match=says) as caught:
        lf.plot_rdm(make(net.lens.rdm()), **options)
    assert isinstance(caught.value, error)


# ------------------------------------------------------------------ scores


def brain(subjects=4):
    values = RNG.normal(size=(subjects, N, 6))
    coords = {"stimulus": IDS, "subject": [f"p{k}" for k in range(subjects)]}
    return xr.DataArray(values, coords, ("subject", "stimulus", "voxel"))


def drawn(ax, name):
    """The points of the line of this name, its intervals, and its dots."""
    lines = [line for line in ax.lines if line.get_linestyle() == "-"]
    line = next(line for line in lines if line.get_label() == name or not name)
    colour = line.get_color()
    bars = [c for c in ax.collections if (mpl.colors.to_rgba(colour) == c.get_color()).all()]
    return line.get_xydata(), [tuple(b[:, 1]) for b in bars[0].get_segments()]


def test_a_line_with_intervals_and_a_ceiling(net):
    references = {"it": brain(), "rdm": net.lens.rdm("a_1")}
    scores = net.lens.score(references, bootstrap=30)
    ax = lf.plot_scores(scores)
    first = scores[scores["reference"] == "it"].drop_duplicates("op")
    points, bars = drawn(ax, "it")
    np.testing.assert_allclose(points, first[["depth", "mean"]])
    np.testing.assert_allclose(bars, first[["mean_low", "mean_high"]])
    points, bars = drawn(ax, "rdm")
    own = scores[scores["reference"] == "rdm"]
    np.testing.assert_allclose(points, own[["depth", "score"]])
    np.testing.assert_allclose(bars, own[["low", "high"]])
    (band,) = ax.patches
    assert [band.get_y(), band.get_y() + band.get_height()] == pytest.approx(
        first[["ceiling_low", "ceiling_high"]].iloc[0].tolist()
    )
    said = [text.get_text() for text in ax.get_legend().get_texts()]
    assert said == ["it", "rdm", "noise ceiling of it"]
    assert ax.get_ylabel() == "spearman, mean over subject"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a_1", "b_1", "c_1"]
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert sorted(y for line in dots for y in line.get_ydata()) == pytest.approx(
        sorted(scores.loc[scores["reference"] == "it", "score"])
    )


def test_of_one_subject_it_is_that_subjects(net):
    scores = net.lens.score({"it": brain()}, bootstrap=30).query("subject == 'p2'")
    points, bars = drawn(lf.plot_scores(scores), "it")
    np.testing.assert_allclose(points[:, 1], scores["score"])
    np.testing.assert_allclose(bars, scores[["low", "high"]])


def test_of_some_subjects_there_is_no_interval(net):
    scores = net.lens.score({"it": brain()}, bootstrap=30).query("subject != 'p2'")
    points, bars = drawn(lf.plot_scores(scores), "it")
    np.testing.assert_allclose(points[:, 1], scores.groupby("op")["score"].mean())
    assert bars == []


@pytest.mark.parametrize(("x", "places"), [("op", [0, 1, 2]), ("step", [7, 3, 30])])
def test_any_column(net, x, places):
    scores = net.lens.score({"it": brain(2).mean("subject")}).assign(step=[7, 3, 30])
    ax = scores.lens.plot_scores(x=x)
    points, _ = drawn(ax, "it")
    expected = sorted(zip(places, scores["score"], strict=True))
    np.testing.assert_allclose(points, expected)
    assert ax.get_xlabel() == x


def test_lines_by_another_column(net):
    joined = xr.concat([net, net + RNG.normal(size=5)], pd.Index([10, 20], name="checkpoint"))
    scores = joined.lens.score({"it": brain(2)})
    with pytest.raises(lf.LensValueError, match=r"4 rows for 'it' .* in 'checkpoint'.*hue="):
        lf.plot_scores(scores)
    ax = lf.plot_scores(scores, hue="checkpoint")
    for checkpoint in (10, 20):
        own = scores[scores["checkpoint"] == checkpoint].drop_duplicates("op")
        np.testing.assert_allclose(drawn(ax, str(checkpoint))[0], own[["depth", "mean"]])
    two = pd.concat([scores, scores.assign(metric="other")])
    with pytest.raises(lf.LensValueError, match="differ in 'metric'"):
        lf.plot_scores(two[two["checkpoint"] == 10])
    one = scores[scores["checkpoint"] == 10]
    with pytest.raises(lf.LensValueError, match="'a_1' is there 4 times for 'it'"):
        lf.plot_scores(pd.concat([one, one]))


def test_passes_share_their_depth():
    values = pd.DataFrame(
        {
            "op": ["a_1:1", "a_1:2", "b_1"], "layer": ["a_1", "a_1", "b_1"], "depth": [0, 0, 1],
            "score": [0.1, 0.5, 0.4],
        }
    )  # fmt: skip
    ax = lf.plot_scores(values)
    np.testing.assert_allclose(drawn(ax, "")[0], [[0, 0.3], [1, 0.4]])
    points = next(line for line in ax.lines if line.get_marker() == "o")
    assert list(points.get_ydata()) == [0.1, 0.5, 0.4]


def test_frames_of_folds():
    """As of encode: the line is the mean over folds and targets."""
    rows = [
        {"op": op, "depth": d, "target": t, "fold": f, "alpha": 1.0, "score": RNG.random(),
         "measure": "r", "n_train": 8, "n_test": 2}
        for d, op in enumerate(("a_1", "b_1")) for t in ("v1", "v2") for f in range(3)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    ax = lf.plot_scores(frame)
    np.testing.assert_allclose(drawn(ax, "")[0][:, 1], frame.groupby("op")["score"].mean())
    assert ax.get_ylabel() == "r, mean over fold, target"


def test_in_given_axes_and_in_a_dark_style(net):
    scores = net.lens.score({"it": brain()})
    _, ax = plt.subplots()
    assert lf.plot_scores(scores, ax=ax) is ax
    with plt.style.context("dark_background"):
        ax = lf.plot_scores(scores)
        assert ax.get_facecolor() == ax.figure.get_facecolor() == (0, 0, 0, 1)
        line = next(line for line in ax.lines if line.get_label() == "it")
        assert sum(mpl.colors.to_rgb(line.get_color())) > 1.5
        assert lf.plot_rdm(net.lens.rdm()).get_facecolor() == (0, 0, 0, 1)


def test_many_layers_have_a_band_in_place_of_bars():
    frame = pd.DataFrame({"op": [f"a_{k}" for k in range(60)], "depth": np.linspace(0, 1, 60)})
    frame["score"] = RNG.random(60)
    frame = frame.assign(reference="it", low=frame["score"] - 0.1, high=frame["score"] + 0.1)
    ax = lf.plot_scores(frame)
    (band,) = ax.collections
    vertices = band.get_paths()[0].vertices
    for ends in ("low", "high"):
        expected = frame[["depth", ends]].to_numpy()
        assert all(np.isclose(vertices, point).all(axis=1).any() for point in expected)
    assert not [line for line in ax.lines if line.get_marker() not in ("None", "")]


def test_a_ceiling_that_all_lines_share_is_one(net):
    joined = xr.concat([net, net * 2 + 1], pd.Index([10, 20], name="checkpoint"))
    ax = lf.plot_scores(joined.lens.score({"it": brain()}), hue="checkpoint")
    assert len(ax.patches) == 1
    said = [text.get_text() for text in ax.get_legend().get_texts()]
    assert said == ["10", "20", "noise ceiling"]


def test_more_lines_than_the_style_has_colours(net):
    references = {f"r{k}": brain(2).mean("subject") for k in range(14)}
    ax = lf.plot_scores(net.lens.score(references))
    assert len({line.get_color() for line in ax.lines if line.get_label().startswith("r")}) == 14


@pytest.mark.parametrize(
    ("change", "options", "error", "says"),
    [
        (lambda s: s.drop(columns="score"), {}, KeyError, "no column 'score'"),
        (lambda s: s, {"x": "dept"}, KeyError, "did you mean 'depth'"),
        (lambda s: s, {"hue": "roi"}, KeyError, "no column 'roi'"),
        (lambda s: s.assign(score=np.nan), {}, ValueError, "no row has a score"),
        (lambda s: s.iloc[:0], {}, ValueError, "no row has a score"),
        (lambda s: s["score"], {}, TypeError, "not a Series"),
    ],
)
def test_no_scores(net, change, options, error, says):
    scores = change(net.lens.score({"it": net.lens.rdm("a_1")}))
    with pytest.raises(lf.LensError, match=says) as caught:
        lf.plot_scores(scores, **options)
    assert isinstance(caught.value, error)
