"""Kinds of models: text, audio, loops, detectors, generation; checked by hooks that clone."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import lensframe_pd as lf

torch.manual_seed(0)
LENGTHS = [3, 7, 5, 2, 9, 4, 6]
TEXTS = [torch.randint(1, 20, (n,)) for n in LENGTHS]


def padded(texts):
    """As a tokenizer gives a batch."""
    ids = pad_sequence([*texts], batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        hidden = self.layer(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        return self.head(hidden)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder().eval()


def hooked(model, path, calls):
    """What a module returned in each of these calls, and the arguments."""
    found = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda module, args, out: found.append(out.detach().clone())
    )
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        for call in calls:
            model(**call) if isinstance(call, dict) else model(call)
    torch.backends.mha.set_fastpath_enabled(True)
    handle.remove()
    return found


BATCHES = [padded(TEXTS[i : i + 3]) for i in range(0, 7, 3)]


@pytest.mark.parametrize("form", ["texts", "batches"])
@pytest.mark.parametrize("mask", ["attention_mask", lambda call: call["attention_mask"]])
def test_texts_are_pooled_by_the_mask_of_their_batch(tmp_path, encoder, form, mask):
    rows = lf.trace(encoder, BATCHES[0], save=None).layers
    rows = rows.loc[["layer_norm_2"]]
    asked = rows.assign(pool=[{"token": mask}] * len(rows))
    data, given = (TEXTS, {"batch_size": 3, "args": padded}) if form == "texts" else (BATCHES, {})
    with torch.no_grad():
        found = lf.extract(encoder, data, to=tmp_path / "a", save=asked, **given)
    values = hooked(encoder, "layer.norm2", BATCHES)
    expected = []
    for batch, hidden in zip(BATCHES, values, strict=True):
        weight = batch["attention_mask"][..., None].double()
        expected.append((hidden * weight).sum(1) / weight.sum(1))
    assert found["layer_norm_2"].dims == ("stimulus", "feature_8")
    np.testing.assert_allclose(found["layer_norm_2"].values, torch.cat(expected), rtol=1e-5)


def test_texts_are_padded_by_ragged(tmp_path, encoder):
    with torch.no_grad():
        found = lf.extract(
            encoder, TEXTS, to=tmp_path / "a", save=["layer_norm_2", "head"], batch_size=3,
            args=padded, ragged={"token": 12},
        )  # fmt: skip
    values = hooked(encoder, "layer.norm2", BATCHES)
    assert found["layer_norm_2"].dims == ("stimulus", "token_12", "feature_8")
    assert found["n_token"].values.tolist() == [7, 7, 7, 9, 9, 9, 6]
    k = 0
    for hidden in values:
        for one in hidden:
            here = found["layer_norm_2"].values[k]
            np.testing.assert_array_equal(here[: len(one)], one.numpy())
            assert np.isnan(here[len(one) :]).all()
            k += 1
    (head,) = [name for name in found.data_vars if name.startswith("linear")]
    assert found[head].dims == ("stimulus", "token_12", "feature_3")


@pytest.mark.parametrize("pool", [None, {"feature": "mean"}])
def test_texts_of_unlike_lengths_are_refused_with_what_to_give(tmp_path, encoder, pool):
    rows = lf.trace(encoder, BATCHES[0], save=None).layers.loc[["layer_norm_2"]]
    if pool:
        rows = rows.assign(pool=[pool])
    with pytest.raises(lf.LensValueError) as caught:
        lf.extract(encoder, BATCHES, to=tmp_path / "a", save=rows)
    said = str(caught.value)
    assert "batch 1 (stimuli 3 to 5) is not as planned" in said
    assert "token_9" in said
    assert "token_7" in said
    assert "ragged={'token': 9}" in said
    assert "pool" in said
    assert lf.read(tmp_path / "a").attrs["missing_stimuli"] == 4


def test_longer_than_ragged_says_is_refused(tmp_path, encoder):
    with pytest.raises(lf.LensValueError, match="has 9 along 'token', and ragged= says 8"):
        lf.extract(encoder, BATCHES, to=tmp_path / "a", save=["layer_norm_2"], ragged={"token": 8})


@pytest.mark.parametrize("column", ["n_token", "token_12"])
def test_columns_that_ragged_adds_are_refused(tmp_path, encoder, column):
    table = pd.DataFrame({column: range(7)}, list("abcdefg"))
    with pytest.raises(lf.LensValueError, match=f"ragged= adds: '{column}'"):
        lf.extract(
            encoder, BATCHES, to=tmp_path / "a", save=["layer_norm_2"], ragged={"token": 12},
            stimulus=table,
        )  # fmt: skip


class Audio(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(1, 4, 5, stride=2)
        self.second = nn.Conv1d(4, 6, 3, stride=2)

    def forward(self, waves):
        return self.second(torch.relu(self.first(waves)))


def test_audio_of_unlike_lengths(tmp_path):
    torch.manual_seed(0)
    model = Audio().eval()
    waves = [torch.randn(1, n) for n in (40, 50, 64, 45)]
    found = lf.extract(
        model, waves, to=tmp_path / "a", save=["conv1d_1", "conv1d_2"], batch_size=1,
        ragged={"x": 40},
    )  # fmt: skip
    for label, path in (("conv1d_1", "first"), ("conv1d_2", "second")):
        values = hooked(model, path, [wave[None] for wave in waves])
        lengths = [value.shape[-1] for value in values]
        assert found[f"n_x_{label}"].values.tolist() == lengths
        for k, value in enumerate(values):
            n = value.shape[-1]
            np.testing.assert_array_equal(found[label].values[k, :, :n], value[0].numpy())
            assert np.isnan(found[label].values[k, :, n:]).all()


class Loop(nn.Module):
    """Goes on until its state is small: more or fewer passes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(3) * 0.5)
            self.fc.bias.zero_()

    def forward(self, x):
        while x.abs().max() > 1:
            x = self.fc(x)
        return x * 2


