"""Whatever part of torch a model uses: rows, edges and values are those written by hand."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import lensframe_pd as lf
from lensframe_pd.errors import LensWarning

pytestmark = pytest.mark.filterwarnings("error::lensframe_pd.errors.LensWarning")


def ancestors(trace, label):
    found, todo = set(), [label]
    while todo:
        for parent in trace.layers.loc[todo.pop(), "parents"]:
            if parent not in found:
                found.add(parent)
                todo.append(parent)
    return found


def small(*layers):
    return nn.Sequential(*(layers or (nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))).eval()


# ------------------------------------------------------------------ writes, as in the issue


def test_the_example_of_the_contract(traced, edges, value):
    def forward(x):
        y = x.clone()
        y[:, 0] = 5
        v = y[:, 1]
        v.add_(1)
        z = y * 2
        return z

    trace = traced(forward, torch.ones(2, 3))
    assert edges(trace) == {
        "clone_1": ("input_1",),
        "setitem_1": ("clone_1",),
        "getitem_1": ("setitem_1",),
        "add_1": ("getitem_1",),
        "alias_1": ("setitem_1", "add_1"),
        "mul_1": ("alias_1",),
    }
    assert list(trace.layers.query("inplace").index) == ["setitem_1", "add_1"]
    assert list(trace.layers.query("kind == 'alias'").index) == ["alias_1"]
    expected = {
        "input_1": [[1, 1, 1]] * 2, "clone_1": [[1, 1, 1]] * 2, "setitem_1": [[5, 1, 1]] * 2,
        "getitem_1": [1, 1], "add_1": [2, 2], "alias_1": [[5, 2, 1]] * 2, "mul_1": [[10, 4, 2]] * 2,
    }  # fmt: skip
    assert {label: value(trace, label).tolist() for label in expected} == expected


# -------------------------------------------------------- compiled, parallel, checkpointed


def test_a_compiled_submodule(traced, edges):
    net = small()
    net[0] = torch.compile(net[0], backend="eager")
    x = torch.randn(5, 3)
    trace = lf.trace(net, x)
    assert torch.equal(trace.output, nn.Sequential(net[0]._orig_mod, net[1], net[2])(x))
    assert edges(trace) == {
        "linear_1": ("input_1",), "relu_1": ("linear_1",), "linear_2": ("relu_1",)
    }  # fmt: skip
    assert trace.layers.loc["linear_1", "module"] == "0"
    assert trace.layers.loc["linear_1", "params"] == ("0.weight", "0.bias")
    assert trace.layers.loc["linear_1", "returned_by"] == ("0:1",)


def test_a_compiled_model_and_function(edges):
    net, x = small(), torch.randn(5, 3)
    trace = lf.trace(torch.compile(net, backend="eager"), x)
    assert torch.equal(trace.output, net(x))
    assert list(trace.layers["module"]) == ["", "0", "1", "2", ""]
    double = torch.compile(lambda x: x.exp() * 2, backend="eager")
    assert edges(lf.trace(double, x)) == {"exp_1": ("input_1",), "mul_1": ("exp_1",)}


def test_compiled_already(edges):
    net, x = small(), torch.randn(5, 3)
    compiled = torch.compile(net, backend="eager")
    before = compiled(x)
    trace = lf.trace(compiled, x)
    assert torch.equal(trace.output, before)
    assert list(trace.layers["func"]) == ["input", "linear", "relu", "linear", "output"]


def test_data_parallel_on_cpu(traced, edges):
    net = nn.DataParallel(small())
    net.eval()
    trace = traced(net, torch.randn(5, 3))
    assert edges(trace)["linear_2"] == ("relu_1",)
    assert trace.layers.loc["linear_1", "params"] == ("module.0.weight", "module.0.bias")


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(traced, edges, reentrant):
    net = small()

    def forward(x):
        return checkpoint(net, x, use_reentrant=reentrant) * 2

    x = torch.randn(5, 3, requires_grad=True)
    trace = traced(forward, x)
    assert edges(trace) == {
        "linear_1": ("input_1",), "relu_1": ("linear_1",), "linear_2": ("relu_1",),
        "mul_1": ("linear_2",),
    }  # fmt: skip
    trace.output.sum().backward()  # checkpointing runs the forward again, after the trace
    (want,) = torch.autograd.grad((net(x) * 2).sum(), x)
    assert torch.equal(x.grad, want)


# ------------------------------------------------------ autograd.Function, custom operators


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


class FirstRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x[0]

    @staticmethod
    def backward(ctx, grad):
        return torch.stack([grad, torch.zeros_like(grad)])


class Incremented(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        x.add_(1)
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize(
    ("function", "middle"),
    [(Doubled, ["mul"]), (Same, []), (FirstRow, ["getitem"]), (Incremented, ["add"])],
)
def test_autograd_functions(traced, value, function, middle, grad):
    def forward(x):
        return function.apply(x.exp()).neg()

    x = torch.randn(2, 3, requires_grad=grad)
    trace = traced(forward, x)
    layers = trace.layers
    assert "exp_1" in ancestors(trace, "neg_1")
    assert set(middle) <= {layers.loc[a, "func"] for a in ancestors(trace, "neg_1")}
    assert "constant" not in set(layers["kind"])
    hand = {Doubled: x.exp() * 2, Same: x.exp(), FirstRow: x.exp()[0], Incremented: x.exp() + 1}
    assert torch.equal(value(trace, "neg_1"), -hand[function].detach())
    assert torch.equal(value(trace, "exp_1"), x.exp().detach())
    (parent,) = layers.loc["neg_1", "parents"]
    assert torch.equal(value(trace, parent), hand[function].detach())


@torch.library.custom_op("lenstest::scaled", mutates_args=())
def scaled(x: torch.Tensor, by: float) -> torch.Tensor:
    return torch.from_numpy(x.numpy() * np.float32(by))


@torch.library.custom_op("lenstest::increment", mutates_args={"x"})
def increment(x: torch.Tensor, by: torch.Tensor) -> None:
    x.numpy()[...] += by.numpy()


def test_custom_operators_are_one_row(traced, edges, value):
    def forward(x):
        return scaled(x + 1, 3.0) * 2

    trace = traced(forward, torch.ones(2, 3))
    assert edges(trace) == {"add_1": ("input_1",), "scaled_1": ("add_1",), "mul_1": ("scaled_1",)}
    assert value(trace, "scaled_1").tolist() == [[6] * 3] * 2


def test_a_custom_operator_that_writes_and_returns_nothing(traced, edges, value):
    def forward(x):
        y = x.exp()
        increment(y, x)
        return y * 2

    x = torch.zeros(2, 3) + 1
    trace = traced(forward, x)
    assert edges(trace) == {
        "exp_1": ("input_1",), "increment_1": ("exp_1", "input_1"), "mul_1": ("increment_1",)
    }  # fmt: skip
    assert trace.layers.loc["increment_1", "inplace"]
    assert torch.equal(value(trace, "exp_1"), x.exp())
    assert torch.equal(value(trace, "increment_1"), x.exp() + 1)


def test_operators_called_through_torch_ops(traced, edges):
    def forward(x):
        y = torch.ops.aten.add.Tensor(x, x)
        torch.ops.aten.mul_.Scalar(y, 3)
        return torch.ops.aten.relu(y)

    assert edges(traced(forward, torch.ones(2))) == {
        "add_1": ("input_1", "input_1"), "mul_1": ("add_1",), "relu_1": ("mul_1",)
    }  # fmt: skip


# ------------------------------------------------------------------ torch.func


def test_vmap(traced, edges, value):
    weight = nn.Linear(3, 4).eval()

    def forward(x):
        y = x + 1
        return torch.func.vmap(lambda row: weight(row).sin())(y).sum()

    x = torch.randn(5, 3)
    trace = traced(forward, x)
    assert "constant" not in set(trace.layers["kind"])
    assert edges(trace)["linear_1"] == ("add_1",)
    assert edges(trace)["sin_1"] == ("linear_1",)
    assert edges(trace)["sum_1"] == ("sin_1",)
    assert trace.layers.loc["sin_1", "shape"] == (5, 4)
    torch.testing.assert_close(value(trace, "sin_1"), weight(x + 1).sin().detach())


def test_vmap_over_an_inner_axis_and_nested(traced, edges, value):
    def forward(a, b):
        pairs = torch.vmap(torch.vmap(torch.dot, (None, 0)), (0, None))
        return pairs(a.exp(), b.exp()) + 1

    a, b = torch.randn(2, 3), torch.randn(4, 3)
    trace = traced(forward, (a, b))
    assert "constant" not in set(trace.layers["kind"])
    assert {"exp_1", "exp_2"} <= ancestors(trace, "add_1")
    torch.testing.assert_close(value(trace, "add_1"), a.exp() @ b.exp().T + 1)


def test_grad_inside(traced, value):
    def forward(x):
        slope = torch.func.grad(lambda z: (z**3).sum())(x * 1)
        return slope + 1

    x = torch.tensor([1.0, 2.0])
    trace = traced(forward, x)
    assert "constant" not in set(trace.layers["kind"])
    assert value(trace, "add_1").tolist() == [4, 13]
    assert "mul_1" in ancestors(trace, "add_1")
    assert value(trace, "pow_1").tolist() == [1, 8]


def _slope(z):
    return torch.func.grad(lambda r: r.cos().sum())(z)


READ_INSIDE = {
    "grad": _slope,
    "vmap of grad": torch.func.vmap(_slope),
    "vmap of vmap": torch.func.vmap(torch.func.vmap(torch.cos)),
    "jvp": lambda z: torch.func.jvp(torch.cos, (z,), (z,))[1],
    "vjp": lambda z: torch.func.vjp(torch.cos, z)[1](z)[0],
    "what is outside": lambda z: torch.func.grad(lambda r: (r.detach() * 0 + r * z.sin()).sum())(z),
}


@pytest.mark.parametrize("name", READ_INSIDE)
@pytest.mark.parametrize("writes", ["before", "after", "both"])
def test_what_a_transform_reads_is_written_before_or_after(traced, value, name, writes):
    """Values that are copied while a transform runs are no wrappers of its own."""

    def forward(x):
        y = x.clone()
        if writes != "after":
            y.select(0, 0).copy_(y.select(0, 1))  # so that an alias is met inside
        z = READ_INSIDE[name](y)
        if writes != "before":
            y.copy_(z)
            z.mul_(2)
        return y + z

    x = torch.randn(3, 4)
    trace = traced(forward, x)
    last = trace.layers.loc["output_1", "parents"][0]
    torch.testing.assert_close(value(trace, last), forward(x))
    assert trace.validate()["passed"].all()
    for op in trace.activations.data_vars:
        assert torch.isfinite(value(trace, op)).all()


@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "hessian"])
def test_jacobians(traced, value, transform):
    def forward(x):
        return getattr(torch.func, transform)(lambda z: (z**3).sum(-1, keepdim=True))(x * 1) + 1

    x = torch.tensor([1.0, 2.0])
    trace = traced(forward, x, exact=False)
    assert "constant" not in set(trace.layers["kind"])
    last = trace.layers.loc["output_1", "parents"][0]
    assert "mul_1" in ancestors(trace, last)
    wanted = torch.diag(6 * x)[None] + 1 if transform == "hessian" else 3 * x[None] ** 2 + 1
    torch.testing.assert_close(value(trace, last), wanted)


def test_per_sample_gradients(traced):
    net = small()
    weights = dict(net.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(net, weights, (x[None],)).sum()

    def forward(x):
        return torch.vmap(torch.func.grad(loss), (None, 0))(weights, x)

    trace = traced(forward, torch.randn(5, 3), exact=False)
    assert "constant" not in set(trace.layers["kind"])
    assert trace.output["0.weight"].shape == (5, 4, 3)
    read = {p for params in trace.layers["params"] for p in params}
    assert any(name.endswith("0.weight") for name in read)


class Lends(nn.Module):
    """Weights of its own, lent within torch.func to a module that is no child."""

    def __init__(self, lend):
        super().__init__()
        self.stacked = nn.Parameter(torch.randn(3, 2, 4))
        self.lend = lend
        self.net = [nn.Linear(4, 2, bias=False, device="meta")]

    def forward(self, x):
        return self.lend(self, lambda w: self.called(w, x))

    def called(self, w, x):
        return torch.func.functional_call(self.net[0], {"weight": w}, (x,))


@pytest.mark.parametrize(
    ("lend", "parents", "params"),
    [
        (lambda m, f: torch.vmap(f)(m.stacked), (), ("stacked",)),
        (lambda m, f: torch.vmap(f)(m.stacked * 2), ("mul_1",), ()),
        (lambda m, f: torch.vmap(torch.vmap(f))(m.stacked[None]), ("getitem_1",), ()),
        (lambda m, f: torch.vmap(f, 1)(m.stacked.transpose(0, 1)), ("transpose_1",), ()),
        (
            lambda m, f: torch.vmap(torch.func.grad(lambda w: f(w).sum()))(m.stacked),
            ("requires_grad_1",),
            (),
        ),
    ],
    ids=["parameter", "result", "nested", "other axis", "grad"],
)
def test_weights_lent_within_torch_func_are_those_of_who_lends(traced, lend, parents, params):
    trace = traced(Lends(lend).eval(), torch.randn(5, 4), exact=False)
    linear = trace.layers.loc["linear_1"]
    assert linear["parents"] == ("input_1", *parents)
    assert linear["params"] == params
    assert "constant" not in set(trace.layers["kind"])


# ------------------------------------------------------------------ contexts


def test_autocast(traced, value):
    fc = nn.Linear(3, 2).eval()

    def forward(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = fc(x)
        return y.float() + 1

    x = torch.randn(4, 3)
    trace = traced(forward, x)
    inside, outside = trace.layers.loc["linear_1"], trace.layers.loc["add_1"]
    assert inside["dtype"] == "bfloat16"
    assert "autocast" in inside["context"]
    assert "bfloat16" in inside["context"]
    assert "autocast" not in outside["context"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = fc(x).detach()
    assert torch.equal(value(trace, "linear_1"), wanted.float())
    assert trace.activations["linear_1"].attrs["torch_dtype"] == "bfloat16"


def test_autocast_around_the_trace(value):
    fc, x = nn.Linear(3, 2).eval(), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trace = lf.trace(fc, x)
    assert "autocast" in trace.layers.loc["linear_1", "context"]
    assert trace.output.dtype is torch.bfloat16


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inside", [False, True])
def test_grad_modes(edges, mode, inside):
    net, x = small(), torch.randn(5, 3)

    def forward(x):
        if not inside:
            return net(x).add_(1)
        with mode():
            return net(x).add_(1)

    if inside:
        trace = lf.trace(forward, x)
    else:
        with mode():
            trace = lf.trace(forward, x)
    assert not trace.output.requires_grad
    assert trace.output.is_inference() == (mode is torch.inference_mode)
    assert edges(trace)["add_1"] == ("linear_2",)
    context = trace.layers.loc["linear_1", "context"]
    assert '"grad": false' in context
    assert ("inference" in context) == (mode is torch.inference_mode)
    with torch.no_grad():
        want = net(x)
    assert np.array_equal(trace.activations["linear_2"], want)
    assert np.array_equal(trace.activations["add_1"], want + 1)


# ------------------------------------------------------------------ dtypes and shapes


@pytest.mark.parametrize(
    "dtype",
    [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.int8, torch.uint8,
     torch.int32, torch.bool],
)  # fmt: skip
def test_dtypes(dtype):
    x = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    layers, activations = lf.trace(lambda x: torch.logical_or(x, x).to(dtype).clone(), x)
    assert list(layers["dtype"]) == [str(d)[6:] for d in (dtype, torch.bool, dtype, dtype, dtype)]
    assert layers["saved"].all()
    saved = activations["clone_1"]
    assert saved.attrs["torch_dtype"] == str(dtype)[6:]
    want = x.float() if dtype is torch.bfloat16 else x
    assert saved.dtype == want.numpy().dtype
    assert np.array_equal(saved, want.numpy())


def test_conjugate_and_negative_views(traced, value):
    x = torch.tensor([1 + 2j, 3 - 1j])
    trace = traced(lambda x: x.conj().imag * 1.0, x)
    assert value(trace, "conj_1").tolist() == [1 - 2j, 3 + 1j]
    assert value(trace, "imag_1").tolist() == [-2, 1]


def test_scalars_and_empty_tensors(traced, edges, value):
    def forward(x):
        none = x[x > 9]
        return none.sum() + torch.cat([none, x.new_zeros(0)]).numel() + x.mean()

    trace = traced(forward, torch.ones(2, 3))
    assert value(trace, "getitem_1").shape == (0,)
    assert value(trace, "sum_1").shape == ()
    assert edges(trace)["getitem_1"] == ("input_1", "gt_1")
    assert edges(trace)["sum_1"] == ("getitem_1",)
    assert edges(trace)["cat_1"] == ("getitem_1", "new_zeros_1")
    assert trace.layers.loc["getitem_1", "shape_str"] == "0"
    assert trace.layers.loc["sum_1", "shape_str"] == ""


def test_empty_tensors_written_in_place_are_not_confused(traced, edges):
    def forward(x):
        a, b = x[:0] * 2, x[:0] * 3
        a.add_(1)
        return b + 1

    graph = edges(traced(forward, torch.ones(2, 3)))
    assert graph["add_2"] == ("mul_2",)


@pytest.mark.parametrize("name", ["sort", "argsort", "msort", "mode", "unique", "count_nonzero"])
def test_functions_that_share_a_name_with_a_list_method_write_nothing(traced, edges, name):
    def forward(x):
        result = getattr(torch, name)(x)
        return result, x * 2

    trace = traced(forward, torch.tensor([3.0, 1.0, 2.0]))
    assert not trace.layers["inplace"].any()
    assert edges(trace)["mul_1"] == ("input_1",)


# ------------------------------------------------------------------ ScriptModules


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_modules_show_their_inner_operators(how, value):
    inner, x = small(), torch.randn(5, 3)
    scripted = torch.jit.script(inner) if how == "script" else torch.jit.trace(inner, x)
    net = nn.Sequential(nn.Linear(3, 3), scripted, nn.Tanh()).eval()
    middle = net[0](x)
    trace = lf.trace(net, x)
    torch.testing.assert_close(trace.output, inner(middle).tanh())
    assert "constant" not in set(trace.layers["kind"])
    inside = trace.layers[trace.layers["module"].str.startswith("1")]
    assert "relu" in set(inside["func"])
    assert inside["target"].str.contains("aten").all()
    assert {p for params in inside["params"] for p in params} == {
        f"1.{n}" for n, _ in inner.named_parameters()
    }
    relu = inside.query("func == 'relu'").index[0]
    torch.testing.assert_close(value(trace, relu), inner[0](middle).relu().detach())
    assert {"linear_1", relu} <= ancestors(trace, "tanh_1")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_whole_script_module(value):
    inner, x = small(), torch.randn(5, 3)
    trace = lf.trace(torch.jit.script(inner), x)
    torch.testing.assert_close(trace.output, inner(x))
    assert "input_1" in ancestors(trace, "output_1")
    assert "constant" not in set(trace.layers["kind"])


class Stepping(nn.Module):
    """A loop that the script compiler cannot unroll."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor):
        h = x[:, 0]
        for t in range(x.size(1)):
            h = torch.tanh(self.layer(h) + x[:, t])
        return h


