"""The oracles of gradients find what is wrong, and nothing in what is right."""

import pytest
import torch
from torch import nn
from zoo.differentiated import compared
from zoo.made import Made

import lensframe_pd as lf


class Recurrent(nn.Module):
    """Passes, a module that is called several times, and a write in place."""

    def __init__(self):
        super().__init__()
        self.step = nn.Linear(6, 6)
        self.end = nn.Linear(6, 2)

    def forward(self, x):
        state = x
        for _ in range(3):
            state = torch.relu_(self.step(state) + x)
        return self.end(state)


MODELS = {
    "in order": lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)),
    "in place": lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6)),
    "recurrent": Recurrent,
}
SWAPPED = {
    "in order": ("linear_1", "tanh_1"),
    "in place": ("linear_1", "relu_1"),
    "recurrent": ("linear_1:1", "linear_1:2"),
}


def made(name):
    torch.manual_seed(0)
    return Made(MODELS[name](), (torch.rand(4, 6),))


def swap(monkeypatch, first, second):
    right = lf.Trace.gradients

    def gradients(self, *args, **kwargs):
        found = right(self, *args, **kwargs)
        return found.assign({first: found[second].variable, second: found[first].variable})

    monkeypatch.setattr(lf.Trace, "gradients", gradients)


@pytest.mark.parametrize("name", MODELS)
def test_both_oracles_agree_with_what_is_right(name):
    found = compared(name, lambda: made(name))
    assert found["hooks_different"] == found["leaves_different"] == []
    assert found["hooks_same"] >= 3
    assert found["leaves_same"] >= 3


@pytest.mark.parametrize("name", MODELS)
def test_two_rows_whose_gradients_change_places_are_found(name, monkeypatch):
    swap(monkeypatch, *SWAPPED[name])
    found = compared(name, lambda: made(name))
    for oracle in ("hooks", "leaves"):
        apart = {line.split()[0] for line in found[f"{oracle}_different"]}
        assert apart & {*SWAPPED[name]}, found
