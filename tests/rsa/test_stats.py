"""Numbers of each value, against NumPy; and the row in which a NaN or infinity was born."""

import math

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional as F

import lensframe_pd as lf
from lensframe_pd.rsa import moments as of_pieces

NAN, INF = math.nan, math.inf


def by_numpy(values, limit):
    own = np.abs(values) if values.dtype.kind == "f" else values
    values = np.abs(values.astype(complex)) if values.dtype.kind == "c" else values.astype(float)
    finite = values[np.isfinite(values)]
    return {
        "mean": finite.mean(), "std": finite.std(), "min": finite.min(), "max": finite.max(),
        "zero": (values == 0).mean(), "nan": np.isnan(values).mean(),
        "inf": np.isinf(values).mean(), "saturated": (own == limit).mean(),
    }  # fmt: skip


def drawn(dtype):
    values = np.random.default_rng(0).normal(0, 40, (6, 5, 7, 4))
    values[0, 0] = 0
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1 c8 c16".split())
@pytest.mark.parametrize("spoilt", [(), (NAN,), (INF, -INF), (NAN, INF)])
def test_numbers_of_every_kind_of_element(dtype, spoilt, monkeypatch):
    monkeypatch.setattr(of_pieces, "_PIECE", 100)  # so that there are several
    values = drawn(dtype)
    if values.dtype.kind in "fc":
        values.flat[: len(spoilt)] = spoilt
    limit = NAN
    if values.dtype.kind in "iuf":
        limit = np.finfo(dtype).max if dtype[0] == "f" else np.iinfo(dtype).max
        values.flat[-3:] = limit
    data = xr.Dataset({"a_1": (("stimulus", "channel_5", "y_7", "x_4"), values)})
    with np.errstate(over="ignore"):
        expected = by_numpy(values, limit)
    if dtype == "f8":  # NumPy's own mean overflows: half of it, twice
        half = values[np.isfinite(values)] / 2**520
        expected |= {"mean": half.mean() * 2.0**520, "std": half.std() * 2.0**520}
    row = data.lens.stats().loc["a_1"]
    for name, number in expected.items():
        assert row[name] == pytest.approx(number, rel=1e-12, abs=1e-12), name
    turned = data.transpose("x_4", "stimulus", ...)
    assert turned.lens.stats().loc["a_1", "zero"] == row["zero"]


def test_saturated_is_of_the_type_the_model_computed_in():
    def model(x):
        return x * torch.tensor([1, 2, -3], dtype=torch.bfloat16)

    largest = torch.finfo(torch.bfloat16).max
    _, activations = lf.trace(model, torch.tensor([largest, 1.0, -largest], dtype=torch.bfloat16))
    found = activations.lens.stats()
    assert activations["input_1"].dtype == np.float32
    assert found.loc["input_1", "saturated"] == pytest.approx(2 / 3)
    assert found.loc["mul_1", ["saturated", "inf"]].tolist() == pytest.approx([1 / 3, 1 / 3])
    least = xr.Dataset({"a_1": ("stimulus", np.array([-128, 127, 0, 5], np.int8))})
    assert least.lens.stats().loc["a_1", "saturated"] == 0.5


def test_constants_have_no_spread_and_nothing_has_no_numbers():
    data = xr.Dataset({
        "a_1": ("stimulus", np.full(1000, 0.1, np.float32)), "b_1": ((), np.float64(3)),
        "c_1": (("stimulus", "feature_0"), np.empty((1000, 0))),
    })  # fmt: skip
    found = data.lens.stats(rank=True)
    assert found.loc["a_1", ["mean", "std"]].tolist() == [np.float32(0.1), 0]
    assert found.loc["b_1", "max"] == 3
    assert found.loc["c_1"].drop("born").isna().all()


