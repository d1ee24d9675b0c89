"""Whether two tensors are the same, bit for bit, and how far apart they are if not."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lensframe_pd.tape.contents import attributes
from lensframe_pd.tape.storage import SPARSE, is_wrapped, sparse_parts, unwrapped

#: Whole numbers of so many bytes.
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
#: Of types whose numbers are equal where their bits are: whole numbers of as many bytes.
_NUMBERS = {
    torch.float32: torch.int32, torch.float64: torch.int64, torch.float16: torch.int16,
    torch.bfloat16: torch.int16, torch.int64: torch.int64, torch.int32: torch.int32,
    torch.int16: torch.int16, torch.int8: torch.uint8, torch.uint8: torch.uint8,
    torch.bool: torch.uint8,
}  # fmt: skip
_OF_JAGGED = ("_values", "_offsets", "_lengths")


class Difference(NamedTuple):
    """How two tensors differ."""

    same: bool
    """Every bit is equal, all NaN being alike."""
    largest: float
    """The largest absolute difference; inf where one is NaN or the shapes differ."""
    reason: str = ""


SAME = Difference(True, 0.0)


def difference(a: Tensor, b: Tensor) -> Difference:
    """Compare two tensors of any dtype and layout; -0.0 and 0.0 differ by 0.0 and are not the same.

    Tensors on the meta device have no values, so they are the same if their kinds are.
    """
    plain = _is_plain(a) and _is_plain(b)
    if (a.shape != b.shape or a.dtype != b.dtype) if plain else _kind(a) != _kind(b):
        return Difference(False, math.inf, f"{_kind(a)} instead of {_kind(b)}")
    if not plain:
        if a.is_meta:
            return SAME
        parts, others = parts_of(a), parts_of(b)
        if parts or others:
            return _difference_of_parts(parts, others)
    if not has_memory(a):
        return Difference(True, math.nan, "its class lets nobody compare its values")
    a, b = _comparable(a), _comparable(b)
    if _same_bits(a, b):
        return SAME
    with torch.no_grad():
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


def _difference_of_parts(parts: list[Tensor], others: list[Tensor]) -> Difference:
    """The first difference that two tensors made of others have."""
    if len(parts) != len(others):
        return Difference(False, math.inf, f"{len(parts)} parts instead of {len(others)}")
    found = (difference(a, b) for a, b in zip(parts, others, strict=True))
    return next((apart for apart in found if not apart.same), SAME)


def alike_at_once(a: Tensor, array: Tensor) -> bool:
    """Whether a tensor is seen to be the `same` as one in the memory of an array, in few steps.

    So are most that are compared with it. Where it is not, nothing is said.
    """
    dtype = a.dtype
    bits = _NUMBERS.get(dtype)
    if type(a) is not Tensor or dtype is not array.dtype or bits is None:
        return False
    if a.layout is not torch.strided or a.is_nested or a.is_neg() or is_wrapped(a):
        return False
    if not a.is_cpu or a.shape != array.shape or a.numel() >= _MANY:  # of which there is better
        return False
    return a.data_ptr() != 0 and torch.equal(a.view(bits), array.view(bits))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two plain tensors of one type and shape show the same bits, which says that they are
    the `same`; where it does not, they may be: of NaN there are many."""
    return _same_bits(_comparable(a), _comparable(b))


def farthest(tensor: Tensor) -> float:
    """How far the real number that is farthest from zero lies from it; NaN if one is NaN.

    Ten times as quick as a norm, whose kernel takes one number at a time.
    """
    low, high = (end.item() for end in tensor.aminmax())
    return max(high, -low) if low == low else low


def same(a: Tensor, b: Tensor) -> bool:
    """`difference(a, b).same`, quicker where they differ."""
    if not (_is_plain(a) and _is_plain(b)):
        return difference(a, b).same
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    x, y = _comparable(a), _comparable(b)
    if _begin_apart(x, y):
        return False
    if _same_bits(x, y):
        return True
    if x.dim() and not x.is_complex() and not (x.is_floating_point() and bool(x.isnan().any())):
        return False
    return difference(a, b).same


_MANY = 2**14
_FIRST = 2**8
_WIDE = 8  # bytes that are compared in one step


def _begin_apart(x: Tensor, y: Tensor) -> bool:
    """Whether two large tensors differ in what they begin with, which spares a look at the rest."""
    if x.numel() < _MANY or x.is_complex() or not (x.is_contiguous() and y.is_contiguous()):
        return False
    x, y = x.view(-1)[:_FIRST], y.view(-1)[:_FIRST]
    return not (_same_bits(x, y) or (x.is_floating_point() and bool(x.isnan().any())))


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has no class of its own, and its numbers in its own memory, each at its place."""
    kind = type(tensor)
    return (
        (kind is Tensor or kind is Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_nested or tensor.is_meta or is_wrapped(tensor))
    )


def widest(tensor: Tensor) -> Tensor | None:
    """The memory of a tensor in the widest whole numbers there are, which are fewest to compare.

    None if it cannot be seen so.
    """
    size = tensor.element_size()
    begins_at = tensor.storage_offset() * size
    if begins_at % _WIDE or tensor.numel() * size % _WIDE or not tensor.is_contiguous():
        return None
    return tensor.view(-1).view(torch.int64)


def parts_of(tensor: Tensor) -> list[Tensor]:
    """The tensors that one of another layout, or a wrapper around others, is made of.

    Empty for one that has its numbers in memory itself.
    """
    inner = unwrapped(tensor)
    if inner is not tensor:  # one that a cache kept when torch.vmap was over takes no operation
        return [inner]
    if tensor.is_nested and tensor.layout is torch.strided:
        return list(tensor.unbind())
    if tensor.is_nested:
        held = (getattr(tensor, name, None) for name in _OF_JAGGED)  # extents are cached beside
        return [part for part in held if part is not None]
    if tensor.layout in SPARSE:
        return sparse_parts(tensor)
    if is_traceable_wrapper_subclass(tensor):
        return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    if not (tensor.is_meta or has_memory(tensor)):
        return [value for _, value in attributes(tensor) if issubclass(type(value), Tensor)]
    return []


def has_memory(tensor: Tensor) -> bool:
    """Whether it has its numbers in memory itself, as a wrapper around other tensors has not."""
    try:
        return not tensor.numel() or tensor.untyped_storage().data_ptr() != 0
    except (RuntimeError, NotImplementedError):
        return False


def _comparable(tensor: Tensor) -> Tensor:
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype is torch.bool or not a.dim() or a.is_complex():
        return torch.equal(a, b) and not a.is_complex() and not a.is_floating_point()
    if a.numel() >= _MANY:
        wide, other = widest(a), widest(b)
        if wide is not None and other is not None:
            return torch.equal(wide, other)
    bits = BITS.get(a.element_size())
    return bits is not None and torch.equal(a.view(bits), b.view(bits))


def _kind(tensor: Tensor) -> str:
    words = [str(tensor.dtype).removeprefix("torch.")]
    if tensor.is_nested:
        words.insert(0, f"nested {tensor.dim()}-d")  # its parts have the extents
    else:
        words.insert(0, "x".join(map(str, tensor.shape)) or "scalar")
    if tensor.layout is not torch.strided:
        words.append(str(tensor.layout).removeprefix("torch."))
    return " ".join([*words, "without values"] if tensor.is_meta else words)