SCRIPTED = {
    "script": lambda net, x: torch.jit.script(net),
    "trace": torch.jit.trace,
    "freeze": lambda net, x: torch.jit.freeze(torch.jit.script(net)),
}


@pytest.mark.parametrize("runs", [0, 1, 4], ids=lambda n: f"{n} runs before")
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("how", SCRIPTED)
def test_scripted_code_is_the_same_operators_each_time(how, grad, runs):
    x = torch.randn(3, 2, 4)
    with torch.set_grad_enabled(grad), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and what is frozen is a constant
        scripted = SCRIPTED[how](Stepping().eval(), x)
        for _ in range(runs):  # torch rewrites what has run
            scripted(x)
        first, later = lf.trace(scripted, x), lf.trace(scripted, x)
        report = first.layers.lens.validate(scripted, x, activations=first.activations)
        assert torch.equal(first.output, scripted(x))
    assert list(first.layers["func"]).count("tanh") == 2
    for column in ("func", "parents", "module"):
        assert list(first.layers[column]) == list(later.layers[column])
    assert report["passed"].all(), report["reason"]


@pytest.mark.parametrize("optimised", [True, False])
def test_whether_scripts_are_optimised_is_as_before(optimised):
    def failing(x):
        assert not torch._C._get_graph_executor_optimize()
        raise ValueError("no")

    with torch.jit.optimized_execution(optimised):
        lf.trace(torch.relu, torch.ones(2))
        assert torch._C._get_graph_executor_optimize() is optimised
        with pytest.raises(ValueError, match="no"):
            lf.trace(failing, torch.ones(2))
        assert torch._C._get_graph_executor_optimize() is optimised


