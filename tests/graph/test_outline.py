"""`collapse("auto")`: what is opened, what repeats, and that the graph stays the model's."""

import networkx as nx
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from stored import BY_PANDAS
from torch import nn

import lensframe_pd as lf
from lensframe_pd.graph.outline import numbered
from lensframe_pd.graph.periods import periods

from .random_graphs import programs


class Block(nn.Module):
    def __init__(self, width=4, out=None):
        super().__init__()
        self.fc = nn.Linear(width, out or width)
        self.act = nn.ReLU()

    def forward(self, x, *more):
        h = self.act(self.fc(x))
        return h + sum(more) if more else h


class Other(Block):
    """The same as `Block`, of another class."""


class Chain(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def traced(model, *args):
    return lf.trace(model.eval(), args or (torch.ones(2, 4),), save=None).layers


def auto(model, *args, most=24):
    return traced(model, *args).lens.collapse("auto", most=most)


def shown(frame):
    return dict(zip(frame.index, frame["repeats"], strict=True))


class Residual(Chain):
    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


class Tapped(Chain):
    """Gives back what each block made, as the feature maps of a backbone."""

    def forward(self, x):
        return [x := block(x) for block in self.blocks]


class Skipping(Chain):
    """The last block reads the first one too."""

    def forward(self, x):
        first = self.blocks[0](x)
        second = self.blocks[1](first)
        return self.blocks[2](second, first)


class Masked(Chain):
    """Every block reads, beside the one before, what was made once."""

    def forward(self, x):
        mask = x.exp()
        for block in self.blocks:
            x = block(x, mask)
        return x


class Backwards(Chain):
    def forward(self, x):
        for block in [*self.blocks][::-1]:
            x = block(x)
        return x


class Apart(Chain):
    """What is made between two blocks is read by the second alone."""

    def forward(self, x):
        a = self.blocks[0](x)
        late = x.cos()
        return self.blocks[1](a, late).sin() + late


RUNS = [
    (Chain(Block(), Block(), Block()), {"blocks.0..2": 3}),
    (Chain(Block(), Block(), Other(), Other()), {"blocks.0..1": 2, "blocks.2..3": 2}),
    (Chain(Block(), Block(4, 5), Block(5, 5), Block(5, 5)), {"blocks.2..3": 2}),
    (Masked(Block(), Block(), Block()), {"blocks.0..2": 3}),
    (Backwards(Block(), Block(), Block()), {"blocks.2..0": 3}),
    (Apart(Block(), Block()), {"blocks.0..1": 2}),
    (Residual(Block(), Block()), {}),
    (Tapped(Block(), Block()), {}),
    (Skipping(Block(), Block(), Block()), {"blocks.1..2": 2}),
    (Chain(Block(), nn.Identity(), Block()), {}),
    (Chain(nn.Linear(4, 4), nn.Linear(4, 4)), {}),  # a module of one row is that row
    (nn.Sequential(nn.Sequential(Block(), Block()), nn.Sequential(Block(), Block())), {"0..1": 2}),
]


@pytest.mark.parametrize(("model", "runs"), RUNS)
def test_what_repeats(model, runs):
    frame = auto(model)
    assert {op: n for op, n in shown(frame).items() if n > 1} == runs


def test_a_run_is_one_row_with_all_that_its_blocks_took():
    layers = traced(Masked(Block(), Block(), Block()))
    inside = layers[layers["module"].str.startswith("blocks")]
    row = layers.lens.collapse("auto").loc["blocks.0..2"]
    assert (row["func"], row["kind"], row["layer"]) == ("Block", "module", "blocks.0..2")
    assert row["parents"] == ("input_1", "exp_1")
    assert row["seconds"] == pytest.approx(inside["seconds"].sum())
    assert row["n_params"] == row["n_trainable"] == 3 * 20
    assert row["params_nbytes"] == 3 * 80
    assert len(row["params"]) == len(row["param_shapes"]) == 6
    assert (row["shape"], row["nbytes"]) == ((2, 4), 2 * 4 * 4)
    assert {call.rpartition(".")[0] for call in row["returned_by"]} == {"blocks", "blocks.2"}


def test_parameters_that_blocks_share_count_once():
    block = Block()
    stages = [nn.Sequential(block, nn.Linear(4, 4)) for _ in range(2)]
    row = auto(nn.Sequential(*stages)).loc["0..1"]
    assert row["n_params"] == 20 + 2 * 20


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (["layer3.1", "layer3.2", "layer3.3"], "layer3.1..3"),
        (["h.9.mlp", "h.10.mlp"], "h.9..10.mlp"),
        (["up.3", "up.2", "up.1"], "up.3..1"),
        (["block1", "block2"], "block1..2"),
        (["1", "2"], "1..2"),
        (["a.1", "a.3"], ""),
        (["a.1", "b.2"], ""),
        (["a.1.1", "a.2.2"], ""),
        (["a", "b"], ""),
        (["a1.b", "a.1b"], ""),
        (["a.1", "a.2", "a.1"], ""),
    ],
)
def test_names_that_differ_in_one_number(paths, name):
    assert numbered(paths) == name


