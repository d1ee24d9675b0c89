"""Whatever Python a forward is written in: rows, edges and values are those written by hand."""

import functools
import re
from collections import UserDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

import lensframe_pd as lf

pytestmark = pytest.mark.filterwarnings("error::lensframe_pd.errors.LensWarning")


class Net(nn.Module):
    """A module whose forward is a function of the module and its inputs."""

    def __init__(self, forward, **members):
        super().__init__()
        self._body = forward
        for name, member in members.items():
            setattr(self, name, member)
        self.eval()

    def forward(self, *args, **kwargs):
        return self._body(self, *args, **kwargs)


# ------------------------------------------------------------------ control flow and loops


def test_a_branch_on_a_value_is_noted_where_it_was_read(traced, edges):
    def forward(x):
        total = x.sum()
        if total > 0:
            return x * 2
        return x - 1

    up = traced(forward, torch.ones(2, 3))
    down = traced(forward, -torch.ones(2, 3))
    assert edges(up) == {"sum_1": ("input_1",), "gt_1": ("sum_1",), "mul_1": ("input_1",)}
    assert edges(down) == {"sum_1": ("input_1",), "gt_1": ("sum_1",), "sub_1": ("input_1",)}
    line = forward.__code__.co_firstlineno + 2
    assert up.layers.loc["gt_1", "read_by"] == (f"bool: test_works_with_python.py:{line}",)
    assert up.layers.loc["sum_1", "read_by"] == ()


def test_item_and_int_are_reads(traced):
    def forward(x):
        n = int(x.max())
        return x + n + x.min().item()

    layers = traced(forward, torch.arange(6.0).view(2, 3)).layers
    assert [r.split(":")[0] for r in layers.loc["max_1", "read_by"]] == ["int"]
    assert [r.split(":")[0] for r in layers.loc["min_1", "read_by"]] == ["item"]


def test_a_loop_until_converged(traced, value):
    def forward(x):
        while x.norm() > 1:
            x = x / 2
        return x

    x = torch.full((2, 2), 4.0)  # norm 8
    trace = traced(forward, x)
    halves = trace.layers.query("func == 'div'")
    assert list(halves["pass_num"]) == [1, 2, 3]
    for n, label in enumerate(halves.index, 1):
        assert torch.equal(value(trace, label), x / 2**n)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_recurrent_cells(traced, value, cell):
    net = Net(
        lambda self, x: functools.reduce(lambda h, t: self.cell(x[:, t], h), range(3), None),
        cell=cell(4, 5),
    )
    x = torch.randn(2, 3, 4)
    state, wanted = None, []
    for t in range(3):
        state = net.cell(x[:, t], state)
        wanted.append(state[0] if cell is nn.LSTMCell else state)
    trace = traced(net, x)
    steps = trace.layers[trace.layers["returned_by"].map(bool)]
    hidden = steps[steps["shape"].map(lambda s: s == (2, 5))]
    by_call = {call: label for label in hidden.index for call in hidden.loc[label, "returned_by"]}
    assert set(by_call) == {"cell:1", "cell:2", "cell:3"}
    labels = [hidden.index[[f"cell:{t}" in r for r in hidden["returned_by"]]][0] for t in (1, 2, 3)]
    for label, want in zip(labels, wanted, strict=True):
        assert torch.equal(value(trace, label), want.detach())
    last = trace.layers.loc[labels[2]]
    assert set(last["params"]) == {f"cell.{n}" for n, _ in net.cell.named_parameters()}
    assert labels[1] in last["parents"]


# ------------------------------------------------------------------ random numbers


def test_random_tensors_inside(traced, value):
    def forward(x):
        noise = torch.randn(2, 3)
        kept = F.dropout(x + noise, 0.5, training=True)
        kept.uniform_()
        return kept + torch.rand_like(x) + torch.zeros(2, 3)

    trace = traced(forward, torch.ones(2, 3))
    torch.manual_seed(1)
    noise = torch.randn(2, 3)
    assert torch.equal(value(trace, "randn_1"), noise)
    assert torch.equal(value(trace, "dropout_1"), F.dropout(1 + noise, 0.5))
    drawn = trace.layers.query("random")
    assert list(drawn["func"]) == ["randn", "dropout", "uniform", "rand_like"]
    assert trace.layers.loc["uniform_1", "parents"] == ("dropout_1",)


