"""Rows that are read otherwise than by calls on what a call gave: as with an edit by hand.

Each program marks the tensors that are edited: `e("linear_1", tensor)` gives the tensor as it is,
or another one where a test wants that. So a forward with an edit needs nothing of the library.
"""

import copy
import ctypes
import functools
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import lensframe_pd as lf

pytestmark = pytest.mark.filterwarnings("ignore")

torch.manual_seed(0)
LINEAR = nn.Linear(4, 4)
DROP = nn.Dropout().eval()
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


def total(output):
    parts = output if isinstance(output, list) else [output]
    flat = torch.cat([(p if isinstance(p, torch.Tensor) else p()).flatten() for p in parts])
    return (flat.double() * torch.arange(1, len(flat) + 1).double().sqrt()).sum()


PROGRAMS = {}


def program(*labels):
    """A program, and the rows of it that are edited."""

    def add(function):
        PROGRAMS[function.__name__] = (function, labels)
        return function

    return add


# ------------------------------------------------------------------ objects that were there before


@program("dropout_1", "linear_1")
def by_the_old_name_alone(x, e):
    h = e("linear_1", LINEAR(x))
    e("dropout_1", F.dropout(h, training=False))
    return h.exp()


@program("dropout_1")
def a_module_by_the_old_name_alone(x, e):
    h = LINEAR(x)
    e("dropout_1", DROP(h))
    return h.exp()


@program("contiguous_1", "to_1")
def the_name_between(x, e):
    h = LINEAR(x)
    y = e("contiguous_1", h.contiguous())
    e("to_1", y.to(torch.float32))
    return y.exp()


@program("dropout_1", "asarray_1", "input_1")
def the_first_of_three_names(x, e):
    x = e("input_1", x)
    y = e("dropout_1", DROP(x))
    z = e("asarray_1", torch.asarray(y))
    return [z, x]


@program("cumsum_1")
def the_layout_of_what_stays_as_it_was(x, e):
    y = e("cumsum_1", x.cumsum(0))
    z = y.bool().float() + x
    return z.exp() if z.is_contiguous() else z.sin()


@program("real_1")
def real_of_a_real(x, e):
    y = LINEAR(x)
    e("real_1", y.real)
    return y.exp()


@program("positive_1")
def positive(x, e):
    y = LINEAR(x)
    e("positive_1", +y)
    return y.exp()


class Keeps(nn.Module):
    def forward(self, h, e):
        self.kept = e("dropout_1", F.dropout(h, training=False))
        return h * 2


@program("dropout_1")
def kept_by_a_module(x, e):
    module = Keeps()
    module(LINEAR(x), e)
    return module.kept.exp()


@program("contiguous_1")
def the_same_object(x, e):
    h = LINEAR(x)
    y = e("contiguous_1", h.contiguous())
    return y.exp() if y is h else y.sin()


@program("contiguous_1")
def a_key_by_identity(x, e):
    h = LINEAR(x)
    known = {id(h): 3.0}
    y = e("contiguous_1", h.contiguous())
    return y * known.get(id(y), 1.0)


@program("contiguous_1")
def an_attribute_of_the_object(x, e):
    h = LINEAR(x)
    h.tag = 2.0
    y = e("contiguous_1", h.contiguous())
    return y * getattr(y, "tag", 1.0)


@program("input_1")
def an_input_that_is_a_global(x, e):
    e("input_1", x)
    return X.exp()


@program("type_as_1", "view_1")
def a_view_handed_back_and_written(x, e):
    y = LINEAR(x)
    v = e("view_1", y.view(3, 4))
    w = e("type_as_1", v.type_as(v))
    w.clamp_(-0.1, 0.1)
    return [y, w]


# ------------------------------------------------------------------ what is known by memory alone


@program("linear_1", "detach_1")
def a_shallow_copy(x, e):
    y = e("linear_1", LINEAR(x))
    e("detach_1", y.detach())
    return copy.copy(y).exp()


@program("linear_1", "view_1")
def a_parameter_of_it(x, e):
    y = e("linear_1", LINEAR(x).detach())
    e("view_1", y.view(3, 4))
    return nn.Parameter(y).exp()


