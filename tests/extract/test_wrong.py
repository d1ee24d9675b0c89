"""What is given by mistake: said with the batch it is about, and nothing written is lost."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import lensframe_pd as lf
from lensframe_pd.errors import LensError, LensTypeError, LensValueError

from .nets import images, net

N, BATCH = 10, 4


class Items(Dataset):
    """Stimuli by number; one of them may not be read, and it may not know how many there are."""

    def __init__(self, make=None, broken=None):
        self.make, self.broken = make or images(N).__getitem__, broken

    def __getitem__(self, k):
        if k == self.broken:
            raise OSError("cannot read this picture")
        return self.make(k)


class Known(Items):
    def __len__(self):
        return N


def run(folder, data, **options):
    settings = {"to": folder / "a.zarr", "save": ["relu_2"], "batch_size": BATCH} | options
    return lf.extract(net(), data, **settings)


WHOLE = {
    "batch_size": {"batch_size": np.int64(4)},
    "n": {"n": np.int32(N)},
    "num_workers": {"num_workers": np.int64(0)},
    "seed": {"seed": np.int64(3)},
    "passes": {"passes": np.int8(1)},
    "part": {"part": (np.int64(0), np.int64(1))},
}


@pytest.mark.parametrize("option", WHOLE)
def test_numbers_of_numpy_are_numbers(tmp_path, option):
    found = run(tmp_path, images(N), **WHOLE[option])
    assert found.sizes["stimulus"] == N
    plain = {k: v if isinstance(v, tuple) else int(v) for k, v in WHOLE[option].items()}
    assert run(tmp_path, images(N), **plain).sizes["stimulus"] == N  # the same store goes on


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": True}, {"batch_size": 4.0}, {"n": "10"}, {"n": 10.0}, {"num_workers": -1},
        {"seed": 1.5}, {"seed": True}, {"seed": 2**70}, {"seed": -(2**70)}, {"passes": 0},
        {"ragged": {"token": 2.5}}, {"part": (0.0, 1)}, {"part": (True, 2)},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_number(tmp_path, wrong):
    (name,) = wrong
    with pytest.raises(LensError, match=f"^{name}"):
        run(tmp_path, images(N), **wrong)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("broken", "says"),
    [(0, "while the first batch was loaded"), (6, "what comes after batch 0 was loaded")],
)
def test_a_stimulus_that_cannot_be_read(tmp_path, broken, says, workers):
    data = Known(broken=broken)
    with pytest.raises(OSError, match="cannot read this picture") as caught:
        run(tmp_path, data, num_workers=workers)
    assert says in "".join(caught.value.__notes__)
    data.broken = None
    found = run(tmp_path, data, num_workers=workers)
    assert found.attrs["missing_stimuli"] == 0


@pytest.mark.parametrize("batches", [True, False])
def test_an_iterable_that_breaks(tmp_path, batches):
    def stimuli():
        for k in range(N):
            if k == 8:
                raise ValueError("the stream broke")
            yield images(N)[[k]] if batches else images(N)[k]

    with pytest.raises(ValueError, match="the stream broke") as caught:
        run(tmp_path, stimuli(), n=N, batch_size=None if batches else BATCH)
    after = 7 if batches else 1
    assert f"what comes after batch {after} was loaded" in "".join(caught.value.__notes__)


def test_ids_that_cannot_be_made(tmp_path):
    def ids(batch):
        raise KeyError("name")

    with pytest.raises(KeyError) as caught:
        run(tmp_path, images(N), stimulus=ids)
    assert "raised by stimulus= of batch 0" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (Known(lambda k: Image.new("RGB", (8, 8))), {}, "a list of 4 Image"),
        (Known(lambda k: f"text {k}"), {}, "a list of 4 str"),
        (Known(lambda k: None), {}, "a list of 4 NoneType"),
        (pd.DataFrame(np.ones((N, 3))), {}, "the model would get a DataFrame"),
        (images(N), {"args": lambda batch: None}, "args= gives the model a NoneType"),
        (images(N), {"args": lambda batch: ["a", "b"]}, "args= gives the model a list of 2 str"),
    ],
    ids=["pictures", "texts", "nothing", "a frame", "args give nothing", "args give texts"],
)
def test_a_batch_without_tensors(tmp_path, data, options, says):
    with pytest.raises(LensTypeError, match=f"{says} for batch 0, and no tensor is in it"):
        run(tmp_path, data, **options)
    assert [*tmp_path.iterdir()] == []


def test_a_dataset_without_a_length_takes_n(tmp_path):
    found = run(tmp_path, Items(), n=N)
    expected = lf.trace(net(), images(N)).activations["relu_2"]
    np.testing.assert_allclose(found["relu_2"], expected, rtol=1e-5, atol=1e-6)
    again = run(tmp_path, Items(), stimulus=[f"i{k}" for k in range(N)], to=tmp_path / "b.zarr")
    assert again.sizes["stimulus"] == N
    with pytest.raises(LensValueError, match="nothing says how many stimuli there are; give n="):
        run(tmp_path, Items(), to=tmp_path / "c.zarr")


@pytest.mark.parametrize(
    ("url", "says"),
    [("nonsense://bucket/a.zarr", "no place that fsspec knows"), ("s3://", None)],
)
def test_urls_that_lead_nowhere(url, says, monkeypatch):
    calls = []

    class Watched(nn.ReLU):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    if says is None:
        says = "needs a package that is not there: Install s3fs"
        monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
        url = "s3://bucket/a.zarr"
    with pytest.raises(LensError, match=says):
        lf.extract(Watched(), images(N), to=url, save="relu_1", batch_size=4)
    assert calls == []  # said before the first forward


@pytest.mark.parametrize("gone", ["lensframe", "relu_2", "lensframe/ledger"])
def test_a_store_of_which_parts_are_gone(tmp_path, gone):
    run(tmp_path, images(N))
    shutil.rmtree(tmp_path / "a.zarr" / gone)
    with pytest.raises(LensValueError, match=r"a\.zarr is .*damaged or no whole store"):
        run(tmp_path, images(N))


@pytest.mark.parametrize("there", ["empty", "nothing", "a store"])
def test_a_link_is_written_through(tmp_path, there):
    real, link = tmp_path / "real", tmp_path / "link.zarr"
    if there == "empty":
        real.mkdir()
    elif there == "a store":
        run(tmp_path, images(N), to=real)
    link.symlink_to(real)
    found = run(tmp_path, images(N), to=link)
    assert found.sizes["stimulus"] == N
    assert link.is_symlink()
    assert lf.read(real)["relu_2"].equals(found["relu_2"])


@pytest.mark.parametrize("variable", ["linear_1", "relu_1", "stimulus"])
def test_a_store_that_lost_a_variable_is_not_read_without_it(variable, tmp_path):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    place = tmp_path / "acts.zarr"
    lf.extract(model.eval(), torch.rand(6, 3), to=place, save=["linear_1", "relu_1"], batch_size=2)
    assert {*lf.read(place).data_vars} == {"linear_1", "relu_1"}
    shutil.rmtree(place / variable)
    with pytest.raises(LensError, match=f"variables are gone, .*{variable}"):
        lf.read(place)


@pytest.mark.parametrize("name", ["acts.h5", "acts.nc", "acts.NPY", "a.b.parquet"])
def test_a_file_of_another_kind_is_not_made_a_folder(name, tmp_path):
    place = tmp_path / name
    with pytest.raises(lf.LensValueError, match=r"makes a store of zarr's, no .*\.zarr'$"):
        lf.extract(torch.nn.ReLU(), torch.ones(4, 2), to=place, batch_size=2)
    assert not place.exists()