def erank(values):
    singular = np.linalg.svd(values.reshape(len(values), -1), compute_uv=False)
    parts = singular[singular > 1e-12] / singular.sum()
    return np.exp(-(parts * np.log(parts)).sum())


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (6, 3, 4), (7,), (1, 4)])
@pytest.mark.parametrize("exact", [True, False])
def test_effective_rank(shape, exact, monkeypatch):
    from lensframe_pd.rsa import stats as module

    if not exact:  # by products, as of what is too large
        monkeypatch.setattr(module, "_EXACT", 64)
    rng = np.random.default_rng(1)
    values = rng.normal(size=shape)
    dims = ("stimulus", *(f"feature_{n}" for n in shape[1:]))
    found = xr.Dataset({"a_1": (dims, values)}).lens.stats(rank=True)
    assert found.loc["a_1", "rank"] == pytest.approx(erank(values), rel=1e-9)
    assert [*found.columns[-2:]] == ["rank", "born"]


def test_effective_rank_of_what_is_known():
    same = np.ones((8, 3))
    data = xr.Dataset({
        "one_1": (("stimulus", "feature_3"), same),
        "all_1": (("stimulus", "feature_8"), np.eye(8)),
        "none_1": (("stimulus", "feature_8"), np.zeros((8, 8))),
        "nan_1": (("stimulus", "feature_3"), np.where(same.cumsum(0) > 7, np.nan, 1)),
        "other_1": (("feature_8",), np.ones(8)),
    })  # fmt: skip
    found = data.lens.stats(rank=True)["rank"]
    assert found[:3].tolist() == pytest.approx([1, 8, 0])
    assert found[3:].isna().all()


# Where a fault is born.


class Reads(nn.Module):
    """A linear layer, and what else a case needs."""

    def __init__(self, act, **held):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        with torch.no_grad():
            self.fc.weight.copy_(torch.linspace(-0.4, 0.6, 16).view(4, 4))
            self.fc.bias.fill_(0.1)
        self.act = act
        for name, tensor in held.items():
            self.register_buffer(name, tensor)

    def forward(self, x):
        return self.act(self, self.fc(x))


def act(function, **held):
    return Reads(lambda self, h: function(h), **held)


def with_weight(model, value, name="fc.weight"):
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[0] = value
    return model


def in_view(h):
    y = h.clone()
    y[:, 1].sub_(y[:, 1]).log_()
    return y.relu() + 1


def in_place(h):
    h = h * 1
    h.zero_()
    h.div_(h)
    return h.relu()


def written(h):
    out = torch.empty_like(h)
    torch.log(-h.abs() - 1, out=out)
    return out * 2


def converted(y):
    return y.long(), y.exp()


def set_item(h):
    y = torch.zeros_like(h)
    y[:, 0] = NAN
    z = (y * 0 - 1).nan_to_num(-1).sqrt()
    return z


def looped(h):
    for _ in range(6):
        h = (h * 0 + 2) * h.abs().mean().clamp(1e4) ** 3
    return h


def half(x):
    return x.half() * 60000 * 2


def masked(h):
    mask = torch.ones(4, 4).triu(1).bool()
    return h[:, None] * torch.zeros(4, 4).masked_fill(mask, -INF)


def attention(scores):
    return scores.masked_fill(torch.ones(4, 4).triu(1).bool(), -INF)


def overflowing(h):
    scores = attention(h[:4])  # the causal mask is among the parents, beside what overflows
    return (scores * 3e38 * 10).softmax(-1)


SHIFT = torch.tensor([1, NAN, 0, 0])
X = torch.linspace(0.5, 2, 20).view(5, 4)


def spoilt(value):
    x = X.clone()
    x[1, 2] = value
    return x


