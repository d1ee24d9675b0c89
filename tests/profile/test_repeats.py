"""Further runs for the times: they change nothing else."""

import statistics
import warnings

import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.capture.state import Origin, Start
from lensframe_pd.profile import repeats


class Stateful(nn.Module):
    """Keeps a state, draws a number and writes its input."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        x.mul_(2)
        return self.fc(x) + torch.rand(3) + self.seen


def retimed(model, x, n):
    origin = Origin(model, (x,), {}, torch.get_rng_state())
    before = Start(origin)
    trace = lf.trace(model, x)
    after = torch.get_rng_state()
    repeats.retime(trace.tape, origin, before, n)
    assert torch.equal(after, torch.get_rng_state())
    return trace


def test_state_is_that_of_one_run():
    model, x = Stateful().eval(), torch.ones(2, 3)
    trace = retimed(model, x, 3)
    assert model.seen == 1
    assert torch.equal(x, torch.full((2, 3), 2.0))
    torch.manual_seed(0)
    assert trace.tape.facts["repeats"] == 3
    assert trace.validate()["passed"].all()


def test_median_of_the_runs(monkeypatch):
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), torch.ones(2, 3)
    runs = []

    def noted(*args, timed=repeats._timed):
        runs.append(timed(*args))
        return runs[-1]

    monkeypatch.setattr(repeats, "_timed", noted)
    layers = retimed(model, x, 5).layers
    for i, s in enumerate(layers["seconds"]):
        assert s == statistics.median(run[i][1] for run in runs)


def test_other_paths_are_left_out():
    class Fickle(nn.Module):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            return x + 1 if type(self).calls != 3 else (x + 1) * 2

    with pytest.warns(lf.LensWarning, match="1 of 3 repeats ran other operations"):
        trace = retimed(Fickle().eval(), torch.ones(2), 3)
    assert trace.tape.facts["repeats"] == 2


def test_a_cuda_clock_gives_its_times_to_the_right_calls(monkeypatch):
    """With events of our own making; there is no GPU here."""
    ticks = iter(range(100))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.tick = next(ticks)

        def elapsed_time(self, other):
            return 1e3 * (other.tick - self.tick)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    def run(x):
        y = x * 2
        v = y[:1]
        v.add_(1)
        return y.sum()  # reads an alias: a row before its own

    seconds = dict(repeats._timed(Origin(run, (torch.ones(2),), {}, torch.get_rng_state())))
    assert {target: s for target, s in seconds.items() if target} == {
        "torch.Tensor.mul": 1, "torch.Tensor.__getitem__": 1, "torch.Tensor.add_": 1,
        "torch.Tensor.sum": 1,
    }  # fmt: skip
    warnings.resetwarnings()
