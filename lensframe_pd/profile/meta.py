"""What one call costs, found by running it on meta tensors, which have shapes and no data."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from lensframe_pd.profile.rebuild import Question, arguments, without_data
from lensframe_pd.tape.functions import Unreadable, describe, resolve
from lensframe_pd.tape.objects import tensors_in
from lensframe_pd.tape.storage import distinct, storage_of, written_arguments

# ATen operators that multiply matrices, convolve, or hide such work in one kernel.
_CONTRACTS = re.compile(
    r"(?<!co)mm(?!ax|in|on)|mv$|matmul|(?<!thonormali)conv|^v?dot$|^inner$|^tensordot|bilinear(?!2d)|^addr$"
    r"|^outer$|attention|(?<!scatte)lstm|gru|rnn|multi_dot|^linalg_(?!vector_norm|cross|diagonal)"
    r"|^_linalg_(?!check)|cdist_forward|_euclidean_dist|cholesky|triangular_solve|lu_solve|einsum"
)
_INDEXED_BY = frozenset("__getitem__ index_select gather embedding embedding_bag take".split())
_COPIES = frozenset("to cpu cuda".split())
_BY_VALUES = frozenset((torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output))

# Of these, each device has kernels that keep other tensors for the backward pass.
_BY_DEVICE = frozenset("scaled_dot_product_attention batch_norm".split())


class Kept(NamedTuple):
    """A storage: an argument's (`given >= 0`), a result's (`slot >= 0`), or an inner one."""

    given: int
    slot: int
    nbytes: int


class Cost(NamedTuple):
    """What one call costs."""

    flops: int | None
    moved: int | None
    """Bytes of its arguments and results, each once; nothing if it only makes views."""
    made: tuple[Kept, ...]
    """By result: the storage it lies in."""
    saved: tuple[Kept, ...]
    """The storages autograd keeps for the backward pass."""
    followed: tuple[bool, ...]
    """By result: whether autograd follows it."""
    reason: str = ""
    """Why it could not be counted."""


class Costs:
    """Asks what calls cost, each distinct question once; a context in which torch counts."""

    def __init__(self) -> None:
        from torch.utils.flop_counter import FlopCounterMode  # 0.1 s: it looks for triton

        self._answers: dict[Question, Cost] = {}
        self._counter = FlopCounterMode(display=False)
        self._witness = _Witness({*self._counter.flop_registry})
        self._stack = ExitStack()

    def __enter__(self) -> Costs:
        self._stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of wrong readings of a call, before the right one
        self._stack.enter_context(torch.inference_mode(False))
        self._stack.enter_context(self._witness)
        self._stack.enter_context(self._counter)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, question: Question) -> Cost:
        """What the call costs; where it cannot be run, `flops` is None and `reason` says why."""
        found = self._answers.get(question)
        if found is None:
            found = self._answers[question] = self._work_out(question)
        return found

    def _work_out(self, question: Question) -> Cost:
        first: Exception | None = None
        before = self._counter.get_total_flops()
        self._witness.start()
        try:
            func = resolve(question.target)
            for tensors in without_data(question, "meta"):
                for args, kwargs in arguments(func, question, tensors):
                    try:
                        return self._run(question, func, args, kwargs, tensors)
                    except Exception as error:  # whatever torch raises for wrong arguments
                        first = first or error
                        if self._counter.get_total_flops() > before:
                            break
                        if self._witness.stopped_without_products(question.func):
                            return _unknown(question, "")
        except Exception as error:  # also a shape or a type that meta tensors cannot have
            first = first or error
        reason = str(first or "its arguments fit no signature").partition("\n")[0]
        if first is not None and not isinstance(first, Unreadable):
            reason = f"it does not run on meta tensors: {type(first).__name__}: {reason}"
        return _unknown(question, reason)

    def _run(
        self, question: Question, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]
    ) -> Cost:
        before = self._counter.get_total_flops()
        self._witness.start()
        cost = _observed(question, func, args, kwargs, tensors)
        contractions = sorted(self._witness.seen)
        flops: int | None = self._counter.get_total_flops() - before
        reason = ""
        if contractions:
            flops, reason = None, f"torch has no formula for {', '.join(contractions)}"
        if question.autocast or question.func in _BY_DEVICE:
            cost = _on_its_device(question, func) or cost
        return cost._replace(flops=flops, reason=reason)


def _observed(question: Question, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Cost:
    """Run the call, and see where its results lie and what autograd keeps."""
    packed: list[Tensor] = []
    written = _writes(question, func, args, kwargs)
    with torch.set_grad_enabled(question.grad), saved_tensors_hooks(packed.append, _never):
        result = func(*args, **kwargs)
    made = distinct([*(t for _, t in tensors_in(result)), *written()])
    rows = _matching(question, made)
    given = {storage_of(t): i for i, t in reversed([*enumerate(tensors)])}
    slots: dict[int, int] = {}
    for slot, tensor in enumerate(rows):
        slots.setdefault(storage_of(tensor), slot)
    storages = {storage_of(t): t for t in packed}
    return Cost(
        None,
        _moved(question, tensors, made, given),
        tuple(_kept(t, given, slots) for t in rows),
        tuple(_kept(t, given, slots) for t in storages.values()),
        tuple(t.requires_grad for t in rows),
    )


def _on_its_device(question: Question, func: Any) -> Cost | None:
    """What the call does where the kernel depends on the device, by torch's fake tensors."""
    try:
        with ExitStack() as stack:
            stack.enter_context(FakeTensorMode())
            for device, dtype in question.autocast:
                kind = getattr(torch, dtype)
                stack.enter_context(torch.autocast(device, kind, cache_enabled=False))
            tensors = next(without_data(question, question.device))
            args, kwargs = next(arguments(func, question, tensors))
            return _observed(question, func, args, kwargs, tensors)
    except Exception:  # this torch may know nothing of that device
        return None


