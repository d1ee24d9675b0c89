"""A model that changed something of its own in the traced forward: its frame says so."""

import pytest
import torch
from torch import nn

import lensframe_pd as lf

NOTE = "if the frame is whole, the model may have changed"
SHARED = {}


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.kept = None


class Membrane(Keeps):
    def forward(self, x):
        h = self.fc(x)
        self.kept = h if self.kept is None else 0.9 * self.kept + h
        return (self.kept > 0).float()


class Growing(Keeps):
    """A buffer that has the shape of the batch from the first forward on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.zeros(0), persistent=False)

    def forward(self, x):
        h = self.fc(x)
        if self.state.shape != h.shape:
            self.state = torch.zeros_like(h)
        self.state = self.state + h
        return self.state * 2


class Positions(Keeps):
    def forward(self, x):
        if self.kept is None:
            self.kept = torch.arange(len(x)).float()[:, None].sin()
        return self.fc(x) + self.kept


class ByLength(Keeps):
    def __init__(self):
        super().__init__()
        self.kept = {}

    def forward(self, x):
        if len(x) not in self.kept:
            self.kept[len(x)] = torch.ones(len(x), 4) * 2
        return self.fc(x) * self.kept[len(x)]


class Initialised(Keeps):
    """Parameters that take their values from the first batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("done", torch.tensor(0))
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        h = self.fc(x)
        if not self.done.item():
            with torch.no_grad():
                self.scale.copy_(h.std(0) + 1)
                self.done.fill_(1)
        return h / self.scale


class Counting(Keeps):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        h = self.fc(x)
        return h if self.calls == 1 else h.relu()


class Fused(Keeps):
    def forward(self, x):
        if self.kept is None:
            with torch.no_grad():
                self.fc.weight.mul_(2)
            self.kept = True
        return self.fc(x)


class Past(Keeps):
    def forward(self, x):
        h = self.fc(x)
        self.kept = h if self.kept is None else torch.cat([self.kept, h])
        return self.kept.sum(0, keepdim=True) + h


class Outside(Keeps):
    def forward(self, x):
        if "scale" not in SHARED:
            SHARED["scale"] = torch.ones(4) * 2
        return self.fc(x) * SHARED["scale"]


class Running(Keeps):
    """The same operations again, of another value."""

    def __init__(self):
        super().__init__()
        self.kept = torch.zeros(5, 4)

    def forward(self, x):
        self.kept = (self.kept * 0.9 + self.fc(x)).detach()
        return self.kept * 1


class IntoTheCallers(Keeps):
    def forward(self, batch):
        batch["out"] = self.fc(batch["x"])
        return batch["out"]


MODELS = {
    Membrane: "kept", Growing: "state", Positions: "kept", ByLength: "kept.5", Initialised: "done",
    Counting: "calls", Fused: "fc.weight", Past: "kept", Outside: "SHARED.scale", Running: "kept",
    IntoTheCallers: "batch.out",
}  # fmt: skip


def traced(kind):
    torch.manual_seed(3)
    x = torch.randn(5, 3)
    args = ({"x": x},) if kind is IntoTheCallers else (x,)
    model = kind().eval()
    return model, args, lf.trace(model, args)


@pytest.mark.parametrize("kind", MODELS)
def test_a_frame_says_what_the_model_may_have_kept(kind):
    SHARED.clear()
    model, args, trace = traced(kind)
    report = trace.layers.lens.validate(model, args, activations=trace.activations)
    reasons = report.loc[~report["passed"], "reason"]
    assert len(reasons)
    for reason in reasons:
        assert reason.count(NOTE) == 1
        assert repr(MODELS[kind]) in reason.partition(NOTE)[2]
        assert "trace.validate()" in reason


@pytest.mark.parametrize("kind", MODELS)
def test_the_trace_is_judged_by_its_own_run(kind):
    SHARED.clear()
    report = traced(kind)[2].validate()
    assert report["passed"].all()
    assert not report["reason"].str.contains(NOTE).any()


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind is not Outside])
def test_a_model_as_it_was_before_passes(kind):
    """What is kept outside the model is not put back between the runs of a validation."""
    _, _, trace = traced(kind)
    torch.manual_seed(3)
    x = torch.randn(5, 3)
    model = kind().eval()
    args = ({"x": x},) if kind is IntoTheCallers else (x,)
    report = trace.layers.lens.validate(model, args, activations=trace.activations)
    assert report["passed"].all()


def test_a_wrong_cell_of_a_model_that_keeps_nothing_is_just_wrong():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval(), torch.randn(5, 3)
    layers, activations = lf.trace(model, x)
    layers.loc["relu_1", "numel"] = 7
    report = layers.lens.validate(model, x, activations=activations)
    assert not report.loc["relu_1", "passed"]
    assert not report["reason"].str.contains(NOTE).any()


def test_nothing_is_left_moved():
    model, args, trace = traced(Counting)
    trace.layers.lens.validate(model, args)
    assert model.calls == 1
