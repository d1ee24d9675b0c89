"""Element types, quantities, units, and the class of the model, as both tables have them."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensframe_pd.cells import texts
from lensframe_pd.quantities import quantity, unit_of
from lensframe_pd.schema import itemsize, model_class


def test_bytes_of_every_element_type_of_torch():
    dtypes = {d for d in vars(torch).values() if isinstance(d, torch.dtype)}
    assert len(dtypes) > 20
    for dtype in dtypes:
        assert itemsize(str(dtype).removeprefix("torch.")) == dtype.itemsize, dtype


@pytest.mark.parametrize(
    ("n", "unit", "text"),
    [
        # a number without a unit
        (0, "", "0"), (-0.0, "", "0"), (7, "", "7"), (42, "", "42"), (999, "", "999"),
        (12.5, "", "12.5"), (0.25, "", "0.25"), (0.001, "", "0.001"), (1e-20, "", "1e-20"),
        (11689512, "", "11.7 M"), (1.5e12, "", "1.5 T"), (True, "", "1"),
        # rounded before the prefix is chosen
        (999.4, "", "999"), (999.6, "", "1 k"), (1000, "", "1 k"), (999_499, "", "999 k"),
        (999_500, "", "1 M"), (0.9994, "s", "999 ms"), (0.9999, "s", "1 s"),
        (9.999e-4, "s", "1 ms"),
        # with a unit
        (0, "B", "0 B"), (128, "B", "128 B"), (18_432, "B", "18.4 kB"), (1024, "B", "1.02 kB"),
        (1814073344, "B", "1.81 GB"), (8.16e10, "FLOP/s", "81.6 GFLOP/s"),
        (0, "s", "0 s"), (2, "s", "2 s"), (4.75, "s", "4.75 s"), (0.00447, "s", "4.47 ms"),
        (1e-3, "s", "1 ms"), (2.5e-5, "s", "25 µs"), (3e-9, "s", "3 ns"), (4e-12, "s", "4 ps"),
        # negative
        (-42, "", "-42"), (-1814073344, "B", "-1.81 GB"), (-2.5e-5, "s", "-25 µs"),
        # larger and smaller than there are prefixes
        (1.2e15, "B", "1.2 PB"), (1e18, "B", "1 EB"), (9.99e20, "B", "999 EB"),
        (2**70, "B", "1.18e+21 B"), (4e-14, "s", "4e-14 s"),
        # no number
        (math.inf, "s", "inf s"), (-math.inf, "", "-inf"), (math.nan, "s", "?"), (None, "B", "?"),
        (pd.NA, "", "?"), (np.nan, "", "?"),
        # of NumPy
        (np.int64(1234), "", "1.23 k"), (np.float32(0.1), "s", "100 ms"),
        (np.uint8(200), "", "200"),
    ],
)  # fmt: skip
def test_quantities(n, unit, text):
    assert quantity(n, unit) == text


@given(st.floats(1e-12, 9e20), st.sampled_from(["", "B", "s"]))
def test_a_quantity_read_back_is_the_number(n, unit):
    number, _, rest = quantity(n, unit).partition(" ")
    prefix = rest.removesuffix(unit)
    power = {
        "p": -12, "n": -9, "µ": -6, "m": -3, "": 0,
        "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18,
    }  # fmt: skip
    assert float(number) * 10.0 ** power[prefix] == pytest.approx(n, rel=0.005)
    assert len(number.replace(".", "").lstrip("0")) <= 3 or "e" in number


def test_units_of_columns():
    units = {c: unit_of(c) for c in ("seconds", "self_seconds", "nbytes", "act_bytes", "numel")}
    assert units == {
        "seconds": "s", "self_seconds": "s", "nbytes": "B", "act_bytes": "B", "numel": "",
    }  # fmt: skip


def test_the_class_of_the_model():
    def row(module, kind):
        return {"module": module, "module_type": kind}

    cases = [
        ([row("fc", "Linear"), row("", "Net")], "Net"),
        ([row("fc", "Linear")], ""),  # none of its own rows is left
        ([row("", None), row("", "Net")], "Net"),  # a merge left a gap
        ([row("", "")], ""),  # the model was a function
        ([{"module": ""}], ""),
        ([], ""),
    ]
    for rows, expected in cases:
        assert model_class(pd.DataFrame(rows)) == expected


NAMES = [f"relu_{k % 7}" for k in range(3000)]
TEXTS = {
    "few": pa.array(["a", "b", None]),
    "none": pa.array([], pa.large_string()),
    "repeated": pa.array(NAMES, pa.large_string()),
    "repeated, some missing": pa.array([None if k % 5 == 0 else n for k, n in enumerate(NAMES)]),
    "missing": pa.nulls(3000, pa.string()),
    "each once": pa.array([*map(str, range(3000))]),
    "repeated at first": pa.array([*NAMES, *map(str, range(3000))]),
    "chunks": pa.chunked_array([NAMES[:1500], [*NAMES[1500:], "é\0"]]),
    "a part": pa.array(["x", *NAMES, "y"])[1:-1],
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_are_those_of_arrow_however_often_they_repeat(kind):
    assert texts(TEXTS[kind]) == TEXTS[kind].to_pylist()


@pytest.mark.parametrize("kind", ["repeated", "repeated, some missing", "chunks"])
def test_texts_that_repeat_are_one_object(kind):
    found = texts(TEXTS[kind])
    assert len({*map(id, found)}) == len({*found})