@torch.jit.script
def script_function(x):
    return x * 2 + 1


def test_the_result_of_a_bare_script_function_is_a_constant():
    with pytest.warns(LensWarning, match="'exp_1'"):
        trace = lf.trace(lambda x: script_function(x).exp(), torch.ones(2))
    assert trace.layers.loc["exp_1", "parents"] == ("constant_1",)
    assert trace.activations["constant_1"].values.tolist() == [3, 3]


# ------------------------------------------------------------------ layouts NumPy cannot hold


def unsaved(trace, label):
    row = trace.layers.loc[label]
    assert not row["saved"]
    assert label not in trace.activations
    return row["unsaved_reason"]


def test_sparse_tensors(traced, edges, value):
    trace = lf.trace(lambda x: (x.to_sparse() * 2).to_dense() + 1, torch.eye(3))
    assert edges(trace) == {
        "to_sparse_1": ("input_1",), "mul_1": ("to_sparse_1",), "to_dense_1": ("mul_1",),
        "add_1": ("to_dense_1",),
    }  # fmt: skip
    assert "sparse" in unsaved(trace, "to_sparse_1")
    assert trace.layers.loc["mul_1", "shape"] == (3, 3)
    assert torch.equal(value(trace, "add_1"), torch.eye(3) * 2 + 1)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_csr_tensors():
    trace = lf.trace(lambda x: x.to_sparse_csr() @ torch.ones(3, 1), torch.eye(3))
    assert "sparse" in unsaved(trace, "to_sparse_csr_1")
    assert trace.layers.loc["matmul_1", "parents"][0] == "to_sparse_csr_1"
    assert trace.activations["matmul_1"].values.tolist() == [[1], [1], [1]]


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors(layout):
    def forward(a, b):
        nested = torch.nested.as_nested_tensor([a, b], layout=layout)
        return (nested * 2).to_padded_tensor(0.0) + 1

    trace = lf.trace(forward, (torch.ones(2, 3), torch.ones(1, 3)))
    made = trace.layers[trace.layers["func"].str.contains("nested")].index[-1]
    assert "nested" in unsaved(trace, made)
    assert unsaved(trace, "mul_1")
    assert {made, "mul_1", "input_1", "input_2"} <= ancestors(trace, "add_1")
    assert trace.activations["add_1"].values.tolist() == [[[3] * 3, [3] * 3], [[3] * 3, [1] * 3]]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_tensors():
    def forward(x):
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize() + 1

    trace = lf.trace(forward, torch.ones(2, 3))
    assert "qint8" in unsaved(trace, "quantize_per_tensor_1")
    assert trace.layers.loc["dequantize_1", "parents"] == ("quantize_per_tensor_1",)
    assert trace.layers.loc["quantize_per_tensor_1", "dtype"] == "qint8"


