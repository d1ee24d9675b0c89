"""Operations that sum products along axes: linear layers, matrix products, attention."""

from __future__ import annotations

from lensframe_pd.tables.case import Case, Operand, aligned, shared
from lensframe_pd.tables.order import Name, Names, carries


def linear(case: Case) -> Names:
    made: Name = "feature"
    if len(case.operands) > 1 and len(case.operands[1].shape) == 2:
        rows = case.operands[1].names[0]
        made = rows if carries(rows) else made
    return (*case.first.names[:-1], made)


def cell(case: Case) -> Names | None:
    """A step of a recurrent cell: what it reads, and the state it had."""
    states = [o for o in case.operands[1:3] if len(o.shape) == len(case.shape)]
    if len(case.shape) != 2:
        return ("feature",) if len(case.shape) == 1 else None
    here = [(o.names[0], o.shape[0], o.whole) for o in (case.first, *states)]
    return (shared(here, case.shape[0], case.n), "feature")


def bilinear(case: Case) -> Names:
    lead = [Operand(o.names[:-1], o.shape[:-1], o.whole) for o in case.operands[:2]]
    return (*aligned(case._replace(shape=case.shape[:-1]), lead), "feature")


def embedding(case: Case) -> Names | None:
    index = case.operands[1].names if len(case.operands) > 1 else ()  # the first is the weight
    if len(index) != len(case.shape) - 1:
        return None
    return (*(n or ("token" if k else None) for k, n in enumerate(index)), "feature")


def embedding_bag(case: Case) -> Names | None:
    index = case.operands[1] if len(case.operands) > 1 else None
    return (index.names[0], "feature") if index is not None and len(index.shape) == 2 else None


def matmul(case: Case) -> Names | None:
    a, b = case.operands[-2:]
    return _product(case, a, b)


def _product(case: Case, a: Operand, b: Operand) -> Names:
    """A matrix product over the last axis of `a` and the last but one of `b`, or its only one."""
    rows = a.names[-2:-1] if len(a.shape) > 1 else ()
    columns = b.names[-1:] if len(b.shape) > 1 else ()
    n = len(case.shape) - len(rows) - len(columns)
    lead = [Operand(o.names[:-2], o.shape[:-2], o.whole) for o in (a, b) if len(o.shape) > 2]
    over = (a.names[-1], b.names[-2] if len(b.shape) > 1 else b.names[-1])
    if over[0] != over[1] and (carries(over[0]) or carries(over[1])):
        # stimuli meet places: what is made of a stimulus depends on where the others stand
        rows, columns = [tuple([None if carries(n) else n for n in p]) for p in (rows, columns)]
    return (*aligned(case._replace(shape=case.shape[:n]), lead), *rows, *columns)


def added_product(case: Case) -> Names | None:
    """`addmm` and the like: a first tensor is added to the product of the other two."""
    if len(case.operands) < 3:
        return None
    product = _product(case, case.operands[1], case.operands[2])
    if len(product) != len(case.shape):
        return None
    made = Operand(product, case.shape)
    return aligned(case, [made, case.operands[0]])


def batches_added(case: Case) -> Names | None:
    a, b = case.operands[-2:]
    return (a.names[-2], b.names[-1]) if len(a.shape) == len(b.shape) == 3 else None


def outer(case: Case) -> Names | None:
    a, b = case.operands[-2:]
    return (*a.names, *b.names) if len(a.names) + len(b.names) == len(case.shape) else None


def multiplied(case: Case) -> Names | None:
    first, last = case.operands[0], case.operands[-1]
    if len(case.shape) != 2 or len(first.shape) != 2 or len(last.shape) != 2:
        return None
    return (first.names[0], last.names[1])


def inner(case: Case) -> Names:
    a, b = case.operands[:2]
    return (*a.names[:-1], *b.names[:-1])


def distances(case: Case) -> Names | None:
    """`cdist`: each row of the one with each row of the other."""
    a, b = case.operands[:2]
    lead = [Operand(o.names[:-2], o.shape[:-2], o.whole) for o in (a, b)]
    return (*aligned(case._replace(shape=case.shape[:-2]), lead), a.names[-2], b.names[-2])


def correlations(case: Case) -> Names | None:
    return (case.first.names[0],) * 2 if len(case.first.shape) == len(case.shape) == 2 else None


def tensordot(case: Case) -> Names | None:
    axes = case.argument("dims_self", "dims")
    others = case.argument("dims_other", default=axes)
    if not isinstance(axes, (list, tuple)) or not isinstance(others, (list, tuple)):
        return None
    out: list[Name] = []
    for operand, gone in zip(case.operands[:2], (axes, others), strict=True):
        rank = len(operand.shape)
        used = {int(d) % rank for d in gone}
        out += [name for k, name in enumerate(operand.names) if k not in used]
    return tuple(out)


def attention(case: Case) -> Names | None:
    if len(case.shape) < 3 or len(case.operands) < 3:
        return None
    query, key, value = case.operands[:3]
    lead = [Operand(o.names[:-2], o.shape[:-2], o.whole) for o in (query, key, value)]
    lead += [Operand(o.names[:-2], o.shape[:-2], o.whole) for o in case.operands[3:4]]
    names = aligned(case._replace(shape=case.shape[:-2]), lead)
    names = (*names[:-1], names[-1] or ("head" if len(case.shape) > 3 else None))
    return (*names, query.names[-2] or "token", value.names[-1] or "feature")


def einsum(case: Case) -> Names | None:
    equation = next((a for a in case.arguments.values() if isinstance(a, str)), "")
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != len(case.operands):
        return None
    dots = max(
        [len(o.shape) - len(t.replace("...", "")) for t, o in zip(terms, case.operands, strict=True)
         if "..." in t], default=0,
    )  # fmt: skip
    letters: dict[str, list[tuple[Name, int, int]]] = {}
    for term, operand in zip(terms, case.operands, strict=True):
        spelt = _spelt(term, len(operand.shape) - len(term.replace("...", "")))
        for letter, name, n in zip(spelt, operand.names, operand.shape, strict=True):
            letters.setdefault(letter, []).append((name, n, operand.whole))
    out = _spelt(right, dots)
    if len(out) != len(case.shape):
        return None
    return tuple(
        [shared(letters.get(letter, []), n, case.n)
         for letter, n in zip(out, case.shape, strict=True)]
    )  # fmt: skip


def _spelt(term: str, dots: int) -> list[str]:
    """The axes of a term of an equation; those of `...` by their place from the last of them."""
    before, found, after = term.partition("...")
    inner = [f"...{k}" for k in range(dots, 0, -1)] if found else []
    return [*before, *inner, *after]
