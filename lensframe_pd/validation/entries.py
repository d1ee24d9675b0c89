"""Which calls make each entry of a result, or its first rows, of those in the same place."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from lensframe_pd.tape.domains import is_pointwise
from lensframe_pd.tape.tape import SLOT, Call

#: Of how many axes the input of what goes by entry is where the first one counts them.
_BY_ENTRY = {
    "conv1d": (3,), "conv2d": (4,), "conv3d": (5,), "linear": range(2, 9),
    "max_pool1d": (3,), "max_pool2d": (4,), "max_pool3d": (5,),
    "avg_pool1d": (3,), "avg_pool2d": (4,), "avg_pool3d": (5,),
    "adaptive_avg_pool1d": (3,), "adaptive_avg_pool2d": (4,), "adaptive_avg_pool3d": (5,),
}  # fmt: skip


def by_entry(call: Call, tensors: Sequence[Tensor], result: Tensor) -> Collection[int]:
    """The slots of tensors that have an entry for each of the result's along the first axis.

    None where the call does not make each entry of the result of those in its place. For the rest
    it may be given what belongs to no entry, such as weights.
    """
    function = call.function
    if function.name in _BY_ENTRY:
        return (0,) if tensors[0].dim() in _BY_ENTRY[function.name] else ()
    if function.name == "batch_norm":
        place = function.arg_names.index("training") if "training" in function.arg_names else -1
        return (0,) if 0 <= place < len(call.args) and call.args[place] is False else ()
    if not is_pointwise(function) or "out" in call.kwargs:
        return ()
    # what has fewer axes, or one entry for all, goes along with each
    n, n_axes = len(result), result.dim()
    return [k for k, t in enumerate(tensors) if t.dim() == n_axes and len(t) == n]


def first_rows(
    call: Call, tensors: Sequence[Tensor], result: Tensor, of_entry: Collection[int]
) -> tuple[int, int]:
    """How many rows of what it is given make how many of its result, a part of all; else (0, 0).

    Rows are what lies along the third axis. The first of the result are made of the first of the
    tensors `of_entry`, whatever comes after.
    """
    function, n_axes = call.function, result.dim()
    if n_axes < 3 or result.shape[2] < _PART:
        return 0, 0
    n = result.shape[2] // _PART
    if function.name in _CONVOLUTIONS:
        read = _read_by_convolution(call, tensors, n)
        return (read, n) if 0 < read < tensors[0].shape[2] else (0, 0)
    if function.name != "batch_norm" and not is_pointwise(function):
        return 0, 0
    along = all([tensors[k].shape[2] == result.shape[2] for k in of_entry])
    for_all = all([t.dim() <= n_axes - 3 for k, t in enumerate(tensors) if k not in of_entry])
    return (n, n) if along and for_all else (0, 0)


def _read_by_convolution(call: Call, tensors: Sequence[Tensor], n: int) -> int:
    """How many rows of its input the first `n` of its result are made of; 0 if that is not seen."""
    args = call.args
    if call.kwargs or len(tensors) < 2 or tensors[0].dim() != tensors[1].dim():
        return 0
    told = dict(zip(call.function.arg_names, args, strict=False))
    steps = [told.get(name, default) for name, default in _STEPS.items()]
    numbers = [step[0] if type(step) is tuple and step else step for step in steps]
    if not all([type(number) is int for number in numbers]) or args[1] is not SLOT:
        return 0
    stride, padding, dilation = numbers
    return int((n - 1) * stride - padding + (tensors[1].shape[2] - 1) * dilation + 1)


_CONVOLUTIONS = frozenset(("conv1d", "conv2d", "conv3d"))
_STEPS = {"stride": 1, "padding": 0, "dilation": 1}
_PART = 4