def test_float8_tensors(traced):
    trace = traced(lambda x: x.to(torch.float8_e4m3fn).float() + 1, torch.ones(2, 3))
    assert "float8" in unsaved(trace, "to_1")
    assert trace.layers.loc["add_1", "parents"] == ("float_1",)
    assert trace.layers.loc["to_1", "nbytes"] == 6


# ------------------------------------------------------------------ composites opened or not


def test_multihead_attention_is_opened(traced, value):
    net = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    trace = traced(net, (x, x, x), exact=False)
    funcs = set(trace.layers["func"])
    assert {"linear", "softmax"} <= funcs or "scaled_dot_product_attention" in funcs
    assert "multi_head_attention_forward" not in funcs
    weights = trace.output[1]
    projected = F.linear(x, net.in_proj_weight, net.in_proj_bias)
    q, k = (p.view(2, 5, 2, 4).transpose(1, 2) for p in projected.chunk(3, -1)[:2])
    attention = (q @ k.mT / 2).softmax(-1)
    torch.testing.assert_close(weights, attention.mean(1))
    softmax = trace.layers.query("func == 'softmax'").index[0]
    torch.testing.assert_close(value(trace, softmax).view(2, 2, 5, 5), attention.detach())
    assert {p for params in trace.layers["params"] for p in params} == {
        n for n, _ in net.named_parameters()
    }


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_transformer_encoder_is_opened(value):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 5, 8)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        plain = net(x, src_key_padding_mask=mask)
        trace = lf.trace(net, x, {"src_key_padding_mask": mask})
    torch.testing.assert_close(trace.output[~mask], plain[~mask])
    linear = trace.layers.query("func == 'linear'")
    assert {"layers.0.linear1", "layers.1.linear2"} <= set(linear["module"])
    assert not trace.layers["func"].str.contains("transformer_encoder").any()
    assert {p for params in trace.layers["params"] for p in params} == {
        n for n, _ in net.named_parameters()
    }


