"""Loops: their first passes, their restarts, and where they are cut in two."""

import pytest
import torch
from torch import nn

import lensframe_pd as lf
from lensframe_pd.tape.grouping import Grouping
from lensframe_pd.tape.passes import passes as grouped

from .looped import SEQUENCE, Forward, X, linears, passes

FC, GATE = nn.Linear(8, 8), nn.Linear(8, 8)
STACK = linears(4)
XY, XYZ = (X, X + 1), (X, X + 1, X + 2)


def compare(model, args, expected):
    """Of the functions that are expected, the passes of every layer."""
    found = passes(model, args)
    assert {func: found.get(func) for func in expected} == expected


def swapped(x, p):
    for _ in range(5):
        x, p = torch.sin(x) + torch.cos(p), x
    return x


def two_back(x, y):
    hs = [x, y]
    for _ in range(6):
        hs.append(torch.tanh(hs[-1] + hs[-2]))
    return hs[-1]


def two_back_at_once(x, y):
    for _ in range(6):
        x, y = y, x + y
    return y


def three_back(x, y, z):
    hs = [x, y, z]
    for _ in range(6):
        hs.append(torch.tanh(hs[-1] * hs[-2] - hs[-3]))
    return hs[-1]


def three_back_barely(x, y, z):
    hs = [x, y, z]
    for _ in range(4):
        hs.append(torch.tanh(hs[-1] * hs[-2] - hs[-3]))
    return hs[-1]


def ten_back(x):
    hs = [x * i for i in range(10)]
    for _ in range(15):
        hs.append(torch.tanh(hs[-10]))
    return hs[-1]


def difference_to_the_last(x):
    z, steps = torch.zeros_like(x), []
    for _ in range(6):
        z1 = torch.relu(FC(z))
        steps.append((z1 - z).square().sum())
        z = z1
    return z, steps


def momentum(x):
    w, v = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(5):
        v = v * 0.9 + torch.tanh(w - x)
        w = w - v / 10
    return w


def adam(x):
    w, m, v = torch.zeros_like(x), 0, 0
    for _ in range(5):
        g = torch.tanh(w - x)
        m = torch.add(g, m)
        v = torch.add(g.square(), v)
        w = w - m / v.sqrt()
    return w


def no_state_at_first(x):
    h = 0
    for t in range(5):
        h = torch.tanh(FC(x[:, t]) + h)
    return h


def none_at_first(x):
    h = None
    for t in range(5):
        z = FC(x[:, t])
        h = torch.tanh(z if h is None else z + h)
    return h


def number_two_back(x):
    a, b = 0.0, x
    for _ in range(5):
        a, b = b, torch.tanh(a + b)
    return b


def summed_map(x):
    return sum(map(FC, x.unbind(1)))


def summed_sines(x):
    return sum(torch.sin(x[:, t]) for t in range(4))


def sums_of_all_before(x):
    hs = [x]
    for _ in range(4):
        hs.append(FC(sum(hs)))
    return hs[-1]


def mean_of_all_before(x):
    hs = [x]
    for _ in range(5):
        hs.append(torch.tanh(torch.stack(hs).mean(0)))
    return hs[-1]


def from_three(x, y, z):
    hs = [x, y, z]
    for _ in range(5):
        hs.append(torch.cat(hs).sin()[:2])
    return hs[-1]


def window_of_three(x):
    hs = [x]
    for _ in range(7):
        hs.append(torch.tanh(torch.stack(hs[-3:]).mean(0)))
    return hs[-1]


def two_appended(x):
    hs = [x]
    for _ in range(4):
        mean = torch.stack(hs).mean(0)
        hs += [torch.tanh(mean), torch.sin(mean)]
    return hs[-1]


def attention_over_all_before(x):
    hs = [x]
    for _ in range(4):
        keys = torch.stack(hs, 1)
        weights = torch.softmax((keys * FC(hs[-1])[:, None]).sum(-1), -1)
        hs.append(torch.tanh((weights[..., None] * keys).sum(1)))
    return hs[-1]


def clock(x):
    t = torch.tensor(0.0)
    for _ in range(5):
        x = x * t.sin()
        t = t + 0.1
    return x


def messages(x):
    source, target = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    for _ in range(3):
        message = FC(x[source])
        gathered = torch.zeros_like(x).index_add(0, target, message)
        x = torch.relu(gathered + x)
    return x