def loops(*passes):
    """Two stimuli each that need so many passes."""
    return torch.cat([torch.ones(2, 3) * 0.9 * 2.0**n for n in passes])


def test_passes_are_stored_by_their_names(tmp_path):
    model, x = Loop().eval(), loops(3, 3)
    found = lf.extract(model, x, to=tmp_path / "a", save=["linear_1", "mul_1"], batch_size=2)
    assert list(found.data_vars) == ["linear_1:1", "linear_1:2", "linear_1:3", "mul_1"]
    for n in (1, 2, 3):
        np.testing.assert_array_equal(found[f"linear_1:{n}"].values, (x * 0.5**n).numpy())
    assert found.lens["linear_1"].sizes["pass_num"] == 3


@pytest.mark.parametrize("passes", [(3, 2), (3, 4), (2, 5), (1, 2)])
def test_another_number_of_passes_is_refused(tmp_path, passes):
    model, x = Loop().eval(), loops(*passes)
    with pytest.raises(lf.LensValueError, match=r"batch 1 \(stimuli 2 to 3\)[^$]*passes="):
        lf.extract(model, x, to=tmp_path / "a", save=["linear_1"], batch_size=2)


def test_passes_says_how_many(tmp_path):
    model, x = Loop().eval(), loops(3, 2, 5)
    found = lf.extract(model, x, to=tmp_path / "a", save=["linear_1"], batch_size=2, passes=2)
    assert list(found.data_vars) == ["linear_1:1", "linear_1:2"]
    for n in (1, 2):
        np.testing.assert_array_equal(found[f"linear_1:{n}"].values, (x * 0.5**n).numpy())


def test_fewer_passes_than_asked_for_are_refused(tmp_path):
    model = Loop().eval()
    with pytest.raises(lf.LensValueError, match="has 2 passes in the first batch"):
        lf.extract(model, loops(2, 3), to=tmp_path / "a", save="linear_1", batch_size=2, passes=3)
    with pytest.raises(lf.LensValueError, match="fewer than passes=3"):
        lf.extract(model, loops(3, 2), to=tmp_path / "b", save="linear_1", batch_size=2, passes=3)


