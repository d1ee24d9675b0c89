"""Where in the input the entries along an axis look: the centres of what they see.

A convolution, a pooling, a slice leaves entries that are evenly spaced, so the centres along an
axis are a start and a step, in entries of the input. They end where an entry has to do with all of
an axis (attention, normalisation over positions, a gate made of a mean), or two that are not at one
place go together: what is said of an entry is true of all that went into it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from lensframe_pd.schema import AXIS, SPACING, START
from lensframe_pd.tables.axes import rule_of
from lensframe_pd.tables.case import Case, Operand, elementwise
from lensframe_pd.tables.dims import case_of
from lensframe_pd.tables.order import Name, Order
from lensframe_pd.tables.tokens import NEVER, names_of
from lensframe_pd.tape.tape import Tape

_APART = 2**32
"""Between the numbers of entries of one axis and of the next."""


class Line(NamedTuple):
    """The centres along an axis."""

    origin: tuple[int, int]
    """The row of the input, and which of its axes."""
    start: float
    step: float
    made: bool = False
    """Whether an operation over space or time was on the way."""

    def seen(self, start: float, step: float) -> Line:
        """The line of entries that are at these places among those of this line."""
        return Line(self.origin, self.start + self.step * start, self.step * step, True)


Lines = tuple[Line | None, ...]
"""Of each axis of a row; None where there are none, or no more."""


def centres(tape: Tape) -> dict[int, Lines]:
    """The rows with an axis along which the centres of entries are known.

    Nothing is looked for where no operation goes over space or time.
    """
    if _SPATIAL.isdisjoint(tape.names()):
        return {}
    found: dict[int, Lines] = {}
    memo: dict[Any, Lines] = {}
    once: dict[Lines, Lines] = {}  # equal ones are one object, which its id tells in a memo
    for i, row in enumerate(tape.rows):
        call = tape.calls[row[0]]  # by number, for speed: row.call, call.sources
        if tape.kinds.get(i) == "input" and not call[3]:
            lines: Lines = tuple([Line((i, axis), 0.0, 1.0) for axis in range(len(row.shape))])
            found[i] = once.setdefault(lines, lines)
        elif any([s in found for s in call[3]]):
            lines = _of(tape, i, found, memo)
            found[i] = once.setdefault(lines, lines)
    return {i: lines for i, lines in found.items() if any(lines)}


def _of(tape: Tape, i: int, found: dict[int, Lines], memo: dict[Any, Lines]) -> Lines:
    """The lines of a row, of which at least one source has to do with an input."""
    row = tape.rows[i]
    call = tape.calls[row.call]
    lost: Lines = (None,) * len(row.shape)
    lines = [found.get(s) for s in call.sources]
    if tape.kinds.get(i) == "alias" or not any([line is not None and any(line) for line in lines]):
        return lost
    name = call.function.name
    shapes = [_shape(tape, s) for s in call.sources]
    if len(lines) == 1 and shapes[0] == row.shape and _is_by_entry(name):
        return lines[0] or lost
    extents = [*shapes, tuple(row.shape)]
    if name in _SPATIAL:  # of tensor, weight and result, and without the channels
        n = _RANKS.get(name) or len(row.shape) - 2
        extents = [extent[-n:] for extent in (*shapes[:2], row.shape)]
    known_by = (name, *map(id, lines), *extents, len(row.shape), row.slot)
    key: Any = (*known_by, call.args, *call.kwargs.items())
    key = None if row.call in tape.selections else key
    try:
        known = memo.get(key) if key else None
    except TypeError:  # slices and lists among the arguments
        known = key = None
    if known is None:
        rule = _RULES.get(name) or (_same if _is_by_entry(name) else None)
        case = case_of(tape, i, [Operand((None,) * len(shape), shape) for shape in shapes], NEVER)
        try:
            known = rule(case, lines, name) if rule else lost
        except Exception:  # arguments that the rule does not expect, of whatever kind
            known = lost
        known = known if len(known) == len(row.shape) else lost
        if key is not None:
            memo[key] = known
    return known


@cache
def _is_by_entry(name: str) -> bool:
    return name not in _RULES and rule_of(name) is elementwise


def _shape(tape: Tape, source: int) -> tuple[int, ...]:
    return tuple(tape.rows[source].shape) if source >= 0 else tape.held[-1 - source].shape


Rule = Callable[[Case, list[Lines | None], str], Lines]
"""What an operation makes of the lines of its tensors; None of one that no input went into."""


def _same(case: Case, lines: list[Lines | None], name: str) -> Lines:
    """Tensors that are worked on entry by entry: entries that go together are at one place."""
    made: list[Line | None] = []
    for k in range(len(case.shape), 0, -1):
        here: set[Line | None] = set()
        for operand, own in zip(case.operands, lines, strict=True):
            if own is not None:
                there = len(own) >= k and operand.shape[-k] == case.shape[-k]
                here.add(own[-k] if there else None)
        made.append(_agreed(here))
    return tuple(made)


def _agreed(lines: Iterable[Line | None]) -> Line | None:
    """The line that all of these are; None where they are not one."""
    found = [*lines]
    first = found[0]
    if first is None:
        return None
    for other in found[1:]:
        if other is None or other.origin != first.origin:
            return None
        if not (_are_close(other.start, first.start) and _are_close(other.step, first.step)):
            return None
    return first._replace(made=any([line is not None and line.made for line in found]))


def _are_close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-8)


def _alone(lines: list[Lines | None]) -> Lines:
    """The lines of the first tensor, if the input went into no other."""
    first = lines[0]
    if first is None or any([other is not None for other in lines[1:]]):
        raise ValueError("of several tensors")
    return first


def _moved(case: Case, lines: list[Lines | None], name: str) -> Lines:
    """Entries that only change places, or are left out, or summed along other axes."""
    first, shape = _alone(lines), case.first.shape
    numbered: tuple[Name, ...] = tuple(
        [None if line is None else Order(_APART * k + np.arange(n))
         for k, (line, n) in enumerate(zip(first, shape, strict=True))]
    )  # fmt: skip
    operands = [Operand(numbered, shape), *case.operands[1:]]
    names = names_of(case._replace(operands=operands), name)
    return tuple([_line_of(axis, first) for axis in names])


def _line_of(axis: Name, lines: Lines) -> Line | None:
    """The line along an axis that has these entries of another."""
    if not isinstance(axis, Order) or (axis.numbers < 0).any():
        return None
    of = {int(k) for k in axis.numbers // _APART}
    steps = {int(n) for n in np.diff(axis.numbers)}
    if len(of) != 1 or len(steps) > 1:
        return None
    line = lines[of.pop()]
    if line is None:
        return None
    first = int(axis.numbers[0]) % _APART
    step = line.step * steps.pop() if steps else line.step
    return line._replace(start=line.start + line.step * first, step=step)


def _without(case: Case, lines: list[Lines | None], axes: Iterable[int]) -> Lines:
    """The lines of the first tensor, less those along axes whose entries go into each other."""
    first = _alone(lines)
    gone = {axis % len(first) for axis in axes}
    return tuple([None if k in gone else line for k, line in enumerate(first)])


def _over_last(case: Case, lines: list[Lines | None], name: str) -> Lines:
    shape = case.argument("normalized_shape", default=(1,))
    return _without(case, lines, range(-len(shape), 0))


def _last(case: Case, lines: list[Lines | None], name: str) -> Lines:
    return _without(case, lines, [-1])


def _along(case: Case, lines: list[Lines | None], name: str) -> Lines:
    axis = case.axis()
    if axis is None:
        raise ValueError("along an axis that is not known")
    return _without(case, lines, [axis])


def _batch_norm(case: Case, lines: list[Lines | None], name: str) -> Lines:
    """By what the model holds; in training by means over all positions."""
    training = case.argument("training", "train", default=True)
    return _without(case, lines, range(len(case.shape)) if training else [])


def _reduced(case: Case, lines: list[Lines | None], name: str) -> Lines:
    if len(case.operands) > 1:
        raise ValueError("of several tensors")
    return _moved(case, lines, name)


def _joined(case: Case, lines: list[Lines | None], name: str) -> Lines:
    """Tensors behind one another: along the other axes entries are at one place."""
    axis = case.axis(0, len(case.shape))
    own = [line for line in lines if line is not None]
    if axis is None or any([len(line) != len(case.shape) for line in own]):
        raise ValueError("not of one shape")
    made = [_agreed({line[k] for line in own}) for k in range(len(case.shape))]
    return (*made[:axis], None, *made[axis + 1 :])


def _stacked(case: Case, lines: list[Lines | None], name: str) -> Lines:
    axis = case.axis(0, len(case.shape))
    own = [line for line in lines if line is not None]
    if axis is None:
        raise ValueError("along an axis that is not known")
    made = [_agreed({line[k] for line in own}) for k in range(len(case.shape) - 1)]
    return (*made[:axis], None, *made[axis:])


def _padded(case: Case, lines: list[Lines | None], name: str) -> Lines:
    """Entries more in front: where they would be, were the input longer."""
    given, first = case.argument("pad", "padding"), _alone(lines)
    if case.argument("mode", default="constant") == "circular":
        raise ValueError("the other end of the input")
    before = [*given[::2], *[0] * (len(first) - len(given) // 2)]
    return tuple(
        [None if line is None else line._replace(start=line.start - line.step * n)
         for line, n in zip(first, before[::-1], strict=True)]
    )  # fmt: skip


def _spatial(of: Callable[[Case, str, int], list[tuple[float, float]]]) -> Rule:
    """Operations over the last n axes, which make of each a line of (start, step) of entries."""

    def rule(case: Case, lines: list[Lines | None], name: str) -> Lines:
        first = _alone(lines)
        n = _RANKS.get(name) or len(case.shape) - 2
        if len(first) != len(case.shape):
            raise ValueError("of another rank")
        after = [
            None if line is None else line.seen(start, step)
            for line, (start, step) in zip(first[-n:], of(case, name, n), strict=True)
        ]
        return (*[None] * (len(first) - n), *after)

    return rule


def _each(value: Any, n: int) -> list[Any]:
    """An argument of each of n axes, given once or one by one."""
    listed = [*value] if isinstance(value, (tuple, list)) else [value]
    return listed * n if len(listed) == 1 else listed


def _windows(case: Case, name: str, n: int) -> list[tuple[float, float]]:
    """Convolutions and pooling: windows, of which the first begins in the padding."""
    if "conv" in name:
        sizes = [*case.operands[1].shape[-n:]]
        strides = _each(case.argument("stride", default=1), n)
    else:
        sizes = _each(case.argument("kernel_size"), n)
        strides = _each(case.argument("stride", default=None) or sizes, n)
    apart = _each(case.argument("dilation", default=1), n)
    spans = [d * (size - 1) for d, size in zip(apart, sizes, strict=True)]
    padding = case.argument("padding", default=0)
    if padding == "same":
        before = [span // 2 for span in spans]
    else:
        before = _each(0 if padding == "valid" else padding, n)
    if case.argument("transposed", default=False) or "transpose" in name:
        return [((p - span / 2) / s, 1 / s)
                for p, span, s in zip(before, spans, strides, strict=True)]  # fmt: skip
    return [(span / 2 - p, s) for p, span, s in zip(before, spans, strides, strict=True)]


def _adaptive(case: Case, name: str, n: int) -> list[tuple[float, float]]:
    """Pooling to an extent, in windows of one size where the extents divide."""
    found = []
    for old, new in zip(case.first.shape[-n:], case.shape[-n:], strict=True):
        if not new or old % new:
            raise ValueError("windows of several sizes")
        found.append(((old // new - 1) / 2, float(old // new)))
    return found


def _resized(case: Case, name: str, n: int) -> list[tuple[float, float]]:
    """Interpolation: entries share the extent, or, aligned at the corners, its ends."""
    corners = case.argument("align_corners", default=False)
    scales = case.argument("scales", "scales_h", "scale_factors", default=None)
    factors = [None] * n if scales is None else _each(scales, n)
    found = []
    sizes = zip(case.first.shape[-n:], case.shape[-n:], factors, strict=True)
    for old, new, factor in sizes:
        if corners:
            found.append((0.0, (old - 1) / (new - 1) if new > 1 else 1.0))
        else:
            ratio = 1 / factor if factor else old / new
            found.append((ratio / 2 - 0.5, ratio))
    return found


_RANKS: dict[str, int] = {}
_RULES: dict[str, Rule] = {}


def _add(rule: Rule, names: str) -> None:
    _RULES.update(dict.fromkeys(names.split(), rule))


for _n in (1, 2, 3):
    _over = {
        _windows: "conv{n}d conv_transpose{n}d max_pool{n}d avg_pool{n}d max_pool{n}d_with_indices",
        _adaptive: "adaptive_avg_pool{n}d _adaptive_avg_pool{n}d adaptive_max_pool{n}d",
        _resized: "upsample_nearest{n}d _upsample_nearest_exact{n}d upsample_linear{n}d "
        "upsample_bilinear{n}d upsample_bicubic{n}d upsample_trilinear{n}d",
    }
    for _of_axes, _names in _over.items():
        _RANKS.update(dict.fromkeys(_names.format(n=_n).split(), _n))
        _add(_spatial(_of_axes), _names.format(n=_n))
    _add(_padded, f"reflection_pad{_n}d replication_pad{_n}d")
_add(_spatial(_windows), "convolution")
_SPATIAL = frozenset((*_RANKS, "convolution"))
_add(_padded, "pad constant_pad_nd")
_add(
    _moved,
    "permute transpose swapaxes swapdims movedim moveaxis t mT mH T view reshape flatten unflatten "
    "_unsafe_view view_as reshape_as unsqueeze squeeze getitem narrow slice select split chunk "
    "unbind tensor_split split_with_sizes flip fliplr flipud index_select expand expand_as",
)
_add(_reduced, "sum mean amax amin logsumexp std var norm linalg_vector_norm max min argmax argmin")
_add(_along, "softmax log_softmax glu")
_add(_over_last, "layer_norm rms_norm")
_add(_last, "linear")
_add(_batch_norm, "batch_norm")
_add(_same, "where masked_fill to type_as prelu")
_add(_joined, "cat concat concatenate")
_add(_stacked, "stack")


class Centres:
    """What variables say of their axes over space and time; many say the same.

    Parameters
    ----------
    renamed
        `Tape.renamed`.
    """

    def __init__(self, renamed: Mapping[str, str]) -> None:
        self._space = [renamed.get(name, name) for name in ("z", "y", "x")]
        self._said: dict[tuple[Lines, tuple[str, ...]], dict[str, Any]] = {}

    def of(self, lines: Lines, dims: tuple[str, ...]) -> dict[str, Any]:
        """Which axes these are, and start and step of each."""
        found = self._said.get((lines, dims))
        if found is None:
            found = self._said[lines, dims] = self._attrs(lines, dims)
        return found

    def _attrs(self, lines: Lines, dims: Sequence[str]) -> dict[str, Any]:
        known = [
            (dim, line)
            for dim, line in zip(dims, lines, strict=True)
            if line is not None and (line.made or dim.partition("_")[0] in self._space)
        ]
        if not known:
            return {}
        starts, steps = [line.start for _, line in known], [line.step for _, line in known]
        one = len(known) == 1  # a text and two numbers, where that says it all
        return {
            AXIS: " ".join([dim for dim, _ in known]),
            START: starts[0] if one else tuple(starts),
            SPACING: steps[0] if one else tuple(steps),
        }
