"""Validation goes by columns and values: of stopped and seeded runs, without attrs, from files."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch import nn

import lensframe_pd as lf

from .reports import failed, writable


class Noisy(nn.Module):
    """A recurrent cell that drops out at every step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.Linear(4, 4)

    def forward(self, x):
        h = torch.zeros(len(x), 4)
        for t in range(x.shape[1]):
            h = nn.functional.dropout(torch.tanh(self.cell(x[:, t]) + h), 0.5, training=True)
        return h


X = torch.linspace(-1, 1, 24).reshape(2, 3, 4)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    blocks = [2, 2, 1, 1]  # as a ResNet-18 to where the runs are stopped
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, blocks).eval()


IMAGES = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)


def as_traced(layers, activations, folder):
    return layers, activations


def without_attrs(layers, activations, folder):
    layers, activations = layers.copy(), activations.copy()
    layers.attrs.clear()
    activations.attrs.clear()
    return layers, activations


def with_forged_attrs(layers, activations, folder):
    layers = layers.copy()
    layers.attrs.update(stopped=True, seed=99, repeats=7, seconds=-1.0)
    return layers, activations


def from_files(layers, activations, folder):
    layers.to_parquet(folder / "layers.parquet")
    lf.write(activations, folder / "activations.zarr")
    layers = pd.read_parquet(folder / "layers.parquet")
    layers.attrs.clear()
    return layers, lf.read(folder / "activations.zarr")


ways = pytest.mark.parametrize("way", [as_traced, without_attrs, with_forged_attrs, from_files])


ENDS = {"module": "layer2", "row": "relu_5", "first": "bn1", "two": ["conv2d_1", "layer1.0"]}


@pytest.fixture(scope="module", params=ENDS)
def stopped_at(request, resnet):
    with torch.no_grad():
        trace = lf.trace(resnet, IMAGES, save=ENDS[request.param], stop=True)
    assert trace.validate()["passed"].all()
    return trace


@ways
def test_a_stopped_run(resnet, stopped_at, way, tmp_path):
    layers, activations = way(*stopped_at, tmp_path)
    report = layers.lens.validate(resnet, IMAGES, activations=activations)
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].tolist()
    assert len(report) == len(layers)


@ways
def test_a_whole_run_without_its_tail(resnet, way, tmp_path):
    with torch.no_grad():
        layers, activations = way(*lf.trace(resnet, IMAGES), tmp_path)
    cut = layers.iloc[:20]
    report = cut.lens.validate(resnet, IMAGES, activations=activations[list(cut.index)])
    assert failed(report, "invariants") == {*layers.index[20:]}
    assert report.loc["output_1", "reason"].startswith("invariants: the frame lacks this row")


@pytest.fixture(scope="module")
def stopped(resnet):
    with torch.no_grad():
        return lf.trace(resnet, IMAGES, save="layer1", stop=True).layers


@pytest.mark.parametrize("op", ["input_1", "relu_2", "relu_5"])
def test_a_row_dropped_from_a_stopped_run(resnet, stopped, op):
    """Of the last row, what is left has none that says it is the end."""
    assert stopped.index[-1] == "relu_5"
    report = stopped.drop(index=op).lens.validate(resnet, IMAGES)
    assert report.loc[op, "reason"].startswith("invariants: the frame lacks this row")


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("parents", ("relu_1",)), ("returned_by", ()), ("step", 99), ("module", "layer1"),
        ("shape_str", "1x1"), ("context", "{}"), ("read_by", ("bool: here.py:1",)),
    ],
)  # fmt: skip
def test_a_changed_row_of_a_stopped_run(resnet, stopped, column, cell):
    wrong = stopped.copy()
    wrong.at["relu_3", column] = cell
    report = wrong.lens.validate(resnet, IMAGES)
    assert not report.loc["relu_3", "passed"]


@pytest.mark.parametrize(
    "cell",
    [
        "", "{}", "nonsense", "[]", '{"stopped": "layer1:1"}', '{"grad": false}',
        '{"grad": false, "stopped": true}', '{"grad": false, "stopped": "layer2:1"}',
        '{"grad": false, "stopped": 3}', '{"grad": false, "stopped": {}}',
    ],
)  # fmt: skip
def test_another_end_of_a_stopped_run(resnet, stopped, cell):
    assert json.loads(stopped["context"].iloc[-1]) == {"grad": False, "stopped": "layer1:1"}
    wrong = stopped.copy()
    wrong.loc[wrong.index[-1], "context"] = cell
    assert not wrong.lens.validate(resnet, IMAGES)["passed"].all()


def test_a_changed_value_of_a_stopped_run(resnet, stopped):
    with torch.no_grad():
        layers, activations = lf.trace(resnet, IMAGES, save=stopped, stop=True)
        changed = writable(activations, "relu_3")
        changed["relu_3"][0, 0, 0, 0] += 1
        report = layers.lens.validate(resnet, IMAGES, activations=changed)
    assert "relu_3" in failed(report, "replay")


