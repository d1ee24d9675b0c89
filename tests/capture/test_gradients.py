"""The gradient of each row, beside one that was had without the tracer.

Each program calls `at` on the tensor of one row, just after it was made. `at` does nothing in the
traced run; for the oracle it adds a leaf of zeros there, whose gradient torch then gives.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import lensframe_pd as lf

LINEAR = nn.Linear(4, 4)


def nothing(tensor):
    return tensor


class Leaf:
    """Adds zeros that require grad, in place where the row is a write."""

    def __init__(self, inplace):
        self.inplace = inplace
        self.zeros = None

    def __call__(self, tensor):
        assert self.zeros is None, "at is called once"
        self.zeros = torch.zeros(tensor.shape, dtype=tensor.dtype, requires_grad=True)
        return tensor.add_(self.zeros) if self.inplace else tensor + self.zeros


def by_leaf(program, x, inplace):
    leaf = Leaf(inplace)
    return torch.autograd.grad(program(x, leaf).abs().square().sum(), leaf.zeros)[0]


def traced(program, x, **options):
    """Trace and gradients of the sum of squares."""
    trace = lf.trace(lambda x: program(x, nothing), x, gradients=True)
    return trace, trace.gradients(lambda output: output.abs().square().sum(), **options)


# ------------------------------------------------------------------------- writes


def relu_in_place(x, at):
    y = at(LINEAR(x))
    torch.relu_(y)
    return y


def relu_in_place_itself(x, at):
    y = LINEAR(x)
    torch.relu_(y)
    at(y)
    return y * 2


def column_of_a_base(x, at):
    y = LINEAR(x)
    v = y[:, 0]
    v.mul_(3)
    at(v)
    return y * 2 + v[:, None]


def base_of_a_column(x, at):
    y = at(LINEAR(x))
    v = y[:, 0]
    v.mul_(3)
    return y * 2 + v[:, None]


def item_assigned(x, at):
    y = LINEAR(x) * 1
    y[:, 0] = y[:, 1] * 2
    at(y)
    z = y[:, 2]
    z.add_(1)
    return y.square()


def column_after_an_assignment(x, at):
    y = LINEAR(x) * 1
    y[:, 0] = y[:, 1] * 2
    z = y[:, 2].add_(1)
    at(z)
    return y.square()


def view_of_a_transposed_base(x, at):
    y = LINEAR(x).t()
    z = y[1:3]
    z.relu_()
    at(z)
    return y.t().square()


def written_twice(x, at):
    y = LINEAR(x)
    v = y[:, 1:]
    v.mul_(3)
    at(v)
    w = y[:, 2]
    w.exp_()
    return y + v.sum()


def views_of_views(x, at):
    y = LINEAR(x)
    v = y.view(2, 6)[:, 1:5]
    w = v[1]
    w.mul_(3)
    at(w)
    return y * y + v.sum() + w.prod()


def out_argument(x, at):
    y = LINEAR(x)
    v = y.detach() * 1
    torch.mul(x, 2, out=v)
    z = v * y
    return at(z).exp()


def base_read_before_the_write(x, at):
    y = LINEAR(x)
    early = y + 1
    v = y[0]
    v.mul_(2)
    at(v)
    return early + y * v


def real_part_written(x, at):
    z = torch.complex(LINEAR(x), x)
    v = torch.view_as_real(z)[..., 1]
    v.mul_(3)
    at(v)
    return z * z


def conjugate_written(x, at):
    z = torch.complex(LINEAR(x), x)
    v = z.conj()[:, 0]
    v.mul_(2 + 1j)
    at(v)
    return z * z + v[:, None]


def negative_written(x, at):
    z = torch.complex(LINEAR(x), x).conj()
    v = z.imag[:, 1]
    v.mul_(3)
    at(v)
    return z * z.exp()


WRITES = [
    (relu_in_place, "linear_1", False),
    (relu_in_place_itself, "relu_1", True),
    (column_of_a_base, "mul_1", True),
    (base_of_a_column, "linear_1", False),
    (item_assigned, "setitem_1", True),
    (column_after_an_assignment, "add_1", True),
    (view_of_a_transposed_base, "relu_1", True),
    (written_twice, "mul_1", True),
    (views_of_views, "mul_1", True),
    (out_argument, "mul_3", False),
    (base_read_before_the_write, "mul_1", True),
    (real_part_written, "mul_1", True),
    (conjugate_written, "mul_1", True),
    (negative_written, "mul_1", True),
]


@pytest.mark.parametrize(
    ("program", "label", "inplace"), WRITES, ids=[program.__name__ for program, *_ in WRITES]
)
def test_the_gradient_is_that_of_a_leaf_added_there(program, label, inplace):
    x = torch.randn(3, 4)
    expected = by_leaf(program, x, inplace)
    trace, gradients = traced(program, x)
    assert bool(trace.layers.loc[label, "inplace"]) is inplace
    assert np.array_equal(gradients[label].values, expected.numpy())


def test_the_numbers_of_a_write_through_a_view():
    """y = f(x); v = y[:, 0]; v.mul_(3); return y * 2 + v[:, None], by hand."""
    y = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)

    def forward(y):
        y = y * 1
        v = y[:, 0]
        v.mul_(3)
        return y * 2 + v[:, None]

    trace = lf.trace(forward, y, gradients=True)
    gradients = trace.gradients(trace.output.sum())
    # d/dv: 2 by y * 2, and once for each of the two columns that v is added to
    assert gradients["mul_2"].values.tolist() == [4.0, 4.0]
    assert gradients["mul_1"].values.tolist() == [[12.0, 2.0], [12.0, 2.0]]
    assert gradients.attrs["without"] == '{"getitem_1": "a view that was then written"}'
    assert y.grad is None


VIEWS_WRITTEN = {
    "by itself": (lambda y, v: v.mul_(3), ["getitem_1"]),
    "by a view of it": (lambda y, v: v[0].mul_(3), ["getitem_1", "getitem_2"]),
    "by its base": (lambda y, v: y.mul_(3), ["getitem_1"]),
    "by another alias": (lambda y, v: y.t().mul_(3), ["getitem_1", "t_1"]),
    "elsewhere": (lambda y, v: y[:, 3].mul_(3), ["getitem_2"]),
}


@pytest.mark.parametrize("how", VIEWS_WRITTEN)
def test_a_view_that_is_written_afterwards_has_no_gradient(how):
    write, expected = VIEWS_WRITTEN[how]

    def forward(x):
        y = LINEAR(x) * 1
        v = y[:, :2]
        z = v * 2
        write(y, v)
        return z.sum() + v.sum() + y.sum()

    trace = lf.trace(forward, torch.randn(3, 4), gradients=True)
    gradients = trace.gradients(trace.output)
    without = gradients.attrs["without"]
    assert [op for op in without if without[op] == "a view that was then written"] == expected
    assert not {*expected} & {*gradients}


# ------------------------------------------------------------------ born later


class MarksDirty(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        x.mul_(2)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        inner = x * 5
        return inner + 1

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 5


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Two(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(True)
        return x * 2, x * 3

    @staticmethod
    def backward(ctx, a, b):
        return 2 * a + 3 * b


def marked_dirty(x, at):
    y = LINEAR(x) * 1
    y = MarksDirty.apply(y)
    at(y)
    return y * y


def before_marked_dirty(x, at):
    y = at(LINEAR(x) * 1)
    y = MarksDirty.apply(y)
    return y * y


def custom(x, at):
    return at(Scaled.apply(LINEAR(x))).exp()


def custom_after_custom(x, at):
    return Scaled.apply(at(Scaled.apply(LINEAR(x))))


def custom_then_written(x, at):
    y = at(Scaled.apply(LINEAR(x)))
    y.relu_()
    return y * y


def reversed_gradient(x, at):
    return at(Reversed.apply(LINEAR(x))).exp()


def two_outputs(x, at):
    a, b = Two.apply(LINEAR(x))
    b = at(b)
    return a * b


def returned_by_a_module(x, at):
    class Module(nn.Module):
        def forward(self, x):
            return Scaled.apply(x)

    return at(Module()(LINEAR(x)))


def requires_grad_set(x, at):
    z = x * 2
    z.requires_grad_()
    return at(z).exp() + LINEAR(x)


def requires_grad_assigned(x, at):
    z = x * 2
    z.requires_grad = True
    return at(z).exp() + LINEAR(x)


def zeros_filled(x, at):
    z = torch.zeros(3, 4)
    z[1] = LINEAR(x)[0]
    at(z)
    return z * LINEAR(x)


LATE = [
    (marked_dirty, "mul_2", True),
    (before_marked_dirty, "mul_1", False),
    (custom, "add_1", False),
    (custom_after_custom, "add_1", False),
    (custom_then_written, "add_1", False),
    (reversed_gradient, "view_as_1", False),
    (two_outputs, "mul_2", False),
    (returned_by_a_module, "add_1", False),
    (requires_grad_set, "requires_grad_1", False),
    (requires_grad_set, "mul_1", False),
    (requires_grad_assigned, "mul_1", False),
    (zeros_filled, "setitem_1", True),
]


@pytest.mark.parametrize(
    ("program", "label", "inplace"), LATE, ids=[f"{p.__name__}-{op}" for p, op, _ in LATE]
)
def test_what_has_its_place_in_the_graph_later(program, label, inplace):
    x = torch.randn(3, 4)
    expected = by_leaf(program, x, inplace)
    _, gradients = traced(program, x)
    assert np.array_equal(gradients[label].values, expected.numpy())


def test_what_a_custom_function_computes_inside_has_none():
    _, gradients = traced(custom, torch.randn(3, 4))
    assert gradients.attrs["without"]["mul_1"] == "detached"


def test_filled_later_is_not_what_was_made():
    _, gradients = traced(zeros_filled, torch.randn(3, 4))
    assert "zeros_1" not in gradients
    assert gradients.attrs["without"]["zeros_1"] == "nothing upstream requires grad"


def test_a_view_of_zeros_that_its_base_receives():
    def forward(x):
        z = torch.zeros(3, 4)
        row = z[1]
        z[1] = LINEAR(x)[0]
        return (row * LINEAR(x)).square()

    trace = lf.trace(forward, torch.randn(3, 4), gradients=True)
    gradients = trace.gradients(trace.output.sum())
    assert "getitem_1" not in gradients
    assert "alias_1" in gradients


def test_the_operations_of_a_script_module():
    """An operator of a ScriptModule has its place in the graph when the call is over."""

    class Inner(nn.Module):
        def forward(self, x):
            y = x * 2
            y.relu_()
            return y + 1

    script = torch.jit.script(Inner())
    x = torch.randn(3, 4)
    trace = lf.trace(lambda x: script(LINEAR(x)) * 3, x, gradients=True)
    gradients = trace.gradients(lambda output: output.square().sum())
    h = LINEAR(x).detach().requires_grad_()
    y = (h * 2).relu()
    y.retain_grad()
    z = y + 1
    z.retain_grad()
    (z * 3).square().sum().backward()
    by_func = {row["func"]: op for op, row in trace.layers.iterrows()}
    assert np.array_equal(gradients[by_func["add"]].values, z.grad.numpy())
    assert np.array_equal(gradients[by_func["relu"]].values, y.grad.numpy())
    assert np.array_equal(gradients["linear_1"].values, h.grad.numpy())


# ----------------------------------------------------- others' hooks, gradients and modes


def test_hooks_of_the_model_have_had_their_say():
    def forward(x):
        y = LINEAR(x)
        y.register_hook(lambda gradient: gradient * 10)
        return y.exp()

    x = torch.randn(3, 4)
    trace = lf.trace(forward, x, gradients=True)
    gradients = trace.gradients(trace.output.sum())
    y = LINEAR(x).detach().requires_grad_()
    (expected,) = torch.autograd.grad(y.exp().sum(), y)
    assert np.array_equal(gradients["linear_1"].values, expected.numpy() * 10)


def test_full_backward_hooks_of_a_module():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    seen = {}

    def hook(module, gradient_in, gradient_out):
        seen["out"] = gradient_out[0].clone()
        return (gradient_in[0] * 10,)

    model[1].register_full_backward_hook(hook)
    x = torch.randn(3, 4)
    model(x).square().sum().backward()
    expected = model[0].bias.grad.clone()
    trace = lf.trace(model, x, gradients=True)
    gradients = trace.gradients(lambda output: output.square().sum())
    assert np.array_equal(gradients["relu_1"].values, seen["out"].numpy())
    assert np.allclose(gradients["linear_1"].sum("stimulus").values, expected.numpy())


def test_a_gradient_taken_inside_the_forward():
    def energy(x):
        h = LINEAR(x)
        return h, h.square().sum()

    def forward(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            h, e = energy(x)
            (g,) = torch.autograd.grad(e, x, create_graph=True)
        return g * h

    x = torch.randn(3, 4)
    trace = lf.trace(forward, x, gradients=True)
    gradients = trace.gradients(lambda output: output.sum())
    leaf = x.clone().requires_grad_()
    h, e = energy(leaf)
    (g,) = torch.autograd.grad(e, leaf, create_graph=True)
    expected = torch.autograd.grad((g * h).sum(), [h, g])
    labels = [trace.layers.index[trace.layers["func"] == func][0] for func in ("linear", "grad")]
    for label, gradient in zip(labels, expected, strict=True):
        assert np.array_equal(gradients[label].values, gradient.numpy())


def test_a_gradient_inside_leaves_none_behind():
    """Hooks would have fired for it."""

    def forward(x):
        y = LINEAR(x)
        torch.autograd.grad(y.exp().sum(), y, retain_graph=True)
        return y * 3

    trace = lf.trace(forward, torch.randn(3, 4), gradients=True)
    gradients = trace.gradients(trace.output.sum())
    assert (gradients["linear_1"] == 3).all()


def test_a_gradient_that_a_function_holds_on_to_is_copied():
    held = torch.full((3, 4), 2.0)

    class Lends(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return held

    trace = lf.trace(lambda x: Lends.apply(LINEAR(x)), torch.randn(3, 4), gradients=True)
    gradients = trace.gradients(trace.output.sum())
    held.zero_()
    assert (gradients["linear_1"] == 2).all()
    assert not gradients["linear_1"].values.flags.writeable


class Kept(torch.autograd.Function):
    """Gives in its backward what it was told to, which somebody goes on holding."""

    @staticmethod
    def forward(ctx, x, gradient):
        ctx.gradient = gradient
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.gradient, None


REACHED_BY_VIEWS = {
    "views of what is held": lambda x, held: Kept.apply(LINEAR(x).view(3, 4).view(3, 4), held),
    "views of other shapes": lambda x, held: Kept.apply(LINEAR(x).view(12).view(3, 4), held),
    "a view is held": lambda x, held: Kept.apply(LINEAR(x).view(12), held.view(12)),
    "transposed": lambda x, held: Kept.apply(LINEAR(x).t().t(), held),
    "a part is held": lambda x, held: Kept.apply(LINEAR(x).view(3, 4), held[:3]).view(12),
    "in two rows": lambda x, held: Kept.apply(LINEAR(x).contiguous(), held),
}


@pytest.mark.parametrize("what", REACHED_BY_VIEWS)
def test_whatever_shares_memory_with_what_is_held_is_copied(what):
    held = torch.full((3, 4), 2.0)
    trace = lf.trace(REACHED_BY_VIEWS[what], (torch.randn(3, 4), held), gradients=True)
    found = trace.gradients(trace.output.sum())
    before = {op: found[op].values.copy() for op in found}
    held.zero_()
    for op in found:
        np.testing.assert_array_equal(found[op].values, before[op])
    assert (before["linear_1"] == 2).all()


def test_a_gradient_that_nobody_else_holds_is_not_copied():
    """A sum hands one tensor on to both that were added."""
    trace = lf.trace(
        lambda x: (LINEAR(x).sin() + LINEAR(x).cos()).exp(), torch.randn(3, 4), gradients=True
    )
    gradients = trace.gradients(lambda output: output.sum())
    assert np.shares_memory(gradients["sin_1"].values, gradients["cos_1"].values)


def test_views_of_a_gradient_are_not_copied():
    """As around the product of a linear layer for each token."""

    def forward(x):
        flat = x.view(6, 4).mm(LINEAR.weight)
        return flat.view(2, 3, 4).view(2, 12).exp()

    trace = lf.trace(forward, torch.randn(2, 3, 4), gradients=True)
    found = trace.gradients(lambda output: output.sum())
    rows = [found[op].values for op in ("mm_1", "view_2", "view_3")]
    assert all(np.shares_memory(rows[0], row) for row in rows[1:])


def test_nothing_that_holds_a_gradient_is_changed():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    leaf = torch.randn(3, 4, requires_grad=True)
    x = leaf * 1
    x.retain_grad()
    trace = lf.trace(model, x, gradients=True)
    gradients = trace.gradients(lambda output: output.square().sum())
    assert x.grad is None
    assert leaf.grad is None
    assert all(parameter.grad is None for parameter in model.parameters())
    assert "input_1" in gradients
    torch.autograd.grad(x.sum(), leaf)  # the caller's own graph is whole


def test_checkpoints_that_are_not_reentrant():
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    x = torch.randn(3, 4)
    trace = lf.trace(
        lambda x: checkpoint(block, LINEAR(x), use_reentrant=False) * 2, x, gradients=True
    )
    gradients = trace.gradients(lambda output: output.square().sum())
    h = LINEAR(x)
    t = block[0](h)
    expected = torch.autograd.grad((t.tanh() * 2).square().sum(), [h, t])
    for label, gradient in zip(["linear_1", "linear_2"], expected, strict=True):
        assert np.array_equal(gradients[label].values, gradient.numpy())


def test_a_reentrant_checkpoint_on_the_way():
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    trace = lf.trace(
        lambda x: checkpoint(block, LINEAR(x), use_reentrant=True) * 2,
        torch.randn(3, 4),
        gradients=True,
    )
    with pytest.raises(lf.LensRuntimeError, match="use_reentrant=False"):
        trace.gradients(lambda output: output.sum())
    gradients = trace.gradients(lambda output: output.sum(), rows=["mul_1", "tanh_1"])
    assert (gradients["mul_1"] == 1).all()
    assert (gradients["tanh_1"] == 2).all()


def test_autocast_complex_and_bfloat16():
    def forward(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return LINEAR(x).float() * 3

    trace = lf.trace(forward, torch.randn(3, 4), gradients=True)
    gradients = trace.gradients(lambda output: output.sum())
    assert gradients["linear_1"].dtype == np.float32
    assert gradients["linear_1"].attrs["torch_dtype"] == "bfloat16"
    assert (gradients["linear_1"] == 3).all()
    w = torch.randn(3, dtype=torch.complex64, requires_grad=True)
    trace = lf.trace(lambda w: w * (1 + 2j), w, gradients=True)
    gradients = trace.gradients(lambda output: output.abs().square().sum())
    # torch's convention: 2 * |1 + 2j|^2 * w
    np.testing.assert_allclose(gradients["input_1"].values, 10 * w.detach().numpy(), rtol=1e-5)


def test_passes_and_shared_modules():
    cell = nn.Linear(4, 4)

    def forward(x):
        h = x
        for _ in range(3):
            h = torch.tanh(cell(h))
        return h

    x = torch.randn(3, 4)
    trace = lf.trace(forward, x, gradients=True)
    gradients = trace.gradients(lambda output: output.square().sum())
    h, made = x, []
    for _ in range(3):
        made.append(cell(h))
        h = torch.tanh(made[-1])
    expected = torch.autograd.grad(h.square().sum(), made)
    for k, gradient in enumerate(expected, 1):
        assert np.array_equal(gradients[f"linear_1:{k}"].values, gradient.numpy())
    assert gradients.lens["linear_1"].sizes["pass_num"] == 3


def test_two_rows_of_one_tensor_show_its_total():
    def forward(x):
        y = LINEAR(x)
        z = y.contiguous()
        return {"a": y * 2, "b": z, "c": z}

    trace = lf.trace(forward, torch.randn(3, 4), gradients=True)
    gradients = trace.gradients(lambda o: o["a"].sum() + o["b"].sum() + 4 * o["c"].sum())
    for label in ("linear_1", "contiguous_1", "output_1", "output_2", "output_3"):
        expected = 1 if label == "output_1" else 7
        assert (gradients[label] == expected).all(), label


def test_multi_output_calls():
    def forward(x):
        a, b = LINEAR(x).chunk(2, dim=1)
        top, _ = a.max(1)
        return b.sum() * 2 + top.sum()

    trace = lf.trace(forward, torch.randn(3, 4), gradients=True)
    gradients = trace.gradients(trace.output)
    assert (gradients["chunk_2"] == 2).all()
    labels = trace.layers.index[trace.layers["func"] == "max"]
    assert labels[0] in gradients
    assert gradients.attrs["without"][labels[1]] == "integer"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("rows", [None, "linear_1"])
def test_a_loss_function_has_gradients_wherever_it_is_asked_for(mode, rows):
    x = torch.ones(2, 4)
    trace = lf.trace(LINEAR, x, gradients=True)
    with mode():
        before = torch.is_grad_enabled()
        found = trace.gradients(lambda output: output.square().sum(), rows)
        assert torch.is_grad_enabled() == before
    expected = 2 * LINEAR(x)
    np.testing.assert_array_equal(found["linear_1"].values, expected.detach().numpy())


def _without_gradients(output):
    with torch.no_grad():
        return output.sum()


HISTORYLESS = {
    "under no_grad": _without_gradients,
    "of a detached copy": lambda output: output.detach().sum(),
    "of integers": lambda output: output.argmax(),
    "of a comparison": lambda output: (output > 0).sum(),
}


@pytest.mark.parametrize("what", HISTORYLESS)
def test_a_loss_without_a_history_is_told_from_a_frozen_model(what):
    trace = lf.trace(LINEAR, torch.ones(2, 4), gradients=True)
    for loss in (HISTORYLESS[what], HISTORYLESS[what](trace.output)):
        with pytest.raises(lf.LensValueError, match="though the trace's output does"):
            trace.gradients(loss)
    frozen = nn.Linear(4, 4).requires_grad_(False)
    trace = lf.trace(frozen, torch.ones(2, 4), gradients=True)
    with pytest.raises(lf.LensValueError, match="frozen"):
        trace.gradients(HISTORYLESS[what])


def test_a_run_that_was_stopped_has_no_output_for_a_loss():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    trace = lf.trace(model, torch.ones(2, 4), save="relu_1", stop=True, gradients=True)
    with pytest.raises(lf.LensRuntimeError, match="stopped"):
        trace.gradients(lambda output: output.sum())


def test_parameters_written_since_the_trace():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    trace = lf.trace(model, torch.ones(2, 4), gradients=True)
    with torch.no_grad():
        model[2].weight.mul_(0.5)
    with pytest.raises(lf.LensRuntimeError, match="written since"):
        trace.gradients(lambda output: output.sum())
    # Nothing before it is asked for, so nothing is computed with it.
    assert list(trace.gradients(lambda output: output.sum(), rows="linear_2")) == ["linear_2"]
