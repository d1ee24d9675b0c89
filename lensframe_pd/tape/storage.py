"""Facts of tensors that decide whether two of them share memory; what a call makes and writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from lensframe_pd.tape.functions import Function
from lensframe_pd.tape.objects import tensors_of

#: Address of a tensor's storage; raises where it has none (sparse tensors, vmap's wrappers).
storage_address: Callable[[Tensor], int] = torch._C._storage_address  # type: ignore[attr-defined]

_COMPRESSED = {
    torch.sparse_csr: "crow_indices col_indices", torch.sparse_bsr: "crow_indices col_indices",
    torch.sparse_csc: "ccol_indices row_indices", torch.sparse_bsc: "ccol_indices row_indices",
}  # fmt: skip
#: How the tensors are called that one of a sparse layout is made of.
SPARSE = {
    torch.sparse_coo: ("_indices", "_values"),
    **{layout: (*names.split(), "values") for layout, names in _COMPRESSED.items()},
}

#: How many hold the storage at an address, a view of it that Python was given once included.
use_count: Callable[[int], int] = torch._C._storage_Use_Count
#: The device of most tensors, once.
CPU = torch.device("cpu")
_BFLOAT16 = torch.bfloat16
_LONE = torch.empty(0)
_STORAGE = _LONE.untyped_storage()
#: What Python's own view of a storage adds to the number of those that hold it.
_ASKING = use_count(_STORAGE._cdata) - 1


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


class Unswapped:
    """Gives a tensor when called, and None once `torch.utils.swap_tensors` gave it other content.

    It holds the tensor, for who is known to hold it as well: where there is a weak reference to a
    tensor, torch refuses to swap it.

    Parameters
    ----------
    plain
        `is_plain(tensor)`, where that is known already.
    """

    __slots__ = ("_content", "_is_plain", "tensor")

    def __init__(self, tensor: Tensor, plain: bool | None = None) -> None:
        self.tensor = tensor
        self._is_plain = is_plain(tensor) if plain is None else plain
        self._content = tensor._cdata if self._is_plain else content_of(tensor)

    def __call__(self) -> Tensor | None:
        tensor = self.tensor  # asked at each read of a parameter, so in few steps
        content = tensor._cdata if self._is_plain else content_of(tensor)
        return tensor if content == self._content else None


def is_plain(tensor: Tensor) -> bool:
    """Whether it is no subclass, whose attributes may be code of somebody else's."""
    kind = type(tensor)
    return kind is Tensor or kind is Parameter


def is_uninitialized(tensor: Tensor) -> bool:
    """Whether it is the parameter or buffer of a lazy module that has not run."""
    return not is_plain(tensor) and isinstance(tensor, UninitializedTensorMixin)


def content_of(tensor: Tensor) -> int:
    """Address of what the object of a subclass shows."""
    with torch._C.DisableTorchFunctionSubclass():
        return int(tensor._cdata)


def widened(tensor: Tensor) -> Tensor:
    """A tensor as NumPy can hold it: bfloat16 as float32, which is exact."""
    return tensor.float() if tensor.dtype is _BFLOAT16 else tensor


def is_foreign(tensor: Tensor) -> bool:
    """Whether the memory of a tensor is not torch's own: NumPy's, DLPack's, a mapped file's."""
    try:
        with torch._C.DisableTorchFunction():  # a subclass has its own, and a mode would look on
            return not tensor.untyped_storage().resizable()
    except (NotImplementedError, RuntimeError, ValueError):  # it has no storage, or none yet
        return False


def holders(tensor: Tensor) -> int:
    """How many hold the storage of a tensor, this tensor included: tensors, views, autograd."""
    storage = tensor.untyped_storage()  # has to live while its address is used
    return use_count(storage._cdata) - _ASKING


def is_view_of_others(view: Tensor) -> bool:
    """Whether what a tensor is a view of is known to others, and no memory of its own alone."""
    return _references_to_base(view) != _NO_OTHER


def _references_to_base(view: Any) -> tuple[int, int]:
    """How often torch, and Python, refer to what a tensor is a view of; a name here among them."""
    base = view._base
    return base._use_count(), sys.getrefcount(base)


_NO_OTHER = _references_to_base(torch.empty(2, device="cpu")[:1])

#: Whether it is a wrapper of `torch.vmap` or `torch.func.grad`.
is_wrapped: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor


def unwrapped(tensor: Tensor) -> Tensor:
    """The plain tensor inside the wrappers of `torch.vmap` and `torch.func.grad`."""
    while is_wrapped(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def wrapped_by(tensor: Tensor) -> list[Tensor]:
    """The tensors that a wrapper subclass is made of, as it says itself; of any other none."""
    if is_plain(tensor) or not is_traceable_wrapper_subclass(tensor):
        return []
    return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]


