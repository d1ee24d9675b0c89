"""What is known of torch's functions: names, arguments, what they write and draw."""

import importlib

import pytest
import torch
import torch.nn.functional as F

import lensframe_pd as lf


@pytest.mark.parametrize(
    ("forward", "func"),
    [
        (lambda x: F.relu_(x.clone()), "relu"),
        (lambda x: x.clone().relu_(), "relu"),
        (lambda x: x.clone().__iadd__(1), "add"),
        (lambda x: 1 + x, "add"),
        (lambda x: 1 - x, "sub"),
        (lambda x: x[0], "getitem"),
        (lambda x: x.T, "T"),
    ],
)
def test_function_names_are_normalised(forward, func):
    layers = lf.trace(forward, torch.ones(2, 2)).layers
    row = layers[layers["kind"] == "op"].iloc[-1]
    assert row["func"] == func
    module, _, _ = row["target"].partition(".")
    found = importlib.import_module(module)
    for name in row["target"].split(".")[1:]:
        found = getattr(found, name)
    assert callable(found)
    assert row["inplace"] == ("clone" in set(layers["func"]))


def test_targets_of_a_whole_network_can_be_imported():
    from torchvision.models import swin_t

    with torch.no_grad():
        layers = lf.trace(swin_t().eval(), torch.zeros(1, 3, 64, 64), save=None).layers
    for target in layers.loc[layers["kind"] == "op", "target"].unique():
        found = torch
        for name in target.split(".")[1:]:
            found = getattr(found, name)
        assert callable(found)
