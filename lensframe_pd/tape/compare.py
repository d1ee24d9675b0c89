"""Whether two tensors are the same, bit for bit, and how far apart they are if not."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Difference(NamedTuple):
    """How two tensors differ."""

    same: bool
    """Every bit is equal, all NaN being alike."""
    largest: float
    """The largest absolute difference; inf where one is NaN or the shapes differ."""
    reason: str = ""


SAME = Difference(True, 0.0)


def difference(a: Tensor, b: Tensor) -> Difference:
    """Compare two tensors of any dtype; -0.0 and 0.0 differ by 0.0 and are not the same."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return Difference(False, math.inf, f"{_kind(a)} instead of {_kind(b)}")
    with torch.no_grad():
        a, b = _comparable(a), _comparable(b)
        if _same_bits(a, b):
            return SAME
        if a.is_complex():
            a, b = torch.view_as_real(a), torch.view_as_real(b)
        apart = a != b
        if a.is_floating_point():
            apart &= ~(a.isnan() & b.isnan())
            apart |= (a.signbit() != b.signbit()) & (a == 0) & (b == 0)
        if not bool(apart.any()):
            return SAME
        gap = (a[apart].double() - b[apart].double()).abs().max().item()
        largest = math.inf if math.isnan(gap) else gap
    n = int(apart.sum())
    return Difference(False, largest, f"{n} of {apart.numel()} elements differ by up to {gap:.3g}")


def same(a: Tensor, b: Tensor) -> bool:
    """`difference(a, b).same`, quicker where they differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    x, y = _comparable(a), _comparable(b)
    if _same_bits(x, y):
        return True
    if x.dim() and not x.is_complex() and not (x.is_floating_point() and bool(x.isnan().any())):
        return False
    return difference(a, b).same


def _comparable(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return tensor.resolve_conj().resolve_neg()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype is torch.bool or not a.dim() or a.is_complex():
        return torch.equal(a, b) and not a.is_complex() and not a.is_floating_point()
    bits = _BITS.get(a.element_size())
    return bits is not None and torch.equal(a.view(bits), b.view(bits))


def _kind(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "scalar"
    return f"{shape} {str(tensor.dtype).removeprefix('torch.')}"
