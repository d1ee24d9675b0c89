"""What was found out of one tape and kept for those like it: the same tables as by itself.

The oracle is a process that never saw the other tape: what is known is forgotten before.
"""

import gc
import threading
import weakref
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lensframe_pd as lf
from lensframe_pd.tables.activations import _of_rows
from lensframe_pd.tables.dims import dimensions
from lensframe_pd.tables.layers import _arrays, _places
from lensframe_pd.tape import alike
from lensframe_pd.tape.passes import passes
from lensframe_pd.tape.tape import SLOT, Tape

from .looped import Forward

X = torch.linspace(-1, 1, 24).reshape(2, 3, 4)


@pytest.fixture(autouse=True)
def forgotten():
    forget()
    yield
    forget()


def forget():
    alike._recent = []
    alike._met.clear()


def run(model, args=(X,), **options):
    return lf.trace(model, args, **options)


def told(trace):
    """All that both tables say, but for times and values."""
    layers, activations = trace
    cells = layers.drop(columns="seconds")
    variables = {
        name: (v.dims, v.shape, v.dtype, v.attrs) for name, v in activations.variables.items()
    }
    attrs = [{k: v for k, v in t.attrs.items() if k != "seconds"} for t in trace]
    return (
        {name: (str(cells[name].dtype), [*cells[name]]) for name in cells},
        [*layers.index],
        [*map(repr, cells["config"])],
        variables,
        dict(activations.sizes),
        attrs,
    )


def alone(one):
    forget()
    return told(one())


def of(body, **parts):
    return Forward(lambda self, *given: body(*given), **parts)


def acting(function, *args, **kwargs):
    """A run of one operation; all are called from this line."""
    return lambda: run(of(lambda x: function(x, *args, **kwargs)))


def given(x, model=torch.sin, **options):
    return lambda: run(of(lambda x: model(x)), (x,), **options)


def module(**parts):
    """A run of the parts in order."""

    def forward(self, x):
        for part in parts:
            x = getattr(self, part)(x)
        return x

    return lambda: run(Forward(forward, **parts))


def returning(pick):
    return lambda: run(of(lambda x: pick(x.sin(), x.cos())))


def under(context):
    def traced():
        with context:
            return run(of(torch.sin))

    return traced


class Buffer(nn.Module):
    def __init__(self, value, held=nn.Module.register_buffer):
        super().__init__()
        held(self, "b", value)

    def forward(self, x):
        return x + self.b


class Named(nn.Module):
    def forward(self, x):
        return x.sin()


class Other(Named):
    pass


def reading(x, how):
    y = x.sum()
    how(y)
    return y


def frozen(module):
    return module.requires_grad_(False)


def here(model):
    return lf.trace(model, X)


def there(model):
    return lf.trace(model, X)


MASK = torch.tensor([0.0, 0.0, -torch.inf, -torch.inf])
LINEAR = nn.Linear(4, 4)

