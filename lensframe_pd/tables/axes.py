"""The table of axis names: which operation makes which axes, keeps, moves, merges or drops them.

A rule looks at a `Case` and gives a name for each axis of the result, `None` where it does not
know; an operation without a rule names nothing. Names are never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverloadPacket

from lensframe_pd.tape.tape import SLOT


class Merged(NamedTuple):
    """An axis that a reshape made of several: it has no name, but can be split again."""

    parts: tuple[tuple[Any, int], ...]
    """Name and extent of each."""


Name = str | Merged | None
Names = tuple[Name, ...]
_SPATIAL: dict[int, Names] = {1: ("x",), 2: ("y", "x"), 3: ("z", "y", "x")}


class Operand(NamedTuple):
    """A tensor an operation read: its axis names and its shape."""

    names: Names
    shape: tuple[int, ...]


class Case(NamedTuple):
    """What a rule may look at."""

    operands: list[Operand]
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    slot: int

    @property
    def first(self) -> Operand:
        return self.operands[0] if self.operands else Operand((), ())


Rule = Callable[[Case], Names | None]


_pointwise: dict[str, bool] = {}
_KEEPING = frozenset(
    """output alias dropout feature_dropout alpha_dropout layer_norm group_norm batch_norm
    instance_norm rms_norm softmax log_softmax clone contiguous to detach data requires_grad
    cumsum cumprod flip roll float half bfloat16 double type type_as zeros_like ones_like
    empty_like full_like rand_like randn_like fill zero copy masked_fill masked_scatter
    local_response_norm cpu cuda setitem index_put identity bernoulli channel_shuffle
    native_dropout prelu normalize triu tril scatter index_copy index_fill index_add""".split()
)


def keeps(name: str) -> bool:
    """Whether an operation works element by element, or else leaves the axes what they are."""
    known = _pointwise.get(name)
    if known is None:
        packet = getattr(torch.ops.aten, name, None)
        known = name in _KEEPING or (
            isinstance(packet, OpOverloadPacket)
            and any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads())
        )
        _pointwise[name] = known
    return known


def broadcast(case: Case) -> Names:
    names: list[Name] = [None] * len(case.shape)
    for operand in case.operands:
        for k in range(1, min(len(names), len(operand.shape)) + 1):
            if names[-k] is None and operand.shape[-k] == case.shape[-k]:
                names[-k] = operand.names[-k]
    return tuple(names)


def _spatial(n: int, channel: str | None) -> Rule:
    """Operations over n spatial axes; a convolution also makes the channel axis."""

    def rule(case: Case) -> Names | None:
        batched = len(case.shape) == n + 2
        if not batched and len(case.shape) != n + 1:
            return None
        lead = case.first.names[:1] if batched else ()
        middle = channel or (case.first.names[1] if batched else case.first.names[0]) or "channel"
        return (*lead, middle, *_SPATIAL[n])

    return rule


def _last_is_feature(case: Case) -> Names:
    return (*case.first.names[:-1], "feature")


def _embedding(case: Case) -> Names | None:
    index = case.operands[1].names if len(case.operands) > 1 else ()  # the first is the weight
    if len(index) != len(case.shape) - 1:
        return None
    return (*(n or ("token" if k else None) for k, n in enumerate(index)), "feature")


def _matmul(case: Case) -> Names | None:
    a, b = case.operands[-2:]
    if len(a.shape) < 2 or len(b.shape) < 2:
        return None
    lead = broadcast(
        Case([Operand(o.names[:-2], o.shape[:-2]) for o in (a, b)], {}, case.shape[:-2], 0)
    )
    return (*lead, a.names[-2], b.names[-1])


def _attention(case: Case) -> Names | None:
    if len(case.shape) < 3:
        return None
    query, value = case.operands[0].names, case.operands[2].names
    lead = (*query[:-3], query[-3] or ("head" if len(case.shape) > 3 else None))
    return (*lead, query[-2] or "token", value[-1] or "feature")


def _recurrent(case: Case) -> Names | None:
    batch_first = [*case.arguments.values()][-1] is True
    lead = case.first.names
    if len(case.shape) != 3 or len(lead) != 3:
        return None
    if case.slot:
        return (None, lead[0] if batch_first else lead[1], "feature")
    return (lead[0], "time", "feature") if batch_first else ("time", lead[1], "feature")


def _permuted(order: Callable[[Case, int], Sequence[int] | None]) -> Rule:
    def rule(case: Case) -> Names | None:
        names = case.first.names
        picked = order(case, len(names))
        return None if picked is None else tuple(names[k] for k in picked)

    return rule


def _given(case: Case) -> list[Any]:
    """The arguments that are no tensors, in order."""
    return [a for a in case.arguments.values() if a is not SLOT]


def _swap(case: Case, rank: int) -> list[int]:
    a, b = (int(d) % rank for d in _given(case)[:2])
    order = list(range(rank))
    order[a], order[b] = b, a
    return order


def _permute(case: Case, rank: int) -> list[int]:
    given = _given(case)
    axes = given[0] if isinstance(given[0], (tuple, list)) else given
    return [int(d) % rank for d in axes]


def _last_two(case: Case, rank: int) -> list[int]:
    return [*range(rank - 2), rank - 1, rank - 2] if rank >= 2 else list(range(rank))


def _reversed(case: Case, rank: int) -> list[int]:
    return list(range(rank))[::-1]


def _reshaped(case: Case) -> Names | None:
    """Match runs of axes with equal products: kept, merged or split."""
    parts: list[tuple[Name, int]] = []
    for name, n in zip(case.first.names, case.first.shape, strict=True):
        parts += name.parts if isinstance(name, Merged) else [(name, n)]
    runs = _equal_runs([n for _, n in parts], case.shape)
    if runs is None:
        return None
    sequence = len(case.first.names) > 1 and case.first.names[-2] in ("token", "time")
    out: list[Name] = []
    for old, new in runs:
        out += _regrouped(parts[old], case.shape[new], sequence)
    return tuple(out)


def _equal_runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[slice, slice]] | None:
    """The shortest runs of both shapes with as many elements each; None where there are none.

    Examples
    --------
    >>> _equal_runs((2, 3, 4), (6, 2, 2))
    [(slice(0, 2, None), slice(0, 1, None)), (slice(2, 3, None), slice(1, 3, None))]
    """
    runs: list[tuple[slice, slice]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_old, first_new = i, j
        product_old = product_new = 1
        while product_old != product_new or first_old == i or first_new == j:
            # Take an axis of the side that is behind; of both at first, as a run has one of each.
            if i < len(old) and (product_old < product_new or first_old == i):
                product_old *= old[i]
                i += 1
            elif j < len(new) and (product_new < product_old or first_new == j):
                product_new *= new[j]
                j += 1
            else:
                break
        if product_old != product_new or not product_old:
            return None  # extents of 0 fit everything, and say nothing
        runs.append((slice(first_old, i), slice(first_new, j)))
    return runs


def _regrouped(old: list[tuple[Name, int]], new: Sequence[int], sequence: bool) -> list[Name]:
    """Names for axes of extents `new`, made of the axes `old` with as many elements."""
    if len(old) == len(new) == 1:
        return [old[0][0]]
    old = [part for part in old if part[1] != 1]
    sizes = [n for n in new if n != 1]
    if [n for _, n in old] == sizes:
        names = iter([name for name, _ in old])
        return [next(names) if n != 1 else None for n in new]
    if len(sizes) == 1:
        merged = _MERGED.get(tuple(name for name, _ in old)) or Merged(tuple(old))
        return [merged if n != 1 else None for n in new]
    if sequence and [name for name, _ in old] == ["feature"] and len(new) == 3 and new[0] == 3:
        return [None, "head", "feature"]  # queries, keys and values of tokens, in several heads
    return [None] * len(new)


_MERGED: dict[Names, str] = {
    ("y", "x"): "token",
    ("z", "y", "x"): "token",
    ("head", "feature"): "feature",
    ("channel", "y", "x"): "feature",
    ("channel", "x"): "feature",
    ("channel", "z", "y", "x"): "feature",
    ("y", "x", "channel"): "feature",
    ("y", "x", "feature"): "feature",
    ("token", "feature"): "feature",
}


def _squeezed(case: Case) -> Names:
    given = _given(case)
    rank = len(case.first.shape)
    axes = range(rank)
    if given:
        chosen = given[0] if isinstance(given[0], (tuple, list)) else (given[0],)
        axes = [int(d) % rank for d in chosen]  # type: ignore[assignment]
    gone = {k for k in axes if case.first.shape[k] == 1}
    return tuple(n for k, n in enumerate(case.first.names) if k not in gone)


def _reduced(case: Case) -> Names | None:
    names, rank = case.first.names, len(case.first.shape)
    dim = case.arguments.get("dim", case.arguments.get("axis"))
    if dim is None:
        dim = next((a for a in _given(case) if _is_axes(a)), None)
    if dim is None or isinstance(dim, bool) or dim is SLOT:
        return (None,) * len(case.shape)
    axes = {int(d) % rank for d in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    if len(case.shape) == rank:
        return tuple(None if k in axes else n for k, n in enumerate(names))
    return tuple(n for k, n in enumerate(names) if k not in axes)


def _is_axes(value: Any) -> bool:
    """Whether an argument can be an axis, or several: `keepdim=True` is a number, too."""
    return isinstance(value, (int, tuple, list)) and not isinstance(value, bool)


def _same_axes(case: Case) -> Names | None:
    """The axes stay what they are; their extents may change."""
    for operand in case.operands:
        if len(operand.shape) == len(case.shape) and any(operand.names):
            return operand.names
    return None


def _unbound(case: Case) -> Names:
    given = _given(case)
    k = int(given[0]) % len(case.first.shape) if given else 0
    return tuple(n for i, n in enumerate(case.first.names) if i != k)


def _with_new_axis(case: Case) -> Names:
    """A new axis, which has no name, where the first number among the arguments says."""
    numbers = [a for a in _given(case) if isinstance(a, int)]
    k = int(numbers[0]) % len(case.shape) if numbers else 0
    names = case.first.names
    return (*names[:k], None, *names[k:])


def _indexed(case: Case) -> Names | None:
    arguments = list(case.arguments.values())
    index = arguments[1] if len(arguments) > 1 else SLOT
    items = list(index) if isinstance(index, tuple) else [index]
    if any(i is SLOT or isinstance(i, (list, bool)) for i in items):
        return None
    used = sum(i is not None and i is not Ellipsis for i in items)
    names, k = case.first.names, 0
    out: list[Name] = []
    for item in items:
        if item is Ellipsis:
            n = len(names) - used
            out += names[k : k + n]
            k += n
        elif item is None:
            out.append(None)
        elif isinstance(item, slice):
            out.append(names[k])
            k += 1
        else:
            k += 1
    return (*out, *names[k:])


def _einsum(case: Case) -> Names | None:
    equation = next((a for a in case.arguments.values() if isinstance(a, str)), "")
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != len(case.operands):
        return None
    letters: dict[str, Name] = {}
    for term, operand in zip(terms, case.operands, strict=True):
        for letter, name in zip(term, operand.names, strict=False):
            letters[letter] = letters.get(letter) or name
    return tuple(letters.get(letter) for letter in right)


def _rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = {}

    def add(rule: Rule, names: str) -> None:
        rules.update(dict.fromkeys(names.split(), rule))

    for n in (1, 2, 3):
        add(_spatial(n, "channel"), f"conv{n}d conv_transpose{n}d")
        add(
            _spatial(n, None),
            f"max_pool{n}d avg_pool{n}d adaptive_avg_pool{n}d adaptive_max_pool{n}d "
            f"max_pool{n}d_with_indices fractional_max_pool{n}d",
        )
    add(_spatial(1, None), "upsample_nearest1d upsample_linear1d")
    add(
        _spatial(2, None),
        "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d pixel_shuffle "
        "_upsample_bilinear2d_aa _upsample_nearest_exact2d grid_sampler",
    )
    add(_spatial(3, None), "upsample_nearest3d upsample_trilinear3d")
    add(_last_is_feature, "linear bilinear lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
    add(_embedding, "embedding")
    add(_matmul, "matmul mm bmm addmm baddbmm")
    add(_attention, "scaled_dot_product_attention")
    add(_recurrent, "lstm gru rnn_tanh rnn_relu")
    add(_permuted(_swap), "transpose swapaxes swapdims")
    add(_permuted(_permute), "permute")
    add(_permuted(_last_two), "mT t")
    add(_permuted(_reversed), "T")
    add(_reshaped, "view reshape flatten unflatten _unsafe_view view_as reshape_as")
    add(_with_new_axis, "unsqueeze stack")
    add(_squeezed, "squeeze")
    add(
        _reduced,
        "sum mean amax amin max min argmax argmin logsumexp std var norm linalg_vector_norm "
        "prod any all median",
    )
    add(
        _same_axes,
        "cat concat concatenate split chunk narrow pad split_with_sizes sort "
        "topk index_select tensor_split constant_pad_nd",
    )
    add(_unbound, "unbind select")
    add(_indexed, "getitem")
    add(broadcast, "expand expand_as broadcast_to")
    add(_einsum, "einsum")
    return rules


RULES = _rules()