class Wide(nn.Module):
    """Three stages of different size, none like another."""

    def __init__(self):
        super().__init__()
        self.small = nn.Sequential(Block(4, 5))
        self.large = nn.Sequential(Block(5, 6), Block(6, 7), Block(7, 8))
        self.other = nn.ModuleDict({"a": Other(8, 9), "b": Other(9, 10)})

    def forward(self, x):
        x = self.large(self.small(x))
        return self.other["b"](self.other["a"](x))


@pytest.mark.parametrize(
    ("most", "rows"),
    [
        (24, "input_1 linear_1 relu_1 linear_2 relu_2 linear_3 relu_3 linear_4 relu_4 linear_5 "
             "relu_5 linear_6 relu_6 output_1"),
        # two stages of one class are opened together or not at all
        (8, "input_1 small.0 large.0 large.1 large.2 other.a other.b output_1"),
        (7, "input_1 small large other.a other.b output_1"),
        (6, "input_1 small large other.a other.b output_1"),
        (1, "input_1 small large other.a other.b output_1"),
    ],
)  # fmt: skip
def test_modules_are_opened_while_there_is_room(most, rows):
    assert auto(Wide(), most=most).index.tolist() == rows.split()


def test_a_wrapper_is_opened_where_that_costs_nothing():
    frame = auto(nn.Sequential(nn.Sequential(nn.Sequential(Block(), Other()))), most=4)
    assert frame.index.tolist() == ["input_1", "0.0.0", "0.0.1", "output_1"]


def flat(x):
    for _ in range(2):
        x = x.exp().sin().cos().tanh().sqrt() @ x.new_ones(4, 4)
    return x.abs(), x.neg(), x.exp()


def test_stretches_only_where_there_is_too_much():
    layers = lf.trace(flat, torch.ones(4, 4), save=None).layers
    assert "output_1..output_3" not in layers.lens.collapse("auto").index
    few = layers.lens.collapse("auto", most=5)
    assert few["func"].tolist()[-1] == "3 outputs"
    assert few["kind"].tolist()[-1] == "output"
    assert few["seconds"].sum() == pytest.approx(layers["seconds"].sum())


def test_a_loop_is_rolled_first(recurrent):
    frame = recurrent.lens.collapse("auto", most=6)
    assert frame.loc["cell", "n_passes"] == 5
    assert frame.loc["cell", "parents"] == ("getitem_1", "new_zeros_1", "cell", "mul_1")
    rolled = recurrent.lens.roll().lens.collapse("auto", most=6)
    pd.testing.assert_frame_equal(frame, rolled)


