"""Random programs, traced, against a hand-made interpretation of the same program.

A program is a list of statements over a growing list of tensors: fresh results, views, writes
through views, `out=`, reads and writes of parameters and buffers, loops, forgotten variables. One
interpreter runs it in three ways: as the model that is traced, as the plain run that clones what
every call read and gave, and with the result of one call replaced by noise, which tells what
the output truly depends on.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lensframe_pd as lf
from lensframe_pd.schema import COLUMNS

FAST = settings(
    max_examples=90, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip

UNARY = {"sin": torch.sin, "tanh": torch.tanh, "neg": torch.neg, "clone": torch.clone}
BINARY = {"add": torch.add, "mul": torch.mul, "sub": torch.sub, "maximum": torch.maximum}
STATEMENTS = (
    "unary binary scalar inplace inplace_binary slice item transpose unsqueeze flat contiguous "
    "chunk unbind split setitem setitem_mask cat stack out copy where parameter matmul buffer "
    "write_buffer view_buffer write_pieces module drop again"
).split()

number = st.integers(0, 7)
statement = st.tuples(st.sampled_from(STATEMENTS), number, number, number)
block = st.lists(statement, min_size=1, max_size=3)
loop = st.tuples(st.just("loop"), st.integers(2, 3), block)
programs = st.lists(statement | loop, min_size=1, max_size=9)


class Program(nn.Module):
    """The model: interprets a program, each call of torch through `self.do`."""

    def __init__(self, program):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.program = program
        self.scale = nn.Parameter(torch.rand((), generator=generator) + 0.5)
        self.weight = nn.Parameter(torch.randn(3, 3, generator=generator))
        self.linear = nn.Linear(3, 3)
        self.register_buffer("offset", torch.rand((), generator=generator))
        self.register_buffer("table", torch.randn(4, 3, generator=generator))
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(3, 3, generator=generator))
            self.linear.bias.fill_(0.25)
        self.eval()

    def do(self, func, call, operands, writes=None, fresh=True):
        """One call of torch; the witnesses below look at what it reads and gives."""
        return call()

    def forward(self, x, y):
        found = [x, y]
        self.run(self.program, found)
        return tuple(found[-3:])

    def run(self, program, found):
        for line in program:
            if line[0] == "loop":
                for _ in range(line[1]):
                    self.run(line[2], found)
            else:
                found += self.statement(found, *line)
                del found[:-12]

    def statement(self, found, name, i, j, k):
        do, a = self.do, found[i % len(found)]
        b = self.partner(found, a, j)
        apart = b if storage(b) != storage(a) else None
        if name == "unary":
            func = list(UNARY)[k % len(UNARY)]
            return [do(func, lambda: UNARY[func](a), [a])]
        if name == "binary":
            func = list(BINARY)[k % len(BINARY)]
            return [do(func, lambda: BINARY[func](a, b), [a, b])]
        if name == "scalar":
            if k % 2:
                return [do("rsub", lambda: torch.rsub(a, 2.0), [a])]
            return [do("mul", lambda: a * 1.5, [a])]
        if name == "inplace":
            func = ("tanh_", "neg_", "zero_")[k % 3]
            do(func[:-1], lambda: getattr(a, func)(), [a], writes=a)
            return []
        if name == "inplace_binary":
            if apart is None:
                do("add", lambda: a.add_(0.5), [a], writes=a)
            else:
                do("mul", lambda: a.mul_(apart), [a, apart], writes=a)
            return []
        if name in VIEWS:
            return VIEWS[name](do, a, j, k)
        if name == "setitem":
            if not a.dim():
                return []
            row = k % len(a)
            part = next((t for t in found if t.shape == a.shape[1:] and not one(t, a)), None)
            if part is None:
                do("setitem", lambda: a.__setitem__(row, 0.5), [a], writes=a)
            else:
                do("setitem", lambda: a.__setitem__(row, part), [a, part], writes=a)
            return []
        if name == "setitem_mask":
            mask = do("gt", lambda: a > 0.1, [a], fresh=False)
            do("setitem", lambda: a.__setitem__(mask, -1.0), [a, mask], writes=a)
            return []
        if name == "write_pieces":
            if not a.dim() or len(a) < 2 or len(a) > 5:
                return []
            first, second = do("chunk", lambda: a.chunk(2), [a], fresh=False)
            for part, func in ((second, "neg_"), (first, "tanh_")):
                call = getattr(part, func)
                do(func[:-1], call, [part], writes=part)
            return [first] if k % 2 else []
        if name == "cat":
            if not a.dim() or a.numel() > 60:
                return []
            return [do("cat", lambda: torch.cat([a, b]), [a, b])]
        if name == "stack":
            if a.dim() > 2 or a.numel() > 60:
                return []
            return [do("stack", lambda: torch.stack([a, b], dim=0), [a, b])]
        if name == "out":
            if apart is None:
                do("sin", lambda: torch.sin(a, out=a), [a, a], writes=a)
            else:
                do("add", lambda: torch.add(a, a, out=apart), [a, a, apart], writes=apart)
            return []
        if name == "copy":
            if apart is not None:
                do("copy", lambda: a.copy_(apart), [a, apart], writes=a)
            return []
        if name == "where":
            mask = do("gt", lambda: a > 0, [a], fresh=False)
            return [do("where", lambda: torch.where(mask, a, b), [mask, a, b])]
        if name == "parameter":
            return [do("mul", lambda: a * self.scale, [a, self.scale])]
        if name == "matmul":
            if a.dim() not in (1, 2, 3) or a.shape[-1] != 3:
                return []
            return [do("matmul", lambda: a @ self.weight, [a, self.weight])]
        if name == "buffer":
            return [do("add", lambda: a + self.offset, [a, self.offset])]
        if name == "write_buffer":
            mean = do("mean", lambda: a.mean(), [a])
            do("add", lambda: self.offset.add_(mean), [self.offset, mean], writes=self.offset)
            return []
        if name == "view_buffer":
            row = k % 4
            return [do("getitem", lambda: self.table[row], [self.table], fresh=False)]
        if name == "module":
            if not a.dim() or a.shape[-1] != 3:
                return []
            held = [self.linear.weight, self.linear.bias]
            return [do("linear", lambda: self.linear(a), [a, *held])]
        if name == "drop":
            if len(found) > 4:
                del found[i % len(found)]
            return []
        assert name == "again"
        return [a]

    @staticmethod
    def partner(found, a, j):
        """A variable of the shape of `a`: itself if there is no other."""
        same = [t for t in found if t.shape == a.shape]
        return same[j % len(same)]


def _pick(do, a, j, k):
    if not a.dim():
        return []
    return [do("getitem", lambda: a[k % len(a)], [a], fresh=False)]


def _slice(do, a, j, k):
    if not a.dim():
        return []
    start = k % len(a)
    return [do("getitem", lambda: a[start : start + 1 + j], [a], fresh=False)]


def _pieces(func, pieces):
    def view(do, a, j, k):
        if not a.dim() or len(a) > 5:
            return []
        return list(do(func, lambda: pieces(a), [a], fresh=False))

    return view


VIEWS = {
    "item": _pick,
    "slice": _slice,
    "transpose": lambda do, a, j, k: (
        [do("transpose", lambda: a.transpose(0, -1), [a], fresh=False)] if a.dim() > 1 else []
    ),
    "unsqueeze": lambda do, a, j, k: (
        [do("unsqueeze", lambda: a.unsqueeze(0), [a], fresh=False)] if a.dim() < 3 else []
    ),
    "flat": lambda do, a, j, k: [do("reshape", lambda: a.reshape(-1), [a], fresh=False)],
    "contiguous": lambda do, a, j, k: [do("contiguous", lambda: a.contiguous(), [a], fresh=False)],
    "chunk": _pieces("chunk", lambda a: a.chunk(2)),
    "unbind": _pieces("unbind", lambda a: a.unbind(0)),
    "split": _pieces("split", lambda a: torch.split(a, 1)),
}


def storage(tensor):
    return tensor.untyped_storage()._cdata


def one(a, b):
    return storage(a) == storage(b)


class Call:
    """What one call read and gave, cloned when it happened."""

    def __init__(self, func, read, gave):
        self.func, self.read, self.gave = func, read, gave


class Witness(Program):
    """The plain run; notes each call. A held tensor counts as read until it was written."""

    def __init__(self, program):
        super().__init__(program)
        self.calls = []
        self.untouched = {storage(t) for t in (*self.parameters(), *self.buffers())}

    def do(self, func, call, operands, writes=None, fresh=True):
        read = [
            t.detach().clone()
            for t in operands
            if storage(t) not in self.untouched or not self.is_held(t)
        ]
        result = call()
        if writes is not None:
            self.untouched.discard(storage(writes))
            result = writes
        results = [result] if isinstance(result, Tensor) else list(result)
        self.calls.append(Call(func, read, [t.detach().clone() for t in results]))
        return result

    def is_held(self, tensor):
        return any(tensor is t for t in (*self.parameters(), *self.buffers()))


class Disturbed(Program):
    """The plain run with noise in place of what the n-th call made or wrote."""

    def __init__(self, program, n):
        super().__init__(program)
        self.n, self.count, self.applied = n, -1, False

    def do(self, func, call, operands, writes=None, fresh=True):
        result = call()
        self.count += 1
        if self.count == self.n and (fresh or writes is not None):
            self.applied = True
            changed = result if writes is None else writes
            noise = torch.Generator().manual_seed(5)
            changed.copy_(torch.randn(changed.shape, generator=noise) * 3)
        return result


def inputs():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(2, 3, generator=generator), torch.randn(2, 3, generator=generator)


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)


def ancestors(layers, label):
    found, waiting = set(), [label]
    while waiting:
        for parent in layers.loc[waiting.pop(), "parents"]:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


@FAST
@given(programs)
def test_values_edges_and_output_are_those_of_a_plain_run(program):
    with torch.no_grad():
        plain = Witness(program)
        expected = plain(*inputs())
        trace = lf.trace(Program(program), inputs())
    for got, want in zip(trace.output, expected, strict=True):
        assert same(got, want)
    layers, activations = trace
    ops = layers[layers["kind"] == "op"]
    rows = iter(ops.index)
    for number, call in enumerate(plain.calls):
        labels = [next(rows) for _ in call.gave]
        assert ops.loc[labels, "call"].nunique() == 1
        for label, value in zip(labels, call.gave, strict=True):
            assert layers.loc[label, "func"] == call.func, (number, label)
            assert same(activations[label], value), (number, label)
            parents = layers.loc[label, "parents"]
            assert len(parents) == len(call.read), (number, label, parents)
            for parent, was in zip(parents, call.read, strict=True):
                assert same(activations[parent], was), (number, label, parent)
    assert next(rows, None) is None, "rows that no call of the program made"
    outputs = layers.index[layers["kind"] == "output"]
    for label, want in zip(outputs, expected, strict=True):
        assert same(activations[label], want)


@FAST
@given(programs)
def test_what_changes_the_output_is_its_ancestor(program):
    with torch.no_grad():
        plain = Witness(program)
        expected = plain(*inputs())
        layers = lf.trace(Program(program), inputs(), save=None).layers
        rows = iter(layers.index[layers["kind"] == "op"])
        labels = [[next(rows) for _ in call.gave] for call in plain.calls]
        outputs = layers.index[layers["kind"] == "output"]
        before = [ancestors(layers, label) for label in outputs]
        for n, made in enumerate(labels):
            disturbed = Disturbed(program, n)
            results = disturbed(*inputs())
            if not disturbed.applied:
                continue
            for got, want, known in zip(results, expected, before, strict=True):
                assert same(got, want) or known.issuperset(made), made


@FAST
@given(programs)
def test_the_frame_is_well_formed(program):
    with torch.no_grad():
        layers = lf.trace(Program(program), inputs(), save=None).layers
        saving = lf.trace(Program(program), inputs()).layers
    assert list(layers.columns) == list(COLUMNS)
    assert layers.index.is_unique
    place = {label: n for n, label in enumerate(layers.index)}
    assert list(layers["step"]) == list(range(len(layers)))
    for label, parents, roles in zip(
        layers.index, layers["parents"], layers["parent_args"], strict=True
    ):
        assert all(place[parent] < place[label] for parent in parents)
        assert len(parents) == len(roles)
    for layer, group in layers.groupby("layer", sort=False):
        n = len(group)
        assert list(group["pass_num"]) == list(range(1, n + 1))
        assert set(group["n_passes"]) == {n}
        assert list(group.index) == ([layer] if n == 1 else [f"{layer}:{p + 1}" for p in range(n)])
        assert group["func"].nunique() == 1
    for func, group in layers.drop_duplicates("layer").groupby("func", sort=False):
        assert list(group["layer"]) == [f"{func}_{n + 1}" for n in range(len(group))]
    # what is kept alive must not decide what the graph is
    facts = ["layer", "kind", "func", "parents", "parent_args", "params", "buffers", "shape"]
    assert layers[facts].equals(saving[facts])


@FAST
@given(programs)
def test_nothing_done_afterwards_reaches_the_dataset(program):
    with torch.no_grad():
        model, given_ = Program(program), inputs()
        trace = lf.trace(model, given_)
        activations = trace.activations
        before = {name: v.values.copy() for name, v in activations.items()}
        for tensor in (*given_, *trace.output, *model.parameters(), *model.buffers()):
            tensor.fill_(-7.0)
    for name, values in before.items():
        assert same(activations[name], values)
        with pytest.raises(ValueError, match="read-only"):
            activations[name].values[...] = 0
