"""Rows folded into layers and modules, and unfolded, against plain pandas."""

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from stored import BY_PANDAS
from torch import nn

import lensframe_pd as lf
from lensframe_pd.schema import COLUMNS

from .random_graphs import graphs, programs


def test_roll_gives_a_row_per_layer(recurrent):
    rolled = recurrent.lens.roll()
    firsts = recurrent.drop_duplicates("layer")
    assert rolled.index.tolist() == firsts["layer"].tolist()
    grouped = recurrent.groupby("layer")
    for column in ("seconds", "nbytes", "numel"):
        pd.testing.assert_series_equal(
            rolled[column].sort_index(), grouped[column].sum(), check_names=False
        )
    assert rolled["n_passes"].to_dict() == grouped.size().to_dict()
    cell = rolled.loc["linear_2"]
    assert cell["parents"] == ("new_zeros_1", "tanh_1", "mul_1")
    assert cell["parent_passes"] == ("1>1", "1-2,4>2-3,5", "1>4")


def test_unroll_gives_the_frame_back(recurrent):
    rolled = recurrent.assign(note=range(len(recurrent))).lens.roll()
    pd.testing.assert_frame_equal(rolled.lens.unroll().drop(columns="note"), recurrent)
    part = rolled.loc[["tanh_1", "mul_1"]].lens.unroll()
    pd.testing.assert_frame_equal(part[recurrent.columns], recurrent.loc[part.index])


def test_a_frame_without_loops_is_not_changed(net):
    pd.testing.assert_frame_equal(net.lens.roll(), net)
    pd.testing.assert_frame_equal(net.lens.unroll(), net)


def test_rolling_survives_parquet(recurrent, tmp_path):
    recurrent.lens.roll().to_parquet(tmp_path / "rolled.parquet")
    back = pd.read_parquet(tmp_path / "rolled.parquet").lens.unroll()
    pd.testing.assert_frame_equal(back, recurrent, **BY_PANDAS)


def test_what_cannot_be_rolled(recurrent):
    rolled = recurrent.lens.roll()
    with pytest.raises(lf.LensValueError, match="rolled already"):
        rolled.lens.roll()
    with pytest.raises(lf.LensTypeError, match="column 'mine' holds object"):
        recurrent.assign(mine=[object() for _ in range(len(recurrent))]).lens.roll()
    with pytest.raises(lf.LensValueError, match=r"unroll\(\) first"):
        rolled.lens.collapse(depth=1).lens.unroll()


@given(graphs())
@settings(deadline=None)
def test_rolling_random_graphs_loses_nothing(frame):
    rolled = frame.lens.roll()
    assert len(rolled) == frame["layer"].nunique()
    pd.testing.assert_frame_equal(rolled.lens.unroll(), frame)
    place = dict(zip(frame.index, frame["layer"], strict=True))
    expected = {
        (place[p], layer, arg)
        for layer, parents, args in zip(
            frame["layer"], frame["parents"], frame["parent_args"], strict=True
        )
        for p, arg in zip(parents, args, strict=True)
    }
    edges = rolled.lens.edges()
    assert set(zip(edges["source"], edges["target"], edges["arg"], strict=True)) == expected
    assert len(edges) == len(expected)


def test_collapse_by_depth(net):
    flat = net.lens.collapse(depth=1)
    assert flat[["kind", "func", "parents"]].values.tolist() == [
        ["input", "input", ()],
        ["module", "Linear", ("input_1",)],
        ["module", "Sequential", ("stem",)],
        ["module", "Linear", ("blocks",)],
        ["output", "output", ("head",)],
    ]
    inside = net[net["module"].str.startswith("blocks")]
    for column in ("seconds", "n_params"):
        assert flat.loc["blocks", column] == pytest.approx(inside[column].sum())
    assert (flat.loc["blocks", "numel"], flat.loc["blocks", "nbytes"]) == (5 * 4, 5 * 4 * 4)
    assert flat.loc["blocks", "params"] == tuple(inside["params"].explode().dropna())
    assert flat.loc["blocks", "shape"] == (5, 4)
    assert list(flat.columns) == list(COLUMNS)