@program("matmul_1", "linear_1")
def parameters_that_share_memory(x, e):
    weight = e("matmul_1", x.t() @ x)
    module = nn.Linear(4, 4)
    module.load_state_dict({"weight": weight, "bias": weight[0]}, assign=True)
    return module(e("linear_1", LINEAR(x)))


@program("matmul_1", "linear_1")
def a_parameter_of_what_is_gone(x, e):
    weight = e("matmul_1", x.t() @ x)
    module = nn.Linear(4, 4)
    module.weight, module.bias = nn.Parameter(weight), nn.Parameter(weight[1])
    del weight
    return module(e("linear_1", LINEAR(x)))


@program("mul_1", "data_1")
def data_that_is_written(x, e):
    y = e("mul_1", x * 3)
    d = e("data_1", y.data)
    d.add_(1)
    return y * 2 + d


@program("set_data_1", "mul_1")
def data_that_is_assigned(x, e):
    y, z = LINEAR(x).detach(), e("mul_1", x * 2)
    y.data = z
    e("set_data_1", y)
    return y + z.exp()


@program("mul_1", "linear_1")
def storage_that_is_set(x, e):
    y, z = e("linear_1", LINEAR(x).detach()), e("mul_1", x * 2)
    z.set_(y)
    z.add_(1)
    return y + z.exp()


def _made(x, e):
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(e("matmul_1", x.t() @ x))
    return module


@program("matmul_1", "linear_1")
def orthogonal(x, e):
    return parametrizations.orthogonal(_made(x, e))(e("linear_1", LINEAR(x)).exp())


@program("matmul_1", "linear_1")
def weight_norm(x, e):
    return parametrizations.weight_norm(_made(x, e))(e("linear_1", LINEAR(x)).exp())


@program("matmul_1", "linear_1")
def spectral_norm(x, e):
    return parametrizations.spectral_norm(_made(x, e))(e("linear_1", LINEAR(x)).exp())


class Doubles(nn.Module):
    def forward(self, weight):
        return weight * 2

    def right_inverse(self, weight):
        return weight / 2


@program("matmul_1", "linear_1")
def a_parametrization_taken_away_again(x, e):
    module = _made(x, e)
    nn.utils.parametrize.register_parametrization(module, "weight", Doubles())
    nn.utils.parametrize.remove_parametrizations(module, "weight")
    return module(e("linear_1", LINEAR(x)).exp())


@program("zeros_like_1", "linear_1")
def zeros_that_become_a_parameter(x, e):
    first = torch.zeros_like

    def marked(*args, **kwargs):
        return e("zeros_like_1", first(*args, **kwargs))

    module = nn.Linear(4, 4)
    torch.zeros_like = marked
    try:
        parametrizations.orthogonal(module)
    finally:
        torch.zeros_like = first
    return module(e("linear_1", LINEAR(x)).exp())


@program("linear_1", "clamp_1")
def numpys_memory_that_is_written(x, e):
    y = e("linear_1", LINEAR(x).detach())
    z = torch.from_numpy(y.numpy())
    e("clamp_1", z.clamp_(-0.1, 0.1))
    return [y, z]


@program("linear_1")
def dlpack(x, e):
    y = e("linear_1", LINEAR(x).detach())
    z = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(y))
    z.add_(1)
    return y * 2


# ------------------------------------------------------------------ what Python learns


@program("linear_1")
def printed(x, e):
    return x * len(str(e("linear_1", LINEAR(x))))


@program("linear_1")
def formatted(x, e):
    return x * float(f"{e('linear_1', LINEAR(x)).sum():.2f}")


@program("linear_1")
def its_storage(x, e):
    return x * sum(e("linear_1", LINEAR(x)).untyped_storage().tolist())


@program("add_1", "linear_1")
def an_array_read_after_a_write(x, e):
    y = e("linear_1", LINEAR(x).detach())
    array = y.numpy()
    e("add_1", y.add_(1))
    return x * float(array.sum())


@program("mul_1")
def the_other_half_of_its_storage(x, e):
    y = e("mul_1", x * 3)
    z = torch.complex(y, x).imag.detach()
    return x * z.untyped_storage()[2]