def gru(x):
    h = torch.zeros(2, 8)
    for t in range(5):
        z = torch.sigmoid(FC(x[:, t]) + GATE(h))
        h = (1 - z) * torch.tanh(x[:, t] * h) + z * h
    return h


@pytest.mark.parametrize(
    ("model", "args", "expected"),
    [
        (swapped, XY, {"sin": [5], "cos": [5], "add": [5]}),
        (two_back, XY, {"add": [6], "tanh": [6]}),
        (two_back_at_once, XY, {"add": [6]}),
        (three_back, XYZ, {"mul": [6], "sub": [6], "tanh": [6]}),
        (three_back_barely, XYZ, {"mul": [4], "sub": [4], "tanh": [4]}),
        (ten_back, X, {"mul": [10], "tanh": [15]}),
        (difference_to_the_last, X, {"relu": [6], "sub": [6], "square": [6], "sum": [6]}),
        (momentum, X, {"mul": [5], "add": [5], "tanh": [5], "div": [5], "sub": [5, 5]}),
        (adam, X, {"sub": [5, 5], "tanh": [5], "add": [5, 5], "square": [5], "sqrt": [5]}),
        (no_state_at_first, SEQUENCE, {"linear": [5], "add": [5], "tanh": [5]}),
        (none_at_first, SEQUENCE, {"linear": [5], "add": [4], "tanh": [5]}),
        (number_two_back, X, {"add": [5], "tanh": [5]}),
        (summed_map, SEQUENCE, {"linear": [5], "add": [5]}),
        (summed_sines, SEQUENCE, {"sin": [4], "add": [4]}),
        (sums_of_all_before, X, {"add": [10], "linear": [4]}),
        (mean_of_all_before, X, {"stack": [5], "mean": [5], "tanh": [5]}),
        (from_three, XYZ, {"cat": [5], "sin": [5], "getitem": [5]}),
        (window_of_three, X, {"stack": [7], "mean": [7], "tanh": [7]}),
        (two_appended, X, {"stack": [4], "mean": [4], "tanh": [4], "sin": [4]}),
        (
            attention_over_all_before,
            X,
            {"stack": [4], "softmax": [4], "mul": [4, 4], "sum": [4, 4], "tanh": [4]},
        ),
        (clock, X, {"sin": [5], "mul": [5], "add": [5]}),
        (messages, X, {"getitem": [3], "index_add": [3], "add": [3], "relu": [3]}),
        (gru, SEQUENCE, {"sigmoid": [5], "mul": [5, 5, 5], "add": [5, 5]}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_first_passes(model, args, expected):
    compare(model, args, expected)


def fresh(x):
    found = []
    for _ in range(3):
        h = torch.zeros_like(x)
        for _ in range(4):
            h = torch.tanh(x + h)
        found.append(h)
    return torch.stack(found)


def fresh_twice_each(x):
    found = []
    for _ in range(3):
        h = torch.zeros_like(x)
        for _ in range(2):
            h = torch.tanh(x + h)
        found.append(h)
    return torch.stack(found)


def fresh_at_unequal_lengths(x):
    found = []
    for n in (3, 1, 1, 2):
        h = torch.zeros_like(x)
        for _ in range(n):
            h = torch.tanh(x + h)
        found.append(h)
    return torch.stack(found)


def fresh_from_different_inputs(x, y, z):
    found = []
    for h in (y, z):
        for _ in range(4):
            h = torch.tanh(x + h)
        found.append(h)
    return torch.stack(found)


def fresh_two_back(x, y):
    found = []
    for _ in range(3):
        hs = [x, y]
        for _ in range(5):
            hs.append(torch.tanh(hs[-1] + hs[-2]))
        found.append(hs[-1])
    return torch.stack(found)


def fresh_from_the_sequence(x):
    found = []
    for t in range(5):
        h = x[:, t]
        for _ in range(3):
            h = torch.sin(h) * 2
        found.append(h)
    return torch.stack(found)


def fresh_from_a_number(x):
    found = []
    for t in range(3):
        h = 0.0
        for _ in range(4):
            h = torch.tanh(x[:, t] + h)
        found.append(h)
    return torch.stack(found)


def started_from_the_loop_itself(x):
    for _ in range(3):
        for _ in range(3):
            x = torch.sin(x)
        x = torch.cos(x)
    return x


def started_from_the_loop_before(x):
    for _ in range(3):
        x = torch.cos(x)
        for _ in range(4):
            x = torch.sin(x)
    return x


@pytest.mark.parametrize(
    ("model", "args", "expected"),
    [
        (fresh, X, {"zeros_like": [3], "add": [12], "tanh": [12]}),
        (fresh_twice_each, X, {"add": [6], "tanh": [6]}),
        (fresh_at_unequal_lengths, X, {"add": [7], "tanh": [7]}),
        (fresh_from_different_inputs, XYZ, {"add": [8], "tanh": [8]}),
        (fresh_two_back, XY, {"add": [15], "tanh": [15]}),
        (fresh_from_the_sequence, SEQUENCE, {"getitem": [5], "sin": [15], "mul": [15]}),
        (fresh_from_a_number, SEQUENCE, {"add": [12], "tanh": [12]}),
        # each pass of the inner loop is a place of the outer one
        (started_from_the_loop_itself, X, {"sin": [3, 3, 3], "cos": [3]}),
        (started_from_the_loop_before, X, {"sin": [3, 3, 3, 3], "cos": [3]}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_loops_entered_again(model, args, expected):
    compare(model, args, expected)


@pytest.mark.parametrize("learned", [False, True])
def test_a_module_with_a_loop_called_again(learned):
    def forward(self, x):
        h = self.start if learned else x.new_zeros(8)
        for t in range(x.shape[1]):
            h = torch.tanh(self.fc(x[:, t]) + h)
        return h

    rnn = Forward(forward, fc=nn.Linear(8, 8), start=nn.Parameter(torch.zeros(8)))
    pair = Forward(lambda self, x: self.rnn(x) - self.rnn(x * 2), rnn=rnn)
    compare(pair, SEQUENCE, {"linear": [10], "add": [10], "tanh": [10], "sub": [1]})


def cut_once(x):
    for i in range(10):
        if i == 4:
            x = x.abs()
        x = torch.sin(x) * 2
    return x


def cut_early(x):
    for i in range(3):
        if i == 1:
            x = x.abs()
        x = torch.sin(x)
    return x


def cut_late(x):
    for i in range(6):
        if i == 5:
            x = x.abs()
        x = torch.sin(x)
    return x


def cut_by_two_operations(x):
    for i in range(10):
        if i == 3:
            x = x.abs()
        if i == 7:
            x = x.exp()
        x = torch.sin(x)
        x = x * 2
    return x


def cut_two_back(x, y):
    hs = [x, y]
    for i in range(10):
        if i == 5:
            hs[-1] = hs[-1].abs()
        hs.append(torch.tanh(hs[-1] + hs[-2]))
    return hs[-1]


def cut_in_each_run(x):
    found = []
    for h in (x, x + 1, x * 2):
        for i in range(6):
            if i == 3:
                h = h.abs()
            h = torch.sin(h)
        found.append(h)
    return torch.stack(found)


def cut_where_nothing_follows(x):
    for i in range(5):
        y = torch.relu(FC(x))
        if i == 2:
            y = y.abs()
        x = y * 2
    return x


def one_layer_then_another(x):
    for i in range(5):
        x = torch.sin(FC(x) if i < 2 else GATE(x))
    return x


def one_layer_then_another_side_by_side(x):
    return [torch.sin(FC(x) if i < 2 else GATE(x)) for i in range(5)]


def one_of_several(x):
    functions = [torch.sin, torch.cos, torch.tanh, torch.abs]
    for k in [0, 1, 2, 2, 1, 0, 1, 0, 3, 1, 0, 1, 0, 1, 2, 1, 1, 2, 0, 1]:
        x = functions[k](x) * 0.5
    return x


def test_a_loop_whose_last_row_begins_another_has_nothing_after_it():
    layers = lf.trace(one_of_several, X).layers
    counted = layers["func"].value_counts()
    assert counted[["mul", "cos", "sin", "tanh", "abs"]].tolist() == [20, 9, 6, 4, 1]
    assert layers.index.is_unique


@pytest.mark.parametrize(
    ("model", "args", "expected"),
    [
        (cut_once, X, {"sin": [4, 6], "mul": [4, 6], "abs": [1]}),
        (cut_early, X, {"sin": [1, 2], "abs": [1]}),
        (cut_late, X, {"sin": [5, 1], "abs": [1]}),
        (cut_by_two_operations, X, {"sin": [3, 4, 3], "mul": [3, 4, 3]}),
        (cut_two_back, XY, {"add": [5, 5], "tanh": [5, 5], "abs": [1]}),
        (cut_in_each_run, X, {"sin": [9, 9], "abs": [3]}),
        # the layer with parameters is one all the same, and so is what reads it
        (cut_where_nothing_follows, X, {"relu": [5], "mul": [4, 1], "abs": [1]}),
        (one_layer_then_another, X, {"linear": [2, 3], "sin": [2, 3]}),
        (one_layer_then_another_side_by_side, X, {"linear": [2, 3], "sin": [2, 3]}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_loops_cut_in_two(model, args, expected):
    compare(model, args, expected)


def views(x):
    found = []
    for view in (x, x + 1, x * 2):
        for layer in STACK:
            view = torch.relu(layer(view))
        found.append(view)
    return torch.stack(found)


def in_lockstep(x):
    a, b = x, x + 1
    for layer in STACK:
        a, b = torch.sin(layer(a)), torch.cos(layer(b))
    return a + b


def differences_of_views(x, y):
    found = []
    for view in (x, y):
        for layer in STACK:
            after = layer(view)
            found.append(after - view)
            view = after
    return found


@pytest.mark.parametrize(
    ("model", "args", "expected"),
    [
        (views, X, {"linear": [3] * 4, "relu": [3] * 4}),
        (in_lockstep, X, {"linear": [2] * 4, "sin": [1] * 4, "cos": [1] * 4}),
        # the first layer's read different inputs
        (differences_of_views, XY, {"linear": [2] * 4, "sub": [1, 2, 2, 2, 1]}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_layers_used_several_times_are_no_loop_over_the_layers(model, args, expected):
    compare(model, args, expected)


def first_order(n):
    def forward(x):
        for _ in range(n):
            x = torch.tanh(x) * 2
        return x

    return forward, (X,)


def third_order(n):
    def forward(x, y, z):
        hs = [x, y, z]
        for _ in range(n):
            hs.append(torch.tanh(hs[-1] * hs[-2] - hs[-3]))
        return hs[-1]

    return forward, XYZ


def cut_in_the_middle(n):
    def forward(x):
        for i in range(n):
            if i == n // 2:
                x = x.abs()
            x = torch.sin(x) * 2
        return x

    return forward, (X,)


def cut_all_the_time(n):
    factors = [torch.ones(8) for _ in range(n // 10)]

    def forward(x, *factors):
        for i in range(n):
            if i % 10 == 5:
                x = x * factors[i // 10]
            x = torch.sin(x)
        return x

    return forward, (X, *factors)


def fresh_starts(n):
    starts = [torch.ones(8) for _ in range(n // 10)]

    def forward(*starts):
        found = []
        for h in starts:
            for _ in range(10):
                h = torch.tanh(h)
            found.append(h)
        return found

    return forward, tuple(starts)


def places_of_an_outer_loop(n):
    def forward(x):
        for _ in range(n // 10):
            for _ in range(10):
                x = torch.sin(x)
            x = x * 2
        return x

    return forward, (X,)


@pytest.mark.parametrize(
    "program",
    [
        first_order,
        third_order,
        cut_in_the_middle,
        cut_all_the_time,
        fresh_starts,
        places_of_an_outer_loop,
    ],
)
def test_twice_the_steps_are_twice_the_work(program, monkeypatch):
    done = [0]
    read_anew, part_of = Grouping.read_anew, Grouping.part_of

    def counted_reading(grouping, rows, are_all):
        done[0] += len(rows)
        return read_anew(grouping, rows, are_all)

    def counted_look(grouping, row):
        done[0] += 1
        return part_of(grouping, row)

    monkeypatch.setattr(Grouping, "read_anew", counted_reading)
    monkeypatch.setattr(Grouping, "part_of", counted_look)
    work = []
    for n in (500, 1000, 2000):
        forward, args = program(n)
        with torch.no_grad():
            tape = lf.trace(forward, args, save=None).tape
        done[0] = 0
        grouped(tape)
        work.append(done[0])
    assert work[2] - work[1] < 2.2 * (work[1] - work[0]) + 50