PLANTED = {
    # computed
    "log of 0": (act(lambda h: (h * 0).log().softmax(-1)), X, "log_1"),
    "log of 0, and its argmax": (act(lambda h: (h * 0).log().argmax(-1)), X, "log_1"),
    "log of 0, also converted": (
        act(lambda h: ((h * 0).log().long(), (h * 0).log().exp())), X, "log_2"),
    "log of 0, converted and read": (act(lambda h: converted((h * 0).log())), X, "log_1"),
    "log of a negative number": (act(lambda h: (-h.abs() - 1).log().relu()), X, "log_1"),
    "log2": (act(lambda h: (h * 0).log2() + 1), X, "log2_1"),
    "log1p": (act(lambda h: torch.log1p(h * 0 - 1).exp()), X, "log1p_1"),
    "sqrt": (act(lambda h: (h * 0 - 2).sqrt() * 2), X, "sqrt_1"),
    "rsqrt": (act(lambda h: (h * 0).rsqrt() * h), X, "rsqrt_1"),
    "reciprocal": (act(lambda h: (h * 0).reciprocal() - 1), X, "reciprocal_1"),
    "1 / 0": (act(lambda h: 1 / (h - h)), X, "reciprocal_1"),
    "0 / 0": (act(lambda h: (h - h) / (h - h)), X, "div_1"),
    "mean of nothing": (act(lambda h: h[:0].mean(0) + h), X, "mean_1"),
    "a variance of 0": (act(lambda h: h / (h * 0).var(0)), X, "div_1"),
    "a norm divides": (act(lambda h: (h * 0) / (h * 0).norm(dim=-1, keepdim=True)), X, "div_1"),
    "exp": (act(lambda h: (h * 0 + 100).exp() / 2), X, "exp_1"),
    "exp, then inf / inf": (act(lambda h: (h * 0 + 100).exp() / (h * 0 + 100).exp()), X, "exp_1"),
    "softmax by hand": (act(lambda h: F.normalize((h * 1e4).abs().add(99).exp())), X, "exp_1"),
    "pow": (act(lambda h: (h * 0 + 1e20) ** 2), X, "pow_1"),
    "a negative base": (act(lambda h: (h * 0 - 2) ** 0.5), X, "pow_1"),
    "square": (act(lambda h: (h * 0 + 1e30).square().sum()), X, "square_1"),
    "a product": (act(lambda h: (h * 0 + 3e38) * 3), X, "mul_2"),
    "a sum": (act(lambda h: (h * 0 + 3e38).sum(-1) * 0), X, "sum_1"),
    "a matrix product": (act(lambda h: (h * 0 + 3e30) @ (h * 0 + 3e30).T), X, "matmul_1"),
    "cumprod": (act(lambda h: (h * 0 + 1e20).cumprod(-1)), X, "cumprod_1"),
    "acos": (act(lambda h: (h * 0 + 2).acos()), X, "acos_1"),
    "atanh": (act(lambda h: (h * 0 + 1).atanh() + 1), X, "atanh_1"),
    "fmod": (act(lambda h: torch.fmod(h, h * 0)), X, "fmod_1"),
    "logit": (act(lambda h: torch.logit(h * 0 + 1) - 1), X, "logit_1"),
    "logsumexp of nothing": (act(lambda h: h[:, :0].logsumexp(-1) * 0), X, "logsumexp_1"),
    "tan, sinh": (act(lambda h: (h * 0 + 200).sinh().atan()), X, "sinh_1"),
    "erfinv": (act(lambda h: (h * 0 + 1).erfinv().tanh()), X, "erfinv_1"),
    "lgamma": (act(lambda h: (h * 0).lgamma() * 0), X, "lgamma_1"),
    "einsum": (act(lambda h: torch.einsum("ij,kj->ik", h * 0 + 1e25, h * 0 + 1e25)), X, "einsum_1"),
    "a cross entropy": (act(lambda h: F.cross_entropy(h * 1e39, h.argmax(-1)) + 1), X, "mul_1"),
    "a divergence": (
        act(lambda h: F.kl_div((h * 0).log(), h.softmax(-1), reduction="sum")), X, "log_1"),
    "a norm without eps": (act(lambda h: F.layer_norm(h * 0, (4,), eps=0)), X, "layer_norm_1"),
    "cosine similarity of nothing": (
        act(lambda h: F.cosine_similarity(h * 0, h, eps=0).relu()), X, "cosine_similarity_1"),
    # layers
    "an LSTM": (with_weight(nn.LSTM(4, 3), NAN, "bias_hh_l0"), X, "lstm_1"),
    "a convolution": (
        with_weight(nn.Sequential(nn.Conv1d(5, 2, 2), nn.Tanh()), INF, "0.weight"), X, "conv1d_1"),
    "a prompt that is all padding": (
        lambda x: F.multi_head_attention_forward(
            x[:, None], x[:, None], x[:, None], 4, 2, torch.eye(4).repeat(3, 1), None, None, None,
            False, 0.0, torch.eye(4), None, key_padding_mask=torch.ones(1, 5).bool())[0],
        X, "softmax_1"),
    # memory
    "in place": (act(in_place), X, "div_1"),
    "through a view": (act(in_view), X, "log_1"),
    "out=": (act(written), X, "log_1"),
    "in a loop": (act(looped), X, "pow_1:3"),
    "beside marks that were asked for": (act(set_item), X, "sqrt_1"),
    # types
    "half overflows": (half, X, "mul_1"),
    "half of a large number": (lambda x: (x * 1e6).half() + 1, X, "half_1"),
    "to(float16)": (lambda x: (x * -1e6).to(torch.float16).relu(), X, "to_1"),
    "bfloat16": (lambda x: (x.bfloat16() * 1e38) * 10, X, "mul_2"),
    "linear of half": (
        with_weight(nn.Linear(4, 4), 6e4, "weight").half(), X.half() * 99, "linear_1"),
    "complex": (lambda x: torch.complex(x, x) / (x - x), X, "div_1"),
    # masks
    "a row that is all masked": (
        act(lambda h: h.masked_fill(h == h, -INF).softmax(-1)), X, "softmax_1"),
    "a mask without an end": (
        lambda x: (x @ x.T + torch.full((5, 5), -INF)).softmax(-1) @ x, X, "softmax_1"),
    "0 times a mask": (act(lambda h: masked(h * 0)), X, "mul_2"),
    "a mask less itself": (act(lambda h: attention(h[:4]) - attention(h[:4])), X, "sub_1"),
    "inf - inf": (act(lambda h: (h * 0 + 1e38) * 10 - (h * 0 + 1e38) * 10), X, "mul_2"),
    "overflow beside a mask": (overflowing, X, "mul_1"),
    "overflow beside a mask of finfo.min": (
        lambda x: (x @ x.T).masked_fill(x @ x.T > 3, LEAST) * -1e38, X, "mul_1"),
    "a mask by hand": (
        act(lambda h: h[:4] + (1 - torch.ones(4, 4).tril()) * -INF), X, "mul_1"),
    # what was given
    "a NaN among the inputs": (act(F.relu), spoilt(NAN), "input_1"),
    "an infinite input": (act(F.relu), spoilt(INF), "input_1"),
    "-inf among the inputs": (act(F.relu), spoilt(-INF), "input_1"),
    "a weight": (with_weight(act(F.relu), NAN), X, "linear_1"),
    "an infinite weight": (with_weight(act(F.relu), INF), X, "linear_1"),
    "a later weight": (
        with_weight(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), NAN, "2.bias"),
        X, "linear_2"),
    "an embedding": (
        with_weight(nn.Sequential(nn.Embedding(3, 4), nn.ReLU()), NAN, "0.weight"),
        torch.tensor([1, 0]), "embedding_1"),
    "a buffer": (
        Reads(lambda self, h: h + self.shift, shift=torch.tensor([1, NAN, 0, 0])), X, "add_1"),
    "a running variance": (
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()), X, "batch_norm_1"),
    "a tensor in a closure": (lambda x: x * 2 + SHIFT, X, "constant_1"),
    "a list": (lambda x: (x + torch.tensor([[1.0, 2, NAN, 4]])).log(), -X, "log_1"),
    "a number, then a fault": (lambda x: torch.where(x > 1, x, NAN).nansum() * 0 / 0, X, "div_1"),
    "full(inf), then a fault": (
        lambda x: torch.minimum(torch.full((4,), INF), x).log().log().log(), X, "log_2"),
}  # fmt: skip
PLANTED["a running variance"][0][1].running_var.fill_(-1)


