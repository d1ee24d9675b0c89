"""Writes that torch shows no function mode: assigned parts, storages and gradients."""

import copy
import functools
import importlib
import operator

import pytest
import torch
from torch import nn

import lensframe_pd as lf

X = torch.arange(1.0, 4.0)


def traced(model, *args, **options):
    trace = lf.trace(model, args or (X.clone(),), **options)
    report = trace.validate()
    assert report["passed"].all(), report["reason"][~report["passed"]].tolist()
    return trace


def ancestors(layers, op):
    found = {*layers.loc[op, "parents"]}
    return found.union(*(ancestors(layers, parent) for parent in found))


def assign(name):
    def do(y, z):
        setattr(y, name, z)

    return do


def put_real(y, z):
    y.real = z


def put_imag(y, z):
    y.imag = z


def imag_of_a_view(y, z):
    y[1:].imag = z[1:]


def both(y, z):
    y.real = z
    y.imag = z


def added(y, z):
    y.real += z


def twice(y, z):
    y.imag = 1
    y.imag = z


PARTS = [put_real, put_imag, imag_of_a_view, both, added, twice, assign("real"), assign("imag")]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("write", PARTS)
def test_a_part_of_a_complex_tensor(write, dtype, inference):
    def forward(x):
        y, z = torch.ones(3, dtype=dtype), x * 2
        write(y, z)
        return y * 1

    with torch.inference_mode(inference):
        trace = traced(forward)
        expected = forward(X)
    layers, activations = trace
    assert torch.equal(trace.output, expected)
    assert (activations["output_1"].values == expected.numpy()).all()
    assert {"ones_1", "mul_1", "input_1"} <= ancestors(layers, "output_1")
    assert layers["inplace"].any()
    assert "constant" not in set(layers["kind"])


def test_the_real_part_of_a_real_tensor_is_the_tensor():
    def forward(x):
        y = x * 1
        y.real = x * 2
        return y + 1

    layers = traced(forward).layers
    assert layers.loc["copy_1", "parents"] == ("mul_1", "mul_2")
    assert layers.loc["add_1", "parents"] == ("copy_1",)


def test_a_number_is_in_the_configuration():
    def forward(x):
        y = x.to(torch.complex64)
        y.imag = 3
        return y * 1

    layers = traced(forward).layers
    fill = layers[layers["func"] == "fill"].iloc[0]
    assert '"value": 3.0' in fill["config"]
    assert fill.name in ancestors(layers, "mul_1")


def test_a_complex_buffer():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("state", torch.zeros(3, dtype=torch.complex64))

        def forward(self, x):
            self.state.imag = x
            self.state.imag += x
            return self.state * 2

    layers = traced(Model().eval()).layers
    assert ("state",) in set(layers["buffers"])
    assert {"input_1", "copy_1"} <= ancestors(layers, "mul_1")


SET = {
    "tensor": lambda y, z: y.set_(z),
    "of_the_class": torch.Tensor.set_,
    "by_name": lambda y, z: y.set_(z),
    "caller": lambda y, z: operator.methodcaller("set_", z)(y),
    "tensor_and_place": lambda y, z: y.set_(z, 1, (2,), (1,)),
    "storage": lambda y, z: y.set_(z.untyped_storage()),
    "storage_and_place": lambda y, z: y.set_(z.untyped_storage(), 1, (2,), (1,)),
}


@pytest.mark.parametrize("write", SET.values(), ids=SET)
def test_a_storage_that_was_set(write):
    def forward(x):
        y, z = x * 2, x * 3
        before = y[:1]
        write(y, z)
        return y + 1, z + 1, before + 1

    layers, activations = traced(forward)
    row = layers.loc["set_1"]
    assert row["inplace"]
    assert row["parents"] == ("mul_1", "mul_2")
    sums = ["add_1", "add_2", "add_3"]
    assert layers.loc[sums, "parents"].tolist() == [("set_1",), ("mul_2",), ("getitem_1",)]
    assert activations["add_1"].values.tolist() == (forward(X)[0]).tolist()


def test_a_write_after_a_storage_was_set_is_seen_by_both():
    def forward(x):
        y, z = x * 2, x * 3
        y.set_(z)
        y.add_(1)
        return z * 1

    layers = traced(forward).layers
    assert layers.loc["alias_1", "parents"] == ("mul_2", "add_1")


def set_by_a_helper(y, z):
    y.set_(z)


class Helper:
    def put(self, y, z):
        y = y.view_as(y)
        y.real = z
        return y