class _Witness(TorchDispatchMode):
    """Sees the ATen operators that are left after the counter decomposed what it can."""

    def __init__(self, with_formula: set[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._with_formula = with_formula
        self.seen: set[str] = set()
        self.last: Any = None

    def start(self) -> None:
        """Forget the run before."""
        self.seen, self.last = set(), None

    def stopped_without_products(self, func: str) -> bool:
        """Whether a failed run was of a copy, or ended where values decide, which meta lacks."""
        last = self.last
        if last is None or self.seen:
            return func in _COPIES
        name = last._overloadpacket.__name__
        if last._overloadpacket in self._with_formula or _CONTRACTS.search(name):
            return False
        return bool(_BY_VALUES.intersection(last.tags)) or name == func or func in _COPIES

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.last = func
        packet = getattr(func, "_overloadpacket", func)
        if packet not in self._with_formula and _CONTRACTS.search(packet.__name__):
            self.seen.add(packet.__name__)
        return func(*args, **(kwargs or {}))


def _writes(question: Question, func: Any, args: Any, kwargs: Any) -> Callable[[], list[Tensor]]:
    """What the call writes, asked after it, as the tracer sees it."""
    if not question.inplace:
        return list
    function = describe(func)
    written = written_arguments(args, kwargs, function)
    if function.certain:
        return lambda: written
    versions = [t._version for t in written]
    return lambda: [t for t, v in zip(written, versions, strict=True) if t._version != v]


def _matching(question: Question, made: Sequence[Tensor]) -> list[Tensor]:
    """The result that each row is: in order, by shape and element type."""
    rows: list[Tensor] = []
    left = list(made)
    for shape, dtype in question.results:
        while left:
            tensor = left.pop(0)
            if tuple(tensor.shape) == shape and (
                question.autocast or str(tensor.dtype) == f"torch.{dtype}"
            ):
                rows.append(tensor)
                break
        else:
            got = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in made) or "nothing"
            raise Unreadable(f"its replay gives {got}, and the frame has {shape} {dtype}")
    return rows


def _kept(tensor: Tensor, given: Mapping[int, int], slots: Mapping[int, int]) -> Kept:
    storage = storage_of(tensor)
    return Kept(given.get(storage, -1), slots.get(storage, -1), _nbytes(tensor))


def _nbytes(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().nbytes())


def _moved(
    question: Question, tensors: list[Tensor], made: list[Tensor], given: Mapping[int, int]
) -> int:
    """The least traffic the call can do: every argument read once, every result written once."""
    if not question.inplace and all(storage_of(t) in given for t in made):
        return 0
    written = sum(_extent(t) for t in made)
    read = sorted(_extent(t) for t in distinct(tensors))
    if question.target.rpartition(".")[2] in _INDEXED_BY and read:
        read[-1] = min(read[-1], written)  # of the table, only what it picks is read
    return written + sum(read)


def _extent(tensor: Tensor) -> int:
    """Bytes of the distinct elements: an expanded axis repeats them."""
    sizes = [n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step]
    return int(math.prod(sizes) * tensor.element_size())


def _unknown(question: Question, reason: str) -> Cost:
    """The cost of a call that could not be run; without a reason, one without products."""
    own = tuple(Kept(-1, slot, -1) for slot in range(len(question.results)))
    follows = question.grad and any(g.followed for g in question.given)
    flops = None if reason else 0
    return Cost(flops, None, own, (), (follows,) * len(own), reason)


def _never(_: Any) -> Tensor:
    raise AssertionError("nothing runs backward here")
