"""The table of parameters, against rows written by hand."""

import math

import pandas as pd
import pytest

import lensframe_pd as lf
from lensframe_pd.graph.parameters import counted_once, parameters

ROWS = pd.DataFrame(
    {
        "params": [(), ("a.weight", "a.b"), ("a.weight",), ["a.weight", "n"], ("w", "w"), ()],
        "param_args": [(), ("weight", "bias"), ("mat2",), ["weight", "bias"], ("x", "mat2"), ()],
        "param_shapes": [(), ((4, 3), (4,)), ((4, 3),), [[4, 3], [5]], ((2, 2), (2, 2)), ()],
        "n_params": [0, 16, 12, 17, 4, 0],
        "params_nbytes": [0, 64, 48, 58, 8, 0],
        "n_trainable": [0, 16, 12, 12, 0, 0],
    },
    index=pd.Index(["input_1", "linear_1", "matmul_1", "addmm_1", "matmul_2", "relu_1"], name="op"),
)  # fmt: skip
DTYPES = [(), ("float32",) * 2, ("float32",), ("float32", "bfloat16"), ("bfloat16",) * 2, ()]


def test_a_row_for_each_parameter_of_each_row():
    table = parameters(ROWS.assign(param_dtypes=DTYPES))
    assert table.drop(columns="shape").reset_index().values.tolist() == [
        ["linear_1", 1, "a.weight", "weight", 12, 48, 12],
        ["linear_1", 1, "a.b", "bias", 4, 16, 4],
        ["matmul_1", 2, "a.weight", "mat2", 12, 48, 12],
        ["addmm_1", 3, "a.weight", "weight", 12, 48, 12 * 12 / 17],
        ["addmm_1", 3, "n", "bias", 5, 10, 5 * 12 / 17],
        ["matmul_2", 4, "w", "x", 4, 8, 0],
        ["matmul_2", 4, "w", "mat2", 4, 8, 0],
    ]
    assert table["shape"].tolist() == [(4, 3), (4,), (4, 3), (4, 3), (5,), (2, 2), (2, 2)]


def test_bytes_are_shared_out_where_the_types_are_not_known():
    assert parameters(ROWS).loc["addmm_1", "nbytes"].tolist() == [12 * 58 / 17, 5 * 58 / 17]
    some = [*DTYPES[:3], (), *DTYPES[4:]]  # a row from an older file among others
    assert parameters(ROWS.assign(param_dtypes=some))["nbytes"].sum() == 48 + 16 + 48 + 58 + 8 + 8


def test_what_the_frame_does_not_say_is_empty():
    table = parameters(ROWS[["params", "param_shapes"]])
    assert table["numel"].tolist() == [12, 4, 12, 12, 5, 4, 4]
    assert set(table["arg"]) == {""}
    assert table[["nbytes", "trainable"]].isna().all(axis=None)
    with pytest.raises(lf.LensKeyError, match="draw needs column 'param_shapes'"):
        parameters(ROWS[["params"]], "draw")
    assert parameters(ROWS.iloc[:0]).dtypes.equals(parameters(ROWS).dtypes)


def test_a_parameter_counts_once_in_each_group():
    table = parameters(ROWS.assign(param_dtypes=DTYPES))
    groups = table.assign(group=table["row"].map({1: "x", 2: "x", 3: "y", 4: "y"}))
    assert counted_once(groups, "group").reset_index().values.tolist() == [
        ["x", 16, 64, 16],
        ["y", 21, 48 + 10 + 8, 12],
    ]
    assert counted_once(table.iloc[:0].assign(group="x"), "group").empty


def test_of_a_trace_they_come_to_what_the_model_has(recurrent):
    table = parameters(recurrent).drop_duplicates("name")
    assert table["numel"].sum() == 3 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2
    assert table["nbytes"].sum() == 4 * table["numel"].sum() == 4 * table["trainable"].sum()
    assert not math.isnan(table["nbytes"].sum())