def test_a_loop_that_ran_once_first_is_no_loop_of_passes(tmp_path):
    model = Loop().eval()
    with pytest.raises(lf.LensValueError, match="ran once in the first batch; give passes=1"):
        lf.extract(model, loops(1, 3), to=tmp_path / "a", save="linear_1", batch_size=2, passes=3)
    found = lf.extract(
        model, loops(1, 3), to=tmp_path / "b", save="linear_1", batch_size=2, passes=1
    )
    np.testing.assert_array_equal(found["linear_1"].values, loops(1, 3).numpy() / 2)


@pytest.mark.parametrize("first", [1, -1])
def test_another_operation_at_the_same_address_is_refused(tmp_path, first):
    def model(x):
        if x.sum() > 0:
            x = torch.relu(x)
        x = x * 2
        return torch.relu(x - 1)

    x = torch.cat([torch.ones(2, 3) * first, torch.ones(2, 3) * -first])
    with pytest.raises(
        lf.LensValueError, match=r"batch 1 \(stimuli 2 to 3\)[^$]*'relu_1'.*another"
    ):
        lf.extract(model, x, to=tmp_path / "a", save="relu_1", batch_size=2)
    found = lf.extract(model, x, to=tmp_path / "b", save="mul_1", batch_size=2)
    np.testing.assert_array_equal(found["mul_1"].values[0], [2.0 * max(first, -2)] * 3)


def test_one_pass_alone_may_be_asked_for(tmp_path):
    model, x = Loop().eval(), loops(3, 4, 2)
    found = lf.extract(model, x, to=tmp_path / "a", save=["linear_1:2"], batch_size=2)
    np.testing.assert_array_equal(found["linear_1:2"].values, (x * 0.25).numpy())


class Detector(nn.Module):
    """Takes a list of images of unlike sizes, resizes and stacks them."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3)

    def forward(self, images):
        same = [nn.functional.interpolate(image[None], (8, 8)) for image in images]
        return self.backbone(torch.cat(same))


@pytest.mark.parametrize("form", ["singles", "batches"])
def test_a_detector_takes_lists_of_images(tmp_path, form):
    torch.manual_seed(0)
    model = Detector().eval()
    pictures = [torch.randn(3, 6 + k, 9 - k) for k in range(5)]
    ids = list("abcde")
    batches = [pictures[:2], pictures[2:4], pictures[4:]]
    data, given = (pictures, {"batch_size": 2}) if form == "singles" else (batches, {})
    found = lf.extract(
        model, data, to=tmp_path / "a", save=["conv2d_1"], stimulus=ids,
        args=lambda batch: list(batch), **given,
    )  # fmt: skip
    expected = torch.cat(hooked(model, "backbone", batches)).numpy()
    assert found["conv2d_1"].dims[0] == "stimulus"
    np.testing.assert_array_equal(found["conv2d_1"].values, expected)


class Generating(nn.Module):
    """Greedy decoding of a fixed number of new tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.cell = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11)

    def generate(self, tokens, new=4):
        for _ in range(new):
            hidden = torch.tanh(self.cell(self.embed(tokens).mean(1)))
            tokens = torch.cat([tokens, self.head(hidden).argmax(-1, keepdim=True)], 1)
        return tokens


def test_generate_with_a_fixed_number_of_new_tokens(tmp_path):
    torch.manual_seed(0)
    model = Generating().eval()
    prompts = torch.randint(0, 11, (6, 3))
    found = lf.extract(
        model.generate, prompts, to=tmp_path / "a", save=["head", "output_1"], batch_size=4
    )
    seen = []
    handle = model.head.register_forward_hook(lambda m, a, out: seen.append(out.detach().clone()))
    with torch.no_grad():
        tokens = [model.generate(part) for part in prompts.split(4)]
    handle.remove()
    names = [name for name in found.data_vars if name.startswith("linear")]
    assert len(names) == 4
    for n, name in enumerate(names):
        expected = torch.cat([seen[n], seen[4 + n]]).numpy()
        np.testing.assert_array_equal(found[name].values, expected)
    np.testing.assert_array_equal(found["output_1"].values, torch.cat(tokens).numpy())


