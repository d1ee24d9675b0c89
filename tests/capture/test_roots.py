"""Every path on which a module can be reached is a key; two modules never have one path."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import lensframe_pd as lf

X = torch.arange(6.0).reshape(2, 3)


def block():
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU())


class Twice(nn.Module):
    """One module as two attributes."""

    def __init__(self):
        super().__init__()
        self.a = block()
        self.b = self.a

    def forward(self, x):
        return self.b(x)


class Deep(nn.Module):
    """A module that is held again further in, and whose holder is held again."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"block": block()})
        self.decoder = nn.ModuleList([nn.ModuleDict({"tied": self.encoder["block"]})])
        self.last = self.decoder

    def forward(self, x):
        return self.last[0]["tied"](x)


class Cyclic(nn.Module):
    """A module that holds what holds it."""

    def __init__(self):
        super().__init__()
        self.child = nn.Module()
        self.child.block = block()
        self.child.parent = self

    def forward(self, x):
        return self.child.block(x)


def function():
    shared = block()
    nets = {"one": shared, "two": nn.ModuleList([shared])}

    def forward(x):
        return nets["two"][0](x)

    return forward


PATHS = {
    Twice: ["a", "b"],
    Deep: ["encoder.block", "decoder.0.tied", "last.0.tied"],
    Cyclic: ["child.block", "child.parent.child.block", "child.parent.child.parent.child.block"],
    function: ["nets.one", "nets.two.0"],
}
CASES = [(make, path) for make, paths in PATHS.items() for path in paths]


@pytest.mark.parametrize(("make", "path"), CASES)
def test_every_path_is_a_key(make, path, tmp_path):
    torch.manual_seed(0)
    model = make()
    if isinstance(model, nn.Module):
        for module in model.modules():  # `eval()` goes round a cycle for ever
            module.training = False
    trace = lf.trace(model, X)
    lf.write(trace, tmp_path / "t.zarr")
    stored = lf.read(tmp_path / "t.zarr")[1]
    for activations in (trace.activations, stored, trace.activations[["linear_1", "relu_1"]]):
        assert activations.lens[path].identical(activations.lens["relu_1"])
        assert activations.lens[f"{path}.0"].identical(activations.lens["linear_1"])
    assert list(lf.trace(model, X, save=path).activations) == ["relu_1"]
    stopped = lf.trace(model, X, save=[f"{path}.0"], stop=True)
    assert list(stopped.layers.index) == ["input_1", "linear_1"]


def test_all_calls_of_a_module_are_under_each_of_its_paths():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = self.a

        def forward(self, x):
            return self.a(self.b(x))

    activations = lf.trace(Model().eval(), X).activations
    passes = activations.lens["b"]
    assert passes.sizes["pass_num"] == 2
    np.testing.assert_array_equal(passes, activations.lens["a"])


def test_an_unknown_path_is_told_with_the_known_ones():
    with pytest.raises(KeyError, match=r"'bb'; did you mean 'b'"):
        lf.trace(Twice().eval(), X).activations.lens["bb"]
    with pytest.raises(KeyError, match=r"b\.7"):
        lf.trace(Twice().eval(), X, save="b.7")


def test_a_model_that_holds_each_module_once_has_no_aliases():
    assert "module_aliases" not in lf.trace(block().eval(), X).activations.attrs


class Dotted(nn.Module):
    """`_modules["a.b"]` reads like `a.b`."""

    def __init__(self, first):
        super().__init__()
        if first:
            self._modules["a.b"] = nn.Linear(3, 3)
        self.a = nn.Module()
        self.a.b = nn.Linear(3, 3)
        if not first:
            self._modules["a.b"] = nn.Linear(3, 3)

    def forward(self, x):
        return self.a.b(x) - self._modules["a.b"](x) * 2


@pytest.mark.parametrize("first", [False, True])
def test_modules_whose_paths_read_alike_have_names_of_their_own(first):
    model = Dotted(first).eval()
    layers, activations = lf.trace(model, X)
    assert layers["module"].tolist() == ["", "a.b", "a.b_2", "", "", ""]
    assert layers.loc["linear_1", "params"] == ("a.b.weight", "a.b.bias")
    assert layers.loc["linear_2", "params"] == ("a.b_2.weight", "a.b_2.bias")
    assert activations.lens["a.b"].name == "linear_1"
    assert activations.lens["a.b_2"].name == "linear_2"
    assert layers.lens.validate(model, X, activations=activations)["passed"].all()
    swapped = layers.assign(params=layers["params"].to_numpy()[[0, 2, 1, 3, 4, 5]])
    report = swapped.lens.validate(model, X, activations=activations)
    assert report.index[~report["passed"]].tolist() == ["linear_1", "linear_2"]


def test_a_dotted_name_alone_is_the_path():
    model = nn.Module()
    model._modules["a.b"] = nn.Sequential(nn.Linear(3, 3))
    layers = lf.trace(lambda x: model._modules["a.b"](x), X).layers
    assert layers.loc["linear_1", "module"] == "model.a.b.0"


def test_a_parameter_by_the_name_of_another_module_does_not_validate():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).eval()
    layers, activations = lf.trace(model, X)
    params = [(), ("1.weight", "0.bias"), ("1.weight", "1.bias"), ()]
    report = layers.assign(params=params).lens.validate(model, X, activations=activations)
    assert report.index[~report["passed"]].tolist() == ["linear_1"]


def test_the_aliases_are_few_however_many_paths_there_are():
    model = nn.Linear(3, 3)
    for _ in range(40):  # 2 ** 40 paths
        outer = nn.Module()
        outer.x = outer.y = model
        model = outer

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.top = model

        def forward(self, x):
            return self.top.get_submodule(".".join("y" * 40))(x)

    activations = lf.trace(Model().eval(), X).activations
    assert len(json.loads(activations.attrs["module_aliases"])) == 40
    assert activations.lens["top." + ".".join("xy" * 20)].name == "linear_1"