def test_interpolate_is_opened(traced, edges):
    trace = traced(
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), torch.randn(1, 2, 3, 3)
    )
    assert "interpolate" not in set(trace.layers["func"])
    assert trace.layers["func"].str.contains("upsample_bilinear2d").any()
    assert "input_1" in ancestors(trace, "output_1")


def test_lstm_is_one_operation_with_three_rows(traced, value):
    net, x = nn.LSTM(3, 4, batch_first=True).eval(), torch.randn(2, 5, 3)
    trace = traced(net, x)
    rows = trace.layers.query("func == 'lstm'")
    assert list(rows["shape"]) == [(2, 5, 4), (1, 2, 4), (1, 2, 4)]
    assert rows["call"].nunique() == 1
    assert all(len(p) == 4 for p in rows["params"])
    out, (h, c) = net(x)
    for label, want in zip(rows.index, (out, h, c), strict=True):
        assert torch.equal(value(trace, label), want.detach())


def test_copy_printing_and_pickling(traced, edges):
    def forward(x):
        y = copy.deepcopy(x.detach())
        str(y), repr(x), f"{x.sum():.2f} {y}", pickle.dumps(y)
        return y + 1

    trace = traced(forward, torch.ones(2, 3))
    assert edges(trace) == {
        "detach_1": ("input_1",), "deepcopy_1": ("detach_1",), "sum_1": ("input_1",),
        "add_1": ("deepcopy_1",),
    }  # fmt: skip


