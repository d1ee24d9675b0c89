"""`activations.lens[key]`: by label, by layer, by module path; against plain hooks and by hand."""

import numpy as np
import pytest
import torch
import torchvision
import xarray as xr
from torch import nn

import lensframe_pd as lf


class Recurrent(nn.Module):
    """Reads one step at a time; `head` is called twice, on different things."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(3, 4)
        self.keep = nn.Linear(4, 4)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.ReLU())

    def forward(self, x):
        h = torch.zeros(len(x), 4)
        for t in range(3):
            h = torch.tanh(self.read(x[:, t]) + self.keep(h))
        return self.head(h) - self.head(-h)


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, x * 2


@pytest.fixture
def recurrent():
    model = Recurrent().eval()
    images = torch.rand(2, 3, 3)
    return model, images, lf.trace(model, images, stimulus=["a", "b"]).activations


def variable(dims, value, **attrs):
    return (dims, np.asarray(value), {"pass_num": 1, "func": "f", "module": "", **attrs})


def test_label_gives_the_variable_with_plain_dimensions():
    _, activations = lf.trace(nn.Conv2d(3, 8, 3).eval(), torch.rand(2, 3, 6, 5))
    found = activations.lens["conv2d_1"]
    assert dict(found.sizes) == {"stimulus": 2, "channel": 8, "y": 4, "x": 3}
    np.testing.assert_array_equal(found, activations["conv2d_1"])
    assert found.attrs["layer"] == "conv2d_1"


@pytest.mark.parametrize(
    ("dims", "plain"),
    [
        (("head_3", "token_5", "token_5_"), ("head", "token", "token_")),
        (("head_3", "token_5", "token_7"), ("head", "token", "token_")),
        (("stimulus", "dim1_3", "dim2_224"), ("stimulus", "dim1", "dim2")),
        (("channel_64", "y_1", "x_1"), ("channel", "y", "x")),
        ((), ()),
    ],
)
def test_extents_are_taken_off(dims, plain):
    data = xr.Dataset({"f_1": variable(dims, np.zeros(range(2, 2 + len(dims))), layer="f_1")})
    assert data.lens["f_1"].dims == plain


def test_a_column_of_the_stimuli_keeps_its_name():
    gaze = xr.Dataset(
        {"f_1": variable(("stimulus", "x_3"), np.zeros((2, 3)), layer="f_1")},
        coords={"x": ("stimulus", [0.1, 0.2])},
    )
    found = gaze.lens["f_1"]
    assert found.dims == ("stimulus", "x_")
    np.testing.assert_array_equal(found["x"], [0.1, 0.2])


def test_a_selection_of_an_axis_is_found_too():
    _, activations = lf.trace(nn.Conv2d(3, 8, 3).eval(), torch.rand(2, 3, 6, 5))
    picked = activations.isel(channel_8=slice(0, 2))
    assert dict(picked.lens["conv2d_1"].sizes) == {"stimulus": 2, "channel": 2, "y": 4, "x": 3}


def test_layer_stacks_its_passes(recurrent):
    _, _, activations = recurrent
    found = activations.lens["tanh_1"]
    assert found.dims == ("pass_num", "stimulus", "feature")
    assert list(found["pass_num"]) == [1, 2, 3]
    assert list(found["stimulus"]) == ["a", "b"]
    assert found.name == "tanh_1"
    assert "pass_num" not in found.attrs
    for k in (1, 2, 3):
        np.testing.assert_array_equal(found.sel(pass_num=k), activations[f"tanh_1:{k}"])


def test_one_pass_by_its_label(recurrent):
    _, _, activations = recurrent
    assert activations.lens["tanh_1:2"].dims == ("stimulus", "feature")
    np.testing.assert_array_equal(activations.lens["tanh_1:2"], activations["tanh_1:2"])


def test_passes_come_by_number_not_by_place(recurrent):
    _, _, activations = recurrent
    picked = activations[["tanh_1:3", "tanh_1:1"]]
    found = picked.lens["tanh_1"]
    assert list(found["pass_num"]) == [1, 3]
    np.testing.assert_array_equal(found.sel(pass_num=3), activations["tanh_1:3"])
    assert dict(activations[["tanh_1:2"]].lens["tanh_1"].sizes)["pass_num"] == 1


def test_a_first_pass_with_unnamed_axes_takes_the_names_of_the_others():
    data = xr.Dataset(
        {
            "f_1:1": variable(("dim0_2", "dim1_3"), np.zeros((2, 3)), layer="f_1"),
            "f_1:2": variable(("stimulus", "dim1_3"), np.ones((2, 3)), layer="f_1", pass_num=2),
        },
        coords={"stimulus": ["a", "b"]},
    )
    found = data.lens["f_1"]
    assert found.dims == ("pass_num", "stimulus", "dim1")
    assert list(found["stimulus"]) == ["a", "b"]
    assert found.sum(["stimulus", "dim1"]).values.tolist() == [0, 6]


def test_axes_that_passes_name_differently_have_no_name():
    data = xr.Dataset(
        {
            "f_1:1": variable(("token_2", "x_3"), np.zeros((2, 3)), layer="f_1"),
            "f_1:2": variable(("stimulus", "x_3"), np.ones((2, 3)), layer="f_1", pass_num=2),
        },
        coords={"stimulus": ["a", "b"]},
    )
    found = data.lens["f_1"]
    assert found.dims == ("pass_num", "dim0", "x")
    assert list(found.coords) == ["pass_num"]


def test_passes_of_unequal_shapes_are_no_one_array():
    data = xr.Dataset(
        {
            "cat_1:1": variable(("token_2",), np.zeros(2), layer="cat_1"),
            "cat_1:2": variable(("token_3",), np.zeros(3), layer="cat_1", pass_num=2),
        }
    )
    with pytest.raises(lf.LensValueError, match=r"cat_1:1 \(2\), cat_1:2 \(3\)"):
        data.lens["cat_1"]
    assert data.lens["cat_1:2"].dims == ("token",)


def hooked(model, images):
    """What a forward hook on each submodule receives, call by call."""
    seen = {}
    handles = [
        module.register_forward_hook(
            lambda _m, _i, output, path=path: seen.setdefault(path, []).append(output.clone())
        )
        for path, module in model.named_modules()
        if path
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return seen


def test_module_path_is_what_a_forward_hook_receives(recurrent):
    model, images, activations = recurrent
    with torch.no_grad():
        seen = hooked(model, images)
    assert {path: len(outputs) for path, outputs in seen.items()} == {
        "read": 3, "keep": 3, "head": 2, "head.0": 2, "head.1": 2,
    }  # fmt: skip
    for path, outputs in seen.items():
        found = activations.lens[path]
        assert found.dims[0] == "pass_num"
        np.testing.assert_array_equal(found, torch.stack(outputs))


def test_a_module_called_once_has_no_passes():
    model = torchvision.models.resnet18(weights=None).eval()
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        activations = lf.trace(model, images).activations
        seen = hooked(model, images)
    for path, outputs in seen.items():
        found = activations.lens[path]
        expected = torch.stack(outputs) if len(outputs) > 1 else outputs[0]
        np.testing.assert_array_equal(found, expected)
    assert activations.lens["layer1"].dims == ("stimulus", "channel", "y", "x")
    # A shared ReLU is called twice in each block.
    assert activations.lens["layer1.0.relu"].dims[0] == "pass_num"


def test_a_module_that_returns_several_tensors():
    _, activations = lf.trace(nn.Sequential(Pair()).eval(), torch.ones(2, 3), stimulus=[1, 2])
    with pytest.raises(lf.LensValueError, match="ask for one of add_1, mul_1"):
        activations.lens["0"]


def test_a_label_goes_before_a_module_of_that_name_and_says_so():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu_1 = nn.ReLU()

        def forward(self, x):
            return self.relu_1(torch.relu(x))

    activations = lf.trace(Odd().eval(), torch.ones(2, 3)).activations
    with pytest.warns(lf.LensWarning, match=r"module of that path returned relu_2"):
        found = activations.lens["relu_1"]
    assert found.name == "relu_1"


def test_unknown_key_names_near_misses(recurrent):
    _, _, activations = recurrent
    with pytest.raises(lf.LensKeyError, match=r"no op, layer or module 'hed'; did you mean 'head'"):
        activations.lens["hed"]
    with pytest.raises(KeyError, match="there are none"):
        xr.Dataset().lens["relu_1"]


def test_selecting_leaves_the_dataset_alone(recurrent):
    _, _, activations = recurrent
    before = activations.copy(deep=True)
    for key in ("tanh_1", "tanh_1:2", "head"):
        activations.lens[key]
    xr.testing.assert_identical(activations, before)


class Again(nn.Module):
    """A module that is called three times, and one that gives two tensors."""

    def __init__(self):
        super().__init__()
        self.cell, self.pair = nn.Linear(3, 3), nn.LSTMCell(3, 3)

    def forward(self, x):
        state = None
        for _ in range(3):
            x = self.cell(x)
            state = self.pair(x, state)
        return state[0]


def test_one_call_of_a_module_as_it_is_written_elsewhere():
    model, got = Again().eval(), []
    model.cell.register_forward_hook(lambda _m, _a, out: got.append(out.detach().numpy()))
    _, activations = lf.trace(model, torch.rand(4, 3), stimulus=list("abcd"))
    for name, number in [("cell:1", 0), ("cell:3", 2), ("module=cell:2", 1)]:
        found = activations.lens[name]
        assert found.dims == ("stimulus", "feature")
        np.testing.assert_array_equal(found.values, got[number])
    assert activations.lens.features("cell:2").shape == (4, 3)
    assert list(activations.lens.rdm(["cell:2", "cell:3"])["layer"]) == ["cell:2", "cell:3"]
    for absent in ("cell:4", "cell:0", "cell:x"):
        with pytest.raises(lf.LensKeyError, match=f"'{absent}'; did you mean 'cell'"):
            activations.lens[absent]


def test_of_several_tensors_a_call_the_layers_are_named_that_have_all_passes():
    _, activations = lf.trace(Again().eval(), torch.rand(4, 3))
    with pytest.raises(lf.LensValueError, match=r"ask for one of (lstm_cell_\d, lstm_cell_\d)$"):
        activations.lens["pair"]