def test_collapse_by_path_keeps_the_rest(net):
    part = net.lens.collapse("blocks.0")
    assert part.index.tolist() == [
        "input_1", "linear_1", "blocks.0", "linear_3", "relu_2", "add_2", "linear_4", "output_1",
    ]  # fmt: skip
    assert part.loc["add_2", "parents"] == ("blocks.0", "relu_2")
    assert part.loc["blocks.0", "module_stack"] == ("blocks:1",)
    both = net.lens.collapse(["blocks.0", "blocks"])
    assert "blocks" in both.index
    assert "blocks.0" not in both.index


def test_collapse_gives_a_row_per_call(recurrent):
    cells = recurrent.lens.collapse("cell")
    assert [op for op in cells.index if op.startswith("cell")] == [f"cell:{i}" for i in range(1, 6)]
    assert cells.loc["cell:2", "parents"] == ("getitem_1:2", "cell:1")
    assert cells.loc["cell:3", "n_params"] == 3 * 4 + 4 + 4 * 4 + 4


def test_a_collapsed_loop_points_at_itself(recurrent):
    rolled = recurrent.lens.roll().lens.collapse(depth=1)
    assert rolled.loc["cell", "parents"] == ("getitem_1", "new_zeros_1", "cell", "mul_1")
    assert rolled.loc["cell", "n_passes"] == 5


def test_a_shared_parameter_counts_once():
    fc = nn.Linear(4, 4)
    layers = lf.trace(
        nn.Sequential(nn.Sequential(fc, nn.ReLU(), fc)).eval(), torch.rand(2, 4)
    ).layers
    row = layers.lens.collapse(depth=1).loc["0"]
    assert row["n_params"] == row["n_trainable"] == 20
    assert row["params_nbytes"] == 80


class Routed(nn.Module):
    """Each call reads what the plan says of that call."""

    def __init__(self, plan):
        super().__init__()
        self.plan, self.t = plan, 0
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.register_buffer("g", torch.ones(4))
        self.b.weight.requires_grad_(False)

    def forward(self, x):
        for name in self.plan[self.t]:
            x = x * self.g if name == "g" else self.get_submodule(name)(x)
        self.t += 1
        return x.tanh()


class Looped(nn.Module):
    def __init__(self, *plan):
        super().__init__()
        self.area = Routed(plan)

    def forward(self, x):
        for _ in self.area.plan:
            x = self.area(x)
        return x


@pytest.mark.parametrize(
    "plan",
    [
        ("a", "ab"),  # feedback begins with the second pass
        ("ab", "a"),
        ("ac", "c", "ac"),
        ("a", "c"),  # no pass reads all
        ("g", "ga"),
        ("a", "", "a"),
        ("b", "ab", "abc"),
    ],
)
def test_a_rolled_module_has_the_parameters_of_all_its_calls(plan):
    model = Looped(*plan).eval()
    layers, _ = lf.trace(model, torch.rand(2, 4))
    used = {f"area.{name}" for name in "".join(plan)}
    read = {n: p for n, p in model.named_parameters() if n.rpartition(".")[0] in used}
    rows = [layers.lens.roll().lens.collapse(1), layers.lens.collapse(1).lens.roll()]
    for row in [rolled.loc["area"] for rolled in rows]:
        assert {*row["params"]} == {*read}
        assert len(row["params"]) == len(row["param_args"]) == len(row["param_dtypes"])
        shapes = dict(zip(row["params"], row["param_shapes"], strict=True))
        assert shapes == {name: tuple(p.shape) for name, p in read.items()}
        assert row["n_params"] == sum(p.numel() for p in read.values())
        assert row["params_nbytes"] == 4 * row["n_params"]
        assert row["n_trainable"] == sum(p.numel() for p in read.values() if p.requires_grad)
        assert row["buffers"] == (("area.g",) if "g" in "".join(plan) else ())
    collapsed = layers.lens.collapse(1)
    pd.testing.assert_frame_equal(collapsed.lens.roll().lens.unroll(), collapsed)