def test_a_numpy_round_trip_is_a_constant_and_a_warning():
    def forward(x):
        away = np.sqrt(x.detach().numpy())
        return torch.from_numpy(away) + 1

    line = forward.__code__.co_firstlineno + 2
    with pytest.warns(LensWarning, match=rf"add_1.*test_works_with_torch.py:{line}") as caught:
        trace = lf.trace(forward, torch.full((2,), 4.0))
    assert len(caught) == 1
    row = trace.layers.query("kind == 'constant'")
    assert len(row) == 1
    assert trace.layers.loc["add_1", "parents"] == tuple(row.index)
    assert trace.activations[row.index[0]].values.tolist() == [2, 2]
    assert [r.split(":")[0] for r in trace.layers.loc["detach_1", "read_by"]] == ["numpy"]


def test_writes_through_numpy_do_not_reach_saved_values(value):
    def forward(x):
        y = x.exp()
        array = y.numpy()
        z = y * 2
        array[:] = 0
        return y + z

    trace = lf.trace(forward, torch.zeros(2))
    assert trace.output.tolist() == [2, 2]
    assert value(trace, "exp_1").tolist() == [1, 1]
    assert value(trace, "mul_1").tolist() == [2, 2]


def test_tensor_subclasses_pass_through(traced, edges):
    class Tagged(torch.Tensor):
        pass

    x = torch.ones(2, 3).as_subclass(Tagged)
    trace = lf.trace(lambda x: (x + 1).relu().sum(), x)
    assert type(trace.output) is Tagged
    assert edges(trace) == {"add_1": ("input_1",), "relu_1": ("add_1",), "sum_1": ("relu_1",)}
