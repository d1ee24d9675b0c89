"""Dimension names: what made an axis names it, nothing is guessed."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lensframe_pd as lf

X = torch.arange(32.0).reshape(4, 8)


def dims(forward, *args):
    """Dims of every variable of a trace, by label."""
    with torch.no_grad():
        activations = lf.trace(forward, args).activations
    return {name: variable.dims for name, variable in activations.items()}


def test_convolutional_network():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 5),
    ).eval()  # fmt: skip
    found = dims(net, torch.ones(2, 3, 9, 9))
    assert found["input_1"] == ("stimulus", "channel_3", "y_9", "x_9")
    assert found["conv2d_1"] == found["relu_1"] == ("stimulus", "channel_8", "y_7", "x_7")
    assert found["adaptive_avg_pool2d_1"] == ("stimulus", "channel_8", "y_2", "x_2")
    assert found["flatten_1"] == ("stimulus", "feature_32")
    assert found["linear_1"] == found["output_1"] == ("stimulus", "feature_5")


def test_equal_shapes_share_dims():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    with torch.no_grad():
        activations = lf.trace(net, torch.ones(3, 4)).activations
    difference = activations["linear_2"] - activations["relu_1"]
    assert difference.dims == ("stimulus", "feature_4")


def test_attention():
    q = nn.Linear(8, 8)

    def forward(x):
        tokens = x.flatten(2).transpose(1, 2)
        h = q(tokens).view(2, 4, 2, 4).transpose(1, 2)
        attended = F.scaled_dot_product_attention(h, h, h)
        return attended.transpose(1, 2).flatten(2)

    conv = nn.Conv2d(3, 8, 2, 2)
    found = dims(lambda x: forward(conv(x)), torch.ones(2, 3, 4, 4))
    assert found["flatten_1"] == ("stimulus", "channel_8", "token_4")
    assert found["linear_1"] == ("stimulus", "token_4", "feature_8")
    assert found["view_1"] == ("stimulus", "token_4", "dim2_2", "dim3_4")
    assert found["scaled_dot_product_attention_1"][:3] == ("stimulus", "head_2", "token_4")


def test_vision_transformer_with_explicit_attention():
    import timm

    with torch.no_grad():
        model = timm.create_model("vit_tiny_patch16_224").eval()
        for block in model.blocks:
            block.attn.fused_attn = False
        activations = lf.trace(model, torch.zeros(2, 3, 224, 224)).activations
    softmax = next(v for v in activations.values() if v.attrs["func"] == "softmax")
    assert softmax.dims == ("stimulus", "head_3", "token_197", "token_197_")


def test_token_names_come_back_after_a_merge():
    embed = nn.Embedding(10, 6)

    def forward(ids):
        h = embed(ids)
        flat = h.view(-1, 6)
        return (flat @ torch.ones(6, 6)).view(2, 5, 6)

    found = dims(forward, torch.zeros(2, 5, dtype=torch.long))
    assert found["embedding_1"] == ("stimulus", "token_5", "feature_6")
    assert found["view_1"] == ("dim0_10", "feature_6")
    assert found["view_2"][:2] == ("stimulus", "token_5")


def test_recurrent_kernel_names_time():
    found = dims(nn.LSTM(4, 6, batch_first=True).eval(), torch.ones(3, 5, 4))
    assert found["lstm_1"] == ("stimulus", "time_5", "feature_6")


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda x: x.permute(2, 0, 1), ("feature_6", "stimulus", "token_5")),
        (lambda x: x.mT, ("stimulus", "feature_6", "token_5")),
        (lambda x: x[:, 0], ("stimulus", "feature_6")),
        (lambda x: x[..., None, :2], ("stimulus", "token_5", "dim2_1", "feature_2")),
        (lambda x: x.mean(1), ("stimulus", "feature_6")),
        (lambda x: x.sum(dim=-1, keepdim=True), ("stimulus", "token_5", "dim2_1")),
        (lambda x: x.unsqueeze(1), ("stimulus", "dim1_1", "token_5", "feature_6")),
        (lambda x: torch.cat([x, x], dim=1), ("stimulus", "token_10", "feature_6")),
        (lambda x: x @ x.mT, ("stimulus", "token_5", "token_5_")),
        (lambda x: torch.einsum("btf,bsf->bts", x, x), ("stimulus", "token_5", "token_5_")),
        (lambda x: x.reshape(2, 30), ("stimulus", "feature_30")),
        (lambda x: torch.fft.fft(x), ("stimulus", "token_5", "dim2_6")),
    ],
)
def test_axes_follow_the_operation(forward, expected):
    embed = nn.Embedding(10, 6)
    found = dims(lambda ids: forward(embed(ids)) * 1, torch.zeros(2, 5, dtype=torch.long))
    assert list(found.values())[-1] == expected


def test_stimulus_coordinates():
    import pandas as pd

    x = torch.arange(6.0).reshape(3, 2)
    table = pd.DataFrame({"category": ["cat", "dog", "cat"]}, index=["a", "b", "c"])
    activations = lf.trace(lambda x: x * 2, x, stimulus=table).activations
    assert list(activations["mul_1"].sel(stimulus="b").values) == [4.0, 6.0]
    assert list(activations["category"].values) == ["cat", "dog", "cat"]
    ids = lf.trace(lambda x: x * 2, x, stimulus=[7, 8, 9]).activations
    np.testing.assert_array_equal(ids["stimulus"], [7, 8, 9])
    with pytest.raises(
        lf.LensValueError, match="stimulus gives 2 ids, but axis 0 of the input has 3"
    ):
        lf.trace(lambda x: x, x, stimulus=["a", "b"])


def test_dataset_equals_one_from_the_public_constructor():
    import xarray as xr

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    with torch.no_grad():
        activations = lf.trace(net, torch.rand(2, 3, 5, 5), stimulus=["a", "b"]).activations
    rebuilt = xr.Dataset(
        {name: (v.dims, v.values, v.attrs) for name, v in activations.items()},
        coords={"stimulus": ["a", "b"]},
        attrs=activations.attrs,
    )
    xr.testing.assert_identical(activations, rebuilt)
    assert dict(activations.sizes) == dict(rebuilt.sizes)


def test_stimulus_is_the_axis_with_one_entry_per_stimulus():
    def forward(x):
        return x[:2] * 2, torch.cat([x, x]), x.mean(0), x[0], x * 3

    activations = lf.trace(forward, X, stimulus=list("abcd")).activations
    assert activations["mul_1"].dims == ("dim0_2", "dim1_8")
    assert activations["cat_1"].dims == ("dim0_8", "dim1_8")
    assert activations["mean_1"].dims == ("dim0_8",)
    assert activations["mul_2"].dims == ("stimulus", "dim1_8")
    assert activations.sizes["stimulus"] == 4


def test_an_axis_that_was_taken_away_does_not_come_back():
    square = torch.arange(64.0).reshape(8, 8)
    activations = lf.trace(lambda x: (x[0] * 2, x.mean(0).sin()), square).activations
    assert activations["mul_1"].dims == ("dim0_8",)
    assert activations["sin_1"].dims == ("dim0_8",)
    lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True).eval()
    activations = lf.trace(lstm, torch.ones(2, 3, 8)).activations
    assert activations["lstm_2"].dims == ("dim0_2", "stimulus", "feature_8")


def test_pixels_are_not_heads():
    model = nn.Sequential(nn.Linear(8, 192), nn.Unflatten(1, (3, 8, 8))).eval()
    activations = lf.trace(model, X).activations
    assert activations["unflatten_1"].dims == ("stimulus", "dim1_3", "dim2_8", "dim3_8")