def test_helpers_and_nested_functions():
    helper = Helper()

    def forward(x):
        def inner(y):
            set_by_a_helper(y, x * 3)
            return y

        return helper.put(inner(x * 2), x * 4) + 1

    layers = traced(forward).layers
    assert {"set_1", "copy_1"} <= ancestors(layers, "add_1")


def test_in_a_module_and_its_hook():
    class Put(nn.Module):
        def forward(self, x):
            y = torch.zeros(3, dtype=torch.complex64)
            y.real = x
            return y

    def hook(module, args, out):
        out.imag = args[0]

    put = Put().eval()
    put.register_forward_hook(hook)
    layers = traced(nn.Sequential(put, nn.Identity()).eval()).layers
    copies = layers[layers["func"] == "copy"]
    assert copies["module"].tolist() == ["0", "0"]
    assert set(copies.index) <= ancestors(layers, "output_1")


def put(y, z):
    """The first that its code has to do with torch is the write."""
    y.imag = z
    return y


def through(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


def keyword_default(y, z, *, how=put):
    return how(y, z)


class Parts(nn.Module):
    """Writes in one of many ways, of which its own code says nothing."""

    @through
    def decorated(self, y, z):
        return put(y, z)

    @through
    @through
    def twice_decorated(self, y, z):
        return put(y, z)

    @torch.no_grad()
    def by_torch(self, y, z):
        return put(y, z)

    @functools.lru_cache(maxsize=1)  # noqa: B019 (as models do)
    def cached(self, y, z):
        return put(y, z)

    @staticmethod
    def static(y, z):
        return put(y, z)

    @classmethod
    def of_the_class(cls, y, z):
        return put(y, z)

    @property
    def read(self):
        return put(*self.given)

    @read.setter
    def read(self, given):
        put(*given)

    @functools.cached_property
    def read_once(self):
        return put

    partly = functools.partialmethod(keyword_default, how=put)

    def by_default(self, y, z, how=put):
        return how(y, z)

    def by_keyword_default(self, y, z):
        return keyword_default(y, z)


class Inherits(Parts):
    def decorated(self, y, z):
        return super().decorated(y, z)


def assigned(model, y, z):
    model.read = y, z
    return y


def read(model, y, z):
    model.given = y, z
    return model.read


WAYS = {
    "decorated": lambda m, y, z: m.decorated(y, z),
    "decorated twice": lambda m, y, z: m.twice_decorated(y, z),
    "decorated by torch": lambda m, y, z: m.by_torch(y, z),
    "cached": lambda m, y, z: m.cached(y, z),
    "static": lambda m, y, z: m.static(y, z),
    "of the class": lambda m, y, z: m.of_the_class(y, z),
    "a property that is read": read,
    "a property that is assigned": assigned,
    "a property that is kept": lambda m, y, z: m.read_once(y, z),
    "a partial method": lambda m, y, z: functools.partial(keyword_default, how=put)(y, z),
    "a default": lambda m, y, z: m.by_default(y, z),
    "a default of a keyword": lambda m, y, z: m.by_keyword_default(y, z),
}


class Runs(nn.Module):
    def __init__(self, way, part):
        super().__init__()
        self.way, self.part, self.other = way, part, Other()

    def forward(self, x):
        y = torch.zeros(3, dtype=torch.complex64)
        z = self.other(x)
        return self.way(self.part, y, z) * 1


class Other(nn.Module):
    """Has the same decorator around another function."""

    @through
    def forward(self, x):
        return x * 2


def check_written(model):
    layers = lf.trace(model, X.clone()).layers
    assert {"mul_1", "input_1"} <= ancestors(layers, "output_1")


@pytest.mark.parametrize("part", [Parts, Inherits])
@pytest.mark.parametrize("way", WAYS)
def test_the_write_is_the_first_that_code_does(way, part):
    check_written(Runs(WAYS[way], part()).eval())


class Plain:
    """No module: a method of its own writes."""

    def store(self, y, z):
        return put(y, z)

    def run(self, x):
        y = torch.zeros(3, dtype=torch.complex64)
        return self.store(y, x * 2) * 1

    __call__ = run


@pytest.mark.parametrize(
    "model",
    [Plain(), Plain().run, functools.partial(Plain().run), functools.partial(Plain())],
    ids=["called", "method", "partial", "partial of what is called"],
)
def test_another_method_of_what_is_no_module(model):
    check_written(model)


class First(nn.Module):
    def __init__(self):
        super().__init__()
        self.second, self.other = Second(), Other()

    def forward(self, x):
        y, z = torch.zeros(3, dtype=torch.complex64), self.other(x)
        return self.second(y, z) * 1


class Second(nn.Module):
    @through
    def forward(self, y, z):
        return put(y, z)


class Below(Second):
    def forward(self, y, z):
        return super().forward(y, z)


def only_reads(module, y, z):
    return torch.complex(z, z)


def of_an_instance(model):
    model.second.forward = put


def of_an_instance_partly(model):
    model.second.forward = functools.partial(keyword_default, how=put)


def of_an_instance_bound(model):
    model.second.forward = Parts().by_default


def of_the_class(model):
    type(model.second).forward = lambda self, y, z: put(y, z)


def by_a_hook(model):
    model.second.register_forward_pre_hook(lambda module, args: (put(*args), args[1]))


def by_a_partial_hook(model):
    def hook(name, module, args):
        return put(*args), args[1]

    model.second.register_forward_pre_hook(functools.partial(hook, "name"))


def by_another_class(model):
    model.second = Below()


REPLACED = [
    of_an_instance, of_an_instance_partly, of_an_instance_bound, of_the_class, by_a_hook,
    by_a_partial_hook, by_another_class,
]  # fmt: skip


@pytest.mark.parametrize("replace", REPLACED)
def test_what_is_replaced_between_two_runs(replace):
    class Harmless(nn.Module):
        def forward(self, y, z):
            return only_reads(self, y, z) + y

    model = First().eval()
    model.second = Harmless()
    assert "copy" not in set(lf.trace(model, X.clone()).layers["func"])
    replace(model)
    check_written(model)
    check_written(model)


def test_a_global_and_a_closure_that_are_replaced_between_two_runs():
    held = [torch.complex, put]
    known = {"torch": torch, "helper": torch.complex}
    exec("def named(y, z):\n    return helper(y.real, z) + 0 * y", known)

    def enclosing():
        inner = only_reads

        def forward(x):
            y, z = torch.zeros(3, dtype=torch.complex64), x * 2
            return inner(None, y, z) + known["named"](y, z)

        def swap(other):
            nonlocal inner
            inner = other

        return forward, swap

    forward, swap = enclosing()
    assert "copy" not in set(lf.trace(forward, X.clone()).layers["func"])
    swap(lambda module, y, z: held[1](y, z))
    check_written(forward)


def test_code_of_pythons_library_is_none_of_the_users():
    depths = []

    def forward(x):
        depths.append(torch._C._len_torch_dispatch_stack())
        importlib.import_module("math")
        return copy.copy(x) * len(functools.reduce(operator.add, [[1], [2]]))

    lf.trace(forward, X)
    assert depths == [0]


def test_code_that_only_reads_them_is_run_without_the_dispatch_mode():
    depths = []

    def forward(x):
        depths.append(torch._C._len_torch_dispatch_stack())
        return torch.fft.fft(x).real + torch.fft.fft(x).imag

    lf.trace(forward, X)
    assert depths == [0]


@pytest.mark.parametrize("fails", [False, True])
def test_no_mode_is_left(fails):
    def forward(x):
        y = x * 2
        y.set_(x)
        if fails:
            raise ValueError("as asked")
        return y

    if fails:
        with pytest.raises(ValueError, match="as asked"):
            lf.trace(forward, X)
    else:
        lf.trace(forward, X)
    assert torch._C._len_torch_dispatch_stack() == torch._C._len_torch_function_stack() == 0


def test_a_gradient_that_was_assigned():
    def forward(x):
        leaf = x.detach().clone().requires_grad_()
        leaf.grad = x * 3
        return leaf.grad * 2

    layers = lf.trace(forward, X).layers
    assert layers.loc["grad_1", "parents"][-1] == "mul_1"
    assert layers.loc["mul_2", "parents"] == ("grad_1",)


# Whatever else of a tensor can be assigned changes no value: no row.
MARKS = {
    "requires_grad": True, "_backward_hooks": None, "_post_accumulate_grad_hooks": None,
    "grad_dtype": torch.float32, "grad": None,
}  # fmt: skip


@pytest.mark.parametrize("name", MARKS)
def test_an_assigned_mark_is_no_row(name):
    def forward(x):
        y = x.detach()
        setattr(y, name, MARKS[name])
        return y * 1

    layers = traced(forward).layers
    assert layers["func"].tolist() == ["input", "detach", "mul", "output"]


def test_every_property_that_can_be_assigned_is_decided():
    decided = {*MARKS, "real", "imag", "data", "_grad", "_grad_fn", "volatile"}
    tensor = torch.zeros(2, dtype=torch.complex64)
    found = set()
    for name in dir(torch.Tensor):
        descriptor = getattr(torch.Tensor, name)
        if isinstance(descriptor, type(torch.Tensor.data)):
            try:
                setattr(tensor, name, getattr(tensor, name))
            except (AttributeError, RuntimeError):
                continue
            found.add(name)
    assert found <= decided