def test_a_rolled_operation_has_what_its_first_pass_alone_read():
    start = nn.Parameter(torch.ones(3))

    def scan(x):
        h = start
        for t in range(4):
            h = torch.tanh(x[t] + h)
        return h

    rolled = lf.trace(scan, torch.rand(4, 3)).layers.lens.roll()
    assert rolled.loc["add_1", ["n_passes", "n_params", "n_trainable"]].tolist() == [4, 3, 3]
    assert len(rolled.loc["add_1", "params"]) == 1


def test_wrong_collapses(net):
    with pytest.raises(lf.LensTypeError, match="either module paths or depth="):
        net.lens.collapse()
    with pytest.raises(lf.LensValueError, match="1 is the children"):
        net.lens.collapse(depth=0)
    with pytest.raises(lf.LensKeyError, match="no module 'block'"):
        net.lens.collapse(["block"])


def test_verbs_compose_in_any_order_and_from_files(recurrent, tmp_path):
    recurrent.to_parquet(tmp_path / "layers.parquet")
    frame = pd.read_parquet(tmp_path / "layers.parquet")
    one = frame.lens.roll().lens.collapse(depth=1).lens.keep(lambda rows: rows["kind"] != "op")
    assert one.loc["cell", "parents"] == ("input_1", "cell")
    two = frame.lens.collapse(depth=1).lens.roll().lens.keep(lambda rows: rows["kind"] != "op")
    assert two.loc["cell", "parents"] == ("input_1", "cell")
    assert frame.lens.ancestors("tanh_1:2").lens.find("cell:1").index.tolist() == [
        "linear_1:1", "linear_2:1", "add_1:1", "tanh_1:1",
    ]  # fmt: skip


class Several(nn.Module):
    """Returns what it is told of a wide, a narrow and a single tensor, made in this order."""

    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, x):
        made = {"wide": torch.cat([x, x], 1), "narrow": x[:, :2] * 1, "single": x.sum()}
        return self.give(made)


class Cached(nn.Module):
    """Attention that fills a cache after its result, as decoders do."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, cache):
        out = self.q(x)
        cache.append(torch.stack([self.k(x), x]))
        return out, cache


@pytest.mark.parametrize(
    ("give", "first"),
    [
        (lambda made: (made["narrow"], made["wide"]), "2x2"),
        (lambda made: (made["single"], made["narrow"], made["wide"]), ""),
        (lambda made: [made["wide"], made["narrow"]], "2x8"),
        (lambda made: {"b": made["narrow"], "a": made["wide"]}, "2x2"),
        (lambda made: (None, 3, {"a": (made["single"],)}, made["wide"]), ""),
        (lambda made: ([made["narrow"]] * 2, made["wide"]), "2x2"),
    ],
)
def test_a_module_shows_the_first_tensor_it_returned(give, first):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Several(give)

        def forward(self, x):
            return self.inner(x)

    model, seen = Outer().eval(), []

    def hook(module, args, output):
        flat = torch.utils._pytree.tree_leaves(
            [*output.values()] if isinstance(output, dict) else output
        )
        seen.append(next(leaf for leaf in flat if isinstance(leaf, torch.Tensor)))

    handle = model.inner.register_forward_hook(hook)
    layers = lf.trace(model, torch.ones(2, 4)).layers
    handle.remove()
    (tensor,) = seen
    row = layers.lens.collapse(depth=1).loc["inner"]
    assert row["shape"] == tuple(tensor.shape)
    assert (row["numel"], row["nbytes"]) == (tensor.numel(), tensor.nbytes)
    assert row["shape_str"] == layers.lens.summary().loc["inner", "output"] == first


def test_a_cache_filled_last_is_not_what_a_module_shows():
    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Cached()

        def forward(self, x):
            out, _ = self.attention(x, [])
            return out

    layers = lf.trace(Decoder().eval(), torch.ones(2, 4)).layers
    row = layers.lens.collapse(depth=1).loc["attention"]
    assert (row["shape"], row["nbytes"]) == ((2, 4), 2 * 4 * 4)
    assert layers.lens.summary().loc["attention", "output"] == "2x4"


def same_graph(a, b):
    """Two frames are one graph: rows, edges and their passes, sizes."""
    assert list(a.index) == list(b.index)
    for column in ("n_passes", "parents", "parent_args", "shape", "shape_str", "kind", "nbytes"):
        assert list(a[column]) == list(b[column]), column
    assert ("parent_passes" in a.columns) == ("parent_passes" in b.columns)
    if "parent_passes" in a.columns:
        assert list(a["parent_passes"]) == list(b["parent_passes"])
    assert a.lens.edges().equals(b.lens.edges())


class Decoding(nn.Module):
    """A module that is called several times, and each time reads what it returned before."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])

    def forward(self, x, cache=None):
        h = self.embed(x)
        for block in self.blocks:
            h = h + block(h)
        return h if cache is None else torch.cat([cache, h])


