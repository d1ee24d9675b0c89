"""Four times the rows are four times the work, whatever the shape of the graph.

What is counted are calls, which do not depend on the machine.
"""

import cProfile
import math
import pstats
import tracemalloc

import pytest
import torch
from torch import nn

import lensframe_pd as lf


class Loop(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.n = n // 4
        self.input, self.state = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        h = x
        for _ in range(self.n):
            h = torch.tanh(self.input(x) + self.state(h))
        return h


class Nested(nn.Module):
    """Modules in modules, twenty deep, called again and again."""

    def __init__(self, n, depth=20):
        super().__init__()
        self.n = n // 2
        self.inner = nn.Linear(6, 6)
        for _ in range(depth):
            self.inner = nn.Sequential(self.inner)

    def forward(self, x):
        for _ in range(self.n):
            x = torch.relu(self.inner(x))
        return x


class Tree(nn.Module):
    """A module in each of two halves of a module, as far as they go."""

    def __init__(self, n):
        super().__init__()
        halves = [Tree(n // 2), Tree(n // 2)] if n > 3 else [nn.Linear(6, 6), nn.ReLU()]
        self.halves = nn.ModuleList(halves)

    def forward(self, x):
        for half in self.halves:
            x = half(x)
        return x


class Distinct(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(n // 3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return x


class Several(nn.Module):
    """Calls with several results, joined again."""

    def __init__(self, n):
        super().__init__()
        self.n = n // 5

    def forward(self, x):
        for _ in range(self.n):
            a, b, c = x.chunk(3, 1)
            x = torch.cat([b, c + 1, a], 1)
        return x


class Written(nn.Module):
    """A tensor written through views of it, and all of it read again."""

    def __init__(self, n):
        super().__init__()
        self.n = n // 3

    def forward(self, x):
        x = x.clone()
        for k in range(self.n):
            x[:, k % 6].add_(1.0)
            x = x * 0.5
        return x


class Wide(nn.Module):
    """One value read by all, and all joined in one."""

    def __init__(self, n):
        super().__init__()
        self.n = n // 2

    def forward(self, x):
        return torch.stack([torch.sin(x[:, k % 6]) for k in range(self.n)]).sum(0)


class Shared(nn.Module):
    """Blocks of one kind, which all call one activation; each in a module that only holds it."""

    def __init__(self, n):
        super().__init__()
        activation = nn.Sequential(nn.ReLU(), nn.Tanh())
        blocks = [nn.Sequential(nn.Linear(6, 6), activation) for _ in range(n // 3)]
        self.blocks = nn.ModuleList(map(nn.Sequential, blocks))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Handed(nn.Module):
    """A value that modules hand on."""

    def __init__(self, n):
        super().__init__()
        self.n = n // 2
        self.same = nn.Identity()

    def forward(self, x):
        for _ in range(self.n):
            x = self.same(x)
        for _ in range(self.n):
            x = torch.sin(x)
        return x


def calls_of(work, counts, name):
    profile = cProfile.Profile()
    found = profile.runcall(work)
    counts[name] = pstats.Stats(profile).total_calls
    return found


def counted(model, folder):
    """Calls by what is done, and how many rows the graph has."""
    counts = {}
    with torch.no_grad():
        trace = calls_of(lambda: lf.trace(model.eval(), torch.ones(2, 6)), counts, "trace")
    layers = calls_of(lambda: trace.layers, counts, "layers")
    calls_of(lambda: trace.activations, counts, "activations")
    verbs = {
        "roll": lambda: layers.lens.roll(), "collapse 1": lambda: layers.lens.collapse(depth=1),
        "collapse 2": lambda: layers.lens.collapse(depth=2),
        "collapse auto": lambda: layers.lens.collapse("auto"),
        "summary": lambda: layers.lens.summary(),
        "profile": lambda: layers.lens.profile("module"),
        "one layer": lambda: trace.activations.lens[layers["layer"].iloc[len(layers) // 2]],
        "write frame": lambda: lf.write(layers, folder / "l.parquet"),
        "read frame": lambda: lf.read(folder / "l.parquet"),
        "write": lambda: lf.write(trace, folder / "t"), "read": lambda: lf.read(folder / "t"),
    }  # fmt: skip
    for name, work in verbs.items():
        calls_of(work, counts, name)
    return counts, len(layers)


@pytest.mark.parametrize(
    "shape", [Loop, Nested, Tree, Distinct, Several, Written, Wide, Shared, Handed]
)
def test_work_grows_with_the_rows(shape, tmp_path):
    counted(shape(40), tmp_path)  # what is imported and learnt once
    few, n_few = counted(shape(150), tmp_path)
    many, n_many = counted(shape(600), tmp_path)
    grown = {
        name: math.log(many[name] / few[name]) / math.log(n_many / n_few)
        for name in few
        if many[name] > 20 * n_few  # else it is columns, which are worked on as a whole
    }
    assert {name: round(k, 2) for name, k in grown.items() if k > 1.1} == {}


@pytest.mark.parametrize("shape", [Loop, Tree, Nested, Shared, Distinct, Wide])
def test_a_collapsed_frame_is_drawn_whatever_is_beneath(shape):
    counts = {}
    for n in (100, 600, 2400):  # the first imports
        with torch.no_grad():
            layers = lf.trace(shape(n).eval(), torch.ones(2, 6)).layers
        boxes = layers.lens.collapse("auto")
        assert len(boxes) <= 6
        calls_of(lambda boxes=boxes: str(boxes.lens.draw()), counts, n)
    assert abs(counts[2400] - counts[600]) < 100, counts


def memory_of(work):
    """Bytes that work takes at most beside what was there."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_a_summary_takes_little_for_each_module_around_a_row():
    """A deep model has many times as many pairs of a row and a module around it as rows."""
    with torch.no_grad():
        layers = lf.trace(Tree(4000).eval(), torch.ones(2, 6), save=None).layers
    names = sum(len(path.split(".")) for path in layers["module"])
    layers.lens.summary(depth=None)  # what is imported and learnt once
    assert memory_of(lambda: layers.lens.summary(depth=None)) < 160 * names
