"""Calls again on meta tensors: what can be counted is, what cannot is said and never zero."""

import json

import pandas as pd
import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.profile.costs import costs
from lensframe_pd.profile.profile import profile
from lensframe_pd.profile.summary import summary


def test_operations_without_a_formula_are_listed_and_never_zero():
    def run(x):
        return torch.linalg.inv(x) @ x

    layers = lf.trace(run, torch.eye(3)).layers
    with pytest.warns(lf.LensWarning, match="linalg_inv_1.*no formula for linalg_inv_ex"):
        table = profile(layers, "op")
    assert table.loc["linalg_inv_1", "flops"] is pd.NA
    assert "linalg_inv_ex" in table.loc["linalg_inv_1", "uncounted"]
    assert table.loc["matmul_1", "flops"] == 2 * 27
    with pytest.warns(lf.LensWarning):
        whole = profile(layers, "module").loc[""]
    assert whole["flops"] == 2 * 27
    assert whole["uncounted"].startswith("linalg_inv_1: ")
    with pytest.warns(lf.LensWarning):
        assert summary(layers).loc["(model)", "FLOPs"] == "54+"


def test_a_gradient_inside_the_model_is_uncounted():
    model = nn.Linear(3, 1)

    def run(x):
        return torch.autograd.grad(model(x).sum(), x)[0]

    layers = lf.trace(run, torch.rand(2, 3).requires_grad_()).layers
    with pytest.warns(lf.LensWarning, match="grad_1.*differentiates"):
        assert profile(layers, "func").loc["grad", "flops"] is pd.NA


def test_copies_never_multiply():
    layers = lf.trace(lambda x: x.to("cpu", torch.float64, False, True), torch.rand(3)).layers
    assert costs(layers)["uncounted"].tolist() == [""] * 3


def test_running_extremes_are_no_matrix_products():
    layers = lf.trace(lambda x: x.cummax(0)[0] + x.cummin(0)[0], torch.rand(3)).layers
    assert profile(layers, "op")["flops"].sum() == 0


def test_arguments_that_a_frame_only_describes(blocks):
    described = blocks.assign(config=blocks["config"].where(blocks["func"] != "tanh", CONFIG))
    with pytest.warns(lf.LensWarning, match=r"tanh_1 \(an argument is a user.Thing"):
        table = profile(described, "func")
    assert table.loc["tanh", "flops"] is pd.NA
    assert table.loc["linear", "flops"] == 2 * 5 * (3 * 16 + 12)


CONFIG = json.dumps({"out": {"$object": "user.Thing"}})


def test_a_function_that_is_not_here(blocks):
    elsewhere = blocks.assign(target=blocks["target"].replace("torch.tanh", "somewhere.tanh"))
    assert (elsewhere["target"] != blocks["target"]).any()
    with pytest.warns(lf.LensWarning, match=r"somewhere.tanh cannot be imported here"):
        assert profile(elsewhere, "func").loc["tanh", "flops"] is pd.NA


def test_products_before_a_stop_are_not_lost():
    """A replay that multiplied and then failed is uncounted, not zero."""

    def run(x):
        return torch.matmul(x, x)

    layers = lf.trace(run, torch.rand(3, 3)).layers
    wrong = layers.assign(dtype="int32")  # the replay then gives something else
    with pytest.warns(lf.LensWarning, match="matmul_1"):
        assert (
            profile(wrong.assign(shape=[(3, 3), (3, 4), (3, 3)])).loc["matmul_1", "flops"] is pd.NA
        )
