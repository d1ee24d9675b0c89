"""Operations that sum products along axes: linear layers, matrix products, attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lensframe_pd.tables.case import (
    Case,
    Operand,
    Ruled,
    aligned,
    from_states,
    meets_places,
    of_spread,
    shared,
)
from lensframe_pd.tables.order import (
    MIXED,
    NONE,
    PLACED,
    Name,
    Names,
    carries,
    of_all,
    of_axis,
    of_both,
)

Part = tuple[Name, int]
"""An axis: what it is, and its extent."""


def _summed(case: Case, a: Part, b: Part) -> int:
    """The number of a sum over an axis that two tensors have in common.

    Stimuli that meet places are mixed: what is made of them depends on where each stands.
    """
    if a == b or 1 in (a[1], b[1]):
        return of_all([case.summed(*a), case.summed(*b)])
    return MIXED if carries(a[0]) or carries(b[0]) else NONE


def _part(operand: Operand, axis: int) -> Part:
    return operand.names[axis], operand.shape[axis]


def linear(case: Case) -> Ruled | Names:
    made: Name = "feature"
    if len(case.operands) < 2:
        return (*case.first.names[:-1], made)
    weight = case.operands[1]
    if not carries(case.first.names[-1]) and not any([o.has_stimuli() for o in case.operands[1:]]):
        names = (*case.first.names[:-1], made)[: len(case.shape)]
        return Ruled(names, case.first.whole)
    summed = _summed(case, _part(case.first, -1), _part(weight, -1))
    if len(weight.shape) == 2:
        made = weight.names[0] if carries(weight.names[0]) else made
    names = (*case.first.names[:-1], made)[: len(case.shape)]
    added = aligned(case, [Operand(names, case.shape), *case.operands[2:]])
    whole = of_spread([Operand(names, case.shape), *case.operands[2:]], added)
    return Ruled(added, of_all([summed, whole, case.first.whole, weight.whole]))


def cell(case: Case) -> Names | Ruled | None:
    """A step of a recurrent cell: what it reads, and the state it had."""
    states = [o for o in case.operands[1:3] if len(o.shape) == len(case.shape)]
    if len(case.shape) != 2:
        return ("feature",) if len(case.shape) == 1 else None
    read = (case.first, *states)
    if any([carries(o.names[1]) for o in read if len(o.names) == 2]):
        return None  # features of a step are summed
    here = [(o.names[0], o.shape[0], o.whole) for o in read]
    return from_states(case, (shared(here, case.shape[0], case.n), "feature"), here)


def bilinear(case: Case) -> Ruled | None:
    if any([carries(o.names[-1]) for o in case.operands[:2]]):
        return None
    lead = [Operand(o.names[:-1], o.shape[:-1], o.whole) for o in case.operands[:2]]
    ahead = aligned(case._replace(shape=case.shape[:-1]), lead)
    return Ruled((*ahead, "feature"), of_spread([*lead, *case.operands[2:]], ahead))


def embedding(case: Case) -> Names | None:
    index = case.operands[1].names if len(case.operands) > 1 else ()  # the first is the weight
    if len(index) != len(case.shape) - 1 or any(map(carries, case.first.names)):
        return None
    return (*(n or ("token" if k else None) for k, n in enumerate(index)), "feature")


def embedding_bag(case: Case) -> Names | None:
    index = case.operands[1] if len(case.operands) > 1 else None
    if index is None or len(index.shape) != 2 or any(map(carries, case.first.names)):
        return None
    return (index.names[0], "feature")


def matmul(case: Case) -> Ruled | None:
    a, b = case.operands[-2:]
    return _product(case, a, b)


def _product(case: Case, a: Operand, b: Operand) -> Ruled:
    """A matrix product over the last axis of `a` and the last but one of `b`, or its only one."""
    rows = a.names[-2:-1] if len(a.shape) > 1 else ()
    columns = b.names[-1:] if len(b.shape) > 1 else ()
    n = len(case.shape) - len(rows) - len(columns)
    lead = [Operand(o.names[:-2], o.shape[:-2], o.whole) for o in (a, b) if len(o.shape) > 2]
    ahead = aligned(case._replace(shape=case.shape[:n]), lead)
    summed = _summed(case, _part(a, -1), _part(b, -2 if len(b.shape) > 1 else -1))
    whole = of_all([summed, of_spread(lead, ahead), a.whole, b.whole])
    return Ruled((*ahead, *rows, *columns), whole)


def added_product(case: Case) -> Ruled | None:
    """`addmm` and the like: a first tensor is added to the product of the other two."""
    if len(case.operands) < 3:
        return None
    product = _product(case, case.operands[1], case.operands[2])
    if len(product.names) != len(case.shape):
        return None
    made = [Operand(product.names, case.shape, product.whole), case.operands[0]]
    names = aligned(case, made)
    return Ruled(names, of_spread(made, names))


def batches_added(case: Case) -> Ruled | None:
    a, b = case.operands[-2:]
    if len(a.shape) != 3 or len(b.shape) != 3 or any(map(carries, case.first.names)):
        return None
    summed = [_summed(case, _part(a, -1), _part(b, -2)), _summed(case, _part(a, 0), _part(b, 0))]
    return Ruled((a.names[-2], b.names[-1]), of_all([*summed, *[o.whole for o in case.operands]]))


def grouped(case: Case) -> Ruled | None:
    """`grouped_mm`: rows one group after the other, each with the matrix of its group.

    Which rows are of which group is told by how many there are: along an axis with stimuli the
    numbers of the rows say whose they are.
    """
    rows, matrices, *told = case.operands
    if len(rows.shape) != 2 or len(case.shape) != 2 or len(matrices.shape) != 3:
        return None
    if any([carries(name) for o in (matrices, *told[1:]) for name in o.names]):
        return None
    summed = _summed(case, _part(rows, -1), _part(matrices, -2))
    ends = [] if carries(rows.names[0]) else [MIXED for o in told[:1] if o.has_stimuli()]
    return Ruled((rows.names[0], "feature"),
                 of_all([rows.whole, matrices.whole, summed, *ends,
                         *[o.whole for o in told[1:]]]))  # fmt: skip


def outer(case: Case) -> Names | None:
    a, b = case.operands[-2:]
    return (*a.names, *b.names) if len(a.names) + len(b.names) == len(case.shape) else None


def multiplied(case: Case) -> Ruled | None:
    """`multi_dot`: a chain of matrices."""
    if any([len(o.shape) != 2 for o in case.operands]) or len(case.shape) != 2:
        return None
    found = case.first
    for other in case.operands[1:]:
        product = _product(case, found, other)
        found = Operand(product.names, (found.shape[0], other.shape[1]), product.whole)
    return Ruled(found.names, found.whole)


def inner(case: Case) -> Ruled:
    a, b = case.operands[:2]
    whole = of_all([_summed(case, _part(a, -1), _part(b, -1)), a.whole, b.whole])
    return Ruled((*a.names[:-1], *b.names[:-1]), whole)


def distances(case: Case) -> Ruled | None:
    """`cdist`: each row of the one with each row of the other."""
    a, b = case.operands[:2]
    lead = [Operand(o.names[:-2], o.shape[:-2], o.whole) for o in (a, b)]
    ahead = aligned(case._replace(shape=case.shape[:-2]), lead)
    whole = of_both(_summed(case, _part(a, -1), _part(b, -1)), of_spread(lead, ahead))
    return Ruled((*ahead, a.names[-2], b.names[-2]), whole)


def correlations(case: Case) -> Ruled | None:
    if len(case.first.shape) != 2 or len(case.shape) != 2 or len(case.operands) > 1:
        return None
    summed = case.summed(*_part(case.first, 1))
    return Ruled((case.first.names[0],) * 2, of_both(summed, case.first.whole))


def tensordot(case: Case) -> Ruled | None:
    axes = case.argument("dims_self", "dims")
    others = case.argument("dims_other", default=axes)
    if not isinstance(axes, (list, tuple)) or not isinstance(others, (list, tuple)):
        return None
    a, b = case.operands[:2]
    out: list[Name] = []
    for operand, gone in ((a, axes), (b, others)):
        rank = len(operand.shape)
        used = {int(d) % rank for d in gone}
        out += [name for k, name in enumerate(operand.names) if k not in used]
    summed = [_summed(case, _part(a, i), _part(b, j)) for i, j in zip(axes, others, strict=True)]
    return Ruled(tuple(out), of_all([*summed, a.whole, b.whole]))


def attention(case: Case) -> Ruled | None:
    if len(case.shape) < 3 or len(case.operands) < 3:
        return None
    query, key, value = case.operands[:3]
    summed = of_both(
        _summed(case, _part(query, -1), _part(key, -1)),
        _summed(case, _part(key, -2), _part(value, -2)),
    )
    masked = len(case.operands) > 3 or case.argument("is_causal", default=False) is not False
    if masked and (carries(key.names[-2]) or carries(query.names[-2])):
        return None  # a mask is of places
    lead = [Operand(o.names[:-2], o.shape[:-2], o.whole) for o in (query, key, value)]
    lead += [Operand(o.names[:-2], o.shape[:-2], o.whole) for o in case.operands[3:4]]
    names = aligned(case._replace(shape=case.shape[:-2]), lead)
    whole = of_both(summed, of_spread(lead, names))
    names = (*names[:-1], names[-1] or ("head" if len(case.shape) > 3 else None))
    return Ruled((*names, query.names[-2] or "token", value.names[-1] or "feature"), whole)


def einsum(case: Case) -> Ruled | None:
    equation = next((a for a in case.arguments.values() if isinstance(a, str)), "")
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(case.operands):
        return None
    right = right if arrow else _implied(terms)
    dots = max(
        [len(o.shape) - len(t.replace("...", "")) for t, o in zip(terms, case.operands, strict=True)
         if "..." in t], default=0,
    )  # fmt: skip
    letters: dict[str, list[tuple[Name, int, int]]] = {}
    for term, operand in zip(terms, case.operands, strict=True):
        spelt = _spelt(term, len(operand.shape) - len(term.replace("...", "")))
        for letter, name, n in zip(spelt, operand.names, operand.shape, strict=True):
            letters.setdefault(letter, []).append((name, n, operand.elsewhere()))
    out = _spelt(right, dots)
    if len(out) != len(case.shape):
        return None
    names = tuple(
        [shared(letters.get(letter, []), n, case.n)
         for letter, n in zip(out, case.shape, strict=True)]
    )  # fmt: skip
    wholes = [o.whole for o in case.operands]
    for letter, parts in letters.items():
        if any([carries(name) for name, _, _ in parts]):
            if letter not in out:
                ends = [(name, n) for name, n, _ in parts]
                wholes += [_summed(case, ends[0], end) for end in ends]
                continue
            k = out.index(letter)
            if not carries(names[k]):
                wholes.append(MIXED)
            elif meets_places(parts):
                wholes.append(PLACED)
            # An only entry that is spread along the axis.
            wholes += [of_axis(name, 1, case.n) for name, n, _ in parts if n != case.shape[k]]
    return Ruled(names, of_all(wholes))


def _implied(terms: Sequence[str]) -> str:
    """The result of an equation that does not say it: letters that come once, in their order."""
    letters = Counter("".join(terms).replace("...", ""))
    dots = "..." if any(["..." in term for term in terms]) else ""
    return dots + "".join(sorted([letter for letter, times in letters.items() if times == 1]))


def _spelt(term: str, dots: int) -> list[str]:
    """The axes of a term of an equation; those of `...` by their place from the last of them."""
    before, found, after = term.partition("...")
    inner = [f"...{k}" for k in range(dots, 0, -1)] if found else []
    return [*before, *inner, *after]