class Hidden(nn.Module):
    """Two operations that no function mode can see, before and after a visible one."""

    def forward(self, x):
        x = self.unseen(torch.sin, x * 2)
        return self.unseen(torch.cos, x.relu()) * 3

    def unseen(self, function, x):
        with torch._C.DisableTorchFunction():
            return function(x)


@pytest.mark.filterwarnings("ignore::lensframe_pd.LensWarning")
def test_what_ran_after_the_stop_is_not_missing():
    trace = lf.trace(Hidden().eval(), X, save="relu_1", stop=True)
    for report in (trace.validate(), trace.layers.lens.validate(Hidden().eval(), X)):
        assert report.attrs["aten_gaps"] == 1
        assert "aten.sin" in report["reason"].str.cat()


def test_the_end_of_a_module_is_not_that_of_its_last_row(resnet):
    """Ended by the row, a module has returned nothing; ended by the module, it has."""
    with torch.no_grad():
        layers, _ = lf.trace(resnet, IMAGES, save="bn1", stop=True)
    assert json.loads(layers["context"].iloc[-1])["stopped"] == "bn1:1"
    wrong = layers.copy()
    wrong.loc[wrong.index[-1], "context"] = json.dumps({"grad": False, "stopped": True})
    report = wrong.lens.validate(resnet, IMAGES)
    assert "returned_by" in report.loc["batch_norm_1", "reason"]


@ways
def test_seeded_random_numbers_are_replayed(way, tmp_path):
    model = Noisy().eval()
    layers, activations = way(*lf.trace(model, X, seed=3), tmp_path)
    report = layers.lens.validate(model, X, activations=activations)
    assert report["passed"].all()
    random = layers.index[layers["random"]]
    assert len(random) == 3
    assert report.loc[random, "replay"].all()
    wrong = activations.copy(deep=True)
    value = wrong[random[1]].values.copy()
    value.flat[np.flatnonzero(value)[0]] *= 2
    wrong[random[1]] = (wrong[random[1]].dims, value, wrong[random[1]].attrs)
    report = layers.lens.validate(model, X, activations=wrong)
    assert not report.loc[random[1], "passed"]


class Recurrent(nn.Module):
    """Dropout between the layers of a recurrent network, inside one operation, and after it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(4, 6, num_layers=2, dropout=0.4, batch_first=True)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(self.rnn(x)[0]) + torch.randn(6)


DRAWN = ["gru_1", "dropout_1", "randn_1"]


@pytest.fixture(scope="module")
def rnn():
    return Recurrent().train()


@pytest.fixture(scope="module")
def seeded(rnn):
    with pytest.warns(lf.LensWarning, match="train mode"), torch.no_grad():
        return tuple(lf.trace(rnn, X, seed=3))


@ways
def test_dropout_of_a_recurrent_network_is_drawn_again(rnn, seeded, way, tmp_path):
    layers, activations = way(*seeded, tmp_path)
    report = layers.lens.validate(rnn, X, activations=activations)
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].tolist()
    assert report.loc[DRAWN, "replay"].all()


@pytest.mark.parametrize("op", DRAWN)
def test_a_random_value_off_by_one_bit(rnn, seeded, op):
    layers, activations = seeded
    changed = writable(activations, op)
    changed[op] = changed[op].copy(data=np.nextafter(changed[op].to_numpy(), np.float32(9)))
    report = layers.lens.validate(rnn, X, activations=changed)
    assert op in failed(report, "replay")


@pytest.mark.parametrize("seed", ["4", "null", "true", '"3"', "3.0", str(10**30), "[3]"])
def test_another_seed(rnn, seeded, seed):
    layers, activations = seeded[0].copy(), seeded[1]
    layers["context"] = layers["context"].str.replace('"seed": 3', f'"seed": {seed}')
    report = layers.lens.validate(rnn, X, activations=activations)
    assert not report.loc[layers["random"].to_numpy(), "passed"].any()


def test_a_seeded_run_that_was_stopped(rnn):
    with pytest.warns(lf.LensWarning, match="train mode"):
        layers, activations = lf.trace(rnn, X, save=["rnn", "drop"], stop=True, seed=3)
    assert json.loads(layers["context"].iloc[-1]) == {"seed": 3, "stopped": "drop:1"}
    report = layers.lens.validate(rnn, X, activations=activations)
    assert report["passed"].all(), report.loc[~report["passed"], "reason"].tolist()
    assert report.loc["dropout_1", "replay"]


def test_without_a_seed_they_are_not_and_it_is_said():
    model = Noisy().eval()
    layers, activations = lf.trace(model, X)
    layers.attrs["seed"] = 3
    report = layers.lens.validate(model, X, activations=activations)
    random = layers.index[layers["random"]]
    assert report.loc[random, "replay"].isna().all()
    assert report.loc[random, "reason"].str.contains("the trace recorded no seed").all()


def test_the_seed_stands_where_it_decides():
    layers = lf.trace(Noisy().eval(), X, seed=3).layers
    seeds = layers["context"].map(json.loads).map(lambda facts: facts.get("seed"))
    assert seeds[layers["random"]].tolist() == [3, 3, 3]
    assert seeds[~layers["random"]].isna().all()
    assert layers.attrs["seed"] == 3