def test_dropout_that_draws_nothing_is_not_random(traced):
    layers = traced(Net(lambda self, x: self.drop(x), drop=nn.Dropout()), torch.ones(2, 3)).layers
    assert list(layers["func"]) == ["input", "dropout", "output"]
    assert not layers["random"].any()


def test_seed_sets_and_records(traced):
    trace = lf.trace(lambda x: x + torch.randn(3), torch.zeros(3), seed=7)
    torch.manual_seed(7)
    assert torch.equal(trace.output, torch.randn(3))
    assert trace.layers.attrs["seed"] == 7


def test_own_generator(traced, value):
    def forward(x):
        return x + torch.randn(3, generator=torch.Generator().manual_seed(5))

    trace = traced(forward, torch.zeros(3))
    wanted = torch.randn(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(value(trace, "randn_1"), wanted)
    assert trace.layers.loc["randn_1", "random"]


# ------------------------------------------------------------------ writes, views, out=


def test_in_place_operations_are_rows_of_their_own(traced, edges, value):
    def forward(x):
        y = x + 1
        y.relu_()
        y *= 3
        F.relu(y, inplace=True)
        return y - 1

    x = torch.tensor([[-3.0, 2.0]])
    trace = traced(forward, x)
    assert edges(trace) == {
        "add_1": ("input_1",), "relu_1": ("add_1",), "mul_1": ("relu_1",), "relu_2": ("mul_1",),
        "sub_1": ("relu_2",),
    }  # fmt: skip
    assert list(trace.layers.query("inplace").index) == ["relu_1", "mul_1", "relu_2"]
    expected = {"add_1": [-2, 3], "relu_1": [0, 3], "mul_1": [0, 9], "sub_1": [-1, 8]}
    for label, numbers in expected.items():
        assert value(trace, label).tolist() == [numbers]


def test_a_write_through_a_view_reaches_its_base(traced, edges, value):
    def forward(x):
        base = x.clone()
        view = base.view(-1)
        view[2:4] = 0
        return base * 2

    trace = traced(forward, torch.ones(2, 3))
    graph = edges(trace)
    assert graph["mul_1"] == ("alias_1",)
    assert set(graph["alias_1"]) == {"clone_1", "setitem_1"}
    assert value(trace, "clone_1").tolist() == [[1, 1, 1], [1, 1, 1]]
    assert value(trace, "view_1").tolist() == [1, 1, 1, 1, 1, 1]
    assert value(trace, "alias_1").tolist() == [[1, 1, 0], [0, 1, 1]]


def test_a_write_to_the_base_reaches_its_views(traced, edges, value):
    def forward(x):
        base = x.clone()
        row = base[0]
        base.mul_(3)
        return row + 1

    trace = traced(forward, torch.ones(2, 3))
    graph = edges(trace)
    assert graph["add_1"] == ("alias_1",)
    assert set(graph["alias_1"]) == {"getitem_1", "mul_1"}
    assert value(trace, "getitem_1").tolist() == [1, 1, 1]
    assert value(trace, "alias_1").tolist() == [3, 3, 3]


def test_a_write_elsewhere_in_the_storage_makes_no_alias(traced, edges):
    def forward(x):
        base = x.clone()
        first, second = base[0], base[1]
        second.add_(1)
        return first * 2

    assert edges(traced(forward, torch.ones(2, 3)))["mul_1"] == ("getitem_1",)


def test_out_argument(traced, edges, value):
    def forward(x):
        target = torch.empty(2, 3)
        torch.add(x, 1, out=target)
        return target * 2

    trace = traced(forward, torch.ones(2, 3))
    graph = edges(trace)
    assert graph["mul_1"] == ("add_1",)
    assert "input_1" in graph["add_1"]
    assert value(trace, "add_1").tolist() == [[2] * 3] * 2


def test_out_of_several_tensors(traced, edges, value):
    def forward(x):
        values, where = torch.empty(2), torch.empty(2, dtype=torch.long)
        torch.max(x, dim=1, out=(values, where))
        return values + 1, where + 1

    trace = traced(forward, torch.tensor([[1.0, 5.0], [7.0, 2.0]]))
    top = trace.layers.query("func == 'max'")
    assert len(top) == 2
    assert top["call"].nunique() == 1
    assert [value(trace, label).tolist() for label in top.index] == [[5, 7], [1, 0]]
    assert edges(trace)["add_1"] == (top.index[0],)
    assert edges(trace)["add_2"] == (top.index[1],)


def test_scatter_masked_and_index_writes(traced, edges, value):
    def forward(x):
        y = x.clone()
        y[y > 1] = 0
        y.index_add_(0, torch.tensor([0]), torch.ones(1, 2))
        y.masked_fill_(y == 1, 9)
        return y.sum()

    trace = traced(forward, torch.tensor([[1.0, 2.0], [3.0, 1.0]]))
    assert value(trace, "setitem_1").tolist() == [[1, 0], [0, 1]]
    assert value(trace, "index_add_1").tolist() == [[2, 1], [0, 1]]
    assert value(trace, "masked_fill_1").tolist() == [[2, 9], [0, 9]]
    graph = edges(trace)
    assert graph["setitem_1"] == ("clone_1", "gt_1")
    assert graph["index_add_1"][0] == "setitem_1"
    assert graph["masked_fill_1"] == ("index_add_1", "eq_1")
    assert graph["sum_1"] == ("masked_fill_1",)


def test_writing_a_buffer(traced, edges, value):
    def forward(self, x):
        self.count += 1
        self.mean.mul_(0.5).add_(x.mean(0))
        return x * self.count - self.mean

    net = Net(forward)
    net.register_buffer("count", torch.zeros(()))
    net.register_buffer("mean", torch.ones(3))
    trace = traced(net, torch.full((2, 3), 4.0))
    graph = edges(trace)
    assert trace.layers.loc["add_1", "buffers"] == ("count",)
    assert trace.layers.loc["mul_1", "buffers"] == ("mean",)
    assert graph["add_2"] == ("mul_1", "mean_1")
    assert graph["mul_2"] == ("input_1", "add_1")
    assert graph["sub_1"] == ("mul_2", "add_2")
    assert value(trace, "mul_1").tolist() == [0.5] * 3
    assert value(trace, "add_2").tolist() == [4.5] * 3


def test_batch_norm_statistics_written_in_train_mode(traced):
    norm = nn.BatchNorm1d(3).train()
    with pytest.warns(lf.errors.LensWarning, match="train mode"):
        trace = traced(norm, torch.randn(4, 3))
    row = trace.layers.query("func == 'batch_norm'").iloc[0]
    assert set(row["buffers"]) == {"running_mean", "running_var"}
    assert set(row["params"]) == {"weight", "bias"}


# ------------------------------------------------------------------ structures in and out


@dataclass
class Pair:
    left: torch.Tensor
    right: list


class Point(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize(
    ("structure", "paths"),
    [
        (lambda a, b: (a, b), ["0", "1"]),
        (lambda a, b: [a, (b,)], ["0", "1.0"]),
        (lambda a, b: {"p": a, "q": {"r": b}}, ["p", "q.r"]),
        (lambda a, b: Pair(a, [b]), ["left", "right.0"]),
        (lambda a, b: Point(a, b), ["x", "y"]),
        (
            lambda a, b: BaseModelOutput(last_hidden_state=a, hidden_states=(b,)),
            ["last_hidden_state", "hidden_states.0"],
        ),
    ],
)
def test_structures_in_and_out(structure, paths):
    def forward(batch):
        a, b = tree_leaves(vars(batch)) if isinstance(batch, Pair) else tree_leaves(batch)
        return structure(a + 1, b * 2)

    layers, activations = lf.trace(forward, (structure(torch.ones(2), torch.ones(3)),))
    inputs, outputs = layers.query("kind == 'input'"), layers.query("kind == 'output'")
    assert list(inputs["path"]) == [f"batch.{p}" for p in paths]
    assert list(outputs["path"]) == paths
    assert list(outputs["parents"]) == [("add_1",), ("mul_1",)]
    assert list(layers.loc[["add_1", "mul_1"], "parents"]) == [("input_1",), ("input_2",)]
    assert activations["output_1"].values.tolist() == [2, 2]
    assert activations["output_2"].values.tolist() == [2, 2, 2]


def test_names_of_arguments(traced):
    def forward(x, *rest, scale, **others):
        return x * scale + rest[0] + others["shift"]

    layers = traced(
        forward, (torch.ones(2), torch.ones(2)), {"scale": torch.ones(2), "shift": torch.ones(2)}
    ).layers
    inputs = layers.query("kind == 'input'")["path"]
    assert set(inputs) == {"x", "rest.0", "scale", "others.shift"}
    assert layers.loc["mul_1", "parent_args"] == ("input", "other")


def test_a_mapping_is_keyword_arguments(traced):
    class Encoding(UserDict):
        pass

    def forward(input_ids, attention_mask=None):
        return input_ids * attention_mask

    layers = traced(
        forward, Encoding(input_ids=torch.arange(3), attention_mask=torch.ones(3))
    ).layers
    assert list(layers.query("kind == 'input'")["path"]) == ["input_ids", "attention_mask"]


def test_a_list_is_one_argument(traced):
    layers = traced(lambda images: torch.stack(images), [torch.ones(2), torch.zeros(2)]).layers
    assert layers.loc["stack_1", "parents"] == ("input_1", "input_2")
    assert layers.loc["stack_1", "parent_args"] == ("tensors.0", "tensors.1")


def test_a_distribution_in_and_out(edges):
    def forward(prior):
        return torch.distributions.Normal(prior.loc + 1, prior.scale * 2)

    trace = lf.trace(forward, torch.distributions.Normal(torch.zeros(3), torch.ones(3)))
    inputs, outputs = (trace.layers.query(f"kind == '{k}'") for k in ("input", "output"))
    assert list(inputs["path"]) == ["prior.loc", "prior.scale"]
    assert list(outputs["path"]) == ["loc", "scale"]
    assert trace.output.loc.tolist() == [1, 1, 1]
    assert edges(trace)["add_1"] == ("input_1",)
    assert edges(trace)["mul_1"] == ("input_2",)


def test_a_packed_sequence_in_and_out(traced):
    net = nn.LSTM(3, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 3)
    packed = pack_padded_sequence(x, [5, 3], batch_first=True)

    def forward(seq):
        out, _ = net(seq)
        return out, pad_packed_sequence(out, batch_first=True)[0]

    expected = forward(packed)[1]
    trace = traced(forward, packed)
    assert torch.equal(trace.output[1], expected)
    inputs, outputs = (trace.layers.query(f"kind == '{k}'") for k in ("input", "output"))
    assert "seq.data" in set(inputs["path"])
    assert "0.data" in set(outputs["path"])
    core = trace.layers.query("func == 'lstm'")
    assert "input_1" in core["parents"].iloc[0]
    assert "net.weight_ih_l0" in core["params"].iloc[0]


def test_a_cache_in_and_out(edges):
    def forward(x, cache):
        keys, values = cache.update(x * 2, x * 3, 0)
        return keys.sum() + values.sum(), cache

    cache = DynamicCache()
    first = lf.trace(forward, (torch.ones(1, 1, 2, 4), cache))
    second = lf.trace(forward, (torch.ones(1, 1, 1, 4), first.output[1]))
    inputs = second.layers.query("kind == 'input'")
    assert len(inputs) == 3  # x, the cached keys, the cached values
    joined = second.layers.query("func == 'cat'")
    assert [p[0] for p in joined["parents"]] == list(inputs.index[1:])
    assert list(joined["shape"]) == [(1, 1, 3, 4)] * 2
    outputs = second.layers.query("kind == 'output'")
    assert set(joined.index) <= {p for parents in outputs["parents"] for p in parents}


# ------------------------------------------------------------------ state


def test_a_forward_that_changes_its_input(traced, edges, value):
    def forward(x, notes):
        x += 1
        notes["seen"] = x * 2
        return notes["seen"] + x

    x, notes = torch.zeros(2, 2), {}
    trace = lf.trace(forward, (x, notes))
    assert edges(trace) == {
        "add_1": ("input_1",), "mul_1": ("add_1",), "add_2": ("mul_1", "add_1")
    }  # fmt: skip
    assert value(trace, "input_1").tolist() == [[0, 0], [0, 0]]
    assert value(trace, "add_1").tolist() == [[1, 1], [1, 1]]
    assert x.tolist() == [[1, 1], [1, 1]]
    assert notes["seen"].tolist() == [[2, 2], [2, 2]]


def test_state_kept_between_calls(edges, value):
    def forward(self, x):
        self.h = torch.tanh(x + self.h)
        return self.h

    net = Net(forward, h=torch.zeros(3))
    x = torch.ones(2, 3)
    first, second = lf.trace(net, x), lf.trace(net, x)
    for trace in (first, second):
        assert edges(trace)["add_1"] == ("input_1", "constant_1")
        assert trace.layers.loc["constant_1", "path"] == "h"
    assert value(first, "constant_1").tolist() == [0, 0, 0]
    assert torch.equal(value(second, "constant_1"), x.tanh())
    assert torch.equal(value(second, "tanh_1"), (x + x.tanh()).tanh())


def test_modules_made_inside(traced, edges, value):
    def forward(self, x):
        return nn.Linear(3, 2)(x).relu()

    trace = traced(Net(forward), torch.ones(2, 3))
    row = trace.layers.loc["linear_1"]
    assert (row["module"], row["module_type"]) == ("Linear", "Linear")
    assert row["parents"] == ("input_1", "uniform_1", "uniform_2")  # drawn inside, so no constants
    assert row["returned_by"] == ("Linear:1",)
    torch.manual_seed(1)
    assert torch.equal(value(trace, "uniform_1"), nn.Linear(3, 2).weight.detach())
    assert edges(trace)["relu_1"] == ("linear_1",)


def test_a_parameter_made_of_a_computed_tensor_keeps_its_history(traced, edges):
    def forward(self, x):
        weight = nn.Parameter(x * 2)
        return F.linear(x, weight)

    assert edges(traced(Net(forward), torch.ones(2, 3))) == {
        "mul_1": ("input_1",), "linear_1": ("input_1", "mul_1")
    }  # fmt: skip


def test_optimising_an_input_inside(traced, edges, value):
    def forward(self, x):
        with torch.enable_grad():
            best = nn.Parameter(x.clone())
            optimizer = torch.optim.SGD([best], lr=0.25)
            (best - 1).square().sum().backward()
            optimizer.step()
        return best * 2

    trace = traced(Net(forward), torch.zeros(3))
    assert edges(trace)["sub_1"] == ("clone_1",)
    (stepped,) = edges(trace)["mul_1"]
    assert trace.layers.loc[stepped, "inplace"]
    assert value(trace, stepped).tolist() == [0.5] * 3


def test_lazy_modules_as_they_initialise_themselves(traced, value):
    net = nn.Sequential(nn.LazyLinear(2), nn.ReLU()).eval()
    layers = traced(net, torch.ones(4, 3)).layers
    assert layers.loc["linear_1", "module"] == "0"
    assert layers.loc["relu_1", "parents"] == ("linear_1",)
    again = lf.trace(net, torch.ones(4, 3)).layers
    assert again.loc["linear_1", "params"] == ("0.weight", "0.bias")


def test_shared_and_tied_modules(traced, value):
    def forward(self, ids):
        return self.head(self.act(self.act(self.emb(ids))))

    act = nn.ReLU()
    net = Net(forward, emb=nn.Embedding(7, 4), head=nn.Linear(4, 7, bias=False), act=act, also=act)
    net.head.weight = net.emb.weight
    trace = traced(net, torch.tensor([[1, 2], [3, 4]]))
    layers = trace.layers
    assert layers.loc["embedding_1", "params"] == layers.loc["linear_1", "params"]
    assert list(layers.query("func == 'relu'")["module"]) == ["act", "act"]
    assert layers.loc["linear_1", "returned_by"] == ("head:1",)
    embedded = net.emb.weight[torch.tensor([[1, 2], [3, 4]])]
    assert torch.equal(value(trace, "embedding_1"), embedded.detach())


def test_tensors_of_closures_and_attributes_are_named_constants(traced, edges):
    scale = torch.full((3,), 2.0)
    net = Net(lambda self, x: x * scale + self.table["a"], table={"a": torch.ones(3)})
    trace = traced(net, torch.ones(2, 3))
    constants = trace.layers.query("kind == 'constant'")
    assert dict(zip(constants.index, constants["path"], strict=True)) == {
        "constant_1": "scale", "constant_2": "table.a"
    }  # fmt: skip
    assert edges(trace)["mul_1"] == ("input_1", "constant_1")
    assert edges(trace)["add_1"] == ("mul_1", "constant_2")


# ------------------------------------------------------------------ differentiating inside


def test_an_energy_model(traced, edges, value):
    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.fc(x).square().sum()
            (slope,) = torch.autograd.grad(energy, x)
        return x - 0.1 * slope

    net = Net(forward, fc=nn.Linear(3, 2))
    x = torch.randn(4, 3)
    trace = traced(net, x)
    row = trace.layers.loc["grad_1"]
    assert set(row["parents"]) >= {"sum_1", "detach_1"} or set(row["parents"]) >= {
        "sum_1", "requires_grad_1"
    }  # fmt: skip
    weight, bias = net.fc.weight.detach(), net.fc.bias.detach()
    torch.testing.assert_close(value(trace, "grad_1"), 2 * (x @ weight.T + bias) @ weight)
    assert edges(trace)["mul_1"] == ("grad_1",)


def test_a_maml_step(traced, edges, value):
    def forward(self, x, y):
        loss = (self.fc(x) - y).square().mean()
        grads = torch.autograd.grad(loss, list(self.fc.parameters()), create_graph=True)
        weight, bias = (p - 0.5 * g for p, g in zip(self.fc.parameters(), grads, strict=True))
        return F.linear(x, weight, bias)

    net = Net(forward, fc=nn.Linear(3, 1))
    x, y = torch.randn(5, 3), torch.randn(5, 1)
    trace = traced(net, (x, y))
    grads = trace.layers.query("func == 'grad'")
    assert list(grads["shape"]) == [(1, 3), (1,)]
    assert grads["call"].nunique() == 1
    error = x @ net.fc.weight.T + net.fc.bias - y
    torch.testing.assert_close(
        value(trace, grads.index[0]), (2 * error.T @ x / 5).detach(), check_stride=False
    )
    graph = edges(trace)
    assert [p for s in ("sub_2", "sub_3") for p in trace.layers.loc[s, "params"]] == [
        "fc.weight", "fc.bias"
    ]  # fmt: skip
    assert graph["linear_2"] == ("input_1", "sub_2", "sub_3")
    trace.output.sum().backward()  # the graph of the outer step is whole
    assert net.fc.weight.grad is not None


def test_backward_inside_links_the_gradient(traced, edges, value):
    def forward(x):
        with torch.enable_grad():
            z = x.detach().requires_grad_()
            loss = (z**3).sum()
            loss.backward()
        return z.grad * 2

    x = torch.tensor([1.0, 2.0])
    trace = traced(forward, x)
    last = trace.layers.query("func == 'mul'").iloc[0]
    (grad,) = last["parents"]
    assert value(trace, grad).tolist() == [3, 12]
    ancestors, todo = set(), [grad]
    while todo:
        label = todo.pop()
        ancestors.add(label)
        todo += trace.layers.loc[label, "parents"]
    assert "sum_1" in ancestors
    assert "constant_1" not in trace.layers.index


# ------------------------------------------------------------------ hooks, functional, parametrized


def test_hooks_that_replace(traced, edges, value):
    net = Net(lambda self, x: self.b(self.a(x)) * 2, a=nn.ReLU(), b=nn.ReLU())
    net.a.register_forward_hook(lambda m, i, o: o + 1)
    net.a.register_forward_hook(lambda m, i, o: o * 10)
    net.b.register_forward_pre_hook(lambda m, i: (i[0] - 5,))
    trace = traced(net, torch.ones(2))
    layers = trace.layers
    assert edges(trace) == {
        "relu_1": ("input_1",), "add_1": ("relu_1",), "mul_1": ("add_1",), "sub_1": ("mul_1",),
        "relu_2": ("sub_1",), "mul_2": ("relu_2",),
    }  # fmt: skip
    assert layers.loc["mul_1", "returned_by"] == ("a:1",)
    assert layers.loc["relu_1", "returned_by"] == ()
    assert layers.loc["relu_2", "returned_by"] == ("b:1",)
    assert value(trace, "relu_2").tolist() == [15, 15]


def test_a_hook_on_the_whole_model(traced, edges):
    net = nn.Sequential(nn.ReLU()).eval()
    net.register_forward_hook(lambda m, i, o: {"y": o + 1})
    trace = traced(net, torch.ones(2))
    assert trace.layers.loc["output_1", "parents"] == ("add_1",)
    assert trace.layers.loc["output_1", "path"] == "y"


def test_functional_call(traced, edges):
    fc = nn.Linear(3, 2).eval()

    def forward(x):
        weights = {"weight": fc.weight * 2, "bias": torch.zeros(2)}
        return torch.func.functional_call(fc, weights, (x,))

    x = torch.randn(4, 3)
    trace = traced(forward, x)
    assert edges(trace)["linear_1"] == ("input_1", "mul_1", "zeros_1")
    assert trace.layers.loc["mul_1", "params"] == ("fc.weight",)
    assert trace.layers.loc["linear_1", "params"] == ()
    torch.testing.assert_close(trace.output, x @ (fc.weight * 2).T)


def test_parametrizations(traced, value):
    weighted = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)).eval()
    trace = traced(weighted, torch.randn(4, 3))
    row = trace.layers.loc["linear_1"]
    assert row["params"] == ("bias",)
    (weight,) = (p for p in row["parents"] if p != "input_1")
    assert torch.equal(value(trace, weight), weighted.weight.detach())
    assert {p for params in trace.layers["params"] for p in params} == set(
        dict(weighted.named_parameters())
    )


