"""Long pictures in columns, their direction and size, and what stands for edges that are cut."""

import re

import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.draw import render
from lensframe_pd.draw.dot import dot

from .drawn import PNG, read_back, rows


def chain(n, skips=()):
    """Rows one after the other; pairs of numbers are further edges."""
    cells = [
        (f"relu_{i}", "op", "2x3", "", (), tuple(
            f"relu_{j}" for j in ([i - 1] if i else []) + [a for a, b in skips if b == i]), ())
        for i in range(n)
    ]  # fmt: skip
    return rows(*cells)


def size(drawing):
    found = re.search(r'<svg width="([\d.]+)pt" height="([\d.]+)pt"', drawing._repr_svg_())
    return tuple(map(float, found.groups()))


def stubs(source):
    return sorted(re.findall(r'label="((?:to|from) [^"]*)"', source))


@pytest.mark.parametrize(
    ("n", "skips", "columns", "expected"),
    [
        (6, (), "auto", []),
        (40, (), 1, []),
        (16, (), "auto", ["from relu_7", "to relu_8"]),
        (12, (), 2, ["from relu_5", "to relu_6"]),
        (12, (), 3, ["from relu_3", "from relu_7", "to relu_4", "to relu_8"]),
        # not through the shortcut, if there is another place near
        (12, ((4, 6),), 2, ["from relu_6", "to relu_7"]),
        # one that is read again and again is one stub in each column
        (12, ((0, 8), (0, 9), (0, 10), (0, 11)), 2,
         ["from relu_0", "from relu_5", "to relu_6", "to relu_8, relu_9 and 2 more"]),
        # of a net with many shortcuts across the middle no column
        (24, tuple((i, 23 - i) for i in range(2, 10)), "auto", []),
        (3, (), 9, ["from relu_0", "from relu_1", "to relu_1", "to relu_2"]),
    ],
)  # fmt: skip
def test_where_a_picture_is_cut(n, skips, columns, expected):
    source = dot(chain(n, skips), columns=columns)
    assert stubs(source) == expected
    assert all(f'id="relu_{i}"' in source or f"id=relu_{i}" in source for i in range(n))


def test_columns_make_a_long_picture_fit():
    long = chain(40)
    width, height = size(long.lens.draw(columns=1))
    assert height / width > 8
    width, height = size(long.lens.draw())
    assert height / width < 3
    assert long.lens.draw()._repr_svg_().count('class="node"') == 40  # a stub is no row
    tops = re.findall(r'<text[^>]* y="([-\d.]+)"[^>]*>(relu_0|from relu_\d+)<',
                      long.lens.draw()._repr_svg_())  # fmt: skip
    heights = [float(y) for y, _ in tops]
    assert len(heights) == 3
    assert max(heights) - min(heights) < 40  # every column begins at the top


def test_cuts_are_outside_of_boxes_if_possible():
    model = nn.Sequential(
        *[
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.ELU())
            for _ in range(3)
        ],
        nn.ReLU(),
    )
    layers = lf.trace(model.eval(), torch.rand(2, 4), save=None).layers
    (cut,) = [s for s in stubs(dot(layers, columns=2)) if s.startswith("from")]
    assert cut in ("from elu_1", "from elu_2")
    _, _, boxes = read_back(dot(layers, columns=1))
    assert len(boxes) == 3


@pytest.mark.parametrize(
    ("direction", "rankdir"),
    [("down", None), ("right", "LR"), ("up", "BT"), ("left", "RL"), ("LR", "LR"), ("tb", None)],
)
def test_directions(direction, rankdir):
    source = dot(chain(3), direction=direction)
    assert re.findall(r"rankdir=(\w+)", source) == ([rankdir] if rankdir else [])
    svg = chain(3).lens.draw(direction=direction)._repr_svg_()
    (x0, y0), (x1, y1) = (
        map(float, re.search(rf'x="([-\d.]+)" y="([-\d.]+)"[^>]*>relu_{i}<', svg).groups())
        for i in (0, 1)
    )
    y0, y1 = -y0, -y1  # Graphviz counts upwards
    ahead = {None: y0 - y1, "LR": x1 - x0, "BT": y1 - y0, "RL": x0 - x1}[rankdir]
    assert ahead > 20


def test_scale_is_the_size_of_every_format(tmp_path):
    small, large = chain(3).lens.draw(), chain(3).lens.draw(scale=2)
    assert size(large) == pytest.approx([2 * points for points in size(small)], rel=0.01)
    sizes = []
    for drawing in (small, large):
        png = drawing.render("png")
        assert png.startswith(PNG)
        sizes.append([int.from_bytes(png[k : k + 4]) for k in (16, 20)])
    assert sizes[1] == pytest.approx([2 * pixels for pixels in sizes[0]], abs=2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"columns": 0}, "columns=0; give a number from 1, or 'auto'"), ({"columns": "two"}, "two"),
        ({"columns": True}, "columns=True"), ({"columns": 1.5}, r"columns=1\.5"),
        ({"direction": "sideways"}, "no direction 'sideways'"), ({"scale": 0}, "scale=0"),
        ({"scale": float("nan")}, "scale=nan"), ({"scale": "big"}, "scale='big'"),
    ],
)  # fmt: skip
def test_wrong_options(options, error):
    with pytest.raises(lf.LensError, match=error):
        chain(3).lens.draw(**options)


