"""Other values for a tensor that a call was given, none that its kernel may not be given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lensframe_pd.replay.call import laid_out
from lensframe_pd.tape.compare import same
from lensframe_pd.tape.domains import Domain
from lensframe_pd.tape.storage import bits_of


def probes(tensor: Tensor, domain: Domain, beside: Iterable[float]) -> Iterator[Tensor]:
    """Other values for a tensor, in its layout; the quickest and most telling first.

    Parameters
    ----------
    beside
        Numbers among the other arguments, which a comparison may look for.
    """
    plain = tensor.detach()
    stride, bits = tensor.stride(), bits_of(tensor)
    for other in _others(plain, domain, beside):
        if other.dtype is not tensor.dtype:
            other = other.to(tensor.dtype)
        if domain is not Domain.ANY and same(other, plain):
            continue
        other = laid_out(other, stride, bits)
        yield other.requires_grad_() if tensor.requires_grad else other


def numbers_beside(given: Iterable[Any], others: Iterable[Tensor]) -> Iterator[float]:
    """Numbers among the arguments of a call and in its other tensors, and those next to them."""
    found = [value for value in given if type(value) in (int, float)]
    for tensor in others:
        found += _ends(tensor)
    yield from dict.fromkeys(number + step for number in found for step in (0, 1, -1))


def _ends(tensor: Tensor) -> list[float]:
    """The first, the smallest and the largest number in a tensor."""
    if not tensor.numel() or tensor.is_complex():
        return []
    if tensor.dtype is torch.bool:
        return [0, 1]
    flat = tensor.detach().flatten()
    wide = flat.double() if flat.is_floating_point() else flat.long()
    ends = (wide[0], wide.min(), wide.max())
    return [number for number in (end.item() for end in ends) if math.isfinite(number)]


def _others(tensor: Tensor, domain: Domain, beside: Iterable[float]) -> Iterator[Tensor]:
    if tensor.dtype is torch.bool:
        if domain is Domain.ANY:
            yield from _other_bools(tensor)
        yield from _orders(tensor)
        return
    if tensor.is_floating_point() or tensor.is_complex():
        if domain is Domain.ANY:
            yield turned(tensor)
        if domain is not Domain.ORDER:
            yield from _floats_within(tensor)
        yield from _orders(tensor)
        if domain is Domain.ANY:
            yield from _other_floats(tensor, beside)
        return
    wide = tensor.long()
    if domain is not Domain.ORDER:
        yield from _integers_within(wide)
    yield from _orders(wide)
    if domain is Domain.ANY:
        yield from _other_integers(wide, torch.iinfo(tensor.dtype), beside)


def _orders(tensor: Tensor) -> Iterator[Tensor]:
    """The values that were there, in other places."""
    flat = tensor.flatten()
    for moved in (flat.flip(0), flat.roll(1), flat.roll(flat.numel() // 2)):
        yield moved.reshape(tensor.shape)


def _other_bools(tensor: Tensor) -> Iterator[Tensor]:
    yield ~tensor
    yield torch.ones_like(tensor)
    yield torch.zeros_like(tensor)
    yield _noise(tensor, 0, 2) > 0
    for place in (0, -1):  # more than one may be too many for what is to be put there
        alone = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
        alone[place] = True
        yield alone.reshape(tensor.shape)


def _floats_within(tensor: Tensor) -> Iterator[Tensor]:
    """Turned round, at random, or nearer to zero where all are one number."""
    if tensor.is_complex():
        parts = torch.view_as_real(tensor.resolve_conj().resolve_neg())
        yield from map(torch.view_as_complex, _floats_within(parts))
        return
    wide = tensor if tensor.dtype is torch.float64 else tensor.float()
    low, high = (float(end) for end in wide.aminmax())  # NaN if one is
    finite: Tensor | bool = True
    if not (math.isfinite(low) and math.isfinite(high)):  # else to pick them takes most of the time
        finite = wide.isfinite()
        if not bool(finite.any()):
            return
        low, high = (float(end) for end in wide[finite].aminmax())
    if low < high:
        turned = (low + (high - wide) if high - low < math.inf else wide).clamp(low, high)
        yield _where(finite, turned, wide)
        yield _where(finite, _noise(wide, low, high).clamp(low, high), wide)
    elif low:
        yield wide * 0.5


def _where(finite: Tensor | bool, other: Tensor, tensor: Tensor) -> Tensor:
    return other if finite is True else torch.where(torch.as_tensor(finite), other, tensor)


def turned(tensor: Tensor) -> Tensor:
    """Other values, of another sign, order and size, at the price of one operation."""
    if tensor.dtype in _WHOLE:
        return tensor.bitwise_not()
    wide = tensor
    if tensor.dtype not in COMPUTED:
        wide = tensor.to(torch.complex64) if tensor.is_complex() else tensor.float()
    return torch.rsub(wide, 1.37, alpha=0.73)


#: Types that torch computes with as they are.
COMPUTED = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_WHOLE = frozenset((torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool))
#: Types of which `turned` makes other values in one operation.
TURNED = _WHOLE.union(COMPUTED)


def _other_floats(tensor: Tensor, beside: Iterable[float]) -> Iterator[Tensor]:
    """Of another order or size, or all one special number."""
    finite = tensor[tensor.isfinite()].abs()
    reach = max(float(finite.max()), 1.0) if finite.numel() else 1.0
    yield _noise(tensor, -reach, reach)  # those before it keep every order, turned round
    most = torch.finfo(tensor.dtype).max
    for number in (0, *beside, torch.inf, -torch.inf, torch.nan):
        if not most < abs(number) < math.inf:  # it has no such number
            yield torch.full_like(tensor, float(number))


def _integers_within(tensor: Tensor) -> Iterator[Tensor]:
    low, high = int(tensor.min()), int(tensor.max())
    if 0 < high - low < 2**62:
        yield (tensor - low + 1) % (high - low + 1) + low
        yield low + (high - tensor)
    elif high > low:
        yield torch.where(tensor == low, high, low)


def _other_integers(
    tensor: Tensor, limits: torch.iinfo, beside: Iterable[float]
) -> Iterator[Tensor]:
    low, high = int(tensor.min()), int(tensor.max())
    if high < limits.max:
        yield tensor + 1
    if low > limits.min:
        yield tensor - 1
    if limits.min <= -1 - high and -1 - low <= limits.max:
        yield -1 - tensor
    yield torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape) % limits.max
    for number in (0, *beside):
        if limits.min <= number <= limits.max:
            yield torch.full_like(tensor, int(number))


def _noise(tensor: Tensor, low: float, high: float) -> Tensor:
    """The same numbers each time, drawn without moving any generator of the process."""
    generator = torch.Generator(tensor.device).manual_seed(0)
    kind = torch.float64 if tensor.dtype is torch.float64 else torch.float32
    noise = torch.rand(tensor.shape, generator=generator, dtype=kind, device=tensor.device)
    return noise * (high - low) + low
