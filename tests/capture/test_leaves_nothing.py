"""After a trace, however it ended, nothing is left behind, and what was saved never changes."""

import copy
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_modules
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import lensframe_pd as lf
from lensframe_pd.errors import LensError

pytestmark = pytest.mark.filterwarnings("error::lensframe_pd.errors.LensWarning")


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    assert not torch_modules._global_forward_hooks
    assert not torch_modules._global_forward_pre_hooks
    assert not torch_modules._global_forward_hooks_always_called
    assert not torch_modules._global_forward_hooks_with_kwargs
    assert not _get_current_function_mode_stack()
    assert not _get_current_dispatch_mode_stack()
    assert lf.trace(torch.sin, torch.ones(2)).layers.index[1] == "sin_1"  # and it works again


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.error = None

    def forward(self, x):
        y = self.fc(x)
        if self.error is not None:
            raise self.error
        return y


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.inner = Inner()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.h = torch.zeros(3)
        self.inner.train(False)
        self.norm.eval()
        self.training = False

    def forward(self, x):
        self.calls += 1
        self.h = torch.tanh(self.norm(self.inner(self.first(x).relu_())) + self.h)
        return self.h


def flags(model):
    """Everything a plain forward could have changed, by module path."""
    return {
        path: (
            set(m.__dict__), m.training, len(m._forward_hooks), len(m._forward_pre_hooks),
            len(m._backward_hooks), "forward" in m.__dict__, type(m),
            {n: (p.requires_grad, type(p), p.grad) for n, p in m._parameters.items()},
        )
        for path, m in model.named_modules()
    }  # fmt: skip


def test_the_model_is_as_after_a_plain_forward():
    model, x = Model(), torch.randn(4, 3)
    plain = copy.deepcopy(model)
    plain(x)
    before = {n: id(t) for n, t in model.state_dict(keep_vars=True).items()}
    versions = [p._version for p in model.parameters()]
    lf.trace(model, x)
    assert [p._version for p in model.parameters()] == versions
    assert flags(model) == flags(plain)
    assert {n: id(t) for n, t in model.state_dict(keep_vars=True).items()} == before
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert torch.equal(model.h, plain.h)
    model(x)  # and again, without the trace


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_a_nested_module(kind):
    model = Model()
    model.inner.error = error = kind("no good")
    with pytest.raises(kind) as caught:
        lf.trace(model, torch.ones(4, 3))
    assert caught.value is error
    assert error.args == ("no good",)
    (note,) = error.__notes__
    assert "linear_2" in note
    assert "inner.fc" in note
    assert "linear_2" in error.layers.index
    assert error.layers.loc["linear_2", "module"] == "inner.fc"
    model.inner.error = None
    assert "tanh_1" in lf.trace(model, torch.ones(4, 3)).layers.index


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("pre", [False, True])
def test_an_exception_in_a_user_hook(kind, pre):
    error = kind("no good")

    def fail(*_):
        raise error

    model = Model()
    register = model.inner.register_forward_pre_hook if pre else model.inner.register_forward_hook
    register(fail)
    with pytest.raises(kind) as caught:
        lf.trace(model, torch.ones(4, 3))
    assert caught.value is error
    assert ("relu_1" if pre else "linear_2") in error.__notes__[0]


def test_an_exception_of_torch():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        lf.trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)).eval(), torch.ones(2, 3))
    assert "linear_1" in caught.value.__notes__[0]
    assert list(caught.value.layers.index) == ["input_1", "linear_1"]


