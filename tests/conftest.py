"""What all tests share: no network, fixed seeds, and a trace compared with a plain run."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of processes that tests begin

import copy
from collections.abc import Mapping

import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils._pytree import tree_leaves

import lensframe_pd as lf

# Small arrays are worked on no faster by several threads, and much slower where others work, too.
threadpool_limits(1)
torch.set_num_threads(1)

pytest.register_assert_rewrite("stored", "tests.draw.drawn")  # they assert, and are no tests


@pytest.fixture(autouse=True)
def _seeded():
    # torch.manual_seed would note, for each kind of device that is not there, the stack.
    torch.default_generator.manual_seed(0)


@pytest.fixture
def several_threads():
    """As torch runs by itself where there are several cores; sums round by their number."""
    torch.set_num_threads(max(2, os.cpu_count() or 1))
    yield
    torch.set_num_threads(1)


@pytest.fixture
def traced():
    """`lf.trace`, after comparing output, generator and model state with those of a plain run."""

    def run(model, args=(), kwargs=None, exact=True, **options):
        plain, same_args, same_kwargs = copy.deepcopy((model, args, kwargs or {}))
        if not isinstance(model, nn.Module):
            plain = model
        torch.default_generator.manual_seed(1)
        if type(same_args) is tuple:
            expected = plain(*same_args, **same_kwargs)
        elif isinstance(same_args, Mapping):
            expected = plain(**same_args, **same_kwargs)
        else:
            expected = plain(same_args, **same_kwargs)
        generator = torch.get_rng_state()
        torch.default_generator.manual_seed(1)
        trace = lf.trace(model, args, kwargs, **options)
        assert torch.equal(torch.get_rng_state(), generator), "consumed other random numbers"
        assert type(trace.output) is type(expected)
        for got, want in zip(tree_leaves(trace.output), tree_leaves(expected), strict=True):
            if isinstance(want, torch.Tensor) and not exact:
                torch.testing.assert_close(got, want)
            elif isinstance(want, torch.Tensor):
                assert same(got, want)
        if isinstance(model, nn.Module):
            after = plain.state_dict()
            assert all(same(v, after[k]) for k, v in model.state_dict().items())
        return trace

    return run


def same(a, b):
    """Bit for bit, NaN equal to NaN."""
    try:
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    except AssertionError:
        return False
    return True


@pytest.fixture
def value():
    """The saved value of a row as a tensor."""
    return lambda trace, label: torch.from_numpy(trace.activations[label].values.copy())


@pytest.fixture
def edges():
    """The graph as a dict, label to parents, without inputs and outputs."""

    def of(trace):
        rows = trace.layers[~trace.layers["kind"].isin(["input", "output"])]
        return dict(zip(rows.index, rows["parents"], strict=True))

    return of