def first_born(trace, *args):
    found = trace.activations.lens.stats(*args)
    assert found["born"].dtype == bool
    return next(iter(found.index[found["born"]]), None)


@pytest.mark.parametrize("name", PLANTED)
def test_the_first_born_row_is_the_fault(name):
    model, x, row = PLANTED[name]
    model = model.eval() if isinstance(model, nn.Module) else model
    with torch.no_grad():
        trace = lf.trace(model, x)
    assert first_born(trace) == row
    assert first_born(trace, trace.layers) == row
    assert first_born(trace, trace) == row


def test_more_than_fifty_are_planted():
    assert len(PLANTED) >= 50


# Masks of models in good health.


def alibi(h):
    n = len(h)
    bias = -(torch.arange(n)[:, None] - torch.arange(n)).abs().float()
    return bias.masked_fill(torch.ones(n, n).triu(1).bool(), -INF)


def masks():
    n = 5
    causal = torch.ones(n, n).triu(1).bool()
    additive = torch.zeros(n, n).masked_fill(causal, -INF)
    return {
        "masked_fill": lambda s: s.masked_fill(causal, -INF),
        "masked_fill_": lambda s: s.clone().masked_fill_(causal, -INF),
        "where": lambda s: torch.where(causal, -INF, s),
        "where a tensor": lambda s: torch.where(causal, torch.tensor(-INF), s),
        "triu of full": lambda s: s + torch.triu(torch.full((n, n), -INF), 1),
        "full_like": lambda s: s + torch.full_like(s, -INF).triu(1),
        "new_full": lambda s: s + s.new_full((n, n), -INF).triu(1),
        "fill_": lambda s: s + torch.empty(n, n).fill_(-INF).triu_(1),
        "set item": lambda s: _set(s, causal, -INF),
        "set item of a slice": lambda s: _set(s, (slice(None), -1), -INF),
        "index_fill": lambda s: s.index_fill(1, torch.tensor([4]), -INF),
        "closure": lambda s: s + additive,
        "nn.Transformer": lambda s: s + nn.Transformer.generate_square_subsequent_mask(n),
        "finfo.min": lambda s: s + torch.full((n, n), torch.finfo(s.dtype).min).triu(1),
        "alibi": lambda s: s + alibi(s),
        "buckets of distances": lambda s: s + buckets(n).float() + additive,
        "finfo.min twice": lambda s: torch.where(causal, LEAST, s) + causal * LEAST,
        "finfo.min thrice": lambda s: _thrice(s, causal),
        "half finfo.min twice": lambda s: (s.half() + 2 * _least(causal)).float(),
        "half": lambda s: (s.half() + additive.half()).float(),
        "bfloat16": lambda s: (s.bfloat16() + additive.bfloat16()).float(),
        "expanded": lambda s: (s + additive[None, None].expand(2, 1, n, n))[0, 0],
        "negated": lambda s: s - (-additive),
        "scaled": lambda s: (s + additive) * 0.5,
        "stacked": lambda s: torch.stack([s, additive]).sum(0),
        "padded": lambda s: F.pad(s[:, :-1], (0, 1), value=-INF),
        "top-k": lambda s: s.masked_fill(s < s.topk(2).values[:, -1:], -INF),
        "running maximum": lambda s: s - torch.maximum(torch.full((n, 1), -INF), s.amax(1, True)),
        "clamp": lambda s: s.clamp(min=-INF, max=INF),
        "complex numbers": lambda s: s + torch.tensor([complex(-INF, 0)] * n).real.diag().tril(-1),
        "nan_to_num": lambda s: torch.nan_to_num(s, neginf=-INF),
        "a marker": lambda s: torch.where(causal, math.nan, s).nan_to_num(-1e9),
        "logs of probabilities": lambda s: (s.softmax(-1) + 1e-9).log() + additive,
        "an array": lambda s: s + torch.tensor(additive.numpy()),
    }  # fmt: skip


