"""Facts of tensors that decide whether two of them share memory, and of wrapped tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

#: Address of a tensor's storage; raises where it has none (sparse tensors, vmap's wrappers).
storage_address: Callable[[Tensor], int] = torch._C._storage_address  # type: ignore[attr-defined]


def storage_of(tensor: Tensor) -> int:
    """Address of a tensor's storage, 0 where it has none."""
    try:
        return storage_address(tensor)
    except (NotImplementedError, RuntimeError):
        return 0


def version_of(tensor: Tensor) -> int | None:
    """How often the storage was written; inference tensors do not count."""
    try:
        return tensor._version
    except RuntimeError:
        return None


def unwrapped(tensor: Tensor) -> Tensor:
    """The plain tensor inside the wrappers of `torch.vmap` and `torch.func.grad`."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def extent(tensor: Tensor) -> tuple[int, int]:
    """First byte of its storage that a tensor can touch, and the byte after the last."""
    tensor = unwrapped(tensor)
    size = tensor.element_size()
    low = int(tensor.storage_offset()) * size
    if not tensor.numel():
        return low, low
    reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return low, low + (int(reach) + 1) * size


def same_view(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one storage show the same values in the same layout."""
    return bool(
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.stride() == b.stride()
        and a.storage_offset() == b.storage_offset()
        and a.is_conj() == b.is_conj()
        and a.is_neg() == b.is_neg()
    )


def distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Each tensor object once, in order."""
    return list({id(t): t for t in tensors}.values())
