"""The tutorials of the first day run, and what their text promises holds."""

import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "tutorials"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mpl, "rcParams", mpl.rcParams.copy())
    monkeypatch.setattr(pd, "set_option", lambda *options: None)  # it would stay set
    mpl.use("agg")
    return lambda name: runpy.run_path(str(FOLDER / name))


def test_ten_minutes(run, tmp_path, capsys):
    names = run("ten_minutes.py")
    trace, layers, activations = names["trace"], names["layers"], names["activations"]
    with torch.no_grad():
        assert torch.equal(trace.output, names["model"](names["images"]))
    assert names["report"]["passed"].all()
    assert names["outside"] == {"relu_1"}
    assert names["biggest"] == layers["nbytes"].idxmax()
    relu = activations["relu_2"].values
    silent = (relu == 0).all(axis=0).mean()
    assert names["table"].loc["relu_2", "silent"] == pytest.approx(silent)
    digits = activations["digit"].values
    expected = np.stack([relu.mean((2, 3))[digits == d].mean(0) for d in range(10)])
    np.testing.assert_allclose(names["by_digit"].values, expected, rtol=1e-5)
    assert names["by_digit"].dims == ("digit", "channel")
    assert (names["effects"]["metric"] > 0).all()
    assert names["values"]["relu_2"].equals(activations["relu_2"])
    assert (tmp_path / "block.svg").read_text().count('class="node"') >= len(names["block"])
    assert "select rows" in capsys.readouterr().out


def test_recurrent(run, tmp_path):
    """Margins: accuracy 0.92 here; a decoder after one row 0.4, after eight above 0.9."""
    names = run("recurrent.py")
    assert names["accuracy"] > 0.8
    layers = names["layers"]
    assert layers.loc["tanh_1:8", "n_passes"] == 8
    assert names["rolled"].loc["linear_2", "parent_passes"] == ("1>1", "1-7>2-8")
    assert names["rolled"].lens.unroll().equals(layers)
    assert names["known"].iloc[-1] > names["known"].iloc[0] + 0.2
    similarity = names["similarity"]
    assert similarity.sel(layer="tanh_1:1", layer_="tanh_1:8") < similarity.sel(
        layer="tanh_1:4", layer_="tanh_1:8"
    )
    assert names["right"]["forgets"] < names["right"]["as it is"] - 0.1
    loops = names["settled"].lens.roll()
    assert loops.loc["tanh_1", "n_passes"] > 3
    assert loops.loc["lt_1", "read_by"][0].startswith("bool: recurrent.py:")
    assert (tmp_path / "circuit.svg").stat().st_size > 0


def test_a_slow_model(run, tmp_path):
    names = run("slow_model.py")
    shares = names["modules"] / names["modules"].loc[""]
    assert shares.loc["attend", "flops"] > 0.85
    assert shares.loc["attend", "act_bytes"] > 0.9
    assert shares.loc["attend", "params"] < 0.1
    assert names["lines"]["flops"].idxmax().startswith("slow_model.py:")
    assert list(names["most"].index[:2]) == ["div_1", "softmax_1"]
    ratio = names["table"]["ratio"]
    assert ratio["MFLOP"] > 5
    assert ratio["peak MB"] > 10
    assert names["both"].loc["softmax_1", "shape_str_after"] == "1x576x576"
    assert (names["history"].groupby("version")["n_params"].sum() == 9026).all()
    for name in ("roofline.png", "time.png", "before.svg", "trace.json"):
        assert (tmp_path / name).stat().st_size > 0


CHECKED = """
import runpy, sys
import numpy as np
names = runpy.run_path(sys.argv[1])
ours, theirs = names["ours"], names["theirs"]
assert ours["valid"]
assert names["flops"].to_dict() == {"linear": 200, "relu": 0}
assert set(names["gradients"]) == {"linear_1", "relu_1", "linear_2", "output_1"}
assert bool(theirs) == ("torchlens" in sys.modules)
for name in ("value", "module", "pass", "extract", "params", "valid"):
    assert name not in theirs or np.array_equal(theirs[name], ours[name]), name
print("checked")
"""


def test_from_torchlens(tmp_path):
    """In a process of its own: TorchLens wraps torch's functions for good."""
    code = f'{CHECKED}  # run("from_torchlens.py")'
    command = [sys.executable, "-W", "ignore", "-c", code, str(FOLDER / "from_torchlens.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.endswith("checked\n"), done.stderr


def test_from_others(run):
    names = run("from_others.py")
    trace = names["trace"]
    np.testing.assert_array_equal(
        names["flat"].values, names["stored"]["relu_1"].values.reshape(200, -1)
    )
    assert names["stored"]["digit"].values.tolist() == names["names"]["digit"].tolist()
    assert float(names["alike"]["score"].iloc[0]) == pytest.approx(
        np.corrcoef(*(upper(names["rdms"].values[k]) for k in (0, 1)))[0, 1]
    )
    with torch.no_grad():
        block = names["language"][1](names["language"][0](names["text"]))
    hidden = names["hidden"].values
    # torch's fused attention, which a trace is without, differs by rounding
    np.testing.assert_allclose(hidden, block.numpy(), rtol=1e-3, atol=1e-6)
    assert (names["zeroed"].activations["edit_1"] == 0).all()
    np.testing.assert_array_equal(names["halved"].activations["edit_1"], hidden / 2)
    assert (names["effects"]["metric"] > 0).all()
    assert len(names["early"].layers) < len(trace.layers)


def upper(square):
    return square[np.triu_indices(len(square), 1)]
