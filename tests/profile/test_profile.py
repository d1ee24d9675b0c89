"""Totals by op, layer, module, function and line against plain sums of pandas."""

import numpy as np
import pandas as pd
import pytest
import torch
from stored import BY_PANDAS
from torch import nn

import lensframe_pd as lf
from lensframe_pd.profile.chrome import trace_events
from lensframe_pd.profile.costs import costs
from lensframe_pd.profile.profile import BY, profile
from lensframe_pd.profile.summary import summary

from .layer_files import traced_layers


def test_intensity_and_speed():
    layers = traced_layers(nn.Linear(64, 32, bias=False).eval(), torch.rand(16, 64))
    row = profile(layers).loc["linear_1"]
    flops = 2 * 16 * 64 * 32
    assert row["intensity"] == flops / (4 * (16 * 64 + 64 * 32 + 16 * 32))
    assert row["flops_per_s"] == flops / layers.loc["linear_1", "seconds"]


def test_several_results_of_one_call_count_once():
    layers = traced_layers(nn.LSTM(3, 4).eval(), torch.rand(5, 2, 3))
    once = layers.drop_duplicates("call")
    assert (layers["func"] == "lstm").sum() == 3
    for by in BY:
        table = profile(layers, by)
        total = table.loc[""] if by == "module" else table.sum(numeric_only=True)
        assert total["seconds"] == pytest.approx(once["seconds"].sum())
        assert total["flops"] == 2 * 5 * 2 * 4 * 4 * (3 + 4)
    assert profile(layers, "func").loc["lstm", "calls"] == 1


def test_module_totals_hold_what_is_inside(blocks):
    table = profile(blocks, "module")
    assert table.index.tolist() == [
        "", "blocks", "blocks.0", "blocks.0.0", "blocks.0.1",
        "blocks.1", "blocks.1.0", "blocks.1.1", "head",
    ]  # fmt: skip
    ops = blocks[blocks["kind"] == "op"]
    for path in table.index[1:]:
        inside = ops[[any(f"{e.rsplit(':')[0]}.".startswith(f"{path}.") for e in cell)
                      for cell in ops["module_stack"]]]  # fmt: skip
        assert table.loc[path, "seconds"] == pytest.approx(inside["seconds"].sum())
        assert table.loc[path, "act_bytes"] == inside["nbytes"].sum()
        assert table.loc[path, "ops"] == len(inside)
        own = ops.loc[ops["module"] == path, "seconds"].sum()
        assert table.loc[path, "self_seconds"] == pytest.approx(own)
    assert table.loc["", "seconds"] == pytest.approx(ops["seconds"].sum())
    assert table.loc["", "share"] == 1
    assert table["self_seconds"].sum() == pytest.approx(ops["seconds"].sum())
    assert table["calls"].tolist() == [1, 0, 1, 1, 1, 2, 2, 2, 1]
    assert table.loc[["", "blocks.1", "blocks.1.0"], "module_type"].tolist() == [
        "Blocks", "Sequential", "Linear",
    ]  # fmt: skip
    # the block that runs twice has its parameters once and its FLOPs twice
    assert table.loc["blocks.1", ["params", "flops"]].tolist() == [20, 2 * (2 * 5 * 4 * 4)]
    assert table.loc["", "params"] == 2 * 20 + 15


def test_depth_cuts_the_tree(blocks):
    whole = profile(blocks, "module")
    for depth, paths in [(0, [""]), (1, ["", "blocks", "head"])]:
        cut = profile(blocks, "module", depth)
        assert cut.index.tolist() == paths
        pd.testing.assert_frame_equal(cut, whole.loc[paths])


def test_groups_are_pandas_sums(blocks):
    ops = blocks[blocks["kind"] == "op"]
    for by in ("layer", "func", "source"):
        table = profile(blocks, by)
        expected = ops.groupby(by, sort=False)["seconds"].agg(["sum", "size"])
        np.testing.assert_allclose(table["seconds"], expected["sum"])
        assert table["calls"].tolist() == expected["size"].tolist()
        assert table.index.tolist() == expected.index.tolist()
        assert table["share"].sum() == pytest.approx(1)
    assert profile(blocks, "func").loc["linear", "params"] == 55
    assert profile(blocks, "layer").loc["linear_2", ["calls", "params"]].tolist() == [2, 20]


def test_tied_parameters_count_once_in_what_holds_both():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.embed(ids))

    table = profile(traced_layers(Tied().eval(), torch.tensor([[1, 2]])), "module")
    assert table["params"].to_dict() == {"": 40, "embed": 40, "head": 40}
    assert table["params_bytes"].to_dict() == {"": 160, "embed": 160, "head": 160}


