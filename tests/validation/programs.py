"""Honest programs that were once killed, crashed or failed by validation, and others of their kind.

Each entry makes a model and its arguments.
"""

import itertools

import numpy as np
import torch
from torch import nn


def noise(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(len(shape)))


class Model(nn.Module):
    """A forward written as a function of the model and its arguments, and what the model holds."""

    def __init__(self, forward, **held):
        super().__init__()
        self._forward = forward
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, *args):
        return self._forward(self, *args)


def program(forward, *args, **held):
    """A maker of the program, so that each use has objects of its own."""

    def make():
        made = [v() if callable(v) and not isinstance(v, nn.Module) else v for v in held.values()]
        given = tuple(a.clone() if isinstance(a, torch.Tensor) else a() for a in args)
        return Model(forward, **dict(zip(held, made, strict=True))), given

    return make


def in_place(name, *arguments, shape=(3, 4)):
    return program(lambda m, x: getattr(x, name)(*arguments) * 2, noise(*shape))


def moved_data(m, x):
    x.data = x.data.double()[:2]
    return x * 2


RESHAPED = {
    "unsqueeze_": in_place("unsqueeze_", 0),
    "squeeze_": in_place("squeeze_", shape=(1, 4, 1)),
    "t_": in_place("t_"),
    "transpose_": in_place("transpose_", 0, 2, shape=(2, 3, 4)),
    "swapdims_": in_place("swapdims_", 0, 1),
    "resize_ to less": in_place("resize_", 2, 2),
    "resize_ to more": program(lambda m, x: x.resize_(4, 4).fill_(2) * 3, noise(3, 4)),
    "as_strided_": in_place("as_strided_", (2, 2), (1, 2)),
    "data": program(moved_data, noise(3, 4)),
    "of what the model holds": program(
        lambda m, x: m.h.t_().sum() + x, noise(3), h=lambda: noise(3, 4)
    ),
}


class Bare(torch.Tensor):
    """A wrapper around integers and a scale that does not say what it is made of."""

    @staticmethod
    def __new__(cls, numbers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=scale.dtype)

    def __init__(self, numbers, scale):
        self.numbers = numbers
        self.scale = scale

    def __repr__(self):
        return f"Scaled({self.scale})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if func in (aten.detach.default, aten.alias.default):
            return cls(args[0].numbers, args[0].scale)
        if func is aten.clone.default:
            return cls(args[0].numbers.clone(), args[0].scale.clone())
        if func not in (aten.mm.default, aten.t.default, aten.mul.Tensor, aten.sum.default):
            raise NotImplementedError(f"Scaled has no {func}")
        args = [a.numbers * a.scale if isinstance(a, cls) else a for a in args]
        return func(*args, **(kwargs or {}))


class Scaled(Bare):
    """One that says it, as those of quantization libraries do."""

    def __tensor_flatten__(self):
        return ["numbers", "scale"], None

    @classmethod
    def __tensor_unflatten__(cls, parts, context, size, stride):
        return cls(**parts)


def scaled(kind=Scaled):
    return lambda: kind(torch.arange(12).reshape(4, 3).to(torch.int8), torch.tensor(0.1))


def jagged():
    return torch.nested.nested_tensor([noise(3, 4), noise(2, 4)], layout=torch.jagged)


ODD = {
    "meta": program(lambda m, x: (x * 2).relu().sum(0), torch.empty(3, 4, device="meta")),
    "meta parameters": program(
        lambda m, x: m.linear(x), torch.empty(3, 4, device="meta"),
        linear=nn.Linear(4, 2, device="meta"),
    ),
    "jagged given": program(lambda m, x: m.linear(x) * 2, jagged, linear=nn.Linear(4, 2)),
    "jagged made": program(
        lambda m, a, b: torch.nested.nested_tensor([a, b], layout=torch.jagged) * 2,
        noise(3, 4), noise(2, 4),
    ),
    "jagged held": program(lambda m, x: (m.held * x).values(), noise(4), held=jagged),
    "nested": program(
        lambda m, x: torch.nested.to_padded_tensor(torch.nested.as_nested_tensor([x, x[:2]]), 0.0),
        noise(3, 4),
    ),
    "wrapper given": program(lambda m, w, x: x @ w, scaled(), noise(2, 4)),
    "wrapper held": program(lambda m, x: (x @ m.w).relu(), noise(2, 4), w=scaled()),
    "wrapper as parameter": program(
        lambda m, x: (x @ m.w).relu(), noise(2, 4),
        w=lambda: nn.Parameter(scaled()(), requires_grad=False),
    ),
    "wrapper returned": program(lambda m, w: w, scaled()),
    "wrapper without flatten": program(lambda m, w, x: x @ w, scaled(Bare), noise(2, 4)),
    "sparse given": program(
        lambda m, a, x: torch.sparse.mm(a, x).relu(), torch.eye(4).to_sparse(), noise(4, 3)
    ),
    "sparse held": program(
        lambda m, x: torch.sparse.mm(m.a, x).relu(), noise(4, 3), a=lambda: torch.eye(4).to_sparse()
    ),
    "sparse returned": program(lambda m, x: x.to_sparse(), noise(4, 3)),
    "sparse written": program(
        lambda m, x: torch.sparse.mm((x * 2).to_sparse().mul_(3), torch.ones(3, 2)).relu(),
        noise(4, 3),
    ),
    "sparse rows written": program(
        lambda m, x: torch.sparse.mm((x * 2).to_sparse_csr().sin_(), torch.ones(3, 2)).relu(),
        noise(4, 3),
    ),
}  # fmt: skip