def test_what_is_read_from_outside_is_named_beside():
    frame = chain(8, skips=((1, 5), (2, 5), (3, 5)))
    source = dot(frame.loc[["relu_5", "relu_6"]])
    assert ">from relu_4, relu_1 and 2 more<" in source
    nodes, edges, _ = read_back(source)
    assert (list(nodes), edges) == (["relu_5", "relu_6"], [("relu_5", "relu_6")])
    assert "from" not in dot(frame)
    own = dot(frame.loc[["relu_5"]].assign(note="mine"), xlabel="note")
    assert "from relu" not in own


def test_what_takes_a_minute_says_so_first(monkeypatch):
    monkeypatch.setattr(render, "_SECONDS", 0.5)
    drawing = chain(1500, tuple((i, 1000 + i) for i in range(400))).lens.draw()
    with (
        pytest.warns(lf.LensWarning, match="1500 rows with long edges may take more than .*keep"),
        pytest.raises(lf.LensRuntimeError, match="has not laid out this graph"),
    ):
        drawing._repr_svg_()


def test_rows_in_any_order_have_the_same_columns():
    layers = lf.trace(nn.Sequential(*[nn.ReLU() for _ in range(20)]).eval(), torch.ones(2)).layers
    shuffled = layers.sample(frac=1, random_state=0)
    assert stubs(dot(shuffled)) == stubs(dot(layers)) != []


def test_values_of_their_own_and_of_none(traced):
    timed = traced.assign(part=pd.Series({traced.index[3]: 2.0, traced.index[4]: 4.0}))
    nodes, _, _ = read_back(dot(timed, color="part", columns=1))
    plain = {nodes[op]["fillcolor"] for op in traced.index.delete([3, 4])}
    assert len(plain) == 1
    assert nodes[traced.index[3]]["fillcolor"] not in plain
    source = dot(timed, color="part")
    assert "2 to 4" in source
    assert "no value" in source
    seconds, _, _ = read_back(dot(traced, color="seconds", columns=1))
    assert seconds["input_1"]["fillcolor"] in plain
    assert seconds["output_1"]["fillcolor"] in plain
    none = dot(traced.assign(part=float("nan")), color="part")
    assert "0 to 0" not in none


def test_both_legends_where_some_rows_have_a_colour(traced):
    some = traced.assign(color=pd.Series({"input_1": "#ff0000"}))
    assert "has trainable parameters" in dot(some)


class Twice(nn.Sequential):
    def __init__(self, ins, outs):
        super().__init__(
            nn.Conv2d(ins, outs, 3, padding=1), nn.ReLU(), nn.Conv2d(outs, outs, 3, padding=1)
        )


class Up(nn.Module):
    def __init__(self, ins, outs):
        super().__init__()
        self.up, self.body = nn.ConvTranspose2d(ins, outs, 2, 2), Twice(2 * outs, outs)

    def forward(self, x, skip):
        return self.body(torch.cat([skip, self.up(x)], 1))


class UNet(nn.Module):
    def __init__(self, levels):
        super().__init__()
        widths = [2 * 2**level for level in range(levels + 1)]
        self.first = Twice(3, widths[0])
        self.downs = nn.ModuleList(
            [nn.Sequential(nn.MaxPool2d(2), Twice(a, 2 * a)) for a in widths[:-1]]
        )
        self.ups = nn.ModuleList([Up(2 * a, a) for a in widths[-2::-1]])
        self.last = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x):
        found = [self.first(x)]
        for down in self.downs:
            found.append(down(found[-1]))
        y = found.pop()
        for up in self.ups:
            y = up(y, found.pop())
        return self.last(y)


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_a_net_with_shortcuts_stays_whole_and_is_no_ribbon(levels):
    layers, _ = lf.trace(UNet(levels).eval(), torch.rand(1, 3, 64, 64), save=None)
    drawing = layers.lens.collapse("auto").lens.draw()
    width, height = size(drawing)
    assert stubs(drawing.source) == []
    assert height <= 3 * width


def test_only_such_a_picture_has_closer_ranks():
    """Long edges that fan out make a picture wide by themselves."""
    fan = tuple((0, i) for i in range(2, 24))
    through = tuple((i, 23 - i) for i in range(2, 8))
    nets = {"fan": fan, "through": through, "none": ()}
    spread = {name: "nodesep=0.5" in dot(chain(24, skips)) for name, skips in nets.items()}
    assert spread == {"fan": False, "through": True, "none": False}
    assert "nodesep=0.5" not in dot(chain(24, through), direction="right")
    assert "nodesep=0.5" not in dot(chain(24, through), columns=3)
