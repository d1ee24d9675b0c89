"""The small languages that both tables are written in."""

import pandas as pd
import pytest
import torch

import lensframe_pd as lf
from lensframe_pd.schema import distinct_labels, itemsize


def test_bytes_of_every_element_type_of_torch():
    dtypes = {d for d in vars(torch).values() if isinstance(d, torch.dtype)}
    assert len(dtypes) > 20
    for dtype in dtypes:
        assert itemsize(str(dtype).removeprefix("torch.")) == dtype.itemsize, dtype


def test_labels_of_two_rows_are_all_named():
    rows = pd.DataFrame(index=pd.Index(["a_1", "b_1", "a_1", "c_1", "c_1"], name="op"))
    with pytest.raises(lf.LensValueError, match=r"keep: 'a_1', 'c_1': more than once in the frame"):
        distinct_labels(rows, "keep")
    assert distinct_labels(rows.iloc[:2], "keep") == ["a_1", "b_1"]
