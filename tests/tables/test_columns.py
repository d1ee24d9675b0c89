"""Columns by what is distinct in them, against the same cells written out."""

import numpy as np
import pytest

from lensframe_pd.tables.columns import (
    Kinds,
    Sparse,
    array_of,
    cells_in,
    numbers_at,
    spread,
    told_apart,
)

CELLS = {
    "func": ["relu", "add", "relu", "linear"],
    "n_params": [3, 0, 3, 20],
    "random": [False, True, False, False],
    "parents": [("a", "b"), (), ("a", "b"), ("c",)],
}


@pytest.mark.parametrize("times", [1, 100], ids=["few", "many"])
@pytest.mark.parametrize("name", CELLS)
def test_what_comes_again_is_spread(name, times):
    cells = CELLS[name] * times
    distinct, which = told_apart(cells)
    assert len(distinct) == len({*cells})
    column = Kinds(distinct, which)
    assert [*array_of(name, column)] == [*array_of(name, cells)] == cells
    assert array_of(name, column).dtype == array_of(name, cells).dtype
    assert cells_in(name, column) == cells
    assert {*map(type, cells_in(name, column))} == {type(cells[0])}


@pytest.mark.parametrize("name", CELLS)
def test_calls_that_made_several_rows_are_spread(name):
    calls = np.array([0, 0, 1, 3])
    expected = [CELLS[name][call] for call in calls]
    for column in (CELLS[name], Kinds(*told_apart(CELLS[name]))):
        assert cells_in(name, spread(column, calls)) == expected


@pytest.mark.parametrize("n", [5, 500])
def test_most_cells_are_alike(n):
    others = {0: "input", n - 1: "output"}
    expected = ["input", *["op"] * (n - 2), "output"]
    assert [*array_of("kind", Sparse("op", others, n))] == expected
    assert cells_in("kind", Sparse("op", others, n)) == expected
    assert numbers_at([1, 2], 4, [7, 8]).tolist() == [0, 7, 8, 0]