class Woven(nn.Module):
    """Blocks that share parameters with some others, by number."""

    def __init__(self, numbers):
        super().__init__()
        layers = {n: nn.Linear(2, 2) for n in numbers}
        layers[0].bias.requires_grad_(False)
        halves = numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]
        self.halves = nn.ModuleList(nn.ModuleList(layers[n] for n in half) for half in halves)

    def forward(self, x):
        for half in self.halves:
            for layer in half:
                x = torch.relu(layer(x))
        return x @ self.halves[0][0].weight


@pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (0, 0, 1, 1), (0, 1, 0, 1), (0, 0, 0, 0)])
def test_each_parameter_counts_once_in_whatever_holds_it(numbers):
    model = Woven(numbers).eval()
    table = lf.trace(model, torch.ones(1, 2)).layers.lens.profile("module")
    for path in table.index:  # a module is called by its first path alone
        held = [*(model.get_submodule(path) if path else model).parameters()]
        found = table.loc[path, ["params", "params_bytes", "n_trainable"]].tolist()
        sizes = [(p.numel(), p.nbytes, p.numel() * p.requires_grad) for p in held]
        assert found == [sum(column) for column in zip(*sizes, strict=True)], path


def test_frozen_and_trainable_parameters():
    model = nn.Linear(3, 4).eval()
    model.bias.requires_grad_(False)
    row = profile(traced_layers(model, torch.rand(2, 3)), "module").loc[""]
    assert row[["params", "n_trainable"]].tolist() == [16, 12]


def test_any_order_and_a_lost_index(blocks):
    shuffled = blocks.sample(frac=1, random_state=0).reset_index(drop=True)
    table = profile(shuffled, "op")
    assert table.index.tolist() == blocks.index[blocks["kind"] == "op"].tolist()
    assert table["flops"].sum() == 2 * 5 * (3 * 16 + 12)
    assert costs(shuffled).index.equals(shuffled.index)


def test_a_frame_is_not_changed_nor_is_torch(blocks):
    layers = traced_layers(nn.Sequential(nn.Dropout(), nn.Linear(4, 4)).eval(), torch.rand(2, 4))
    before, hooks = blocks.copy(), dict(torch.nn.modules.module._global_forward_hooks)
    state = torch.get_rng_state()
    for frame in (blocks, layers):
        for by in BY:
            profile(frame, by)
    pd.testing.assert_frame_equal(blocks, before)
    assert hooks == torch.nn.modules.module._global_forward_hooks
    assert torch.equal(state, torch.get_rng_state())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("by", BY)
def test_profiles_go_to_parquet(blocks, by, tmp_path):
    table = profile(blocks, by)
    table.to_parquet(tmp_path / "profile.parquet")
    read = pd.read_parquet(tmp_path / "profile.parquet")
    pd.testing.assert_frame_equal(read, table, **BY_PANDAS)


def test_errors(blocks):
    with pytest.raises(lf.LensValueError, match="'modul'; did you mean 'module'"):
        profile(blocks, "modul")
    with pytest.raises(lf.LensValueError, match="means nothing by='func'"):
        profile(blocks, "func", depth=1)
    with pytest.raises(lf.LensValueError, match="not -1"):
        profile(blocks, "module", depth=-1)
    with pytest.raises(lf.LensKeyError, match=r"profile needs column 'seconds' \(time of the call"):
        profile(blocks.drop(columns="seconds"))
    with pytest.raises(lf.LensKeyError, match="needs column 'param_shapes'"):
        costs(blocks.drop(columns="param_shapes"))
    with pytest.raises(lf.LensValueError, match="no rows"):
        profile(blocks[:0])
    with pytest.raises(lf.LensValueError, match="no rows of kind 'op'"):
        profile(blocks[blocks["kind"] == "input"])
    with pytest.raises(lf.LensValueError, match=r"linear_1.* stand for several rows"):
        profile(pd.concat([blocks, blocks]))
    with pytest.raises(lf.LensValueError, match=r"kind module; .*before you roll or collapse"):
        costs(blocks.assign(kind="module"))
    with pytest.raises(lf.LensValueError, match="rolled rows"):
        profile(costs(blocks).assign(unrolled=""))


class Nested(nn.Module):
    """Modules, and nothing that they do."""

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity()))

    def forward(self, x):
        return {"same": self.parts(x)}


@pytest.mark.parametrize("model", [nn.Identity(), Nested(), lambda x: (x, x), lambda x: x])
def test_a_model_without_operations_has_empty_tables(model, blocks):
    model = model.eval() if isinstance(model, nn.Module) else model
    layers = lf.trace(model, torch.ones(2, 3)).layers
    for by in ("op", "layer", "module", "func", "source"):
        found, usual = profile(layers, by), profile(blocks, by)
        assert len(found) == 0
        assert found.index.name == by
        pd.testing.assert_series_equal(found.dtypes, usual.dtypes)
    found = summary(layers)
    assert len(found) == 0
    assert list(found.columns) == list(summary(blocks).columns)
    events = trace_events(layers)["traceEvents"]
    assert [event["name"] for event in events] == ["process_name", "model"]
    assert events[1]["dur"] == 0
