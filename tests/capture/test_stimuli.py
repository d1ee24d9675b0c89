"""Where the stimuli are among the arguments."""

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import lensframe_pd as lf

TWO, THREE = torch.rand(2, 5), torch.rand(3, 5)


def first(*args):
    """Reads every tensor it is given, so that each is seen."""
    for value in args:
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            tensor * 1
    return 0


@pytest.mark.parametrize(
    ("args", "n", "has"),
    [
        ((THREE,), 3, ["input_1"]),
        ((torch.tensor(1.0), THREE), 3, ["input_2"]),
        ((TWO, THREE), 3, ["input_2"]),  # a set of queries, then the images
        ((TWO, THREE), 2, ["input_1"]),
        ((([TWO]), THREE), 2, ["input_1"]),
        (((TWO, THREE),), 3, ["input_2"]),
        (([TWO, THREE],), 2, []),
        (([torch.rand(3), torch.rand(4), torch.rand(5)],), 3, []),
        (([torch.tensor(1.0), torch.tensor(2.0)],), 2, []),
        (([THREE, THREE, THREE],), 1, None),
        (([torch.rand(1, 4)],), 1, ["input_1"]),
    ],
)
def test_where_they_are(args, n, has):
    if has is None:
        with pytest.raises(lf.LensValueError, match="axis 0 of the input has 3"):
            lf.trace(first, args, stimulus=range(n))
        return
    found = lf.trace(first, args, stimulus=range(n)).activations
    inputs = [name for name in found.data_vars if name.startswith("input")]
    assert [name for name in inputs if "stimulus" in found[name].dims] == has


def test_a_list_that_can_be_read_in_two_ways():
    ran = []
    images = [torch.rand(3, 8, 8) for _ in range(3)]
    with pytest.raises(lf.LensValueError, match=r"either each tensor is one stimulus, or each has"):
        lf.trace(lambda images: ran.append(images), ([*images],), stimulus=list("abc"))
    assert not ran


def test_one_id_per_packed_sequence():
    packed = pack_sequence([torch.rand(2, 4), torch.rand(5, 4), torch.rand(3, 4)], False)
    model = torch.nn.GRU(4, 6).eval()
    found = lf.trace(model, packed, stimulus=list("abc")).activations
    assert "stimulus" not in found["input_1"].dims  # ten steps of three sequences
    for n in (2, 4, 10):
        with pytest.raises(lf.LensValueError, match="axis 0 of the input has 3"):
            lf.trace(model, packed, stimulus=range(n))
