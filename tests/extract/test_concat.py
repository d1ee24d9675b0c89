"""Batches joined into one dataset."""

import numpy as np
import pandas as pd
import pytest
import torch
from stored import same
from torch import nn

import lensframe_pd as lf
from lensframe_pd.extract.concat import concat
from lensframe_pd.files.files import read, write


def batches(n, lengths=(4, 4)):
    torch.manual_seed(0)
    embed = nn.Embedding(9, 3)
    model = lambda ids: embed(ids) * embed.weight.new_ones(3)  # noqa: E731
    parts = []
    for k, length in enumerate(lengths):
        ids = torch.randint(0, 9, (n + k, length))
        names = [f"{k}{i}" for i in range(n + k)]
        table = pd.DataFrame({"length": length}, index=names)
        parts.append(lf.trace(model, ids, stimulus=table).activations)
    return parts


def test_concat_joins_batches():
    parts = batches(2)
    joined = concat(parts)
    assert joined["mul_1"].sizes == {"stimulus": 5, "token_4": 4, "feature_3": 3}
    expected = np.concatenate([p["mul_1"].values for p in parts])
    np.testing.assert_array_equal(joined["mul_1"], expected)
    assert list(joined["stimulus"].values) == ["00", "01", "10", "11", "12"]
    assert list(joined["length"].values) == [4] * 5
    assert list(joined) == list(parts[0])
    assert joined["mul_1"].attrs == parts[0]["mul_1"].attrs
    np.testing.assert_array_equal(joined["new_ones_1"], [1, 1, 1])
    assert joined["new_ones_1"].dims == parts[0]["new_ones_1"].dims


def test_concat_refuses_unequal_extents():
    with pytest.raises(lf.LensValueError) as error:
        concat(batches(2, (7, 9)))
    assert (
        "mul_1: batch 0 has stimulus, token_7, feature_3, batch 1 has stimulus, token_9, feature_3"
        in str(error.value)
    )
    assert "embedding_1: batch 0 has stimulus, token_7" in str(error.value)


def test_concat_refuses_what_is_no_one_dataset():
    first, second = batches(2)
    with pytest.raises(lf.LensValueError, match="batch 1 has no 'mul_1', which batch 0 has"):
        concat([first, second.drop_vars("mul_1")])
    with pytest.raises(lf.LensValueError, match="do not both have coordinates 'stimulus'"):
        concat([first, second.drop_vars("stimulus")])
    with pytest.raises(lf.LensValueError, match="different in each batch: 'new_ones_1'"):
        concat([first, second.assign(new_ones_1=second["new_ones_1"] * 2)])
    with pytest.raises(lf.LensValueError, match="no datasets"):
        concat([])
    with pytest.raises(lf.LensTypeError, match="not DataFrame"):
        concat([first, pd.DataFrame()])
    assert concat([first]) is first


def test_concat_of_lazy_datasets(tmp_path):
    parts = batches(2)
    paths = [write(p, tmp_path / f"{k}.arrows") for k, p in enumerate(parts)]
    same(concat([read(p) for p in paths]).load(), concat(parts))
