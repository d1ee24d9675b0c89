"""An ablated network over a data set: as with forward hooks, batch by batch."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import lensframe_pd as lf

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata")

N = 10
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(1))
IDS = [f"s{k}" for k in range(N)]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()


def ablated(model, give):
    """The outputs of batches of four, with a forward hook on the ReLU."""
    handle = model[1].register_forward_hook(lambda m, args, out: give(out))
    with torch.no_grad():
        found = torch.cat([model(batch) for batch in X.split(4)])
    handle.remove()
    return found.numpy()


GIVEN = {
    "a number": (0, lambda out: torch.zeros_like(out)),
    "a function": (lambda t: t.clamp(max=0.5), lambda out: out.clamp(max=0.5)),
}


@pytest.mark.parametrize("key", ["1", "relu_1"])
@pytest.mark.parametrize("what", GIVEN)
def test_the_same_value_in_every_batch(tmp_path, what, key):
    value, give = GIVEN[what]
    found = lf.extract(
        net(), X, to=tmp_path / "a.zarr", save=["linear_2", "1"], batch_size=4, stimulus=IDS,
        values={key: value},
    )  # fmt: skip
    np.testing.assert_array_equal(found["linear_2"].values, ablated(net(), give))
    with torch.no_grad():
        hidden = torch.cat([give(net()[:2](batch)) for batch in X.split(4)])
    np.testing.assert_array_equal(found["edit_1"].values, hidden.numpy())


def test_values_of_another_data_set_by_id(tmp_path):
    donor = lf.trace(net(), X.flip(0) * 2, stimulus=IDS[::-1]).activations[["relu_1"]]
    found = lf.extract(
        net(), X, to=tmp_path / "a.zarr", save="linear_2", batch_size=4, stimulus=IDS, values=donor
    )
    hidden = torch.from_numpy(donor["relu_1"].sel(stimulus=IDS).values.copy())
    with torch.no_grad():
        expected = torch.cat([net()[2](batch) for batch in hidden.split(4)])
    np.testing.assert_array_equal(found["linear_2"].values, expected.numpy())


def test_it_goes_on_with_the_same_values_only(tmp_path):
    options = {"to": tmp_path / "a.zarr", "save": "linear_2", "batch_size": 4, "stimulus": IDS}
    lf.extract(net(), X, values={"relu_1": 0.5}, part=(0, 2), **options)
    found = lf.extract(net(), X, values={"relu_1": 0.5}, part=(1, 2), **options)
    whole = ablated(net(), lambda out: torch.full_like(out, 0.5))
    np.testing.assert_array_equal(found["linear_2"].values, whole)
    for other in (None, {"relu_1": 0.25}, {"1": 0.5}, {"relu_1": lambda t: t}):
        with pytest.raises(lf.LensValueError, match="values"):
            lf.extract(net(), X, values=other, **options)


REFUSED = {
    "places in a batch": ({"relu_1": np.zeros((4, 5), "float32")}, lf.LensValueError, "ids"),
    "no such row": ({"relu_2": 0}, lf.LensKeyError, "relu_1"),
    "a shape": ({"relu_1": np.zeros(3)}, lf.LensValueError, "shape"),
    "ids of others": (
        {"relu_1": xr.DataArray(
            np.zeros((4, 5), "float32"), {"stimulus": IDS[:4]}, ("stimulus", "feature_5")
        )}, lf.LensValueError, "s4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(tmp_path, what):
    values, kind, message = REFUSED[what]
    with pytest.raises(kind, match=message):
        lf.extract(
            net(), X, to=tmp_path / "a.zarr", save="linear_2", batch_size=4, stimulus=IDS,
            values=values,
        )  # fmt: skip
