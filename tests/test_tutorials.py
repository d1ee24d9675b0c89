"""Each tutorial runs from a fresh folder, and says what its text promises."""

import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr

FOLDER = Path(__file__).parents[1] / "tutorials"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tutorial"])
    monkeypatch.setattr(pd, "set_option", lambda *options: None)  # it would stay set
    return lambda name: runpy.run_path(str(FOLDER / name))


def test_demo(run, tmp_path, capsys, several_threads):
    names = run("demo.py")
    model, layers, activations = names["model"], names["layers"], names["activations"]
    assert names["same"]
    assert names["report"]["passed"].all()
    assert layers["n_params"].sum() == names["own"] == 11_689_512
    assert names["by_func"].loc["conv2d", "parameters"] == sum(
        p.numel() for p in model.parameters() if p.dim() == 4
    )
    china = activations["relu_17"].values[0].mean()
    assert names["per_image"].sel(stimulus="china").item() == pytest.approx(china)
    folder = tmp_path / "demo"
    assert list(pd.read_parquet(folder / "layers.parquet").index) == list(layers.index)
    assert list(pd.read_feather(folder / "layers.arrow").index) == list(layers.index)
    with xr.open_dataset(folder / "activations.nc") as stored:
        np.testing.assert_array_equal(stored["relu_17"], activations["relu_17"])
    svg = (folder / "resnet18.svg").read_text()
    assert svg.count('class="node"') == len(layers) + 1  # the legend
    printed = capsys.readouterr().out
    assert all(path.name in printed for path in folder.iterdir())
    for name in ("resnet18.png", "stages.png", "layer2.0.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_first_trace(run, tmp_path):
    names = run("first_trace.py")
    activations, relus = names["activations"], names["relus"]
    assert len(relus) == 16
    for op in relus.index:
        zeros = np.count_nonzero(activations[op].values == 0) / activations[op].size
        assert names["layers"].loc[op, "sparsity"] == pytest.approx(zeros)
        assert names["per_image"][op].mean() == pytest.approx(zeros)
    svg = (tmp_path / "sparsity.svg").read_text()
    assert svg.count('class="node"') == len(names["shown"]) + 1  # the legend
    assert all(color in svg for color in names["colors"])
    assert "sparsity" in pd.read_parquet(tmp_path / "layers.parquet").columns


def test_dataset(run, tmp_path):
    names = run("dataset.py")
    seen, model, images = names["seen"], names["model"], names["images"]
    assert 0 < names["left"] <= 1700
    assert names["plan"]["bytes"].sum() == sum(
        chunk.stat().st_size
        for name in seen.data_vars
        for chunk in (tmp_path / "patches.zarr" / name / "c").rglob("*")
        if chunk.is_file()
    )
    for k in (0, 30, 39):  # computed by the one that was killed, and after
        part = slice(50 * k, 50 * k + 50)
        expected = model(images[part]).numpy().astype(np.float16)
        np.testing.assert_array_equal(seen["linear_1"].values[part], expected)
    assert list(seen["photograph"].values[[0, 1999]]) == ["china", "coffee"]
    assert (names["contrast"] > 0).all()
    few = names["few"]["relu_17"]
    np.testing.assert_array_equal(few.values, seen["relu_17"].values[:200])


@pytest.mark.filterwarnings("ignore::UserWarning:matplotlib.*")
def test_tokens(run, tmp_path, monkeypatch):
    monkeypatch.setattr(mpl, "rcParams", mpl.rcParams.copy())
    mpl.use("agg")
    names = run("tokens.py")
    for text, (prompt, step) in zip(
        names["spelt"](names["trace"].output), names["prompts"]["step"].items(), strict=True
    ):
        alphabet = "abcdefghijklmnopqrstuvwxyz"
        assert text.strip("_") == alphabet[alphabet.index(prompt[0]) :: step] + "."
    block, out = names["block"], names["trace"].output
    counted = [len(text.strip("_")) for text in names["spelt"](out)]
    # the last token of the longest was written, and never read
    longest = max(counted)
    assert block["valid"].sum("token").values.tolist() == [n - (n == longest) for n in counted]
    assert names["difference"] < 1e-5
    by_depth = names["by_depth"]
    assert (by_depth["first letter"] < 0.45).all()
    assert by_depth.loc["model.embed_tokens"].max() < 0.6
    assert by_depth.loc["model.layers.2", ["second", "later"]].min() > 0.7
    assert (tmp_path / "next_letter.png").exists()


def test_every_tutorial_has_a_test():
    files = Path(__file__).parent.glob("test_tutorials*.py")
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [p.name for p in FOLDER.glob("*.py") if f'run("{p.name}")' not in source] == []