@program("linear_1")
def its_address(x, e):
    y = e("linear_1", LINEAR(x).detach())
    return x * ctypes.c_float.from_address(y.data_ptr()).value


@program("linear_1")
def a_list_of_a_parameter_of_it(x, e):
    return x * sum(nn.Parameter(e("linear_1", LINEAR(x))).tolist()[0])


@program("linear_1")
def a_list_of_a_shallow_copy(x, e):
    return x * sum(copy.copy(e("linear_1", LINEAR(x))).tolist()[0])


@program("linear_1")
def saved_and_loaded(x, e):
    file = io.BytesIO()
    torch.save(e("linear_1", LINEAR(x).detach()), file)
    file.seek(0)
    return torch.load(file) * 2


@program("linear_1")
def a_call_that_fails(x, e):
    y = e("linear_1", LINEAR(x))
    square = y[:, :3] + y[:, :3].T
    try:
        return torch.linalg.cholesky(square)
    except torch.linalg.LinAlgError:
        return square.exp()


@program("linear_1")
def an_assertion(x, e):
    y = e("linear_1", LINEAR(x))
    try:
        torch._assert_async(y.sum() < 0.3)
    except RuntimeError:
        return y.sin()
    return y * 2


class Branches(nn.Module):
    def forward(self, y: torch.Tensor):
        if bool(y.sum() > 0.3):
            return y.exp()
        return y.sin()


SCRIPTED = torch.jit.script(Branches())


@program("linear_1")
def a_scripted_decision(x, e):
    return SCRIPTED(e("linear_1", LINEAR(x)))


LIBRARY = torch.library.Library("lensframe_by_hand", "DEF")
LIBRARY.define("count(Tensor x) -> int")
LIBRARY.impl("count", lambda x: int((x > 0.3).sum()), "CPU")
LIBRARY.define("both(Tensor x) -> (Tensor, float)")
LIBRARY.impl("both", lambda x: (x * 2, float(x.sum())), "CPU")


@program("linear_1")
def a_number_of_a_custom_op(x, e):
    return x * torch.ops.lensframe_by_hand.count(e("linear_1", LINEAR(x)))


@program("linear_1")
def a_number_beside_a_tensor(x, e):
    _, number = torch.ops.lensframe_by_hand.both(e("linear_1", LINEAR(x)))
    return x * number


@program("linear_1")
def whether_it_requires_grad(x, e):
    with torch.enable_grad():
        y = e("linear_1", LINEAR(x))
        return y.exp() if y.requires_grad else y.sin()


@program("t_1", "linear_1")
def whether_it_is_contiguous(x, e):
    z = e("t_1", e("linear_1", LINEAR(x)).t())
    return z.exp() if z.is_contiguous() else z.sin()


@program("mul_1", "linear_1")
def where_a_view_of_it_lies(x, e):
    z = e("mul_1", e("linear_1", LINEAR(x)) * 2)
    z[:, 1].add_(1)
    return z * 3


# ------------------------------------------------------------------ random numbers


@program("linear_1")
def as_many_draws_as_its_values_say(x, e):
    z = torch.poisson(e("linear_1", LINEAR(x)).abs() * 20)
    return z + torch.rand(3, 4)


@program("zero_1")
def no_draw_but_for_the_value(x, e):
    z = torch.poisson(e("zero_1", x.clone().zero_()))
    return z + torch.rand(3, 4)


@program("mul_1", "exp_1")
def a_weight_made_in_the_run_and_written(x, e):
    module = nn.Linear(4, 4)
    y = e("mul_1", x[:1].repeat(4, 1) * 2)
    module.weight = nn.Parameter(y)
    z = module(e("exp_1", x.exp()))
    y.fill_(0.5)
    return [z, y]


@program("linear_1")
def draws_until_one_is_taken(x, e):
    z = torch._standard_gamma(e("linear_1", LINEAR(x)).abs())
    return z + F.dropout(x, training=True)


@program("linear_1")
def a_generator_of_the_models_own(x, e):
    own = torch.Generator().manual_seed(3)
    z = torch.poisson(e("linear_1", LINEAR(x)).abs() * 20, generator=own)
    return z + torch.rand(3, 4, generator=own)


# ------------------------------------------------------------------ what is returned