class Random(nn.Module):
    def forward(self, x):
        noise = torch.rand_like(x)
        return x + noise, x * 2


def test_random_values_need_a_seed(tmp_path):
    model, x = Random().eval(), torch.ones(6, 3)
    with pytest.raises(lf.LensValueError, match=r"'rand_like_1' draw random numbers.*seed="):
        lf.extract(model, x, to=tmp_path / "a", save=["add_1"], batch_size=2)
    lf.extract(model, x, to=tmp_path / "b", save=["mul_1"], batch_size=2)
    settings = {"to": tmp_path / "c", "save": ["add_1"], "batch_size": 2, "seed": 7}
    state = torch.get_rng_state()
    found = lf.extract(model, x, **settings).load()
    assert torch.equal(state, torch.get_rng_state())
    (tmp_path / "c/lensframe/ledger/c/1").unlink()
    torch.rand(5)
    again = lf.extract(model, x, **settings)
    np.testing.assert_array_equal(found["add_1"].values, again["add_1"].values)
    expected = []
    for number in range(3):
        torch.manual_seed(7 + number)
        expected.append(1 + torch.rand(2, 3))
    np.testing.assert_array_equal(found["add_1"].values, torch.cat(expected).numpy())


def test_a_model_that_each_batch_changes_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with (
        pytest.warns(lf.LensWarning, match="in train mode"),
        pytest.raises(
            lf.LensValueError, match=r"num_batches_tracked.*running_mean.*model\.eval\(\)"
        ),
    ):
        lf.extract(model, torch.randn(6, 3), to=tmp_path / "a", save="linear_1", batch_size=2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not (tmp_path / "a").exists()


def test_stimulus_by_stimulus_is_no_column_of_a_store(tmp_path):
    def model(x):
        return x @ x.T

    with pytest.raises(lf.LensValueError, match="stimulus x stimulus"):
        lf.extract(model, torch.randn(6, 3), to=tmp_path / "a", save="matmul_1", batch_size=2)


class Recurrent(nn.Module):
    """Steps first, stimuli second, within."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRU(8, 4), nn.Linear(4, 3)

    def forward(self, x):
        states, last = self.cell(x.transpose(0, 1))
        return self.head(states).transpose(0, 1) + last[0, :, None, :3]


ENCODERS = {
    "batch first": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "stimuli second": lambda: StimuliSecond(nn.TransformerEncoderLayer(8, 2, 16)),
    "recurrent": Recurrent,
}


class StimuliSecond(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize("sizes", [(2, 2, 1), (1, 2, 2), (3, 1, 1)], ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_a_batch_of_one_is_like_the_others_wherever_its_stimulus_is(tmp_path, name, sizes):
    torch.manual_seed(0)
    model, x = ENCODERS[name]().eval(), torch.randn(5, 3, 8)
    batches = [*x.split(sizes)]
    with torch.no_grad():
        traces = [lf.trace(model, batch, stimulus=range(len(batch))) for batch in batches]
        largest = max(traces, key=lambda trace: trace.output.shape[0])
        rows = [op for op, v in largest.activations.items() if "stimulus" in v.dims]
        found = lf.extract(model, batches, to=tmp_path / "a", save=rows)
    assert len(rows) > 5
    start = 0
    for trace, size in zip(traces, sizes, strict=True):
        stored = found.isel(stimulus=slice(start, start + size))
        start += size
        for op in rows:
            expected = trace.activations[op].values
            np.testing.assert_array_equal(stored[op].transpose(*found[op].dims).values, expected)
