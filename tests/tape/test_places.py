"""Where in the program an operation is: the call site, out to the module that holds parameters."""

import functools
import itertools

import pytest
import torch
from torch import nn

from .looped import SEQUENCE, Forward, X, passes

RELU = nn.ReLU()


class Gate(nn.Module):
    """Holds no parameter, and calls another module that holds none."""

    def __init__(self):
        super().__init__()
        self.act = nn.Tanh()

    def forward(self, x):
        return self.act(x) * 2


class Unrolled(nn.Module):
    """Calls itself."""

    def forward(self, x, n):
        return x if n == 0 else self(torch.tanh(x), n - 1)


def two_lines(act, x):
    for _ in range(3):
        x = act(x)
        x = act(x + 1)
    return x


def one_expression(act, x):
    for _ in range(3):
        x = act(act(x) + 1)
    return x


def between_layers(self, x):
    for _ in range(3):
        x = self.act(self.a(x))
        x = self.act(self.b(x))
    return x


@pytest.mark.parametrize("forward", [two_lines, one_expression])
@pytest.mark.parametrize(
    ("act", "func"),
    [
        (nn.ReLU(), "relu"),
        (nn.GELU(), "gelu"),
        (nn.Sequential(nn.Sigmoid(), nn.Identity()), "sigmoid"),
        (Gate(), "tanh"),
        (torch.sin, "sin"),
    ],
)
def test_what_two_places_of_a_loop_share(forward, act, func):
    found = passes(Forward(lambda self, x: forward(act, x), act=act), X)
    assert found[func] == [3, 3]
    assert found["add"] == [3]


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Dropout(), nn.Softmax(-1)])
def test_an_activation_shared_by_two_lines_between_layers(act):
    model = Forward(between_layers, a=nn.Linear(8, 8), b=nn.Linear(8, 8), act=act)
    found = passes(model, X)
    func = type(act).__name__.lower()
    assert found == {"linear": [3, 3], func: [3, 3]}


def test_a_module_with_parameters_is_one_place_wherever_it_is_called():
    block = nn.Sequential(nn.Linear(8, 8), Gate(), nn.LayerNorm(8))

    def forward(self, x):
        x = self.block(x)
        return self.block(self.block(x) + 1)

    found = passes(Forward(forward, block=block), X)
    assert found == {"linear": [3], "tanh": [3], "mul": [3], "layer_norm": [3], "add": [1]}


def test_a_module_whose_parameters_are_those_of_another():
    first = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    tied = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    tied[0].weight, tied[0].bias = first[0].weight, first[0].bias

    def forward(self, x):
        return self.tied(self.first(x)) - self.tied(x)

    assert passes(Forward(forward, first=first, tied=tied), X) == {
        "linear": [1, 2],
        "relu": [1, 2],
        "sub": [1],
    }


def while_its_condition_holds(x):
    n = 0
    while n < 5 and x.abs().sum() > 0:
        x = x.sin()
        n += 1
    return x


def while_of_two_tensors(x):
    n = x.sum() * 0
    while (n + 1) < 6:
        x, n = x.cos(), n + 1
    return x


def until_finally(x):
    for i in range(4):
        try:
            x = torch.sin(x)
            if i % 2:
                continue
        finally:
            x = x * 2
    return x


def tried(x):
    for i in range(4):
        try:
            x = torch.sin(x)
            if i == 1:
                raise ValueError
        except ValueError:
            pass
        finally:
            x = torch.cos(x)
    return x


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (while_its_condition_holds, {"abs": [5], "sum": [5], "gt": [5], "sin": [5]}),
        (while_of_two_tensors, {"add": [6, 5], "lt": [6], "cos": [5], "sum": [1]}),
        (until_finally, {"sin": [4], "mul": [4]}),
        (tried, {"sin": [4], "cos": [4]}),
    ],
)
def test_code_that_a_compiler_writes_more_than_once(model, expected):
    found = passes(model, X)
    assert {func: found[func] for func in expected} == expected


def test_the_condition_of_a_while_runs_once_more_than_its_body():
    def forward(x):
        while x.norm() > 0.5:
            x = x * 0.7
        return x

    found = passes(forward, torch.ones(4))  # 2 * 0.7 ** 4 is 0.4802
    assert found == {"linalg_vector_norm": [5], "gt": [5], "mul": [4]}


def by_generator(x):
    def states(h):
        while True:
            h = torch.tanh(h) * 2
            yield h

    for h in itertools.islice(states(x), 4):
        x = torch.sin(h)
    return x


def by_comprehension(x):
    return torch.stack([torch.tanh(t) * 2 for t in x.unbind(0) for _ in range(2)])


def through_a_helper(t):
    return torch.tanh(t) * 2


