"""Datasets to store, and how two are compared."""

import numpy as np
import pandas as pd
import xarray as xr

FORMATS = {"arrow": ".arrows", "netcdf": ".nc", "zarr": ".zarr"}
DTYPES = [
    "float16", "float32", "float64", "bool", "complex64", "complex128", "int8", "int16", "int32",
    "int64", "uint8", "uint16", "uint32", "uint64",
]  # fmt: skip
#: One of each kind, where it is not the dtype that is tested.
SOME = ["float16", "float32", "bool", "complex64", "int16", "uint64"]

#: For frames that plain pandas read or made an index of: up to version 2 it has text as objects.
BY_PANDAS = (
    {}
    if pd.__version__ >= "3"
    else {"check_dtype": False, "check_index_type": False, "check_column_type": False}
)


def same(found, expected):
    xr.testing.assert_identical(found, expected)
    assert list(found.data_vars) == list(expected.data_vars)
    for name in expected.variables:
        assert found[name].dtype == expected[name].dtype, name


def everything(ids, dtypes=DTYPES):
    rng = np.random.default_rng(0)
    data = {}
    attrs = {"layer": "x", "module": "", "pass_num": 1, "flag": True, "none": None}
    for i, dtype in enumerate(dtypes):
        data[f"a.b_{i}:1"] = (
            ("stimulus", f"channel_{i + 1}"),
            (rng.normal(size=(3, i + 1)) * 9).astype(dtype),
            attrs,
        )
        data[f"a.b_{i}:2"] = (("time_2", "stimulus"), (rng.normal(size=(2, 3)) * 9).astype(dtype))
        data[f"item_{i}"] = ((), np.asarray(rng.normal() * 9).astype(dtype))
    data |= {
        "T_1": (("dim0_2",), np.ones(2)),
        "t_1": (("dim0_2",), np.zeros(2)),
        "a/b": ((), np.float32(np.nan)),
        "nothing_1": (("stimulus", "y_0"), np.zeros((3, 0), np.float32)),
        "con": ("stimulus", np.array([1.0, np.nan, np.inf])),
        "x" * 300: ((), 1),
    }
    coords = {}
    if ids is not None:
        coords = {
            "stimulus": np.asarray(ids), "cat: x/y": ("stimulus", ["u", "v", "w"]), "run": 5,
            "when": np.datetime64("2020-01-01", "ns"), "dim0_2": ["p", "q"],
        }  # fmt: skip
    attrs = {"model": "M", "stopped": True, "seconds": 0.5, "seed": 2**63 + 1}
    return xr.Dataset(data, coords, attrs)


def big_enough():
    values = np.random.default_rng(0).normal(size=(50, 4, 500)).astype(np.float32)
    return xr.Dataset(
        {
            "relu_1": (("stimulus", "channel_4", "x_500"), values),
            "gt_1": ("stimulus", values[:, 0, 0] > 0),
        },
        {"stimulus": np.arange(50)},
    )


def part_of(read_back):
    return read_back.activations.load() if isinstance(read_back, tuple) else read_back