PAIRS = {
    "an integer, a float": (acting(torch.add, 1), acting(torch.add, 1.0)),
    "an integer, a truth": (acting(torch.add, 1), acting(torch.add, True)),
    "the sign of zero": (acting(torch.mul, 0.0), acting(torch.mul, -0.0)),
    "the sign of zero by name": (
        acting(torch.clamp, min=0.0), acting(torch.clamp, min=-0.0)),
    "a list, a tuple": (acting(torch.sum, [0, 1]), acting(torch.sum, (0, 1))),
    "a step of a slice": (
        acting(torch.Tensor.__getitem__, slice(0, 2)),
        acting(torch.Tensor.__getitem__, slice(0, 2, 1))),
    "types inside slices inside a tuple": (
        acting(torch.Tensor.__getitem__, (0, slice(0, 1))),
        acting(torch.Tensor.__getitem__, (0, slice(False, 1)))),
    "by name": (acting(torch.softmax, 0), acting(torch.softmax, dim=0)),
    "the order of names": (
        acting(torch.sum, dim=0, keepdim=True), acting(torch.sum, keepdim=True, dim=0)),
    "a function": (acting(torch.sin), acting(torch.cos)),
    "a method, a function": (acting(torch.sin), acting(torch.Tensor.sin)),
    "a dtype": (acting(torch.Tensor.to, torch.float64), acting(torch.Tensor.to, torch.float16)),
    "a number near": (acting(torch.add, 0.1), acting(torch.add, 0.1 + 2**-53)),
    "what is read": (
        lambda: run(of(lambda x, y: x - y), (X, X + 1)),
        lambda: run(of(lambda y, x: x - y), (X, X + 1))),
    "where in the code": (
        lambda: run(of(lambda x: x.sin())),
        lambda: run(of(lambda x: x.sin()))),
    "path of a module": (module(a=Named()), module(b=Named())),
    "class of a module": (module(a=Named()), module(a=Other())),
    "a module once or twice": (
        (lambda m: module(a=m, b=m))(Named()), module(a=Named(), b=Named())),
    "what holds parameters": (module(a=nn.ReLU(), b=nn.ReLU()), module(a=nn.PReLU(), b=nn.ReLU())),
    "a parameter that is not read": (
        module(a=Named(), b=Named()),
        module(a=Forward(Named.forward, p=nn.Parameter(X)), b=Named())),
    "a frozen parameter": (module(a=nn.Linear(4, 4)), module(a=frozen(nn.Linear(4, 4)))),
    "a parameter, a buffer": (
        module(a=Buffer(MASK.clone())),
        module(a=Buffer(nn.Parameter(MASK.clone()), nn.Module.register_parameter))),
    "no bias": (module(a=nn.Linear(4, 4)), module(a=nn.Linear(4, 4, bias=False))),
    "an additive mask": (module(a=Buffer(MASK.clone())), module(a=Buffer(MASK * 0 + 1))),
    "extents": (given(X), given(X[:, :2])),
    "strides": (given(X), given(X.transpose(0, 1).contiguous().transpose(0, 1))),
    "dtype of the input": (given(X), given(X.half())),
    "requires grad": (given(X), given(X.clone().requires_grad_())),
    "name of an input": (
        lambda: run(lambda a: a.sin(), ((X),)), lambda: run(lambda b: b.sin(), ((X),))),
    "a key of the output": (
        returning(lambda a, b: {"a": a, "b": b}), returning(lambda a, b: {"a": a, "c": b})),
    "which is returned": (returning(lambda a, b: a), returning(lambda a, b: b)),
    "grad mode": (under(torch.enable_grad()), under(torch.no_grad())),
    "inference": (under(torch.no_grad()), under(torch.inference_mode())),
    "autocast": (
        under(torch.autocast("cpu", torch.bfloat16)), under(torch.autocast("cpu", torch.float16))),
    "numbers drawn": (acting(F.dropout, 0.5, True), acting(F.dropout, 0.5, False)),
    "a seed": (
        given(X.abs(), torch.bernoulli, seed=1), given(X.abs(), torch.bernoulli, seed=2)),
    "what Python read": (
        acting(reading, bool), acting(reading, int)),
    "stimuli": (given(X), given(X, stimulus=["a", "b"])),
    "several stimuli, one": (
        lambda: run(lambda x, y: x.sin(), (X[:1], X), stimulus=["a"]),
        lambda: run(lambda x, y: x.sin(), (X[:1], X))),
    "saved or not": (given(X), given(X, save=None)),
    "which is saved": (given(X, save=["sin_1"]), given(X, save=["input_1"])),
    "stopped": (given(X, save=["sin_1"]), given(X, save=["sin_1"], stop=True)),
    "other values": (given(X), given(X, values={"sin_1": 0})),
    "names of axes": (
        lambda: run(nn.Conv1d(3, 2, 1), (X,)),
        lambda: run(nn.Conv1d(3, 2, 1), (X,), dims={"channel": "unit"})),
    "which entries": (acting(torch.Tensor.__getitem__, torch.tensor([0, 1])),
        acting(torch.Tensor.__getitem__, torch.tensor([1, 0]))),
    "where the trace was asked for": (lambda: here(LINEAR), lambda: there(LINEAR)),
    "a second name of a module": (
        lambda: run(aliased("b")), lambda: run(aliased("c"))),
}  # fmt: skip