def test_spectral_norm(traced, value):
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)).eval()
    trace = traced(spectral, torch.randn(4, 3))
    (weight,) = (p for p in trace.layers.loc["linear_1", "parents"] if p != "input_1")
    assert torch.equal(value(trace, weight), spectral.weight.detach())
    assert trace.layers["buffers"].map(len).sum() >= 2  # the two singular vectors


def test_old_weight_norm_writes_a_plain_attribute(traced):
    net = nn.utils.weight_norm(nn.Linear(3, 2)).eval()
    row = traced(lambda x: net(x), torch.randn(4, 3)).layers.loc["linear_1"]
    assert len(row["parents"]) == 2
    assert row["params"] == ("net.bias",)


# ------------------------------------------------------------------ what may be traced


class Clip(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.eval()

    def image_features(self, image, scale=1.0):
        return self.fc(image) * scale


def test_a_bound_method_has_its_module_as_root(traced):
    layers = traced(Clip().image_features, torch.ones(4, 3)).layers
    assert layers.loc["linear_1", "module"] == "fc"
    assert layers.loc["linear_1", "params"] == ("fc.weight", "fc.bias")
    assert layers.loc["input_1", "path"] == "image"
    assert layers.loc["mul_1", "module"] == ""


def test_a_lambda_names_modules_by_their_variables(traced):
    encoder, heads = nn.Linear(3, 2).eval(), [nn.Linear(2, 1).eval(), nn.Linear(2, 1).eval()]
    layers = traced(lambda x: heads[1](encoder(x)), torch.ones(4, 3)).layers
    assert layers.loc["linear_1", "params"] == ("encoder.weight", "encoder.bias")
    assert layers.loc["linear_2", "module"] == "heads.1"


def test_partials(traced):
    net = Clip()
    layers = traced(functools.partial(net.image_features, scale=2.0), torch.ones(4, 3)).layers
    assert layers.loc["linear_1", "module"] == "fc"
    assert layers.loc["input_1", "path"] == "image"

    def apply(module, x):
        return module(x)

    layers = traced(functools.partial(apply, net.fc), torch.ones(4, 3)).layers
    assert layers.loc["linear_1", "params"][0].endswith(".weight")
    assert layers.loc["linear_1", "module"] != ""


def test_generators(traced, edges):
    def pieces(x):
        for piece in x.split(1):
            yield piece.exp()

    trace = traced(lambda x: sum(pieces(x)), torch.ones(2, 3))
    assert list(trace.layers.query("func == 'add'")["n_parents"]) == [1, 2]  # sum starts from 0
    assert list(trace.layers.query("func == 'exp'")["parents"]) == [
        (label,) for label in trace.layers.query("func == 'split'").index
    ]


def test_source_is_the_users_line(traced):
    def forward(x):
        y = torch.stft(x, 4, window=torch.ones(4), return_complex=True)
        return y.abs()

    trace = traced(forward, torch.randn(2, 16))
    line = forward.__code__.co_firstlineno + 1
    assert trace.layers.loc["abs_1", "source"] == f"test_works_with_python.py:{line + 1}"
    inner = trace.layers.query("func == 'stft'")
    assert list(inner["source"]) == [f"test_works_with_python.py:{line}"]


def test_attributes_that_look_like_tensors_do_not_confuse(traced, edges):
    def forward(x):
        y = x.T.contiguous().data
        return y.real.mT + 1

    trace = traced(forward, torch.ones(2, 3))
    assert re.fullmatch(r"mT_\d", edges(trace)["add_1"][0])
    assert all(edges(trace).values())