@program("linear_1")
def a_closure(x, e):
    y = e("linear_1", LINEAR(x))
    return [x * 2, lambda: y]


@program("linear_1")
def a_default(x, e):
    y = e("linear_1", LINEAR(x))
    return [x * 2, lambda y=y: y]


@program("linear_1")
def a_partial(x, e):
    return [x * 2, functools.partial(torch.add, e("linear_1", LINEAR(x)), 1)]


@program("linear_1")
def a_method_of_the_tensor(x, e):
    return [x * 2, e("linear_1", LINEAR(x)).exp]


class Gives(nn.Module):
    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def forward(self):
        return self.tensor


@program("linear_1")
def a_module(x, e):
    return [x * 2, Gives(e("linear_1", LINEAR(x)))]


@program("linear_1")
def a_quantized_tensor(x, e):
    y = e("linear_1", LINEAR(x))
    return torch.quantize_per_tensor_dynamic(y, torch.quint8, False).dequantize()


def _turned(t):
    return (t * 1.5).t().contiguous().t() if t.dtype.is_floating_point else t


VALUES = {"0.5": 0.5, "flipped": lambda t: t.flip(0) * 3, "turned": _turned}
_WRITES = ("set_data_1", "clamp_1", "add_1", "zero_1")


def by_hand(function, label, value):
    def e(name, tensor):
        if name != label:
            return tensor
        new = value(tensor.clone()).clone() if callable(value) else torch.full_like(tensor, value)
        return tensor.copy_(new) if label in _WRITES else new

    with torch.no_grad():
        torch.manual_seed(1)
        return float(total(function(X, e)))


#: Others would have to see what is then written into it.
REFUSED = {
    "a_view_handed_back_and_written": {"type_as_1", "view_1"},
    "data_that_is_written": {"data_1"},
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_row_is_as_in_a_forward_with_an_edit_by_hand(name, value):
    function, labels = PROGRAMS[name]
    refused = REFUSED.get(name, set())
    with torch.no_grad():
        trace = lf.trace(lambda x: function(x, lambda _, tensor: tensor), X, seed=1)
        for label in labels:
            if label in refused:
                with pytest.raises(lf.LensValueError, match="shares memory"):
                    trace.patch(VALUES[value], total, rows=label)
                continue
            found = trace.patch(VALUES[value], total, rows=label)
            expected = by_hand(function, label, VALUES[value])
            assert found["metric"].to_dict() == {label: expected}


def test_a_function_that_draws_random_numbers():
    """What it draws, the model does not."""

    def noisy(t):
        return t + torch.randn_like(t)

    def function(x, e):
        return F.dropout(e("linear_1", LINEAR(x)), training=True) + torch.rand(3, 4)

    with torch.no_grad():
        trace = lf.trace(lambda x: function(x, lambda _, tensor: tensor), X, seed=1)
        found = trace.patch(noisy, total, rows="linear_1")
    assert found.loc["linear_1", "metric"] == by_hand(function, "linear_1", noisy)


def test_an_input_that_the_model_turned_in_place():
    """A forward begins with it as it was."""

    def function(x):
        shown = x.as_strided((3, 4), (4, 1)).untyped_storage()[1]
        x.t_()
        return x * shown

    with torch.no_grad():
        x = X.clone()
        trace = lf.trace(function, x)
        assert x.shape == (4, 3)
        found = trace.patch(0.5, total, rows="input_1")
        assert found.loc["input_1", "metric"] == float(total(function(torch.full_like(X, 0.5))))


HANDED_BACK = {
    "dropout": lambda x: F.dropout(LINEAR(x), training=False).exp(),
    "a module's": lambda x: DROP(LINEAR(x)).exp() * DROP(x),
    "read twice": lambda x: [F.dropout(LINEAR(x), training=False)] * 2,
    "beside a row of calls": lambda x: DROP(LINEAR(x.contiguous().to(x))).exp(),
}


@pytest.mark.parametrize("name", HANDED_BACK)
def test_what_is_read_by_its_new_name_needs_no_forward(name):
    with torch.no_grad():
        found = lf.trace(HANDED_BACK[name], X).patch(0.5, total, rows="dropout_1")
    assert not found["forward"].any()
