"""The saved values along their axes of stimuli: picked, put in another order, compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lensframe_pd.replay.recording import Saved
from lensframe_pd.schema import STIMULUS
from lensframe_pd.tables.activations import has_tensors, tensor_of, variables_of
from lensframe_pd.tape.compare import farthest, same_bits, widest
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.arranged import Order
from lensframe_pd.validation.evidence import Evidence

_RELATIVE, _ABSOLUTE = 1e-4, 1e-5
_SMALL = 2**12  # elements of a value up to which it is compared together with others
_FIRST = [0]
_AT_ONCE = 64  # of which so many are
_MANY = 2**12  # elements of an entry from which on it is compared by itself


class Fit(IntEnum):
    """How well a value fits what is expected."""

    NONE = 0
    CLOSE = 1
    EXACT = 2


class Small(NamedTuple):
    """A small saved value whose first axis alone is that of the stimuli."""

    dtype: torch.dtype
    shape: torch.Size
    entries: Tensor
    """One row for each stimulus."""


class Along:
    """The saved values that have an axis of stimuli, by row of the tape.

    Attributes
    ----------
    n
        How many stimuli there are.
    ops, axes
        Of each row its label, and its axes of stimuli.
    fresh
        Values of a new run, where the saved ones cannot be had again.
    slack
        How far rounding alone moves a value, where that has been measured.
    """

    def __init__(
        self, evidence: Evidence, reference: Tape, grouped: Passes, saved: Saved | None = None
    ) -> None:
        self._saved = saved
        assert evidence.activations is not None
        self._variables = variables_of(evidence.activations)
        sizes = evidence.activations.sizes
        self.n = next((n for dim, n in sizes.items() if is_stimuli(dim)), 0)
        self.ops: dict[int, str] = {}
        self.axes: dict[int, list[int]] = {}
        named = {*evidence.rows} & {*evidence.activations.data_vars}
        alike: dict[Any, list[int]] = {}  # most variables have dims and type in common with others
        for row, op in enumerate(grouped.labels()):
            if op in named:
                variable = self._variables[op]
                kind = variable.dims, variable.dtype
                if kind not in alike:
                    alike[kind] = stimulus_axes(kind[0]) if has_tensors(kind[1]) else []
                if alike[kind]:
                    self.ops[row], self.axes[row] = op, alike[kind]
        self.fresh: dict[int, Tensor] = {}
        self.slack: dict[int, float] = {}
        #: Saved values that are seen in the memory of the Dataset, so that to keep them takes none.
        self._seen: dict[int, Tensor] = {}
        self._small: dict[int, Small] | None = None
        #: Of each row how large its saved value is.
        self._sizes: dict[int, float] = {}
        dtypes = {row.dtype for row in reference.rows if row.dtype.is_floating_point}
        #: Rounding in the coarsest type there is goes on in all that is made of it.
        self._eps = max([torch.finfo(dtype).eps for dtype in dtypes], default=0.0)

    def of(self, row: int) -> Tensor:
        """The value that others are compared with."""
        known = self.fresh.get(row) if self.fresh else None
        if known is None:
            known = self._seen.get(row)
        if known is not None:
            return known
        op = self.ops[row]
        shared = None if self._saved is None else self._saved.seen(op)
        if shared is not None:
            self._seen[row] = shared
            return shared
        value, in_place = tensor_of(self._variables[op])
        if in_place:
            self._seen[row] = value
        return value

    def small(self) -> dict[int, Small]:
        """The values that are sooner compared together, as long as they are compared with."""
        if self._small is None or self.fresh:
            self._small = {}
            for row, axes in self.axes.items():
                own = self.of(row) if axes == _FIRST and row not in self.fresh else None
                if own is not None and len(own) == self.n and 0 < own.numel() <= _SMALL:
                    self._small[row] = Small(own.dtype, own.shape, own.reshape(self.n, -1))
        return self._small

    def following(
        self, order: Order, places: Sequence[int] | None = None
    ) -> Callable[[int, Tensor], Fit]:
        """How well a value fits the one it is compared with, its entries in this order.

        Parameters
        ----------
        places
            Which of its entries are looked at; all by default.
        """
        whole = places is None
        looked_at = range(len(order)) if places is None else places
        taken = [order[place] for place in looked_at]
        entries = torch.tensor(taken, dtype=torch.int64)
        own_places = torch.tensor(looked_at, dtype=torch.int64)
        many = _MANY * len(order)

        def follows(row: int, value: Tensor) -> Fit:
            own = expected = self.of(row)
            if own.numel() >= many and self._is_arranged(row, value, looked_at, taken):
                return Fit.EXACT
            for axis in self.axes[row]:
                expected = expected.index_select(axis, entries)
                if not whole:
                    value = value.index_select(axis, own_places)
            # in few steps what most often holds
            if value.dtype is expected.dtype and value.is_cpu and torch.equal(value, expected):
                return Fit.EXACT
            return Fit.CLOSE if self.close(row, value, expected) else Fit.NONE

        return follows

    def _is_arranged(
        self, row: int, value: Tensor, places: Sequence[int], taken: Sequence[int]
    ) -> bool:
        """Whether a large value has at these places the very entries taken from others.

        It takes no copy to see.
        """
        own = self.of(row)
        if self.axes[row] != [0]:
            return False
        if value.shape != own.shape or value.dtype is not own.dtype or not value.is_cpu:
            return False
        seen = value.layout is torch.strided and not (value.is_conj() or value.is_neg())
        whole, others = (widest(value), widest(own)) if seen else (None, None)
        pairs = zip(places, taken, strict=True)
        if whole is None or others is None or whole.numel() % self.n:
            return all(same_bits(value[i], own[k]) for i, k in pairs)
        entries, known = whole.view(self.n, -1), others.view(self.n, -1)
        return all(torch.equal(entries[i], known[k]) for i, k in pairs)

    def moved_by(self, row: int, value: Tensor) -> float:
        """The largest distance between a finite element and what it was; 0 for whole numbers."""
        own = self.of(row)
        if value.shape != own.shape or not (own.is_floating_point() or own.is_complex()):
            return 0.0
        apart = _comparable(value, own.dtype) - _comparable(own, own.dtype)
        return float(apart.abs().nan_to_num(0, 0, 0).max()) if apart.numel() else 0.0

    def more_axes(self, row: int) -> list[list[int]]:
        """Its axes with one more, or all more, of those that have as many entries."""
        axes = self.axes[row]
        free = [k for k, n in enumerate(self.of(row).shape) if n == self.n and k not in axes]
        more = [[k] for k in free] + ([free] if len(free) > 1 else [])
        return [sorted([*axes, *extra]) for extra in more]

    def bag(self, row: int) -> Bag | None:
        """Its entries with what may be of all stimuli in no order; None if that is nothing."""
        own, axes = self.of(row), self.axes[row]
        free = [k for k, n in enumerate(own.shape) if k not in axes and n and n % self.n == 0]
        if not free or len(axes) > 1 or own.is_complex():
            return None
        bag = Bag(self, row, free)
        return bag if bag.tells_apart() else None

    def close(self, row: int, value: Tensor, expected: Tensor) -> bool:
        if value.shape != expected.shape:
            return False
        value, expected = _comparable(value, expected.dtype), _comparable(expected, expected.dtype)
        if torch.equal(value, expected):
            return True
        if not (expected.is_floating_point() or expected.is_complex()):
            return False
        scale = self._size(row) * max(_ABSOLUTE, self._eps) + self.slack.get(row, 0.0)
        # most often so, in one pass instead of ten; NaN where either has one, which is not less
        if not expected.is_complex() and expected.numel() and farthest(value - expected) <= scale:
            return True
        room = expected.abs() * max(_RELATIVE, 4 * self._eps) + scale
        near = (value - expected).abs() <= room
        alike = (value == expected) | (value.isnan() & expected.isnan())
        return bool((near | alike).all())

    def room(self, row: int) -> float:
        """From which distance on two numbers of a value are apart for certain."""
        own = self.of(row)
        if not (own.is_floating_point() or own.is_complex()):
            return 0.0
        parts = max(_RELATIVE, 4 * self._eps) + max(_ABSOLUTE, self._eps)
        return 2 * (self._size(row) * parts + self.slack.get(row, 0.0))

    def _size(self, row: int) -> float:
        """The largest finite absolute number in the value that a row is compared with."""
        if row in self.fresh:
            return _largest(self.fresh[row])
        if row not in self._sizes:
            self._sizes[row] = _largest(self.of(row))
        return self._sizes[row]


class Bag(NamedTuple):
    """A saved value whose numbers along the free axes are looked at in no order."""

    values: Along
    row: int
    free: list[int]

    def follows(self, value: Tensor, order: Order) -> bool:
        """Whether a value has the same numbers, its entries in this order."""
        own = self.values.of(self.row)
        if value.shape != own.shape:
            return False
        expected = picked(own, self.values.axes[self.row], order)
        return self.values.close(self.row, self._sorted(value), self._sorted(expected))

    def tells_apart(self) -> bool:
        """Whether no two entries have the same numbers."""
        entries = self._sorted(self.values.of(self.row)).double().nan_to_num()
        apart = torch.cdist(entries, entries, p=torch.inf).fill_diagonal_(torch.inf)
        return bool((apart > self.values.room(self.row)).all())

    def _sorted(self, value: Tensor) -> Tensor:
        """A row for each entry."""
        (axis,) = self.values.axes[self.row]
        kept = [axis, *[k for k in range(value.dim()) if k not in (axis, *self.free)]]
        value = _comparable(value, self.values.of(self.row).dtype)
        return value.permute(*kept, *self.free).flatten(len(kept)).sort().values.flatten(1)


class Together:
    """Small values of one run that are compared together: most have the expected entries.

    Those of which that is not seen are looked at one by one.
    """

    def __init__(self, values: Along, order: Order, look: Callable[[int, Tensor], None]) -> None:
        self._small = values.small()
        self._n = len(order)
        self._order = torch.tensor(order, dtype=torch.int64)
        self._look = look
        #: By type the rows and the values that wait.
        self._waiting: dict[torch.dtype, list[tuple[int, Tensor]]] = {}

    def takes(self, row: int, value: Tensor) -> bool:
        """Whether a value will be compared with others; where many wait, they are."""
        known = self._small.get(row)
        if known is None or value.dtype is not known.dtype or value.shape != known.shape:
            return False
        waiting = self._waiting.get(known.dtype)
        if waiting is None:
            waiting = self._waiting[known.dtype] = []
        waiting.append((row, value))
        if len(waiting) >= _AT_ONCE:
            self.settle()
        return True

    def settle(self) -> None:
        """Compare all that wait."""
        for waiting in self._waiting.values():
            if waiting and not self._follow(waiting):
                for row, value in waiting:
                    self._look(row, value)
        self._waiting.clear()

    def _follow(self, waiting: list[tuple[int, Tensor]]) -> bool:
        own, now = self._joined(waiting)
        return now is not None and torch.equal(now, own.index_select(0, self._order))

    def _joined(self, waiting: list[tuple[int, Tensor]]) -> tuple[Tensor, Tensor | None]:
        """What is known and what is now side by side, a row for each stimulus.

        None if what is now cannot be seen so.
        """
        own = torch.cat([self._small[row].entries for row, _ in waiting], 1)
        try:
            now = torch.cat([value.reshape(self._n, -1) for _, value in waiting], 1)
        except RuntimeError:  # of another layout, or on another device
            return own, None
        return own, now if now.is_cpu else None


def _comparable(value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.is_conj() or value.is_neg():
        value = value.resolve_conj().resolve_neg()
    if value.dtype is not dtype or not value.is_cpu:
        value = value.cpu().to(dtype)
    return value.float() if dtype in (torch.float16, torch.bfloat16) else value


def _largest(value: Tensor) -> float:
    return float(_comparable(value, value.dtype).abs().nan_to_num(0, 0, 0).max())


def picked(value: Tensor, axes: Iterable[int], entries: Sequence[int] | Tensor) -> Tensor:
    if not isinstance(entries, Tensor):
        entries = torch.tensor(entries, dtype=torch.int64)
    for axis in axes:
        value = value.index_select(axis, entries)
    return value


def is_stimuli(dim: object) -> bool:
    return isinstance(dim, str) and dim.rstrip("_") == STIMULUS


def stimulus_axes(dims: Sequence[object]) -> list[int]:
    return [axis for axis, dim in enumerate(dims) if is_stimuli(dim)]
