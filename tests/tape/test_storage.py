"""What a call makes and writes, seen around it."""

import pytest
import torch

from lensframe_pd.tape.functions import describe
from lensframe_pd.tape.storage import perform, written_arguments


def performed(func, *args, **kwargs):
    function = describe(func)
    return perform(function, args, kwargs, written_arguments(args, kwargs, function))


@torch.library.custom_op("lensframe_test::fill", mutates_args=("place",))
def fill(place: torch.Tensor, other: torch.Tensor) -> None:
    place.copy_(other)


def doubled(x, really):
    """No schema says that it writes."""
    return x.mul_(2) if really else x * 2


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "n_made", "written"),
    [
        (torch.sin, ["x"], {}, 1, []),
        (torch.Tensor.add_, ["x", 1], {}, 1, ["x"]),
        (torch.Tensor.__setitem__, ["x", 0, 1.0], {}, 1, ["x"]),
        (torch.sin, ["x"], {"out": "y"}, 1, ["y"]),
        (torch.max, ["x", 0], {}, 2, []),
        (torch.ops.lensframe_test.fill.default, ["x", "y"], {}, 1, ["x"]),
        (doubled, ["x", True], {}, 1, ["x"]),
        (doubled, ["x", False], {}, 1, []),
    ],
)
def test_what_is_made_and_written(func, args, kwargs, n_made, written):
    tensors = {"x": torch.rand(3), "y": torch.rand(3)}
    args = [tensors.get(a, a) if isinstance(a, str) else a for a in args]
    kwargs = {k: tensors[v] for k, v in kwargs.items()}
    done = performed(func, *args, **kwargs)
    assert len(done.made) == n_made
    assert [id(t) for t in done.written] == [id(tensors[name]) for name in written]
    assert {id(t) for t in done.written} <= {id(t) for t in done.made}
    assert done.seconds > 0


def test_tensors_are_in_the_order_of_their_slots():
    """Those returned, then those written that are not among them; each once."""
    x, w, b = torch.rand(4, 3), torch.ones(3), torch.zeros(3)
    mean, var = torch.zeros(3), torch.ones(3)
    done = performed(torch.batch_norm, x, w, b, mean, var, True, 0.1, 1e-5, False)
    assert [id(t) for t in done.made] == [id(done.result), id(mean), id(var)]
    assert mean.abs().sum() > 0
