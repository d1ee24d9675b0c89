"""Coordinates over space and time: against impulses that are moved through the input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

import lensframe_pd as lf


class Fn(nn.Module):
    def __init__(self, f, **parts):
        super().__init__()
        self.f = f
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.f(self, x)


def seen_by(model, x, axis, keys, lens):
    """Of each key: which positions of the input along an axis change which entries."""
    plain = {key: lens(model, x)[key] for key in keys}
    found = {key: [] for key in keys}
    generator = torch.Generator().manual_seed(2)
    for p in range(x.shape[axis]):
        changed = dict.fromkeys(keys, False)
        for size in (3.0, -30.0):
            moved = x.clone()
            where = moved.select(axis, p)
            where += size * torch.rand(where.shape, generator=generator)
            for key, array in lens(model, moved).items():
                changed[key] = changed[key] | (array != plain[key])
        for key in keys:
            found[key].append(changed[key])
    return {key: np.stack(found[key]) for key in keys}


def traced(model, x):
    with torch.no_grad():
        return lf.trace(model, x).activations.lens


def check(model, x, keys, dim, axis, period=1):
    """The centre of what an entry sees is its coordinate, where the input does not cut it off.

    Operations that make more entries than there were see equally far only every `period`.
    """
    lens = traced(model, x)
    out = {key: lens[key] for key in keys}
    assert all(dim in out[key].coords for key in keys), out

    def at(model, x):
        arrays = traced(model, x)
        return {key: arrays[key].values for key in keys}

    values = seen_by(model, x, axis, keys, at)
    for key in keys:
        k = out[key].get_axis_num(dim)
        seen = np.moveaxis(values[key], k + 1, -1).reshape(x.shape[axis], -1, out[key].sizes[dim])
        seen = seen.any(1)
        n = len(seen)
        first, last = seen.argmax(0), n - 1 - seen[::-1].argmax(0)
        count = seen.sum(0)
        most = np.resize([count[s::period].max() for s in range(period)], len(count))
        whole = (count == most) & (first > 0) & (last < n - 1)
        centre = (first + last) / 2
        told = out[key][dim].values
        runs = [s for s in range(len(told) - period + 1) if whole[s : s + period].all()]
        assert len(runs) > 1, key
        for s in runs:
            assert centre[s : s + period].mean() == pytest.approx(told[s : s + period].mean())


def conv(k, stride=1, padding=0, dilation=1, **options):
    return nn.Conv1d(2, 3, k, stride, padding, dilation, **options)


class Causal(nn.Module):
    def __init__(self, k, dilation):
        super().__init__()
        self.conv, self.before = conv(k, dilation=dilation), (k - 1) * dilation

    def forward(self, x):
        return torch.tanh(self.conv(F.pad(x, (self.before, 0))))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.short = nn.Conv1d(2, 3, 1, stride=2)
        self.long = nn.Sequential(
            conv(3, 2, 1), nn.BatchNorm1d(3), nn.GELU(), nn.Conv1d(3, 3, 5, 1, 2)
        )

    def forward(self, x):
        return torch.relu(self.short(x) + self.long(x))


torch.manual_seed(0)  # with some weights an activation lets no impulse through
NETS = {
    "convolution": (conv(3), 1),
    "strided": (conv(4, stride=3), 1),
    "dilated": (conv(3, dilation=2, padding=1), 1),
    "as long as before": (conv(4, padding="same"), 1),
    "reflected at the ends": (conv(5, padding=2, padding_mode="reflect"), 1),
    "in groups, by hand": (
        Fn(lambda m, x: torch.conv1d(x, torch.ones(2, 1, 3), None, 2, 1, 1, 2)), 1),
    "causal": (Causal(3, 1), 1),
    "causal, dilated": (Causal(2, 4), 1),
    "max pooling": (nn.Sequential(nn.MaxPool1d(3, 2, 1)), 1),
    "mean pooling": (nn.Sequential(conv(3), nn.AvgPool1d(2)), 1),
    "pooled to a length": (nn.Sequential(nn.AdaptiveAvgPool1d(8)), 1),
    "to the largest of each": (nn.Sequential(nn.AdaptiveMaxPool1d(8)), 1),
    "residual": (Residual(), 1),
    "layer norm of channels": (
        Fn(lambda m, x: m.norm(m.c(x).transpose(1, 2)), c=conv(5, 2), norm=nn.LayerNorm(3)), 1),
    "sliced": (Fn(lambda m, x: m.conv(x[..., 3:])[:, :, 1:-1:2], conv=conv(3)), 1),
    "narrowed and flipped": (Fn(lambda m, x: m.conv(x).narrow(2, 2, 9).flip(2), conv=conv(3)), 1),
    "in pieces": (Fn(lambda m, x: m.c(x).split(7, 2)[1].chunk(1, 2)[0] * 1, c=conv(3)), 1),
    "picked": (Fn(lambda m, x: m.conv(x)[:, :, torch.arange(1, 9, 2)], conv=conv(3)), 1),
    "behind another": (
        Fn(lambda m, x: torch.cat([m.a(x), m.b(x)], 1), a=conv(3), b=conv(5, 1, 1)), 1),
    "mean of channels": (Fn(lambda m, x: m.c(x).mean(1, keepdim=True) * 2, c=conv(3)), 1),
    "projected": (Fn(lambda m, x: m.mix(m.c(x).mT), c=conv(3), mix=nn.Linear(3, 4)), 1),
    "masked": (Fn(lambda m, x: m.conv(x).masked_fill(torch.arange(22) == 30, 0), conv=conv(3)), 1),
    "transposed": (nn.Sequential(nn.ConvTranspose1d(2, 3, 3, 2, 1)), 2),
    "transposed, even": (nn.Sequential(nn.ConvTranspose1d(2, 3, 4, 2, 1)), 2),
    "transposed, wide": (nn.Sequential(nn.ConvTranspose1d(2, 3, 3, 3, 0, dilation=2)), 3),
    "up by the nearest": (nn.Sequential(nn.Upsample(scale_factor=2)), 2),
    "up by lines": (nn.Sequential(nn.Upsample(scale_factor=2, mode="linear")), 2),
    "down and up": (nn.Sequential(conv(4, 2, 1), nn.Upsample(scale_factor=2, mode="linear")), 2),
    "by corners": (nn.Sequential(nn.Upsample(size=47, mode="linear", align_corners=True)), 2),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", NETS)
def test_an_impulse_is_seen_at_its_coordinate(name):
    torch.manual_seed(0)
    model, period = NETS[name]
    x = torch.rand(1, 2, 24)
    rows = lf.trace(model.eval(), x, save=None).layers
    last = rows.index[rows["kind"] == "op"][-1]
    (dim,) = traced(model, x)[last].coords
    check(model, x, [last], dim, 2, period)


def test_an_axis_of_the_input_counts_its_entries():
    lens = traced(nn.Conv2d(3, 4, 3, 2).eval(), torch.rand(2, 3, 9, 8))
    assert lens["input_1"]["x"].values.tolist() == [*range(8)]
    assert lens["conv2d_1"]["y"].values.tolist() == [1, 3, 5, 7]
    assert "channel" not in lens["conv2d_1"].coords
    assert not {"axis", "start"} & {*lens["conv2d_1"].attrs}


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.attend = conv(3, 2), nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x):
        x = self.conv(x).transpose(1, 2)
        return x + self.attend(x, x, x)[0]


LOST = {
    "attention": Attends(),
    "a gate of a mean": Fn(lambda m, x: m.c(x) * m.c(x).mean(2, keepdim=True), c=conv(3)),
    "less its mean": Fn(lambda m, x: m.c(x) - m.c(x).mean(), c=conv(3)),
    "group norm": nn.Sequential(conv(3), nn.GroupNorm(1, 3)),
    "instance norm": nn.Sequential(conv(3), nn.InstanceNorm1d(3)),
    "layer norm of positions": nn.Sequential(conv(3), nn.LayerNorm(22)),
    "softmax over positions": nn.Sequential(conv(3), nn.Softmax(2)),
    "both directions": Fn(lambda m, x: m.c(x) + m.c(x).flip(2), c=conv(3)),
    "not at one place": Fn(lambda m, x: m.c(x)[..., 1:] + m.c(x)[..., :-1] * 2, c=conv(3)),
    "behind another that is not at one place": Fn(
        lambda m, x: torch.cat([m.c(x)[..., 1:], m.c(x)[..., :-1]], 1), c=conv(3)),
    "longer": Fn(lambda m, x: torch.cat([m.c(x), m.c(x)], 2), c=conv(3)),
    "rolled": Fn(lambda m, x: m.c(x).roll(1, 2), c=conv(3)),
    "round the end": Fn(lambda m, x: m.c(F.pad(x, (1, 1), mode="circular")), c=conv(3)),
    "summed up to each": Fn(lambda m, x: m.c(x).cumsum(2), c=conv(3)),
    "windows of several sizes": nn.Sequential(conv(3), nn.AdaptiveAvgPool1d(5)),
    "flat": nn.Sequential(conv(3), nn.Flatten()),
    "positions as features": nn.Sequential(conv(3), nn.Linear(22, 22)),
    "frequencies": Fn(lambda m, x: torch.fft.rfft(m.c(x), dim=2).abs(), c=conv(3)),
    "sorted": Fn(lambda m, x: m.c(x).sort(2).values * 1, c=conv(3)),
    "recurrent": Fn(lambda m, x: m.r(m.c(x).transpose(1, 2))[0] * 1,
                    c=conv(3), r=nn.GRU(3, 3, batch_first=True)),
    "in an order of its own": Fn(lambda m, x: m.c(x)[..., [0, 3, 1, 2]], c=conv(3)),
    "written into": Fn(lambda m, x: torch.zeros(1, 3, 22).index_copy(
        2, torch.arange(22).flip(0), m.c(x)), c=conv(3)),
    "by weights of its own": Fn(lambda m, x: F.conv1d(x, x.mean(2)[:, :, None].expand(2, 2, 3))),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_what_is_not_known_is_not_said(name):
    torch.manual_seed(0)
    x = torch.rand(1, 2, 24)
    trace = lf.trace(LOST[name].eval(), x)
    last = trace.layers.index[trace.layers["kind"] == "op"][-1]
    assert set(trace.activations.lens[last].coords) == set()
    assert "axis" not in trace.activations[last].attrs


def test_in_training_all_positions_are_in_the_mean():
    model = nn.Sequential(conv(3), nn.BatchNorm1d(3))
    for mode, known in ((True, False), (False, True)):
        with pytest.warns(lf.LensWarning) if mode else torch.no_grad():
            found = lf.trace(model.train(mode), torch.rand(2, 2, 9)).activations
        assert ("x" in found.lens["batch_norm_1"].coords) is known


def test_r3d_18():
    torch.manual_seed(0)
    model = torchvision.models.video.r3d_18(weights=None).eval()
    early = Fn(
        lambda m, x: m.layer2[0](m.layer1(m.stem(x))),
        stem=model.stem, layer1=model.layer1, layer2=model.layer2,
    )  # fmt: skip
    x = torch.rand(1, 3, 32, 8, 8)
    full = traced(model, x)
    assert full["layer1.1"]["z"].values.tolist() == [*range(32)]
    assert full["layer3.0"]["z"].values.tolist() == [*range(0, 32, 4)]
    check(early, x, ["stem", "layer1.0", "layer2.0"], "z", 2)


def test_mvit_ends_after_its_first_convolution():
    model = torchvision.models.video.mvit_v2_s(weights=None).eval()
    with torch.no_grad():
        x = torch.rand(1, 3, 16, 224, 224)
        found = lf.trace(model, x, save=["conv_proj", "blocks.0"], stop=True)
    assert found.activations.lens["conv_proj"]["z"].values.tolist() == [*range(0, 16, 2)]
    assert set(found.activations.lens["blocks.0"].coords) == set()


def wav2vec2():
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8, 8), conv_kernel=(10, 3, 2), conv_stride=(5, 2, 2),
        feat_extract_norm="layer", do_stable_layer_norm=True, num_feat_extract_layers=3,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return Wav2Vec2Model(config).eval()


def test_wav2vec2_with_layer_norm():
    torch.manual_seed(0)
    model, x = wav2vec2(), torch.randn(1, 80)
    lens = traced(model, x)
    assert lens["feature_extractor.conv_layers.0"]["x"].values[:2].tolist() == [4.5, 9.5]
    assert not {"x", "token"} & {*lens["encoder"].coords}
    layers = [f"feature_extractor.conv_layers.{k}" for k in range(3)]
    check(
        model.feature_extractor, x, [k.removeprefix("feature_extractor.") for k in layers], "x", 1
    )


def test_a_selection_says_nothing_of_where_it_is():
    activations = lf.trace(nn.Conv1d(2, 3, 3).eval(), torch.rand(1, 2, 9)).activations
    assert activations.lens["conv1d_1"]["x"].values.tolist() == [1, 2, 3, 4, 5, 6, 7]
    cut = activations.isel(x_7=slice(2, 5))
    assert "x" not in cut.lens["conv1d_1"].coords
    own = activations.assign_coords(x_7=[*"abcdefg"]).lens["conv1d_1"]
    assert own["x"].values.tolist() == [*"abcdefg"]


@pytest.mark.parametrize("name", ["kept.zarr", "kept.nc"])
@pytest.mark.parametrize("shape", [(1, 2, 9), (1, 2, 9, 8)])
def test_files_keep_them(tmp_path, name, shape):
    model = (nn.Conv1d if len(shape) == 3 else nn.Conv2d)(2, 3, 3, 2).eval()
    activations = lf.trace(model, torch.rand(shape)).activations
    lf.write(activations, tmp_path / name)
    read = lf.read(tmp_path / name)
    key = f"conv{len(shape) - 2}d_1"
    assert read.lens[key].load().identical(activations.lens[key])
    assert len(read.lens[key].coords) == len(shape) - 2
    report = lf.trace(model, torch.rand(shape)).layers.lens.validate(model, torch.rand(shape))
    assert report["passed"].all()


def test_axes_are_called_as_one_likes():
    model, x = (
        nn.Sequential(nn.Conv3d(1, 2, 3, 1, 1), nn.Flatten()).eval(),
        torch.rand(2, 1, 5, 4, 4),
    )
    trace = lf.trace(model, x, dims={"z": "frame", "dim1": "pixel"})
    found = trace.activations
    assert found["conv3d_1"].dims == ("stimulus", "channel_2", "frame_5", "y_4", "x_4")
    assert found["input_1"].dims[2] == "frame_5"
    assert found.lens["conv3d_1"]["frame"].values.tolist() == [0, 1, 2, 3, 4]
    assert trace.validate()["passed"].all()
    assert trace.layers.lens.validate(model, x, activations=found)["passed"].all()
    pooled = found.lens.features("conv3d_1", pool={"space": "mean"})
    assert pooled.sizes["feature"] == 10  # channel and frame
    assert found.lens.features("conv3d_1", pool="mean").sizes["feature"] == 2


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"zz": "frame"}, ValueError, "'zz', which no operation calls"),
        ({"stimulus": "image"}, ValueError, "'stimulus', which no operation"),
        ({"z": "y"}, ValueError, "'y', which is not free"),
        ({"z": "stimulus"}, ValueError, "not free"),
        ({"z": "frame_3"}, ValueError, "not free"),
        ({"z": ""}, ValueError, "not free"),
        ({"z": "a/b"}, ValueError, "not free"),
        ({"z": 3}, TypeError, "dict of names"),
        (["z", "frame"], TypeError, "dict of names"),
    ],
)
def test_names_that_cannot_be(given, error, words):
    ran = []
    model = Fn(lambda m, x: ran.append(1) or m.c(x), c=conv(3))
    with pytest.raises(error, match=words) as caught:
        lf.trace(model.eval(), torch.rand(1, 2, 9), dims=given)
    assert isinstance(caught.value, lf.errors.LensError)
    assert not ran
