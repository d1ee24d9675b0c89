"""What two traces do not share."""

import torch

import lensframe_pd as lf


def test_diff_of_two_ways_through_a_model():
    def model(x, deep):
        x = x.exp()
        return x.sin().cos() if deep else x.cos()

    deep = lf.trace(model, (torch.ones(2), True)).layers
    flat = lf.trace(model, (torch.ones(2), False)).layers
    found = deep.lens.diff(flat)
    assert list(zip(found.index, found["side"], found["differs"], strict=True)) == [
        ("sin_1", "this", ()),
        ("cos_1", "this", ("parents",)),
        ("cos_1", "other", ("parents",)),
    ]
    assert deep.lens.diff(deep).empty
