"""What one call costs, found by running it on meta tensors, which have shapes and no data."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from lensframe_pd.replay.call import Rerun, Unreplayable
from lensframe_pd.tape.config import Encoded, decode
from lensframe_pd.tape.functions import describe
from lensframe_pd.tape.storage import distinct, storage_of
from lensframe_pd.tape.tape import Array, Call, Context, Opaque
from lensframe_pd.tape.targets import Unreadable, resolve

# ATen operators that multiply matrices, convolve, or hide such work in one kernel.
_CONTRACTS = re.compile(
    r"(?<!co)mm(?!ax|in|on)|mv$|matmul|(?<!thonormali)conv|^v?dot$|^inner$|^tensordot|bilinear(?!2d)|^addr$"
    r"|^outer$|attention|(?<!scatte)lstm|gru|rnn|multi_dot|^linalg_(?!vector_norm|cross|diagonal)"
    r"|^_linalg_(?!check)|cdist_forward|_euclidean_dist|cholesky|triangular_solve|lu_solve|einsum"
)
_INDEXED_BY = frozenset("__getitem__ index_select gather embedding embedding_bag take".split())
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu|meta)(:\d+)?$")
_OUT_OF_META = frozenset(("cpu", "cuda"))
_BY_VALUES = frozenset((torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output))

# Of these, each device has kernels that keep other tensors for the backward pass.
_BY_DEVICE = frozenset("scaled_dot_product_attention batch_norm".split())


class Given(NamedTuple):
    """One tensor among the arguments of a call."""

    role: str
    shape: tuple[int, ...]
    stride: tuple[int, ...] | None
    """None: contiguous."""
    dtype: str
    followed: bool
    """Whether autograd follows it."""
    same: int
    """Position of the first argument that is this very tensor; its own if there is none before."""


class Question(NamedTuple):
    """All that a call's cost depends on; calls that ask alike cost alike."""

    target: str
    func: str
    arguments: Encoded
    given: tuple[Given, ...]
    context: Context
    device: str
    inplace: bool
    results: tuple[tuple[tuple[int, ...], str], ...]
    """Shape and element type of each row of the call, to see that the replay is right."""


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
        warnings.simplefilter("ignore")  # the run that was traced gave them
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
        before = self._counter.get_total_flops()
        self._witness.start()
        try:
            cost = _observed(question, "meta")
        except Exception as error:  # whatever torch raises for what meta tensors cannot have
            multiplied = self._counter.get_total_flops() > before
            if not multiplied and self._witness.stopped_without_products(question.func):
                return _unknown(question, "")
            return _unknown(question, _reason(error))
        flops: int | None = self._counter.get_total_flops() - before
        reason = ""
        if contractions := sorted(self._witness.seen):
            flops, reason = None, f"torch has no formula for {', '.join(contractions)}"
        if question.context.autocast or question.func in _BY_DEVICE:
            cost = _on_its_device(question) or cost
        return cost._replace(flops=flops, reason=reason)


