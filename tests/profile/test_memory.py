"""Live bytes against torch's own record of what was allocated and freed."""

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch import nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

import lensframe_pd as lf
from lensframe_pd.profile.memory import alive, memory


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.lstm = nn.LSTM(64, 128, 2, batch_first=True)
        self.out = nn.Linear(128, 100)

    def forward(self, ids):
        return self.out(self.lstm(self.embed(ids))[0])


def model_output_bytes(model, x):
    with torch.no_grad():
        return model(x).nbytes


MODELS = {
    "resnet18": (lambda: torchvision.models.resnet18(), lambda: torch.rand(2, 3, 128, 128)),
    "vit": (
        lambda: torchvision.models.VisionTransformer(96, 16, 3, 4, 128, 256),
        lambda: torch.rand(2, 3, 96, 96),
    ),
    "lstm": (Reader, lambda: torch.randint(0, 100, (8, 50))),
}


@pytest.fixture(autouse=True)
def _no_fused_path():
    """Torch leaves it while a trace runs; a plain run would take it."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def allocated(model, x):
    """Bytes allocated and not freed, as each ATen operator that Python called ends.

    What an operator allocates and frees inside itself is thus left out.
    """
    with torch.no_grad():
        model(x)
        with torch_profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            output = model(x)
    raw = record.profiler.kineto_results
    events = sorted((e.start_ns(), e.nbytes()) for e in raw.events() if e.name() == "[memory]")
    times = np.array([(t - raw.trace_start_ns()) / 1e3 for t, _ in events])
    now = np.cumsum([n for _, n in events])
    outer = [e for e in record.events() if e.cpu_parent is None and e.name.startswith("aten::")]
    ends = np.array([e.time_range.end for e in outer])
    places = np.searchsorted(times, ends, side="right") - 1
    del output
    return now[places[places >= 0]]


@pytest.mark.parametrize("name", MODELS)
def test_peak_is_that_of_torchs_allocator(name, tmp_path):
    make, draw = MODELS[name]
    model, x = make().eval(), draw()
    with torch.no_grad():
        lf.trace(model, x, save=None).layers.to_parquet(tmp_path / "layers.parquet")
    expected = allocated(model, x)
    table = memory(pd.read_parquet(tmp_path / "layers.parquet"))
    live = table.loc[table["kind"] == "op", "live_bytes"]
    assert live.max() == pytest.approx(expected.max(), rel=0.05)
    assert live.iloc[-1] == pytest.approx(expected[-1], rel=0.05)
    assert table["live_bytes"].iloc[-1] == model_output_bytes(model, x)


def test_by_hand():
    def run(x):
        a = x * 2  # 40
        b = a.view(2, 5)  # a
        c = b.exp()  # 40; a is free
        c.add_(1)  # c
        d = torch.cat([c, c])  # 80; c is free
        return d[0]  # d

    table = memory(lf.trace(run, torch.rand(10)).layers)
    assert table["live_bytes"].to_dict() == {
        "input_1": 0, "mul_1": 40, "view_1": 40, "exp_1": 80, "add_1": 40, "cat_1": 120,
        "getitem_1": 80, "output_1": 80,
    }  # fmt: skip
    assert table["held_bytes"].unique().tolist() == [40]


def test_what_is_held_throughout():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    table = memory(lf.trace(model, torch.rand(1, 3, 5, 5)).layers)
    held = [*model.parameters(), model[1].running_mean, model[1].running_var]
    assert table["held_bytes"].iloc[0] == sum(t.nbytes for t in held) + 3 * 25 * 4


def test_what_is_held_is_counted_by_its_own_element_type():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.arange(1000))
            self.register_buffer("mask", torch.ones(10, dtype=torch.bool))
            self.small = nn.Parameter(torch.ones(10, dtype=torch.float16))
            self.large = nn.Parameter(torch.ones(10, dtype=torch.float64))

        def forward(self, x):
            x = x + self.places[:10]
            x = x + torch.where(self.mask, self.large, self.small)
            return x * self.small

    layers = lf.trace(Net().eval(), torch.rand(10)).layers
    for frame in (layers, layers.assign(saved=False)):
        assert (memory(frame)["held_bytes"] == 8000 + 10 + 20 + 80 + 40).all()


def test_a_module_call_holds_its_arguments():
    class Block(nn.Module):
        def forward(self, x):
            x = x + 1
            x = x + 1
            return x + 1

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block(x * 2)

    layers = lf.trace(Net().eval(), torch.rand(10)).layers
    assert memory(layers)["live_bytes"].tolist() == [0, 40, 80, 120, 120, 40]
    assert alive(layers, "add_2")["until"].to_dict() == {
        "mul_1": "add_3", "add_1": "add_2", "add_2": "add_3",
    }  # fmt: skip


def test_alive_says_what_holds_the_peak():
    model = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 2)).eval()
    layers = lf.trace(model, torch.rand(3, 4)).layers
    table = memory(layers)
    peak = alive(layers)
    assert peak["bytes"].sum() == table["live_bytes"].max() == 2 * 3 * 100 * 4
    assert peak.index.tolist() == ["linear_1", "relu_1"]
    for op in layers.index:
        assert alive(layers, op)["bytes"].sum() == table.loc[op, "live_bytes"]


def test_errors():
    layers = lf.trace(nn.ReLU().eval(), torch.rand(3)).layers
    with pytest.raises(lf.LensKeyError, match="no op 'relu_2'; did you mean 'relu_1'"):
        alive(layers, "relu_2")
    with pytest.raises(lf.LensKeyError, match="memory needs column 'module_stack'"):
        memory(layers.drop(columns="module_stack"))
    with pytest.raises(lf.LensValueError, match="no rows"):
        memory(layers[:0])