def conjugates(m, z):
    return z.conj().sum(), z.conj() @ z, z.mH.sum(0), (z.conj() * 2).abs().mean()


def negatives(m, z):
    y = z.conj().imag
    return y.sum(), y.mean(0), z.imag @ y, torch.cumsum(y, 0)


def written_conjugate(m, z):
    y = (z * 2).conj()
    y.add_(1)
    return y.sum(), y.imag.neg_().sum()


LAZY = {
    "conj": program(conjugates, noise(37, 37, dtype=torch.cfloat)),
    "neg": program(negatives, noise(37, 37, dtype=torch.cfloat)),
    "conj given": program(lambda m, z: z.sum(), lambda: noise(37, 37, dtype=torch.cfloat).conj()),
    "neg given": program(
        lambda m, z: z.sum(), lambda: noise(37, 37, dtype=torch.cfloat).conj().imag
    ),
    "written": program(written_conjugate, noise(37, 37, dtype=torch.cfloat)),
    "resolved": program(lambda m, z: z.conj().resolve_conj().sum(), noise(9, dtype=torch.cdouble)),
}


class Learning(nn.Module):
    """Takes an optimizer's step in its forward."""

    def __init__(self, kind, **options):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.optimizer = kind(self.linear.parameters(), lr=0.1, **options)

    def forward(self, x):
        loss = self.linear(x).pow(2).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return self.linear(x)


def marked(m, x):
    with torch.profiler.record_function("named"):
        return x * 2


MARKED = {
    "SGD": lambda: (Learning(torch.optim.SGD, momentum=0.9), (noise(2, 4),)),
    "Adam": lambda: (Learning(torch.optim.Adam), (noise(2, 4),)),
    "AdamW, one by one": lambda: (Learning(torch.optim.AdamW, foreach=False), (noise(2, 4),)),
    "record_function": program(marked, noise(2, 4)),
}


def counted(m, x):
    m.n[...] += 1
    return x * float(m.n.flat[0])


HELD = {
    "array": program(counted, noise(3), n=lambda: np.ones(3)),
    "array, 0-d": program(counted, noise(3), n=lambda: np.array(1.0)),
    "view of an array": program(counted, noise(3), n=lambda: np.ones((4, 6))[1::2, 2]),
    "integers": program(counted, noise(3), n=lambda: np.ones(3, np.int16)),
    "bytes": program(
        lambda m, x: (m.n.append(3), x * sum(m.n))[1], noise(3), n=lambda: bytearray(b"\1")
    ),
    "count": program(lambda m, x: x * next(m.it), noise(3), it=lambda: itertools.count(1)),
    "numpy generator": program(
        lambda m, x: x * m.it.random(), noise(3), it=lambda: np.random.default_rng(0)
    ),
    "attribute of a tensor": program(
        lambda m, x: (setattr(m.h, "n", m.h.n * 2), x * m.h.n)[1], noise(3),
        h=lambda: tagged(torch.ones(2)),
    ),
}  # fmt: skip


def tagged(tensor):
    tensor.n = 1.5
    return tensor


PROGRAMS = {
    f"{kind}: {name}": make
    for kind, made in {
        "reshaped": RESHAPED,
        "odd": ODD,
        "lazy": LAZY,
        "marked": MARKED,
        "held": HELD,
    }.items()
    for name, make in made.items()
}