LEAST = torch.finfo(torch.float32).min


def _thrice(s, causal):
    mask = torch.zeros_like(s).masked_fill(causal, LEAST)
    return s + mask + mask + mask


def _least(causal):
    return torch.zeros(5, 5, dtype=torch.half).masked_fill(causal, torch.finfo(torch.half).min)


def _set(s, where, value):
    s = s.clone()
    s[where] = value
    return s


def buckets(n):
    """As of T5: small distances by themselves, larger ones by their logarithm."""
    distance = (torch.arange(n)[:, None] - torch.arange(n)).clamp(0)
    large = 2 + (torch.log(distance.float() / 2) / math.log(8) * 2).to(torch.long)
    return torch.where(distance < 2, distance, large)


class Attention(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.qkv, self.mask = nn.Linear(4, 12), mask

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.mask(q @ k.T / 2).softmax(-1) @ v


@pytest.mark.parametrize("name", masks())
def test_a_mask_is_no_fault(name):
    with torch.no_grad():
        trace = lf.trace(Attention(masks()[name]).eval(), X)
    assert trace.output.isfinite().all()
    assert first_born(trace) is None
    assert first_born(trace, trace.layers) is None


class Buffered(nn.Module):
    def __init__(self, read, persistent=True):
        super().__init__()
        mask = torch.full((8, 8), -INF).triu(1)
        self.register_buffer("mask", mask, persistent=persistent)
        self.read = read

    def forward(self, x):
        return self.read(x @ x.T, self.mask, x).softmax(-1) @ x


@pytest.mark.parametrize(
    "read",
    [
        lambda s, mask, x: s + mask[:5, :5],
        lambda s, mask, x: s + mask[None, :5, :5].expand(1, 5, 5)[0],
        lambda s, mask, x: s.add_(mask.narrow(0, 0, 5).narrow(1, 0, 5)),
        lambda s, mask, x: F.scaled_dot_product_attention(x, x, x, mask[:5, :5]) @ x.T,
        lambda s, mask, x: torch.stack([s, mask[:5, :5]]).sum(0),
        lambda s, mask, x: s.masked_fill(mask[:5, :5].isinf(), -INF),
    ],
)
def test_a_mask_in_a_buffer_is_no_fault(read):
    with torch.no_grad():
        trace = lf.trace(Buffered(read).eval(), X)
    assert first_born(trace) is None
    as_input = lf.trace(
        lambda x, mask: read(x @ x.T, mask, x), (X, torch.full((8, 8), -INF).triu(1))
    )
    assert first_born(as_input) is None


def test_torch_transformers_with_masks_are_healthy():
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerDecoder(layer, 2).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    padding = torch.arange(6).expand(2, 6) > 4
    options = {"tgt_mask": mask, "memory_key_padding_mask": padding}
    with torch.no_grad():
        trace = lf.trace(model, (torch.randn(2, 6, 8), torch.randn(2, 6, 8)), options)
    assert first_born(trace) is None


# Where not everything is there.


def model_of_three(x):
    return (x - 1).log().relu().exp() * 2


def test_rows_that_were_not_saved_are_followed_to_those_that_were():
    x = torch.tensor([[3.0, 0.5]])
    saved = lf.trace(model_of_three, x, save=["input_1", "relu_1", "mul_1"])
    found = saved.activations.lens.stats(saved.layers)
    assert found["born"].to_dict() == {"input_1": False, "relu_1": True, "mul_1": False}
    alone = saved.activations.lens.stats()["born"]
    assert alone["input_1"] is np.False_ or alone["input_1"] is False
    assert alone[["relu_1", "mul_1"]].isna().all()
    first = lf.trace(model_of_three, x, save=["relu_1", "mul_1"])
    assert first.activations.lens.stats(first)["born"].tolist() == [True, False]
    filled = lf.trace(
        lambda x: x.masked_fill(x > 1, -INF).abs().relu(), torch.tensor([1.0, 2]),
        save=["input_1", "relu_1"],
    )  # fmt: skip
    assert not filled.activations.lens.stats(filled)["born"].any()


def test_a_selection_knows_its_parents():
    trace = lf.trace(model_of_three, torch.tensor([[3.0, 0.5]]))
    acts = trace.activations
    assert acts.lens.stats(["relu_1", "mul_1"])["born"].tolist() == [False, False]
    assert acts.lens.stats("log_1")["born"].tolist() == [True]
    rows = trace.layers.query("func == 'log'")
    assert acts.lens.stats(rows)["born"].to_dict() == {"log_1": True}
    assert acts[["relu_1"]].lens.stats()["born"].isna().all()


def test_gradients_are_not_made_of_their_parents():
    trace = lf.trace(lambda x: x.sqrt().sum(), torch.zeros(2, requires_grad=True), gradients=True)
    found = trace.gradients(lambda output: output).lens.stats(trace.layers)
    assert found.loc["input_1", "inf"] == 1
    assert found["born"].isna().loc["input_1"]


def test_layers_modules_and_passes():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return self.fc(self.fc(x))

    trace = lf.trace(Twice().eval(), X)
    assert [*trace.activations.lens.stats("fc").index] == ["linear_1:1", "linear_1:2"]
    assert [*trace.activations.lens.stats(["linear_1", "linear_1:2"]).index] == [
        "linear_1:1", "linear_1:2",
    ]  # fmt: skip
    joined = trace.layers.join(trace.activations.lens.stats())
    assert joined.loc["linear_1:2", "mean"] == pytest.approx(trace.output.mean().item(), rel=1e-5)


# Stores.


@pytest.mark.parametrize("kind", [".zarr", ".nc", ".arrows"])
def test_stores_are_read_piece_by_piece(tmp_path, kind):
    net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 300)).eval()
    x = torch.randn(200, 4)
    x[3, 1] = NAN
    with torch.no_grad():
        trace = lf.trace(net, x, stimulus=[*range(200)])
    lf.write(trace.activations, tmp_path / f"acts{kind}")
    stored = lf.read(tmp_path / f"acts{kind}")
    found, expected = stored.lens.stats(), trace.activations.lens.stats()
    pd.testing.assert_frame_equal(found, expected)
    assert [*found.index[found["born"]]] == ["input_1"]