def test_an_exception_that_the_model_catches():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.risky = Inner()
            self.after = nn.Linear(3, 2)

        def forward(self, x):
            try:
                y = self.risky(x)
            except ValueError:
                y = x * 2
            return self.after(y)

    model, x = Careful().eval(), torch.randn(4, 3)
    model.risky.error = ValueError()
    trace = lf.trace(model, x)
    assert torch.equal(trace.output, model.after(x * 2))
    layers = trace.layers
    assert layers.loc["linear_1", "module_stack"] == ("risky:1", "risky.fc:1")
    assert layers.loc["mul_1", "module_stack"] == ()
    assert layers.loc["linear_2", "module_stack"] == ("after:1",)
    assert layers.loc["linear_2", "parents"] == ("mul_1",)
    assert not any("risky:1" in r for r in layers["returned_by"])


def test_another_thread_is_not_recorded():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh()).eval()
    fired = []

    class Waiting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            x = x + 1

            def work():
                fired.append(net(torch.ones(7, 3)).exp())
                fired.append(nn.Sequential(nn.ReLU())(fired[0]))

            worker = threading.Thread(target=work)
            worker.start()
            worker.join()
            return self.net(x)

    trace = lf.trace(Waiting().eval(), torch.ones(2, 3))
    assert len(fired) == 2
    assert list(trace.layers.index) == ["input_1", "add_1", "linear_1", "tanh_1", "output_1"]
    assert trace.layers.loc["tanh_1", "returned_by"] == ("net.1:1", "net:1")