def aliased(name):
    model = nn.Sequential(nn.ReLU())
    model.add_module(name, model[0])
    model.forward = lambda x: model[0](x)
    return model


@pytest.mark.parametrize("name", PAIRS)
def test_runs_that_differ_in_one_thing(name):
    one, other = PAIRS[name]
    expected = {one: alone(one), other: alone(other)}
    assert repr(expected[one]) != repr(expected[other]), "the pair says nothing"
    forget()
    for each in (one, one, one, other, other, other, one, other, one, other):
        assert repr(told(each())) == repr(expected[each])


def loop(x):
    for _ in range(5):
        x = (x * 2).relu() + x
    return x.softmax(-1)


def generating(x):
    cache = x[:, :1]
    for k in range(1, 3):
        cache = torch.cat([cache, x[:, k : k + 1]], 1)
    return cache.sum(1)


def in_place(x):
    y = x.clone()
    v = y[:, 0]
    v.add_(1)
    y[:, 1] = 0
    return y * 2 + v[:, None]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    def forward(self, x):
        return self.inner(self.inner(x, self.mask) + 1, self.mask)


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        for _ in range(2):
            x = F.pad(self.norm(self.conv(x)).relu(), (0, 1))[:, :3]
        return self.fc(F.adaptive_avg_pool1d(x, 4)), x.mean((1, 2))


