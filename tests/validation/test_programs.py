"""Honest programs pass, nothing of theirs is changed, and validation survives them."""

import itertools
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import lensframe_pd as lf

from ..capture.test_programs import Program, inputs, programs
from .programs import PROGRAMS, Bare, program


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of prototypes; ours, of constants
        yield


def seen(value):
    """All that an object holds as text, by ways of its own: bits of numbers, shapes, order."""
    if isinstance(value, torch.Tensor):
        parts = vars(value).values() if value.is_nested or isinstance(value, Bare) else ()
        if parts or value.is_meta or value.is_nested:
            return type(value).__name__, [seen(t) for t in parts if isinstance(t, torch.Tensor)]
        if value.layout is torch.sparse_coo:
            return value.to_dense().tolist()
        numbers = value.detach().resolve_conj().resolve_neg().clone()
        bits = numbers.numpy().tobytes()
        return tuple(value.shape), value.dtype, value.stride(), bits, seen(vars(value))
    if isinstance(value, dict):
        return [seen([key, v]) for key, v in value.items()]
    if isinstance(value, list | tuple):
        return [seen(v) for v in value]
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
        hooks = [name for name in vars(value) if "hook" in name]
        return seen({name: v for name, v in vars(value).items() if name not in hooks})
    if hasattr(value, "bit_generator"):
        return str(value.bit_generator.state)
    return "code" if callable(value) else repr(value)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_honest_program_passes_and_nothing_is_changed(name):
    torch.manual_seed(0)
    model, args = PROGRAMS[name]()
    trace = lf.trace(model.eval(), args)
    before = seen([model, args])
    report = trace.validate(downstream="all", raise_on_failure=True)
    assert list(report.index) == list(trace.layers.index)
    assert seen([model, args]) == before


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_frame_is_judged_with_the_model_as_it_was(name):
    torch.manual_seed(0)
    layers, activations = lf.trace(*eval_of(PROGRAMS[name]))
    torch.manual_seed(0)
    model, args = eval_of(PROGRAMS[name])
    before = seen([model, args])
    layers.lens.validate(model, args, activations=activations, raise_on_failure=True)
    assert seen([model, args]) == before


@pytest.mark.parametrize("name", PROGRAMS)
def test_repeats_survive_and_leave_what_one_run_leaves(name):
    torch.manual_seed(0)
    once, args = eval_of(PROGRAMS[name])
    lf.trace(once, args)
    torch.manual_seed(0)
    model, repeated = eval_of(PROGRAMS[name])
    lf.trace(model, repeated, repeats=2)
    assert seen([model, repeated]) == seen([once, args])


def eval_of(make):
    model, args = make()
    return model.eval(), args


def numbers():
    yield from itertools.count(1)


UNCOPYABLE = {
    "generator": (lambda m, x: x * next(m.it), numbers),
    "in a list": (lambda m, x: x * next(m.it[0]), lambda: [numbers()]),
    "in a tuple": (lambda m, x: x * next(m.it[0]), lambda: (itertools.count(1),)),
    "below a map": (lambda m, x: x * next(m.it), lambda: map(float, numbers())),
}


@pytest.mark.parametrize("kind", UNCOPYABLE)
def test_a_model_that_cannot_be_put_back_is_not_run_again(kind):
    forward, make = UNCOPYABLE[kind]
    model, args = eval_of(program(forward, torch.ones(3), it=make))
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    trace = lf.trace(model, args)
    report = trace.validate()
    assert report["passed"].all()
    assert (report["completeness"].astype(str).str.startswith("not run: 'it")).all()
    assert report.attrs["completeness_not_run"] == len(report)
    assert report.attrs["interference_not_run"] == 1
    assert report.attrs["completeness_checked"] == report.attrs["interference_checked"] == 0
    assert report["replay"].dropna().all()
    assert report.attrs["replay_checked"]
    report = trace.layers.lens.validate(model, args, activations=trace.activations)
    assert report["passed"].all()
    assert report.attrs["replay_not_run"] == report.attrs["facts_not_run"] == len(report)
    assert report["replay"].str.startswith("not run: ").all()
    with pytest.raises(lf.LensValueError, match="repeats=2: 'it"):
        lf.trace(model, args, repeats=2)
    assert len(runs) == 1


@settings(
    max_examples=250, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(programs)
def test_random_programs_raise_no_false_alarm(lines):
    with torch.no_grad():
        trace = lf.trace(Program(lines), inputs())
        trace.validate(raise_on_failure=True, alignment=None)
