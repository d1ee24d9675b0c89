"""Each tutorial runs from a fresh folder, and says what its text promises."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

FOLDER = Path(__file__).parents[1] / "tutorials"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda name: runpy.run_path(str(FOLDER / name))


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


def test_every_tutorial_has_a_test():
    files = Path(__file__).parent.glob("test_tutorials*.py")
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [p.name for p in FOLDER.glob("*.py") if f'run("{p.name}")' not in source] == []
