"""Runs with the stimuli in another order: what is looked at, and what cannot be compared."""

import pytest
import torch

import lensframe_pd as lf
from lensframe_pd.capture.state import Origin
from lensframe_pd.validation.evidence import evidence
from lensframe_pd.validation.retraced import Another, retraced

X = torch.arange(4.0)[:, None] + 1


def looked_at(function, order, *ops, x=X):
    """The values of these rows with the stimuli in this order."""
    trace = lf.trace(function, x)
    labels = [*trace.layers.index]
    origin = Origin(function, (x,), {}, torch.get_rng_state())
    given = evidence(trace.layers, trace.activations, origin, trace.tape)
    seen = {}
    with retraced(given, trace.tape, len(x)) as runs:
        runs.run(
            order, [labels.index(op) for op in ops],
            lambda row, value: seen.__setitem__(labels[row], value.flatten().tolist()),
        )  # fmt: skip
    return seen


def test_rows_are_looked_at_as_they_are_made():
    def function(x):
        y = x * 2
        y.add_(1)
        return y

    found = looked_at(function, [3, 2, 2, 0], "mul_1", "add_1")
    assert found == {"mul_1": [8, 6, 6, 2], "add_1": [9, 7, 7, 3]}
    assert X.flatten().tolist() == [1, 2, 3, 4]


def test_it_ends_after_the_last_row_that_is_asked_for():
    calls = []

    def function(x):
        y = x * 2
        calls.append("after")
        return y + 1

    looked_at(function, [1, 0, 2, 3], "mul_1")
    assert calls == ["after"]  # of the trace itself


def branch(x):
    return (x * 2 if bool(x[0] > 1) else x + 2) - 1


def shorter(x):
    for _ in range(int(x[0])):
        x = x / 2
    return x


def failing(x):
    if bool(x[0] > 1):
        raise KeyError("first")
    return x * 2


@pytest.mark.parametrize(
    ("function", "op", "reason"),
    [
        (branch, "sub_1", "labels differ: row 3 is by mul and was by add"),
        (lambda x: shorter(x.flip(0)), "output_1", "labels differ"),
        (failing, "mul_1", "the model fails: KeyError: 'first'"),
    ],
)
def test_runs_that_go_another_way(function, op, reason):
    with pytest.raises(Another, match=reason):
        looked_at(function, [1, 2, 3, 0], op)
    assert X.flatten().tolist() == [1, 2, 3, 4]


def test_arguments_without_stimuli():
    trace = lf.trace(lambda x: x * 2, X)
    origin = Origin(torch.relu, (X[:3],), {}, torch.get_rng_state())
    given = evidence(trace.layers, trace.activations, origin)
    with (
        pytest.raises(Another, match="no argument of the model has 4 entries"),
        retraced(given, trace.tape, 4),
    ):
        pass
