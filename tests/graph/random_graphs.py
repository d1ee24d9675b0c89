"""Frames of random layers and passes, for properties of the verbs."""

import pandas as pd
import torch
from hypothesis import strategies as st
from torch import nn


@st.composite
def graphs(draw):
    """A frame of random layers and passes with random earlier parents."""
    n = draw(st.integers(1, 14))
    funcs = draw(st.lists(st.sampled_from(["add", "mul", "tanh"]), min_size=n, max_size=n))
    numbers = draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
    layers = [f"{f}_{k}" for f, k in zip(funcs, numbers, strict=True)]
    pass_nums = [layers[: i + 1].count(layer) for i, layer in enumerate(layers)]
    n_passes = [layers.count(layer) for layer in layers]
    ops = [
        layer if total == 1 else f"{layer}:{p}"
        for layer, p, total in zip(layers, pass_nums, n_passes, strict=True)
    ]
    parents = [
        tuple(draw(st.lists(st.sampled_from(ops[:i]), max_size=3))) if i else () for i in range(n)
    ]
    return pd.DataFrame(
        {
            "layer": layers,
            "pass_num": pass_nums,
            "n_passes": n_passes,
            "step": range(n),
            "parents": parents,
            "parent_args": [tuple(map(str, range(len(p)))) for p in parents],
            "shape": [tuple(draw(st.lists(st.integers(1, 9), max_size=3))) for _ in range(n)],
            "seconds": draw(st.lists(st.floats(0, 1), min_size=n, max_size=n)),
            "saved": draw(st.lists(st.booleans(), min_size=n, max_size=n)),
            "note": draw(st.lists(st.text(max_size=4), min_size=n, max_size=n)),
        },
        index=pd.Index(ops, name="op"),
    )


class Step(nn.Module):
    """Runs its parts in a random order, some of them several times, and keeps what it made."""

    def __init__(self, parts, order, way):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.order, self.way = order, way

    def forward(self, x, kept=None):
        before = x if kept is None else kept
        for k in self.order:
            part = self.parts[k % len(self.parts)] if len(self.parts) else torch.tanh
            x = part(x) + before if self.way == "residual" else part(x)
            before = x if self.way == "recurrent" else before
        return x


@st.composite
def programs(draw):
    """A model of nested modules in loops, some shared, some called again with their own result."""
    orders = st.lists(st.integers(0, 2), min_size=1, max_size=4)
    ways = st.sampled_from(["plain", "residual", "recurrent"])
    leaves = [nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.Tanh())]
    inner = [
        Step(draw(st.permutations(leaves))[:2], draw(orders), draw(ways))
        for _ in range(draw(st.integers(1, 2)))
    ]
    outer = Step([*inner, leaves[0]], draw(orders), draw(ways)).eval()
    times = draw(st.integers(1, 3))

    def program(x):
        kept = None
        for _ in range(times):
            x = outer(x, kept)
            kept = x * 2
        return x

    return outer if draw(st.booleans()) else program