class Decoder(nn.Module):
    """Blocks that keep what they saw, called step by step."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(3)])

    def forward(self, x, cache):
        for i, block in enumerate(self.blocks):
            cache[i] = x if i not in cache else cache[i] + x
            x = block(x, cache[i])
        return x


def test_blocks_of_a_loop_that_repeat():
    model = Decoder().eval()

    def decode(x):
        cache = {}
        for _ in range(3):
            x = model(x, cache)
        return x

    frame = lf.trace(decode, torch.ones(2, 4), save=None).layers.lens.collapse("auto", most=4)
    assert frame.index.tolist() == ["input_1", "model", "output_1"]
    assert frame.loc["model", "n_passes"] == 3
    assert {*frame.loc["model", "parents"]} == {"input_1", "model"}


def test_of_a_filtered_a_shuffled_and_an_empty_frame():
    layers = traced(Masked(Block(), Block(), Block()))
    no_inputs = layers.query("kind == 'op'").lens.collapse("auto")
    assert no_inputs.index.tolist() == ["exp_1", "blocks.0..2"]
    shuffled = layers.sample(frac=1, random_state=0).lens.collapse("auto")
    assert shuffled.index.tolist() == ["input_1", "exp_1", "blocks.0..2", "output_1"]
    empty = layers.iloc[:0].lens.collapse("auto")
    assert len(empty) == 0
    assert "repeats" in empty.columns


@pytest.mark.parametrize("fold", [{"modules": "auto"}, {"depth": 1}, {"modules": "blocks.0"}])
def test_of_a_frame_whose_labels_are_a_column(fold):
    layers = traced(Masked(Block(), Block(), Block()))
    frame = layers.assign(**{"5": 1}).rename(columns={"5": 5})
    folded = frame.reset_index().lens.collapse(**fold)
    assert folded.index.name == "op"
    options = {"check_column_type": False, **BY_PANDAS}
    pd.testing.assert_frame_equal(folded, frame.lens.collapse(**fold), **options)


def test_rolling_a_frame_whose_labels_are_a_column(recurrent):
    rolled = recurrent.reset_index().lens.roll()
    pd.testing.assert_frame_equal(
        rolled[recurrent.columns], recurrent.lens.roll()[recurrent.columns], **BY_PANDAS
    )
    assert rolled.lens.unroll().index.tolist() == recurrent.index.tolist()


@pytest.mark.parametrize("model", [Masked(Block(), Block()), Wide(), nn.ReLU()])
def test_the_result_is_a_frame_like_any(model, tmp_path):
    frame = auto(model, most=8)
    assert set(frame.lens.edges()["target"]) <= {*frame.index}
    assert frame.lens.draw().n_nodes == len(frame)
    frame.to_parquet(tmp_path / "few.parquet")
    lf.write(frame, tmp_path / "lens.parquet")
    for back in (pd.read_parquet(tmp_path / "few.parquet"), lf.read(tmp_path / "lens.parquet")):
        assert back["repeats"].tolist() == frame["repeats"].tolist()
        assert back.lens.edges().equals(frame.lens.edges())
    again = frame.lens.collapse("auto")
    assert shown(again) == shown(frame)
    one = frame.lens.collapse(depth=1)
    assert one["n_params"].sum() == frame["n_params"].sum()


@pytest.mark.parametrize("verb", ["profile", "summary", "memory", "costs"])
def test_what_needs_traced_rows_says_so(verb):
    frame = auto(Masked(Block(), Block()))
    with pytest.raises(lf.LensValueError, match=f"{verb}.*profile before you roll or collapse"):
        getattr(frame.lens, verb)()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"most": 0}, "most=0; it is how many"), ({"most": 2.5}, r"most=2\.5"),
        ({"most": True}, "most=True"), ({"depth": 1}, 'either "auto" or depth='),
    ],
)  # fmt: skip
def test_wrong_options(given, error):
    with pytest.raises(lf.LensError, match=error):
        traced(Wide()).lens.collapse("auto", **given)
    with pytest.raises(lf.LensTypeError, match='goes with collapse\\("auto"\\) only'):
        traced(Wide()).lens.collapse(depth=1, most=3)


def test_a_module_may_be_called_auto():
    model = nn.Sequential()
    model.add_module("auto", Block())
    assert "auto" in traced(model).lens.collapse(["auto"]).index


@given(programs())
@settings(deadline=None, max_examples=60)
def test_the_graph_stays_that_of_the_program(program):
    layers = lf.trace(program, torch.ones(2, 3), save=None).layers
    before = layers.lens.to_networkx()
    for most in (1, 4, 24):
        frame = layers.lens.collapse("auto", most=most)
        assert frame["seconds"].sum() == pytest.approx(layers["seconds"].sum())
        assert frame["step"].is_monotonic_increasing
        after = frame.lens.to_networkx()
        if "parent_passes" not in frame.columns:
            assert nx.is_directed_acyclic_graph(after)
        assert frame.index.is_unique
        for op in frame.index[frame.index.str.startswith("input")]:
            assert reaches_an_output(after, op) == reaches_an_output(before, op)


def reaches_an_output(graph, op):
    return any(other.startswith("output") for other in nx.descendants(graph, op))


class Flat(nn.Module):
    """Layers of one list with operations between them, by `step`, between a start and an end."""

    def __init__(self, step, widths):
        super().__init__()
        self.step, self.stem = step, nn.Linear(4, widths[0])
        self.layers = nn.ModuleList(map(nn.Linear, widths, widths[1:]))
        self.gates = nn.ModuleList(nn.Linear(4, 4) for _ in widths)
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.stem(x)
        mask = x.sigmoid()
        for layer, gate in zip(self.layers, self.gates, strict=False):
            x = self.step(self, layer, gate, x, mask)
        return x.exp()


def glued(model, layer, gate, x, mask):
    return torch.relu(layer(x)) + x


def masked(model, layer, gate, x, mask):
    return layer(x).tanh() * mask


def gated(model, layer, gate, x, mask):
    return layer(x) * gate(x)


def stretched(model, layer, gate, x, mask):
    return layer(x).tanh().mul(2).add(x).neg()


def crossed(model, layer, gate, x, mask):
    h = layer(x)
    model.even = not getattr(model, "even", False)
    return torch.relu(h) + (h if model.even else x)


def narrowed(model, layer, gate, x, mask):
    return torch.relu(layer(x)) + 1


FLAT = [
    (glued, [4] * 41, ["3 operations"], [40]),
    (masked, [4] * 41, ["3 operations"], [40]),
    (gated, [4] * 41, ["3 operations"], [40]),
    (stretched, [4] * 41, ["5 operations"], [40]),
    # a step that reads what the first of two did, not what it did itself, is another
    (crossed, [4] * 41, ["6 operations"], [19]),
    # two widths are two repetitions, with the change between them
    (narrowed, [4] * 21 + [3] * 21, ["3 operations", "3 operations"], [20, 20]),
]


@pytest.mark.parametrize(("step", "widths", "funcs", "times"), FLAT)
def test_rows_that_repeat_where_no_module_does(step, widths, funcs, times):
    model = Flat(step, widths).eval()
    layers = traced(model)
    frame = layers.lens.collapse("auto")
    repeated = frame[frame["repeats"] > 1]
    assert repeated["func"].tolist() == funcs
    assert repeated["repeats"].tolist() == times
    assert len(frame) <= 12
    held = [*model.stem.parameters(), *model.layers.parameters()]
    held += model.gates[:40].parameters() if step is gated else []
    assert frame["n_params"].sum() == sum(p.numel() for p in held)
    assert frame["seconds"].sum() == pytest.approx(layers["seconds"].sum())
    assert nx.is_directed_acyclic_graph(frame.lens.to_networkx())
    assert frame["step"].is_monotonic_increasing
    everything = layers.lens.collapse("auto", most=len(layers))  # as long as there is room
    assert everything["repeats"].eq(1).all()
    assert len(everything) == len(layers)


def test_what_repeats_may_be_blocks_and_stretches():
    class Net(Chain):
        def forward(self, x):
            for block, other in zip(self.blocks[::2], self.blocks[1::2], strict=True):
                x = block(x) * other(x)
            return x

    blocks = [kind() for _ in range(20) for kind in (Block, Other)]
    frame = auto(Net(*blocks), most=4)
    assert frame["repeats"].tolist() == [1, 20, 1]
    assert frame["n_params"].sum() == 40 * 20


def test_what_never_repeats_stays_as_it_is():
    funcs = [torch.sin, torch.cos, torch.tanh, torch.exp]
    order = [k * k // 3 % 4 for k in range(30)]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4 + k, 5 + k) for k in range(30))

        def forward(self, x):
            for layer, k in zip(self.layers, order, strict=True):
                x = funcs[k](layer(x))
            return x

    assert len(auto(Net())) == 62


@pytest.mark.parametrize(
    ("things", "found"),
    [
        ("", []), ("abcd", []), ("aa", [(0, 1, 2)]), ("xababac", [(1, 2, 2)]),
        ("aabaabaab", [(0, 3, 3)]), ("aaaabbbb", [(0, 1, 4), (4, 1, 4)]),
        ("abcabcxabab", [(0, 3, 2), (7, 2, 2)]), ("abababa", [(0, 2, 3)]),
    ],
)  # fmt: skip
def test_periods(things, found):
    assert [tuple(period) for period in periods(things)] == found
