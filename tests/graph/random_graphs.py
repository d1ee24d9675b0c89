"""Frames of random layers and passes, for properties of the verbs."""

import pandas as pd
from hypothesis import strategies as st


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
