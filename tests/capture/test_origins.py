"""Tensors and modules older than the run: where they are found names them, and nothing warns."""

import functools
import types
import typing
import warnings

import pytest
import torch
from torch import nn

import lensframe_pd as lf

X = torch.arange(32.0).reshape(4, 8)
TABLE = types.SimpleNamespace(scale=torch.full((8,), 2.0))


class Config:
    shift = torch.ones(8)


class Callable:
    """No module: its tensors and parts are attributes."""

    args, func = 3, staticmethod(torch.sin)

    def __init__(self):
        self.offset = torch.ones(8)
        self.part = nn.Linear(8, 8).eval()

    def __call__(self, x):
        return self.part(x) + self.offset


def test_tensors_older_than_the_run_are_named_and_do_not_warn():
    def forward(x, w=torch.full((8,), 3.0)):  # noqa: B008  (a default is what is tested)
        return x * TABLE.scale + Config.shift * w

    layers = lf.trace(forward, X).layers
    assert list(layers.loc[layers["kind"] == "constant", "path"]) == [
        "TABLE.scale",
        "Config.shift",
        "default.0",
    ]
    layers = lf.trace(Callable(), X).layers
    assert list(layers.loc[layers["kind"] == "constant", "path"]) == ["offset"]
    assert layers.loc["linear_1", "module"] == "part"


def test_a_partial_names_the_module_it_is_given():
    part = nn.Linear(8, 8).eval()
    layers = lf.trace(functools.partial(lambda net, x: net(x), part), X).layers
    assert layers.loc["linear_1", "module"] == "args.0"


@functools.lru_cache(maxsize=8)
def table(n):
    return torch.arange(n) * 2.0


@functools.cache
def endless(n):
    return torch.arange(n) * 3.0


def through_a_decorator(function):
    cached = functools.lru_cache(maxsize=1)(function)

    @functools.wraps(function)
    def wrapper(*args):
        return cached(*args)

    return wrapper


class Position(nn.Module):
    @staticmethod
    @through_a_decorator
    def table(n):
        return torch.linspace(0, 1, n)

    def forward(self, x):
        return self.table(len(x))


class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = Position()

    @functools.lru_cache(maxsize=8)  # noqa: B019 (as models do)
    def grid(self, n):
        return torch.ones(n), torch.zeros(n)

    def forward(self, x):
        return x * table(4) + endless(4) + self.grid(4)[0] + self.position(x)


def test_results_that_lru_cache_keeps_are_named_and_do_not_warn():
    model = Cached().eval()
    model(torch.ones(4))
    layers, activations = lf.trace(model, torch.ones(4))
    constants = layers[layers["kind"] == "constant"]
    assert [path.split(".cache.")[0] for path in constants["path"]] == [
        "table",
        "endless",
        "Cached.grid",
        "Position.table",
    ]
    assert activations["constant_1"].values.tolist() == [0, 2, 4, 6]


def fill():
    """The caches' names are kept out of the test, which is a caller of what is traced."""
    return endless(8), table(8)


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (lambda x: torch.stack([endless(n) for n in (8, 8, 8, 8)]) + x, "endless"),
        (lambda x: torch.cat([*map(lambda n: endless(n), [8])]) + x, "endless"),  # noqa: C417
        (lambda x: next(endless(n) for n in (8,)) + x, "endless"),
        (lambda x: {n: table(n) for n in (8,)}[8] + x, "table"),
        (lambda x: [[endless(n) for n in (8,)] for _ in (0,)][0][0] + x, "endless"),
    ],
)
def test_what_a_comprehension_or_a_lambda_reads_is_named(forward, name):
    fill()
    layers = lf.trace(forward, X).layers
    constants = layers[layers["kind"] == "constant"]
    assert [path.split(".cache.")[0] for path in constants["path"]] == [name]


class Tables(typing.NamedTuple):
    first: torch.Tensor
    rest: list


class Base(nn.Module):
    scale = torch.full((8,), 2.0)
    tables = Tables(torch.ones(8), [torch.full((8,), 3.0)])


class Solver:
    grid = {"a": torch.ones(8)}  # noqa: RUF012 (as models do)

    def run(self, x):
        return x * self.grid["a"]

    @classmethod
    def shared(cls, x):
        return cls.grid["a"] + x


class HeldByAClass(Base):
    def __init__(self, run):
        super().__init__()
        self.solver, self.run = Solver(), run

    def forward(self, x):
        return self.run(self, x)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda self, x: x * self.scale, "Base.scale"),
        (lambda self, x: x * self.tables.first, "Base.tables.first"),
        (lambda self, x: x * self.tables.rest[0], "Base.tables.rest.0"),
        (lambda self, x: x * self.solver.grid["a"], "Solver.grid.a"),
        (lambda self, x: self.solver.run(x), "Solver.grid.a"),
        (lambda self, x: self.solver.shared(x), "cls.grid.a"),
    ],
)
def test_what_a_class_holds_for_all_its_objects_is_named(run, name):
    layers = lf.trace(HeldByAClass(run).eval(), X).layers
    assert list(layers.loc[layers["kind"] == "constant", "path"]) == [name]


def test_a_tensor_that_torch_keeps_for_itself_is_no_broken_link():
    def forward(x):
        return torch.nested.as_nested_tensor([x, x], layout=torch.jagged).values() * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        forward(torch.ones(2, 3))  # torch makes a tensor for such views once, and keeps it
        warnings.simplefilter("error", lf.LensWarning)
        lf.trace(forward, torch.ones(2, 3))