def test_two_traces_in_two_threads():
    both = threading.Barrier(2)
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    traces = {}

    def forward(x):
        both.wait(10)
        y = model(x)
        both.wait(10)
        return y.sum()

    def run(n):
        traces[n] = lf.trace(forward, torch.full((2, 3), float(n)))

    workers = [threading.Thread(target=run, args=(n,)) for n in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for n, trace in traces.items():
        assert list(trace.layers["func"]) == ["input", "linear", "relu", "sum", "output"]
        assert torch.equal(trace.output, model(torch.full((2, 3), float(n))).sum())


def test_a_trace_inside_a_traced_model():
    with pytest.raises(LensError, match="inside a model that is being traced"):
        lf.trace(lambda x: lf.trace(torch.sin, x).output, torch.ones(2))


# ------------------------------------------------------------------ no weak reference


@pytest.fixture
def swapping():
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(before)


class Remembering(nn.Module):
    """Holds tensors in every way, and remembers all that it computes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("shift", torch.ones(3))
        self.register_buffer("count", torch.zeros(()))
        self.table = torch.ones(3)
        self.closed = nn.Parameter(torch.ones(3)).view_as  # behind a method
        self.seen = []
        self.fails = False

    def forward(self, x):
        self.count += 1
        made = nn.Linear(3, 3)
        y = made(self.fc(x) + self.shift) * self.table + self.closed.__self__
        self.table = y.sum(0)
        self.seen = [x, y, self.table, made.weight, made.bias, y.detach(), y.T]
        self.seen.append(self.closed.__self__)
        if self.fails:
            raise RuntimeError("no more")
        return torch.relu(y), self.shift


@pytest.mark.parametrize("save", ["all", None, ["linear_1", "relu_1"]])
@pytest.mark.parametrize("fails", [False, True])
def test_no_weak_reference_is_left(save, fails):
    model, x = Remembering().eval(), torch.ones(2, 3)
    model.fails, table = fails, model.table
    error = trace = None
    try:
        trace = lf.trace(model, x, save=save)
    except RuntimeError as caught:
        error = caught
    assert (error is not None) == fails
    outputs = [] if trace is None else [*trace.output]
    held = [x, table, *model.parameters(), *model.buffers(), *model.seen, *outputs]
    assert [weakref.getweakrefs(tensor) for tensor in held] == [[]] * len(held)


def converted(model):
    model.to(torch.float64)


def halved(model):
    model.half()


def loaded(model):
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()})


def swapped_one_by_one(model):
    for tensor in (*model.parameters(), *model.buffers()):
        other = tensor.detach() * 2
        torch.utils.swap_tensors(
            tensor, nn.Parameter(other) if type(tensor) is nn.Parameter else other
        )


@pytest.mark.usefixtures("swapping")
@pytest.mark.parametrize("change", [converted, halved, loaded, swapped_one_by_one])
def test_a_model_can_be_swapped_while_the_trace_lives(change):
    model, x = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval(), torch.randn(2, 3)
    with torch.no_grad():
        wanted = model(x).tolist()
        trace = lf.trace(model, x)
    assert trace.validate()["passed"].all()
    change(model)
    torch.utils.swap_tensors(trace.output, torch.zeros(1))
    torch.utils.swap_tensors(x, torch.zeros(1))
    assert trace.activations["batch_norm_1"].values.tolist() == wanted


class Swapping(nn.Module):
    """Its parameters are swapped in the forward."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.weight = nn.Parameter(torch.full((3,), 2.0))
        self.other = nn.Parameter(torch.full((3,), 5.0))

    def forward(self, x):
        before = x * self.weight
        self.change(self, x)
        return before, x - self.weight


def to_a_product(model, x):
    torch.utils.swap_tensors(model.weight, nn.Parameter(model.weight.detach() * 10))


def twice(model, x):
    for _ in range(2):
        to_a_product(model, x)


def to_fresh_numbers(model, x):
    torch.utils.swap_tensors(model.weight, nn.Parameter(torch.full((3,), 7.0)))


def to_another_parameter(model, x):
    torch.utils.swap_tensors(model.weight, model.other)


def to_another_type(model, x):
    model.to(torch.float64)


def to_a_loaded_one(model, x):
    model.load_state_dict({name: t * 3 for name, t in model.state_dict().items()})


@pytest.mark.usefixtures("swapping")
@pytest.mark.parametrize(
    ("change", "wanted", "parent"),
    [
        (to_a_product, 20, "mul_2"), (twice, 200, "mul_2:2"), (to_fresh_numbers, 7, "full_1"),
        (to_another_parameter, 5, "constant_1"), (to_another_type, 2, "to_1"),
        (to_a_loaded_one, 6, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("save", ["all", None])
def test_a_parameter_swapped_in_the_forward(change, wanted, parent, save):
    with torch.no_grad():
        trace = lf.trace(Swapping(change).eval(), torch.ones(3), save=save)
    before, after = trace.output
    assert (before.tolist(), after.tolist()) == ([2] * 3, [1 - wanted] * 3)
    row = trace.layers.loc["sub_1"]
    assert row["params"] == ()  # it reads the new content, not what the model held before
    assert row["parents"][0] == "input_1"
    assert len(row["parents"]) == 2
    assert parent in (None, row["parents"][1])
    if save == "all":
        assert trace.activations[row["parents"][1]].values.tolist() == [wanted] * 3
        assert trace.activations["mul_1"].values.tolist() == [2] * 3


# ------------------------------------------------------------------ saved values never change


class Keeping(nn.Module):
    """Keeps, returns, and hands to a hook and a closure what it computes."""

    def __init__(self, collected):
        super().__init__()
        self.collected = [collected]
        self.fc = nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(3))
        self.h = torch.ones(3)

    def forward(self, x):
        self.count += 1
        z = self.fc(x) + self.count
        self.collected[0].append(z)
        self.h = z * self.h
        self.collected[0].append(self.h.view(-1)[2:4])
        view = x[:1]
        return [self.h.T, view, self.fc.weight * 1.0, self.fc.weight]


def write_into_everything(model, x, output, collected, hooked):
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    sum(o.sum() for o in output if o.requires_grad).backward()
    optimizer.step()
    with torch.no_grad():
        for tensor in [x, *output, model.h, *model.buffers(), *collected, *hooked]:
            tensor.detach().fill_(-99)


@pytest.mark.parametrize("when", ["before the Dataset is built", "after"])
def test_saved_values_never_change(when):
    def run():
        torch.manual_seed(0)
        collected, hooked = [], []
        model, x = Keeping(collected).eval(), torch.randn(4, 3)
        model.fc.register_forward_hook(lambda m, i, o: hooked.extend((o, i[0])))
        return model, x, collected, hooked

    model, x, collected, hooked = run()
    count, h = torch.ones(3), torch.ones(3)
    linear = torch.nn.functional.linear(x, model.fc.weight, model.fc.bias)
    expected = {
        "input_1": x, "constant_1": h, "add_1": count, "linear_1": linear,
        "add_2": linear + count, "mul_1": (linear + count) * h,
        "view_1": ((linear + count) * h).reshape(-1),
        "getitem_1": ((linear + count) * h).reshape(-1)[2:4],
        "getitem_2": x[:1], "T_1": ((linear + count) * h).T, "mul_2": model.fc.weight * 1.0,
        "output_1": ((linear + count) * h).T, "output_2": x[:1], "output_3": model.fc.weight * 1.0,
        "output_4": model.fc.weight,
    }  # fmt: skip
    expected = {label: tensor.detach().clone().numpy() for label, tensor in expected.items()}
    trace = lf.trace(model, x)
    if when == "after":
        before = trace.activations
        assert before is trace.activations
    write_into_everything(model, x, trace.output, collected, hooked)
    activations = trace.activations
    assert set(activations) == set(expected)
    for label, want in expected.items():
        assert np.array_equal(activations[label].values, want), label


def test_arrays_are_read_only():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval()
    _, activations = lf.trace(model, torch.ones(2, 3))
    for name in activations:
        with pytest.raises(ValueError, match="read-only"):
            activations[name].values[...] = 0


@pytest.mark.parametrize(
    "keep", ["attribute of a closure", "list in a hook", "global", "generator"]
)
def test_tensors_that_somebody_keeps_out_of_sight(keep):
    kept = []

    class Box:
        pass

    box = Box()

    def forward(x):
        y = x.exp()
        if keep == "attribute of a closure":
            box.y = y
        elif keep == "list in a hook":
            kept.append([{"deep": y}])
        elif keep == "global":
            globals()["_left_behind"] = y
        else:
            kept.append(iter([y]))
        return x + y

    trace = lf.trace(forward, torch.zeros(3))
    y = {
        "attribute of a closure": lambda: box.y,
        "list in a hook": lambda: kept[0][0]["deep"],
        "global": lambda: globals().pop("_left_behind"),
        "generator": lambda: next(kept[0]),
    }[keep]()
    y.fill_(-1)
    assert trace.activations["exp_1"].values.tolist() == [1, 1, 1]


@pytest.mark.parametrize("alias", ["detach", "view", "data"])
def test_aliases_that_outlive_the_run(alias):
    kept = []

    def forward(x):
        y = x.exp()
        if alias == "detach":
            kept.append(y.detach())
        elif alias == "view":
            kept.append(y.view(3, 1)[1:])
        else:
            kept.append(y.data)
        return y * 2

    trace = lf.trace(forward, torch.zeros(3))
    kept[0].fill_(-1)
    assert trace.activations["exp_1"].values.tolist() == [1, 1, 1]


def test_writes_during_the_run_do_not_reach_earlier_rows():
    def forward(x):
        a = x + 0
        b = a.view(-1)
        c = b[1:]
        c.mul_(10)
        a.data.add_(1)
        with torch.no_grad():
            a[0] = 7
        torch.neg(x, out=b)
        return a + 0

    _, activations = lf.trace(forward, torch.tensor([1.0, 2.0, 3.0]))
    wanted = {
        "input_1": [1, 2, 3], "add_1": [1, 2, 3], "view_1": [1, 2, 3], "getitem_1": [2, 3],
        "mul_1": [20, 30], "add_2": [2, 21, 31], "setitem_1": [7, 21, 31], "neg_1": [-1, -2, -3],
    }  # fmt: skip
    assert {label: activations[label].values.tolist() for label in wanted} == wanted
    assert activations["output_1"].values.tolist() == [-1, -2, -3]