def by_map(x):
    return list(map(through_a_helper, x.unbind(0) * 2))


def by_reduce(x):
    return functools.reduce(lambda h, t: torch.tanh(h + t) * 2, x.unbind(0) * 2, x[0])


def by_recursion(x, n=4):
    return x if n == 0 else by_recursion(torch.tanh(x) * 2, n - 1)


def by_recursion_and_back(x, n=3):
    x = torch.tanh(x) * 2
    return x if n == 0 else by_recursion_and_back(x, n - 1).sin()


def through_a_method(x):
    class Solver:
        def step(self, x):
            return torch.tanh(x) * 2

    solver = Solver()
    for _ in range(4):
        x = solver.step(x)
    return x


def by_inner_recursion(x):
    def step(x):
        return torch.tanh(x) * 2

    def go_on(x, n):
        return x if n == 0 else go_on(step(x), n - 1)

    return go_on(x, 4)


@pytest.mark.parametrize(
    "model",
    [
        by_generator,
        by_comprehension,
        by_map,
        by_reduce,
        by_recursion,
        by_recursion_and_back,
        through_a_method,
        by_inner_recursion,
    ],
)
def test_ways_to_say_a_loop(model):
    found = passes(model, X)
    assert (found["tanh"], found["mul"]) == ([4], [4])


def test_functions_that_call_each_other():
    def even(x, n):
        return x if n == 0 else odd(torch.sin(x), n - 1)

    def odd(x, n):
        return x if n == 0 else even(torch.cos(x), n - 1)

    assert passes(lambda x: even(x, 6), X) == {"sin": [3], "cos": [3]}


def test_a_module_that_calls_itself():
    model = Forward(lambda self, x: self.inner(x, 5), inner=Unrolled())
    assert passes(model, X) == {"tanh": [5]}


def test_one_decorator_around_two_functions_is_no_recursion():
    def decorated(function):
        @functools.wraps(function)
        def wrapper(*args):
            return function(*args)

        return wrapper

    @decorated
    def inner(x):
        return torch.tanh(x)

    @decorated
    def outer(x):
        x = inner(x)
        return inner(x)

    def forward(x):
        for _ in range(4):
            x = outer(x)
        return x

    assert passes(forward, X) == {"tanh": [4, 4]}


def test_a_decorated_function_that_calls_itself():
    @torch.no_grad()
    def go_on(x, n):
        return x if n == 0 else go_on(torch.tanh(x), n - 1)

    assert passes(lambda x: go_on(x, 4), X) == {"tanh": [4]}


def test_a_helper_called_at_two_lines_is_two_places():
    def helper(x):
        return torch.tanh(x) * 2

    def forward(x):
        for _ in range(3):
            x = helper(x)
            x = helper(x)
        return x

    assert passes(forward, X) == {"tanh": [3, 3], "mul": [3, 3]}


def standardised(self, x):
    return torch.relu(self.fc((x - self.mean) / self.std))


def squashed(self, x):
    return self.fc(torch.tanh(x))


def residual(self, x):
    return self.fc(x) + x


def gated(self, x):
    return torch.sigmoid(self.fc(x)) * x + torch.zeros_like(x)


@pytest.mark.parametrize(
    ("forward", "funcs"),
    [
        (standardised, ["sub", "div", "linear", "relu"]),
        (squashed, ["tanh", "linear"]),
        (residual, ["linear", "add"]),
        (gated, ["linear", "sigmoid", "mul", "zeros_like", "add"]),
    ],
)
def test_what_a_module_is_given_is_its_argument_whatever_made_it(forward, funcs):
    encoder = Forward(forward, fc=nn.Linear(8, 8))
    encoder.register_buffer("mean", torch.zeros(8))
    encoder.register_buffer("std", torch.ones(8))
    pair = Forward(lambda self, x: torch.cat([self.e(x), self.e(x * 2), self.e(x + 1)]), e=encoder)
    found = passes(pair, X)
    assert {func: found[func][0] for func in funcs if func not in ("mul", "add")} == dict.fromkeys(
        [func for func in funcs if func not in ("mul", "add")], 3
    )
    assert all(3 in found[func] for func in funcs)


def test_a_cell_called_for_every_step_of_a_sequence():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.i, self.h, self.act = nn.Linear(8, 8), nn.Linear(8, 8), nn.Tanh()

        def forward(self, x, h):
            return self.act(self.i(x) + self.h(h))

    def forward(self, x):
        h = x.new_zeros(2, 8)
        for t in range(5):
            h = self.cell(x[:, t], h)
        return h

    assert passes(Forward(forward, cell=Cell()), SEQUENCE) == {
        "new_zeros": [1],
        "getitem": [5],
        "linear": [5, 5],
        "add": [5],
        "tanh": [5],
    }
