"""How near values must be, and which of their axes have stimuli."""

import pytest
import torch
import xarray as xr

import lensframe_pd as lf
from lensframe_pd.capture.state import Origin
from lensframe_pd.tape.passes import passes
from lensframe_pd.validation.along import Along, Fit, Together, is_stimuli, picked, stimulus_axes
from lensframe_pd.validation.evidence import evidence

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")


def along(value, dims=("stimulus", "x")):
    """A saved value of a trace, said to be `value` along `dims`."""
    trace = lf.trace(lambda x: x * 1, value)
    array = trace.activations["mul_1"]
    said = xr.Dataset({"mul_1": (dims, array.to_numpy(), array.attrs)})
    origin = Origin(None, (), {}, torch.get_rng_state())
    return Along(evidence(trace.layers, said, origin), trace.tape, passes(trace.tape))


@pytest.mark.parametrize(
    ("off", "near"),
    [
        ([0, 0], True), ([0, 9e-3], True), ([0, 1.2e-2], False), ([9e-4, 0], True),
        ([1.2e-3, 0], False), ([-9e-4, -9e-3], True), ([float("nan"), 0], False),
        ([float("inf"), 0], False),
    ],
)  # fmt: skip
def test_near_is_a_part_of_the_value_and_of_the_largest(off, near):
    """1e-4 of 100 and 1e-5 of the largest, 100: 1.1e-2; of an entry that is 0: 1e-3."""
    value = torch.tensor([[0.0, 100.0], [1.0, -100.0]])
    values = along(value)
    (row,) = values.axes
    moved = value.clone()
    moved[0] += torch.tensor(off)
    assert values.close(row, moved, value) is near


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_are_compared_exactly(dtype):
    value = (torch.arange(8).view(4, 2) * 25).to(dtype)
    values = along(value) if dtype is not torch.bool else along(value.byte())
    (row,) = values.axes
    value = values.of(row)
    moved = value.clone()
    assert values.close(row, moved, value)
    moved[3, 1] += 1
    assert not values.close(row, moved, value)


def test_what_is_no_number_is_like_itself():
    value = torch.tensor([[float("nan"), float("inf")], [1.0, -float("inf")]])
    values = along(value)
    (row,) = values.axes
    assert values.close(row, value.clone(), value)
    assert not values.close(row, value.nan_to_num(0), value)


@pytest.mark.parametrize(("dtype", "off", "near"), [
    (torch.bfloat16, 1e-2, True), (torch.bfloat16, 0.2, False), (torch.float32, 1e-2, False),
])  # fmt: skip
def test_what_was_rounded_coarsely_is_compared_so(dtype, off, near):
    value = torch.ones(4, 2, dtype=dtype)
    values = along(value)
    (row,) = values.axes
    assert values.close(row, value + off, values.of(row)) is near


def test_axes():
    assert [*map(is_stimuli, ["stimulus", "stimulus_", "stimulus_4", "x", 3])] == [
        True, True, False, False, False,
    ]  # fmt: skip
    assert stimulus_axes(("x_2", "stimulus", "stimulus_")) == [1, 2]
    values = along(torch.ones(3, 3, 3), ("stimulus", "a", "b"))
    (row,) = values.axes
    assert values.n == 3
    assert values.more_axes(row) == [[0, 1], [0, 2], [0, 1, 2]]


def test_entries_along_several_axes():
    value = torch.arange(9).view(3, 3)
    assert picked(value, [0, 1], [2, 0]).tolist() == [[8, 6], [2, 0]]
    assert picked(value, [1], [1]).tolist() == [[1], [4], [7]]


@pytest.mark.parametrize("wrong", [None, 0, 3])
@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_values_compared_together_are_looked_at_one_by_one_where_one_is_not_as_expected(
    wrong, at_once, monkeypatch
):
    monkeypatch.setattr("lensframe_pd.validation.along._AT_ONCE", at_once)
    x = torch.linspace(0, 1, 12).reshape(3, 4)
    trace = lf.trace(lambda x: [x * k for k in range(1, 6)], x, stimulus=list("abc"))
    values = Along(
        evidence(trace.layers, trace.activations, trace._origin), trace.tape, passes(trace.tape)
    )
    looked = []
    order = [1, 2, 0]
    together = Together(values, order, lambda row, value: looked.append(row))
    rows = [*values.axes]
    for k, row in enumerate(rows):
        value = values.of(row)[order].clone()
        if k == wrong:
            value[1, 1] += 1e-6
        assert together.takes(row, value)
    together.settle()
    assert (wrong is None) == (not looked)
    assert wrong is None or rows[wrong] in looked
    assert not together.takes(rows[0], values.of(rows[0]).double())
    assert not together.takes(rows[0], values.of(rows[0])[:2])


@pytest.mark.parametrize("size", [3, 5000])
@pytest.mark.parametrize("dims", [("stimulus", "x"), ("x", "stimulus")])
def test_how_well_a_value_follows_at_some_places(size, dims):
    axis = dims.index("stimulus")
    value = torch.randn(4, size, generator=torch.Generator().manual_seed(0))
    values = along(value.movedim(0, axis).contiguous(), dims)
    (row,) = values.axes
    order, places = [1, 2, 3, 0], [0, 2]
    now = value[order]
    now[[1, 3]] = 9

    def fit(now, *places):
        return values.following(order, *places)(row, now.movedim(0, axis))

    assert fit(now, places) is Fit.EXACT
    assert fit(now) is Fit.NONE
    now[0, 0] += 1e-7
    assert fit(now, places) is Fit.CLOSE
    now[2, -1] += 1e-2
    assert fit(now, places) is Fit.NONE