MODEL = Decoding().eval()


def decode(x):
    cache = None
    for _ in range(3):
        cache = MODEL(x, cache)
        x = cache[-1:]
    return cache


def refine(x):
    for block in MODEL.blocks:
        for _ in range(3):
            x = torch.tanh(block(x)) * 0.5
    return x


def siamese(x):
    return MODEL(x) - MODEL(x * 2)


@pytest.mark.parametrize("model", [decode, refine, siamese])
@pytest.mark.parametrize(
    "fold", [{"depth": 1}, {"depth": 2}, {"depth": 3}, {"modules": "MODEL.blocks.0"}]
)
def test_rolling_and_collapsing_commute(model, fold):
    layers = lf.trace(model, torch.ones(1, 4)).layers
    same_graph(
        layers.lens.roll().lens.collapse(**fold),
        layers.lens.collapse(**fold).lens.roll(),
    )


def test_the_calls_of_a_model_are_one_row_of_a_rolled_frame():
    layers = lf.trace(decode, torch.ones(1, 4)).layers
    for row in (
        layers.lens.roll().lens.collapse(depth=1).loc["MODEL"],
        layers.lens.collapse(depth=1).lens.roll().loc["MODEL"],
    ):
        assert row["n_passes"] == 3
        assert row["parents"] == ("input_1", "getitem_1", "MODEL")


def test_a_module_called_twice_whose_operations_are_no_passes_commutes():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.ReLU())
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(self.linear(self.inner(x).sin()))

    layers = lf.trace(Twice().eval(), torch.ones(2, 3)).layers
    same_graph(layers.lens.roll().lens.collapse(depth=1), layers.lens.collapse(depth=1).lens.roll())
    assert layers.lens.roll().lens.unroll().equals(layers)


@given(programs())
@settings(deadline=None, max_examples=40)
def test_rolling_and_collapsing_random_programs_commute(program):
    layers = lf.trace(program, torch.ones(2, 3), save=None).layers
    for depth in (1, 2):
        same_graph(
            layers.lens.roll().lens.collapse(depth=depth),
            layers.lens.collapse(depth=depth).lens.roll(),
        )


class Listed(nn.Module):
    """Blocks in a list that is never called, in an encoder that is."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 3)
        block = [nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))]
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(block * 1)
        self.encoder.forward = self.encode
        self.top = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.ReLU())])

    def encode(self, x):
        return self.encoder.layer[0](x)

    def forward(self, x):
        return self.top[0](self.encoder(self.stem(x)))


@pytest.mark.parametrize(
    ("depth", "collapsed"),
    [
        (1, ["stem", "encoder", "top.0"]),
        (2, ["encoder.layer.0", "top.0"]),
        (3, ["encoder.layer.0", "top.0.0", "top.0.1"]),
        (4, ["encoder.layer.0.0", "encoder.layer.0.1"]),
        (5, ["encoder.layer.0.1.0", "encoder.layer.0.1.1"]),
    ],
)
def test_depth_is_the_number_of_names_everywhere(depth, collapsed):
    layers = lf.trace(Listed().eval(), torch.ones(2, 3)).layers
    rows = layers.lens.collapse(depth=depth)
    assert rows.index[rows["kind"] == "module"].tolist() == collapsed
    shallow = {*layers.lens.profile("module", depth).index, *layers.lens.summary(depth).index}
    assert all(path.count(".") < depth for path in shallow)
