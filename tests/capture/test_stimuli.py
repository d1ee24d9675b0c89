"""Where the stimuli are among the arguments."""

import functools
import inspect

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import lensframe_pd as lf
from lensframe_pd.capture.stimuli import by_parameter

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


def _decorated(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def _twice(function):
    return _decorated(_decorated(function))


def _signed(function):
    wrapper = _decorated(function)
    wrapper.__signature__ = inspect.signature(lambda told, *others: None)
    return wrapper


def _plainly(function):
    return function


class _Forwards:
    def two(self, x, mask=None):
        """Takes two."""

    def rest(self, x, mask=None, **others):
        """Gathers what is named."""

    def places(self, x, *others, mask=None):
        """Gathers what has a place."""

    def only(self, x, *, mask, scale=1):
        """Has parameters that need a name."""

    def first(self, x, /, mask=None):
        """Has one that has no name."""

    def anything(*args, **kwargs):
        """Has no name for itself."""


@pytest.mark.parametrize("decorated", [_plainly, _decorated, _twice, _signed])
@pytest.mark.parametrize("name", ["two", "rest", "places", "only", "first", "anything"])
@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1,), {}),
        ((1, 2), {}),
        ((1, 2, 3), {}),
        ((), {"x": 1}),
        ((), {"mask": 2, "x": 1}),
        ((1,), {"mask": 2}),
        ((1,), {"scale": 3, "mask": 2}),
        ((1,), {"x": 2}),
        ((1,), {"other": 2}),
    ],
)
def test_arguments_go_to_the_parameters_that_python_says(decorated, name, bound, args, kwargs):
    holder = type("_Holder", (), {name: decorated(getattr(_Forwards, name))})
    function = getattr(holder(), name) if bound else getattr(holder, name)
    given = by_parameter(function, args, kwargs)
    try:
        expected = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:  # the model's own error will say it
        assert sorted(given.values()) == sorted([*args, *kwargs.values()])
    else:
        assert [*given.items()] == [*expected.items()]


def test_a_decorator_that_wraps_itself_is_no_endless_loop():
    def forward(x):
        return x

    forward.__wrapped__ = forward
    assert by_parameter(forward, (1,), {}) == {"0": 1}
