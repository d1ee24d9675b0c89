"""The saved values along their axes of stimuli: picked, put in another order, compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from lensframe_pd.schema import STIMULUS
from lensframe_pd.tables.activations import has_tensors, to_tensor
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Tape
from lensframe_pd.validation.arranged import Order
from lensframe_pd.validation.evidence import Evidence

_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


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

    def __init__(self, evidence: Evidence, reference: Tape, grouped: Passes) -> None:
        assert evidence.activations is not None
        self._variables = evidence.activations.variables
        sizes = evidence.activations.sizes
        self.n = next((n for dim, n in sizes.items() if is_stimuli(dim)), 0)
        self.ops: dict[int, str] = {}
        self.axes: dict[int, list[int]] = {}
        for row, op in enumerate(grouped.labels()):
            if op in evidence.rows and op in evidence.activations.data_vars:
                axes = stimulus_axes(self._variables[op].dims)
                if axes and has_tensors(self._variables[op].dtype):
                    self.ops[row], self.axes[row] = op, axes
        self.fresh: dict[int, Tensor] = {}
        self.slack: dict[int, float] = {}
        dtypes = {row.dtype for row in reference.rows if row.dtype.is_floating_point}
        #: Rounding in the coarsest type there is goes on in all that is made of it.
        self._eps = max([torch.finfo(dtype).eps for dtype in dtypes], default=0.0)

    def of(self, row: int) -> Tensor:
        if row in self.fresh:
            return self.fresh[row]
        return to_tensor(np.asarray(self._variables[self.ops[row]].values))

    def arranged(self, row: int, order: Order) -> Tensor:
        """The value with its entries in this order, along each axis of stimuli."""
        return picked(self.of(row), self.axes[row], order)

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

    def close(self, row: int, value: Tensor, expected: Tensor) -> bool:
        if value.shape != expected.shape:
            return False
        value, expected = _comparable(value, expected.dtype), _comparable(expected, expected.dtype)
        if torch.equal(value, expected):
            return True
        if not (expected.is_floating_point() or expected.is_complex()):
            return False
        whole = _comparable(self.of(row), expected.dtype).abs().nan_to_num(0, 0, 0)
        scale = float(whole.max()) * max(_ABSOLUTE, self._eps)
        room = expected.abs() * max(_RELATIVE, 4 * self._eps) + scale + self.slack.get(row, 0.0)
        near = (value - expected).abs() <= room
        alike = (value == expected) | (value.isnan() & expected.isnan())
        return bool((near | alike).all())


def _comparable(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.detach().resolve_conj().resolve_neg().cpu().to(dtype)
    return value.float() if dtype in (torch.float16, torch.bfloat16) else value


def picked(value: Tensor, axes: Iterable[int], entries: Sequence[int]) -> Tensor:
    for axis in axes:
        value = value.index_select(axis, torch.tensor(entries, dtype=torch.int64))
    return value


def is_stimuli(dim: object) -> bool:
    return isinstance(dim, str) and dim.rstrip("_") == STIMULUS


def stimulus_axes(dims: Sequence[object]) -> list[int]:
    return [axis for axis, dim in enumerate(dims) if is_stimuli(dim)]
