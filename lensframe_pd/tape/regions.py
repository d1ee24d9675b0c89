"""The bytes of its storage that a tensor can touch, and whether two tensors share some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from lensframe_pd.tape.storage import unwrapped

Steps = tuple[tuple[int, int], ...]
"""Repetitions of a block of bytes: the bytes from one to the next, how many; smallest first."""

_WORK = 10_000  # candidates that NumPy tries: what takes longer counts as shared
_BYTES = 2**20  # of regions that are compared byte by byte


class Form(NamedTuple):
    """Blocks of bytes at regular distances: a region without its place.

    Views with the same bytes have the same form, whatever the order of their axes.
    """

    block: int
    steps: Steps

    @property
    def reach(self) -> int:
        """Bytes from the first to the last, both included."""
        return self.block + sum([step * (n - 1) for step, n in self.steps])


class Region(NamedTuple):
    """Where a tensor lies in its storage."""

    low: int
    """The first byte."""
    high: int
    """The byte after the last; `low` where there are no elements."""
    form: Form


def region_of(tensor: Tensor) -> Region:
    """The bytes of its storage that a tensor can touch."""
    tensor = unwrapped(tensor)
    if type(tensor) is not Tensor and tensor.is_nested:  # its extents are symbols
        n = tensor.untyped_storage().nbytes()
        return Region(0, n, Form(n, ()))
    size = tensor.element_size()
    low = int(tensor.storage_offset()) * size
    if tensor.is_contiguous():  # most are, and in-place operations ask once each
        n = tensor.numel() * size
        return Region(low, low + n, Form(n, ()))
    if not tensor.numel():
        return Region(low, low, Form(0, ()))
    form = _form(tensor.shape, tensor.stride(), size)
    return Region(low, low + form.reach, form)


def _form(shape: Sequence[int], stride: Sequence[int], size: int) -> Form:
    axes = [(int(s) * size, int(n)) for n, s in zip(shape, stride, strict=True) if n > 1 and s]
    block = size
    steps: list[tuple[int, int]] = []
    for step, n in sorted(axes):
        if not steps and step == block:  # the blocks touch: together they are one
            block *= n
        elif steps and step == steps[-1][0] * steps[-1][1]:
            steps[-1] = (steps[-1][0], steps[-1][1] * n)
        else:
            steps.append((step, n))
    return Form(block, tuple(steps))


def overlap(a: Region, b: Region) -> bool:
    """Whether two regions of one storage share a byte."""
    if a.low >= b.high or b.low >= a.high or not (a.form.block and b.form.block):
        return False
    if not a.form.steps and not b.form.steps:
        return True
    start = min(a.low, b.low)
    stand_ins = _stand_in(a, start), _stand_in(b, start)
    return np.may_share_memory(*stand_ins, max_work=_WORK)  # type: ignore[arg-type] # any number


def covers(a: Region, b: Region) -> bool:
    """Whether region `a` has every byte of `b`; where that takes too long to tell, it has not."""
    if b.low == b.high or a == b:
        return True
    if b.low < a.low or a.high < b.high:
        return False
    if not a.form.steps:
        return True
    if a.high - a.low > _BYTES:
        return False
    touched = np.zeros(a.high - a.low, dtype=bool)
    _within(touched, a, a.low)[...] = True
    return bool(_within(touched, b, a.low).all())


def disjoint_copies(form: Form, step: int, n: int) -> bool:
    """Whether `n` regions of one form, each `step` bytes after the one before, share no byte.

    As the pieces of `unbind`, `chunk` and `split` do. False where it is not seen at once.
    """
    end = form.block
    for distance, count in sorted((*form.steps, (step, n)) if n > 1 else form.steps):
        if distance < end:
            return False
        end += distance * (count - 1)
    return True


def _within(memory: np.ndarray, region: Region, start: int) -> np.ndarray:
    """The bytes of a region in `memory`, whose first is the byte `start` of the storage."""
    block, steps = region.form
    shape = (*[n for _, n in steps], block)
    strides = (*[step for step, _ in steps], 1)
    return np.lib.stride_tricks.as_strided(memory[region.low - start :], shape, strides)


class _Bytes:
    """What NumPy asks for to make an array; the memory is never read."""

    def __init__(self, region: Region, start: int) -> None:
        block, steps = region.form
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "data": (1 + region.low - start, True),
            "shape": (*[n for _, n in steps], block),
            "strides": (*[step for step, _ in steps], 1),
        }


def _stand_in(region: Region, start: int) -> np.ndarray:
    return np.asarray(_Bytes(region, start))
