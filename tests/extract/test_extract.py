"""A data set to a store: values, order, what later batches keep, and what is returned."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch import nn

import lensframe_pd as lf

from .nets import PATHS, hooked, images, net

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata")


def rows_of(model, x, names):
    layers, _ = lf.trace(model, x[:2], save=None)
    return layers.loc[list(names)]


def stored_files(path):
    return {str(f.relative_to(path)): f.stat().st_size for f in path.rglob("*") if f.is_file()}


@pytest.mark.parametrize(("n", "batch"), [(12, 4), (10, 4), (9, 4), (3, 8), (1, 4), (5, 1)])
def test_values_are_those_of_hooks_over_the_same_batches(tmp_path, n, batch):
    model, x = net(), images(n)
    ids = [f"im{k:02}" for k in range(n)]
    found = lf.extract(
        model, x, to=tmp_path / "a.zarr", save=rows_of(model, x, PATHS), batch_size=batch,
        stimulus=ids,
    )  # fmt: skip
    expected = hooked(model, PATHS.values(), x.split(batch))
    assert list(found.data_vars) == list(PATHS)
    assert found["stimulus"].values.tolist() == ids
    for label, path in PATHS.items():
        assert found[label].dtype == expected[path].dtype
        np.testing.assert_array_equal(found[label].values, expected[path])
    assert found.attrs["missing_stimuli"] == 0


def test_plain_xarray_opens_it_and_read_keeps_the_order(tmp_path):
    model, x = net(), images(6)
    to = tmp_path / "a.zarr"
    names = ["relu_2", "linear_1", "conv2d_2"]
    layers, _ = lf.trace(model, x[:2], save=None)
    found = lf.extract(model, x, to=to, save=layers.loc[names], batch_size=3)
    read, plain = lf.read(to), xr.open_zarr(to)
    assert list(read.data_vars) == list(found.data_vars) == ["conv2d_2", "relu_2", "linear_1"]
    assert list(plain.data_vars) == sorted(plain.data_vars)
    xr.testing.assert_equal(read, found)
    for name in names:
        np.testing.assert_array_equal(plain[name].values, read[name].values)
    assert read["relu_2"].attrs["module"] == "body.1"
    assert read["stimulus"].values.tolist() == [0, 1, 2, 3, 4, 5]
    chunked = lf.read(to, chunks={})
    assert chunked["relu_2"].chunks[0] == (3, 3)


def test_a_table_gives_coordinates(tmp_path):
    model, x = net(), images(4)
    table = pd.DataFrame(
        {"kind": ["cat", "dog", None, "cat"], "size": [1.5, 2, 3, 4]}, list("abcd")
    )
    found = lf.extract(model, x, to=tmp_path / "a", save="linear_1", batch_size=2, stimulus=table)
    assert found["stimulus"].values.tolist() == list("abcd")
    assert found["size"].values.tolist() == [1.5, 2, 3, 4]
    assert found["kind"].values.tolist()[:2] == ["cat", "dog"]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.calls = []

    def forward(self, x):
        self.calls.append("a")
        x = self.a(x)
        self.calls.append("b")
        x = self.b(x)
        self.calls.append("c")
        return self.c(x)


@pytest.mark.parametrize(
    ("save", "after_first"),
    [("linear_1", "a"), ("linear_2", "ab"), (["linear_1", "linear_3"], "abc"), ("b", "ab")],
)
def test_later_batches_end_after_the_last_selected_operation(tmp_path, save, after_first):
    model = Counting().eval()
    lf.extract(model, torch.ones(6, 3), to=tmp_path / "a", save=save, batch_size=2)
    assert "".join(model.calls) == "abc" + 2 * after_first


def test_a_call_again_computes_nothing_but_the_first_batch(tmp_path):
    model = Counting().eval()
    settings = {"to": tmp_path / "a", "save": "linear_2", "batch_size": 2}
    first = lf.extract(model, torch.ones(8, 3), **settings)
    before = stored_files(tmp_path / "a")
    model.calls.clear()
    again = lf.extract(model, torch.ones(8, 3), **settings)
    assert "".join(model.calls) == "abc"
    assert stored_files(tmp_path / "a") == before
    xr.testing.assert_identical(first, again)


def test_what_is_written_in_place_later_is_not_what_is_stored(tmp_path):
    conv = nn.Conv2d(3, 4, 3).eval()

    def model(x):
        h = conv(x)
        first = h + 1
        first.mul_(0)
        return first + h.relu_()

    x = images(6)
    found = lf.extract(model, x, to=tmp_path / "a", save=["conv2d_1", "add_1"], batch_size=3)
    with torch.no_grad():
        expected = torch.cat([conv(part) for part in x.split(3)])
    np.testing.assert_array_equal(found["conv2d_1"].values, expected.numpy())
    np.testing.assert_array_equal(found["add_1"].values, (expected + 1).numpy())


@pytest.mark.parametrize("grad", [True, False])
def test_the_model_and_the_random_numbers_are_left_alone(tmp_path, grad):
    model, x = net(), images(6)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.set_grad_enabled(grad):
        lf.extract(model, x, to=tmp_path / "a", save="relu_2", batch_size=2)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(not m._forward_hooks for m in model.modules())


def test_axes_other_than_the_first_can_be_the_stimuli(tmp_path):
    gru = nn.GRU(3, 4).eval()
    x = torch.randn(10, 5, 3)  # stimulus, time, feature

    def model(batch):
        return gru(batch.transpose(0, 1))[0]

    found = lf.extract(model, x, to=tmp_path / "a", save="gru_1", batch_size=4)
    with torch.no_grad():
        expected = torch.cat([gru(part.transpose(0, 1))[0] for part in x.split(4)], 1)
    assert found["gru_1"].dims[1] == "stimulus"
    np.testing.assert_array_equal(found["gru_1"].values, expected.numpy())


def test_a_value_without_stimuli_is_stored_once(tmp_path):
    embed = nn.Embedding(7, 3)

    def model(ids):
        place = embed.weight * 2
        return embed(ids) + place[: ids.shape[1]]

    ids = torch.randint(0, 7, (6, 4))
    found = lf.extract(model, ids, to=tmp_path / "a", save=["mul_1", "add_1"], batch_size=2)
    np.testing.assert_array_equal(found["mul_1"].values, (embed.weight * 2).detach().numpy())
    assert "stimulus" not in found["mul_1"].dims
    assert found["add_1"].dims[0] == "stimulus"


def test_a_value_without_stimuli_that_moves_is_refused(tmp_path):
    def model(x):
        return x - x.mean(0)

    with pytest.raises(lf.LensValueError, match=r"batch 1 .*'mean_1'.*no stimulus axis"):
        lf.extract(model, images(4), to=tmp_path / "a", save=["mean_1"], batch_size=2)


def test_many_stores_of_zarr(tmp_path):
    import zarr

    model, x = net(), images(5)
    stores = [zarr.storage.MemoryStore(), zarr.storage.LocalStore(tmp_path / "b.zarr")]
    for to in (*stores, str(tmp_path / "c.zarr"), "memory://extract/d.zarr"):
        found = lf.extract(model, x, to=to, save="relu_2", batch_size=2)
        expected = hooked(model, ["body.1"], x.split(2))["body.1"]
        np.testing.assert_array_equal(found["relu_2"].values, expected)
        again = lf.extract(model, x, to=to, save="relu_2", batch_size=2)
        xr.testing.assert_equal(found, again)
        xr.testing.assert_equal(lf.read(to), again)


@pytest.mark.parametrize("to", [None, 3, {}])
def test_what_is_no_place_for_a_store(to):
    with pytest.raises(lf.LensTypeError, match="give the path of a folder"):
        lf.extract(net(), images(4), to=to, save="relu_2", batch_size=2)


KINDS = {
    "complex": (lambda x: torch.fft.fft(x), "complex64"),
    "bool": (lambda x: x > 0, "bool"),
    "integer": (lambda x: x.argmax(1), "int64"),
    "none along an axis": (lambda x: x[:, :0] * 2, "float32"),
    "half": (lambda x: x.half() * 2, "float16"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_every_kind(tmp_path, kind):
    function, dtype = KINDS[kind]
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    found = lf.extract(function, x, to=tmp_path / "a", batch_size=3)
    last = found[list(found.data_vars)[-1]]
    expected = torch.cat([function(part) for part in x.split(3)]).numpy()
    assert last.dtype == expected.dtype == dtype
    np.testing.assert_array_equal(last.values, expected)
    plain = xr.open_zarr(tmp_path / "a")[list(found.data_vars)[-1]]
    np.testing.assert_array_equal(plain.values, expected)


def test_one_row_is_enough(tmp_path):
    model, x = net(), images(4)
    row = lf.trace(model, x[:2], save=None).layers.loc["relu_2"]
    found = lf.extract(model, x, to=tmp_path / "a", save=row, batch_size=2)
    assert list(found.data_vars) == ["relu_2"]