def sparse_parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that one of a sparse layout is made of, in its own memory; of any other none."""
    names = SPARSE.get(tensor.layout, ())
    return [getattr(tensor.detach(), name)() for name in names]


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


def view_of(tensor: Tensor) -> tuple[Any, ...]:
    """Which part of its storage a tensor shows, and how."""
    return (
        tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype,
        tensor.is_conj(), tensor.is_neg(),
    )  # fmt: skip


_LINE = 64  # bytes of a cache line, to which torch aligns what it allocates


def faithful_clone(tensor: Tensor) -> Tensor:
    """A copy that lies in memory as the original does: kernels round by alignment.

    A slice of a batch often begins between two aligned addresses; a matrix product of it, and of
    its aligned copy, can differ in the last bit.
    """
    copy = tensor.clone()
    shift = misalignment(tensor)
    return placed(copy, copy.stride(), shift) if shift else copy


def misalignment(tensor: Tensor) -> int:
    """How many elements after an aligned address a tensor begins."""
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided or not tensor.numel():
        return 0  # a sparse tensor has no address
    try:
        shift, rest = divmod(tensor.data_ptr() % _LINE, tensor.element_size())
    except RuntimeError:  # one that only says what it would be, as those of torch's compiler
        return 0
    return 0 if rest else shift


def placed(tensor: Tensor, stride: Sequence[int], shift: int) -> Tensor:
    """A copy with these strides that begins `shift` elements after an aligned address."""
    room = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, stride, strict=True))
    copy = tensor.new_empty(room + shift).as_strided(tensor.shape, tuple(stride), shift)
    copy = through(copy, bits_of(tensor))
    write(copy, tensor)
    return copy


def write(place: Tensor, tensor: Tensor) -> None:
    """Copy the values of `tensor` to `place`, whose expanded axes are one element in memory."""
    for axis, step in enumerate(place.stride()):
        if step == 0 and place.shape[axis] > 1:
            place, tensor = place.narrow(axis, 0, 1), tensor.narrow(axis, 0, 1)
    place.copy_(tensor)


class Bits(NamedTuple):
    """Whether a tensor shows the conjugate, and whether the negative, of what is in its memory."""

    conj: bool
    neg: bool


PLAIN = Bits(False, False)


def bits_of(tensor: Tensor) -> Bits:
    conj, neg = tensor.is_conj(), tensor.is_neg()
    return Bits(conj, neg) if conj or neg else PLAIN


def through(tensor: Tensor, bits: Bits) -> Tensor:
    """What is seen of the memory of a tensor through these bits."""
    if bits.conj:
        tensor = tensor.conj()
    return torch._neg_view(tensor) if bits.neg else tensor


def with_bits(tensor: Tensor, bits: Bits) -> Tensor:
    """The same values, from memory that holds their conjugate or negative: sums round by it."""
    if bits_of(tensor) == bits:
        return tensor
    held = through(tensor.resolve_conj().resolve_neg(), bits).resolve_neg().resolve_conj()
    return through(held, bits)


def distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Each tensor object once, in order."""
    return list({id(t): t for t in tensors}.values())


def written_arguments(args: Any, kwargs: Any, function: Function) -> list[Tensor]:
    """The tensors in the arguments that `function` writes, or may write if it is not `certain`."""
    if not may_write(function, kwargs) or not _switched_on(function, args, kwargs):
        return []
    found: list[Any] = [args[i] for i in function.written if i < len(args)]
    found += [kwargs[name] for name in (*function.written_names, "out") if name in kwargs]
    return distinct([t for value in found for t in tensors_of(value)])


def may_write(function: Function, kwargs: Any) -> bool:
    """Whether a call of it, with these keywords, can have anything to write into."""
    return bool(function.written or function.written_names or "out" in kwargs)


def _switched_on(function: Function, args: Any, kwargs: Any) -> bool:
    """Whether a function that writes only with a flag was given it."""
    switch = function.switch
    if switch is None:
        return True
    name = function.arg_names[switch] if switch < len(function.arg_names) else ""
    return bool(args[switch] if switch < len(args) else kwargs.get(name))


class Performed(NamedTuple):
    """What one call did."""

    result: Any
    made: list[Tensor]
    """By slot: the tensors in the result, then those written that are not among them."""
    written: list[Tensor]
    seconds: float
    """Time of the call alone."""


def perform(function: Function, args: Any, kwargs: Any, writable: Sequence[Tensor]) -> Performed:
    """Make a call, and see what it makes and writes.

    Parameters
    ----------
    writable
        `written_arguments(args, kwargs, function)`. The caller asks for them, as they may have to
        be kept or copied before they are written.
    """
    written = [] if function.marks else [*writable]
    versions = [] if function.certain else [version_of(t) for t in written]
    start = perf_counter()
    result = function.func(*args, **kwargs)
    seconds = perf_counter() - start
    if not function.certain:
        before = zip(written, versions, strict=True)
        written = [t for t, v in before if v is None or version_of(t) != v]
    made = tensors_of(result)
    if written:
        made = distinct([*made, *written])
    return Performed(result, made, written, seconds)