def test_memory_is_bounded(tmp_path):
    import tracemalloc

    values = np.random.default_rng(0).normal(size=(2000, 1000))
    data = xr.Dataset({"linear_1": (("stimulus", "feature_1000"), values)})
    data.chunk({"stimulus": 50}).to_zarr(tmp_path / "a.zarr")
    opened = xr.open_zarr(tmp_path / "a.zarr")
    assert isinstance(opened["linear_1"].data, da.Array)
    opened.isel(stimulus=slice(0, 10)).lens.stats()  # what is imported is no part of it
    tracemalloc.start()
    found = opened.lens.stats(memory="4 MB")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6e6  # of 16 MB
    assert found.loc["linear_1", "mean"] == pytest.approx(values.mean(), rel=1e-9)
    assert found.loc["linear_1", "std"] == pytest.approx(values.std(), rel=1e-9)
    ranked = opened.lens.stats(rank=True, memory="12 MB")
    assert ranked.loc["linear_1", "rank"] == pytest.approx(erank(values), rel=1e-9)
    wide = opened.isel(stimulus=slice(0, 300))
    assert wide.lens.stats(rank=True, memory="2 MB").loc["linear_1", "rank"] == pytest.approx(
        erank(values[:300]), rel=1e-9
    )
    with pytest.raises(lf.LensValueError, match="chunks of 400 kB"):
        opened.lens.stats(memory="500 kB")
    with pytest.raises(lf.LensValueError, match=r"the rank of 'linear_1' takes 8 MB"):
        opened.lens.stats(rank=True, memory="4 MB")


def test_what_is_asked_wrongly():
    trace = lf.trace(nn.Linear(4, 2).eval(), X)
    acts = trace.activations
    with pytest.raises(lf.LensKeyError, match="did you mean 'linear_1'"):
        acts.lens.stats("linear_2")
    with pytest.raises(lf.LensKeyError, match="no row of this frame has a value"):
        acts.lens.stats(trace.layers.iloc[:0])
    with pytest.raises(lf.LensTypeError, match="layers= got 3; it takes names"):
        acts.lens.stats(3)
    with pytest.raises(lf.LensTypeError, match="'text' holds <U1, which are no numbers"):
        acts.assign(text=("feature_2", ["a", "b"])).lens.stats()
    with pytest.raises(lf.LensValueError, match="checkpoint"):
        xr.concat([acts, acts], "checkpoint").lens.stats(rank=True)
    assert xr.Dataset().lens.stats().empty