PROGRAMS = {
    "loop": (lambda: loop, {}),
    "attention": (lambda: Attention().eval(), {}),
    "images": (lambda: Images().eval(), {"stimulus": ["a", "b"]}),
    "writes": (lambda: in_place, {}),
    "joined": (lambda: generating, {}),
    "lstm": (lambda: nn.LSTM(4, 5, 2, batch_first=True), {}),
    "mapped": (lambda: torch.vmap(lambda x: x.sin() * 2), {}),
    "edited": (lambda: loop, {"values": {"mul_1": 0}, "save": "all"}),
    "random": (lambda: lambda x: F.dropout(x.sin(), 0.5) + torch.rand(4), {"seed": 3}),
    "renamed": (lambda: Images().eval(), {"dims": {"channel": "unit"}}),
    "read": (lambda: lambda x: x.sin() if x.sum() > 9 else x.cos(), {}),
    "stopped": (lambda: Images().eval(), {"save": ["relu_1"], "stop": True}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_again(name):
    make, options = PROGRAMS[name]
    model = make()

    def again(x):
        torch.manual_seed(0)
        return run(model, (x,), **options)

    expected = alone(lambda: again(X))
    forget()
    traces = [again(X + k / 8) for k in range(4)]
    for trace in traces:
        assert repr(told(trace)) == repr(expected)
        plain = np.asarray(trace.output.detach()) if torch.is_tensor(trace.output) else None
        if plain is not None:
            np.testing.assert_array_equal(trace.activations["output_1"], plain)
        report = trace.layers["seconds"]
        assert [*report] == [trace.tape.calls[row.call].seconds for row in trace.tape.rows]
    assert traces[2]._known is traces[1]._known is traces[3]._known
    assert traces[1]._known.are_kept


class _Forbidden:
    """What the tables may not look at."""

    def _refuse(self, *_):
        raise AssertionError("looked at what is not compared")

    __getattr__ = __iter__ = __len__ = __getitem__ = __contains__ = __bool__ = __eq__ = _refuse
    __hash__ = _refuse


#: What of a tape is compared; `codes` are what the numbers in call sites stand for.
COMPARED = frozenset(
    """calls rows modules held holding kinds paths returns reads seed stopped n_stimuli
    starts selections wrapped renamed""".split()
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_else_is_looked_at(name):
    make, options = PROGRAMS[name]
    tape = run(make(), **options).tape
    forbidden = _Forbidden()
    others = (
        {f.name for f in fields(Tape)}
        - COMPARED
        - {"codes", "_keys", "call_log", "row_log", "module_log"}
    )
    bare = tape.altered(
        _keys=[],
        calls=[
            call._replace(seconds=forbidden, generator=forbidden)
            if call.generator is not None
            else call._replace(seconds=forbidden)
            for call in tape.calls
        ],
        held=[held._replace(tensor=forbidden) for held in tape.held],
        **dict.fromkeys(others, forbidden),
    )  # fmt: skip
    rows = range(len(tape.rows))

    def found(of):
        grouped, dims = passes(of), dimensions(of)
        # these are found again where the run was asked for elsewhere
        places = _places(replace(of, caller=tape.caller))
        arrays = {name: [*a] for name, a in {**_arrays(of, grouped), **places}.items()}
        return grouped, dims, arrays, _of_rows(of, grouped, dims, rows, frozenset((-1,)))

    assert repr(found(bare)) == repr(found(tape))


def changed(tape, field):
    """The same tape with one entry of a field changed."""
    value = getattr(tape, field)
    if isinstance(value, list):
        return [*value[:-1], *value[-1:], *value[-1:]]
    if isinstance(value, dict):
        return {**value, **CHANGES[field]}
    if isinstance(value, (set, frozenset)):
        return value | CHANGES[field]
    return CHANGES[field]


CHANGES = {
    "holding": {"elsewhere"}, "kinds": {1: "alias"}, "paths": {1: "there"},
    "reads": {1: [("bool", (), 0)]}, "seed": 9, "stopped": True,
    "n_stimuli": 7, "starts": {0: 1}, "selections": {1: {0: torch.ones(2)}}, "wrapped": {1},
    "renamed": {"channel": "unit"},
}  # fmt: skip


@pytest.mark.parametrize("field", sorted(COMPARED))
def test_each_field_is_compared(field):
    tape = run(Images().eval()).tape
    other = tape.altered(**{field: changed(tape, field)})
    assert alike._content(tape) == alike._content(replace(tape))
    assert alike._content(tape) != alike._content(other)


def _with(records, k, name, value):
    return [*records[:k], records[k]._replace(**{name: value}), *records[k + 1 :]]


@pytest.mark.parametrize(
    ("records", "name", "value"),
    [
        ("calls", "args", (SLOT, 1, 2)), ("calls", "kwargs", {"dim": 1}),
        ("calls", "sources", (0,)), ("calls", "site", (1, 2)), ("calls", "module", 1),
        ("calls", "context", ()), ("calls", "generator", torch.ones(1)),
        ("rows", "call", 0), ("rows", "slot", 1), ("rows", "shape", (1,)), ("rows", "stride", (7,)),
        ("rows", "dtype", torch.int8), ("rows", "device", torch.device("meta")),
        ("rows", "requires_grad", None), ("rows", "inplace", True),
        ("modules", "path", "x"), ("modules", "number", 7), ("modules", "parent", -5),
        ("modules", "type_name", "X"), ("modules", "site", (1, 2)),
        ("held", "name", "x"), ("held", "is_parameter", None), ("held", "shape", (1,)),
        ("held", "dtype", torch.int8), ("held", "numel", 1), ("held", "nbytes", 1),
        ("held", "requires_grad", None),
    ],
)  # fmt: skip
def test_each_fact_is_compared(records, name, value):
    tape = run(Images().eval()).tape
    whole = getattr(tape, records)
    other = tape.altered(**{records: _with(whole, len(whole) // 2, name, value)})
    assert alike._content(tape) != alike._content(other)


def test_a_function_is_compared():
    tape = run(Images().eval()).tape
    other = tape.calls[1]._replace(function=tape.calls[0].function)
    assert alike._content(tape) != alike._content(
        tape.altered(calls=[tape.calls[0], other, *tape.calls[2:]])
    )


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Number(float):
    """Anybody's: it may say that it equals anything."""

    def __eq__(self, other):
        raise AssertionError("code of somebody else was run")

    __hash__ = float.__hash__


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x + Number(1),
        lambda x: x * 2j,
        lambda x: x * np.float32(2),
        lambda x: x[torch.tensor([1, 0])],
        lambda x: x[np.array([1, 0])],
    ],
)
def test_like_no_other(body):
    traces = [run(of(body)) for _ in range(3)]
    assert repr(told(traces[0])) == repr(told(traces[2]))
    assert not any(trace._known.are_kept for trace in traces)
    assert alike._recent == []


@pytest.mark.parametrize("after", [torch.relu, Doubled.apply], ids=["torch's", "somebody's"])
def test_nothing_of_a_trace_is_held(after):
    linear, x = nn.Linear(4, 4), X.clone()
    model = Forward(lambda self, x: after(self.fc(x)) + 1, fc=linear)
    held = [*map(weakref.ref, (model, linear.weight, x))]
    for _ in range(3):
        trace = run(model, (x,))
        tuple(trace)
        held += [weakref.ref(v) for v in trace.tape.values]
        held += [weakref.ref(trace), weakref.ref(trace.layers), weakref.ref(trace.activations)]
    assert trace._known.are_kept
    del model, linear, x, trace
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)


def test_tables_are_each_run_s_own():
    model = Images().eval()
    expected = alone(lambda: run(model))
    forget()
    for _ in range(4):
        trace = run(model)
        layers, activations = trace
        assert repr(told(trace)) == repr(expected)
        for name in layers:
            layers[name].array[:1] = layers[name].array[-1:]
            layers[name].array[1:2] = layers[name].array[:1]
            if isinstance(layers[name].iloc[0], str):
                layers.iloc[0, layers.columns.get_loc(name)] = "mine"
        layers.index.name = "mine"
        layers.attrs["mine"] = activations.attrs["mine"] = 1
        for variable in activations.variables.values():
            variable.attrs["func"] = "mine"
        del activations["relu_1:1"]
        layers["saved"] = False


def chain(n):
    def forward(x):
        for _ in range(n):
            x = x.sin()
        return x

    return forward


def kept_of(model):
    for _ in range(2):
        trace = run(model)
        tuple(trace)
    return trace._known


def test_few_are_kept():
    known = [kept_of(chain(n)) for n in range(alike._MOST + 3)]
    assert alike._recent == known[:2:-1]
    assert kept_of(chain(3)) is known[3]
    assert alike._recent == [known[3], *known[:3:-1]]
    assert not any(old.are_kept or old._found or old._codes for old in known[:3])


def test_few_rows_are_kept(monkeypatch):
    monkeypatch.setattr(alike, "_MOST_ROWS", 20)
    five, nine, ten = kept_of(chain(3)), kept_of(chain(7)), kept_of(chain(8))
    assert alike._recent == [ten, nine]
    assert not five.are_kept
    assert not kept_of(chain(19)).are_kept
    assert alike._recent == [ten, nine]


def test_a_model_that_is_traced_once_is_not_kept():
    trace = run(Images().eval())
    tuple(trace)
    assert not trace._known.are_kept
    assert alike._recent == []


def test_in_threads():
    models = [of(acting_on) for acting_on in (torch.sin, torch.cos, torch.tanh, loop)]
    expected = [alone(lambda m=m: run(m)) for m in models]
    forget()
    wrong = []

    def work(k):
        for i in range(12):
            at = (k + i) % len(models)
            if repr(told(run(models[at]))) != repr(expected[at]):
                wrong.append((k, at))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