def _reason(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    if isinstance(error, (Unreadable, Unreplayable)):
        return text
    return f"it does not run on meta tensors: {type(error).__name__}: {text}"


def _observed(question: Question, device: str) -> Cost:
    """Run the call, and see where its results lie and what autograd keeps."""
    rerun, places = _rerun(question, torch.device(device))
    tensors = _without_data(question, device)
    packed: list[Tensor] = []
    with torch.set_grad_enabled(question.context.grad), saved_tensors_hooks(packed.append, _never):
        done = rerun.on([tensors[i] for i in places])
    rows = _of_rows(question, done.made)
    given = {storage_of(t): i for i, t in reversed([*enumerate(tensors)])}
    slots: dict[int, int] = {}
    for slot, tensor in enumerate(rows):
        slots.setdefault(storage_of(tensor), slot)
    storages = {storage_of(t): t for t in packed}
    return Cost(
        None,
        _moved(question, tensors, distinct(done.made), given),
        tuple(_kept(t, given, slots) for t in rows),
        tuple(_kept(t, given, slots) for t in storages.values()),
        tuple(t.requires_grad for t in rows),
    )


def _on_its_device(question: Question) -> Cost | None:
    """What the call does where the kernel depends on the device, by torch's fake tensors."""
    try:
        with ExitStack() as stack:
            stack.enter_context(FakeTensorMode())
            for device, dtype in question.context.autocast:
                kind = getattr(torch, dtype)
                stack.enter_context(torch.autocast(device, kind, cache_enabled=False))
            return _observed(question, question.device)
    except Exception:  # this torch may know nothing of that device
        return None


def _rerun(question: Question, device: torch.device) -> tuple[Rerun, list[int]]:
    """What makes the call on `device`, and for each of its slots which of `given` stands there."""
    function = describe(resolve(question.target))
    places = {given.role: i for i, given in enumerate(question.given)}
    read = decode(function, question.arguments, places)

    def here(value: Any) -> Any:
        if isinstance(value, Opaque) and value.description == "torch._C.Generator":
            return None  # without data nothing is drawn
        named = isinstance(value, str) and _DEVICE.match(value)
        return device if named or isinstance(value, torch.device) else value

    args, kwargs = tree_map(here, (read.args, read.kwargs), is_leaf=_is_leaf)
    call = Call(function, args, kwargs, (), (), 0, question.context, 0.0)
    return Rerun(call), [places[role] for role in read.roles]


def _is_leaf(value: Any) -> bool:
    return isinstance(value, (Opaque, Array))  # tuples, to who does not know them


def _without_data(question: Question, device: str) -> list[Tensor]:
    """Tensors without data for the arguments."""
    tensors: list[Tensor] = []
    for i, given in enumerate(question.given):
        if given.same < i:
            tensors.append(tensors[given.same])
            continue
        dtype = getattr(torch, given.dtype)
        if given.stride is None or len(given.stride) != len(given.shape):
            tensor = torch.empty(given.shape, dtype=dtype, device=device)
        else:
            tensor = torch.empty_strided(given.shape, given.stride, dtype=dtype, device=device)
        if given.followed and (dtype.is_floating_point or dtype.is_complex):
            tensor.requires_grad_()
            if question.inplace and question.context.grad:
                with torch.enable_grad():
                    tensor = tensor.clone()  # a leaf refuses to be written
        tensors.append(tensor)
    return tensors


def _of_rows(question: Question, made: Sequence[Tensor]) -> list[Tensor]:
    """What each row holds: the rows are in order, and a filter may have left some out."""
    left = iter(made)
    rows: list[Tensor] = []
    for shape, dtype in question.results:
        # autocast is off on meta tensors, so their types may be others
        kind = None if question.context.autocast else getattr(torch, dtype, None)
        alike = (t for t in left if t.shape == shape and t.dtype == (kind or t.dtype))
        row = next(alike, None)
        if row is None:
            got = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in made) or "nothing"
            raise Unreadable(f"its replay gives {got}, and the frame has {shape} {dtype}")
        rows.append(row)
    return rows


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
        """Whether a failed run ended for want of data, and nothing before or there multiplies.

        That is where values decide, in a copy to a device, or in the very operator that was called.
        """
        last = self.last
        if last is None or self.seen:
            return False
        name = last._overloadpacket.__name__
        if last._overloadpacket in self._with_formula or _CONTRACTS.search(name):
            return False
        return bool(_BY_VALUES.intersection(last.tags)) or name == func or func in _OUT_OF_META

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.last = func
        packet = getattr(func, "_overloadpacket", func)
        if packet not in self._with_formula and _CONTRACTS.search(packet.__name__):
            self.seen.add(packet.__name__)
        return func(*args, **(kwargs or {}))


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
    follows = question.context.grad and any(g.followed for g in question.given)
    flops = None if reason else 0
    return Cost(flops, None, own, (), (follows,) * len(own), reason)


def _never(_: Any) -> Tensor:
    raise AssertionError("nothing runs backward here")
