"""What each torch function is: its name, its argument names, what it writes, whether it draws.

The tracer asks `describe` once per function and keeps the answer; every fact about a single
torch function that the library needs stands in the tables of this module.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import get_testing_overrides

from lensframe_pd.tape.targets import OPERATORS, is_accessor, normalised, raw_name, target_of


class Action(Enum):
    """How the tracer treats a call."""

    PLAIN = "run it; a row for each tensor it returns"
    CAREFUL = "it may write, draw random numbers or borrow memory: look before and after"
    OPEN = "a Python composite: run its body, whose own calls are seen"
    READ = "Python reads a tensor's value: a decision of a dynamic graph"
    SKIP = "metadata, printing, pickling: no row"


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """One torch function, as the tracer knows it."""

    func: Callable[..., Any]
    name: str
    target: str
    action: Action
    arg_names: tuple[str, ...] = ()
    written: tuple[int, ...] = ()
    """Positions of arguments the function writes."""
    written_names: tuple[str, ...] = ()
    certain: bool = True
    """False when only a moved version counter tells whether it wrote."""
    switch: int | None = None
    """Position of the flag, such as `training`, without which it writes nothing."""
    random: bool = False
    lends: bool = False
    """It gives away the memory of its first argument, which then can be written unseen."""
    gathers: int | None = None
    """Position from which on numbers may be given one by one: `x.view(2, 3)`."""
    repoints: bool = False
    """It gives the argument that it is said to write another storage, and writes into none."""
    marks: bool = False
    """It changes marks of the arguments that it is said to write, such as `requires_grad`, and
    not their values."""
    tells: str = ""
    """What the program learns by it of the tensors given, where it has no row and is no read: their
    "value", their "layout" in memory, their "state" for autograd, or what a "gradient" is of."""
    selects: int | None = None
    """Place of the first of its tensors that may say, by integers or as a mask, which entries it
    takes; None where none does."""


# Properties whose value is a tensor; all others are metadata.
_TENSOR_PROPERTIES = frozenset("T mT H mH real imag data grad _grad _base".split())

_METADATA = frozenset(
    """dim size numel stride is_contiguous is_floating_point is_complex element_size nelement
    ndimension get_device storage_offset const_data_ptr __len__ __hash__ is_same_size
    result_type can_cast promote_types is_signed is_conj is_neg is_inference is_tensor is_storage
    is_pinned is_shared is_coalesced is_distributed is_set_to is_non_overlapping_and_dense _is_view
    _is_zerotensor _version sparse_dim dense_dim __repr__ __format__ __reduce_ex__ __reduce__
    __setstate__ __dir__ __dlpack_device__ data_ptr storage untyped_storage _typed_storage
    storage_type register_hook register_post_accumulate_grad_hook retain_grad backward has_names
    q_scale q_zero_point qscheme q_per_channel_axis _assert _assert_async _assert_scalar
    _assert_tensor_metadata sym_size sym_numel sym_stride sym_storage_offset dim_order
    _set_grad_enabled _use_count share_memory_ pin_memory_ manual_seed
    _functional_assert_async""".split()
)

_READS = {
    "__bool__": "bool", "__int__": "int", "__float__": "float", "__complex__": "complex",
    "__index__": "index", "item": "item", "tolist": "tolist", "numpy": "numpy",
    "__array__": "numpy", "is_nonzero": "bool", "equal": "equal", "allclose": "allclose",
    "__dlpack__": "dlpack", "_local_scalar_dense": "item",
}  # fmt: skip

# They give away the memory of their first argument.
_LENDS = frozenset(
    """numpy __array__ __dlpack__ __cuda_array_interface__ data_ptr const_data_ptr mutable_data_ptr
    storage untyped_storage typed_storage share_memory_""".split()
)

# What is skipped, and yet tells the program more than the shape, dtype or device of a tensor.
_TELLS = {
    **dict.fromkeys(
        """__repr__ __format__ __reduce_ex__ __reduce__ _assert _assert_async _assert_scalar
        _functional_assert_async q_scale q_zero_point q_per_channel_scales
        q_per_channel_zero_points""".split(),
        "value",
    ),
    **dict.fromkeys(_LENDS, "value"),
    **dict.fromkeys(
        """stride is_contiguous storage_offset dim_order is_conj is_neg sym_stride
        sym_storage_offset is_non_overlapping_and_dense""".split(),
        "layout",
    ),
    **dict.fromkeys(
        """requires_grad grad_fn is_leaf retains_grad output_nr _version _is_view is_inference
        is_set_to is_shared is_pinned _use_count""".split(),
        "state",
    ),
    "backward": "gradient", "grad": "gradient",
}  # fmt: skip

# Their results may lie in memory that is not torch's own.
_BORROWING = frozenset("as_tensor asarray from_file".split())

# Python functions that are one operation, though written in Python.
_LEAVES = frozenset("__rsub__ __deepcopy__ grad backward __dlpack__".split())
_OPEN_MODULES = ("torch.functional", "torch.nn.functional", "torch._tensor", "torch.nn.init")

# They update running statistics, which neither their schemas nor version counters show:
# the positions written, and that of the flag which makes them write.
_SILENT_WRITES = {
    "batch_norm": ((3, 4), 5), "instance_norm": ((3, 4), 5), "native_batch_norm": ((3, 4), 5),
    "cudnn_batch_norm": ((3, 4), 5), "miopen_batch_norm": ((3, 4), 5),
    "rrelu_with_noise": ((1,), 4),
}  # fmt: skip

# Their names say that they write, and they do so only with the flag at this position.
_SWITCHED = {
    "dropout_": 2, "alpha_dropout_": 2, "feature_dropout_": 2, "feature_alpha_dropout_": 2,
}  # fmt: skip

# They make a tensor another one's alias.
_REPOINTS = frozenset(("set_",))

# Their names say that they write, and they leave every value as it is.
_MARKS = frozenset(("requires_grad_", "detach_"))

# Where torch's own list of signatures (`get_testing_overrides`) has another order than its kernels.
_SIGNATURES = {
    "embedding": "weight input padding_idx scale_grad_by_freq sparse",
    "embedding_bag": "weight input offsets scale_grad_by_freq mode sparse per_sample_weights "
    "include_last_offset padding_idx",
    "instance_norm": "input weight bias running_mean running_var use_input_stats momentum eps "
    "cudnn_enabled",
    "convolution": "input weight bias stride padding dilation transposed output_padding groups",
    "scaled_dot_product_attention": "query key value attn_mask dropout_p is_causal",
    "kl_div": "input target reduction log_target",
    "binary_cross_entropy_with_logits": "input target weight pos_weight reduction",
    "cosine_embedding_loss": "input1 input2 target margin reduction",
    "hinge_embedding_loss": "input target margin reduction",
    "margin_ranking_loss": "input1 input2 target margin reduction",
    "triplet_margin_loss": "anchor positive negative margin p eps swap reduction",
    "addbmm": "input batch1 batch2 beta alpha", "baddbmm": "input batch1 batch2 beta alpha",
    "topk": "input k dim largest sorted", "logsumexp": "input dim keepdim",
    "polygamma": "n input", "repeat_interleave": "input repeats dim",
    "multinomial": "input num_samples replacement generator", "diag_embed":
    "input offset dim1 dim2", "max_pool1d_with_indices":
    "input kernel_size stride padding dilation ceil_mode",
}  # fmt: skip

# They take sizes or axes as one sequence or one by one: from which position on, and its name.
_SEQUENCES = {
    "view": (1, "size"), "reshape": (1, "shape"), "expand": (1, "size"), "permute": (1, "dims"),
    "repeat": (1, "repeats"), "tile": (1, "dims"), "flip": (1, "dims"), "new_zeros": (1, "size"),
    "new_ones": (1, "size"), "new_empty": (1, "size"), "zeros": (0, "size"), "ones": (0, "size"),
    "empty": (0, "size"), "rand": (0, "size"), "randn": (0, "size"),
}  # fmt: skip

# They drop out inside one kernel call, and torch does not tag them.
_RANDOM_UNTAGGED = frozenset("lstm gru rnn_tanh rnn_relu _transformer_encoder_layer_fwd".split())

_SELECTING = {
    **dict.fromkeys(
        """getitem setitem index _unsafe_index index_select gather take_along_dim masked_select
        index_put _index_put_impl _unsafe_index_put index_copy index_add index_reduce scatter
        scatter_add scatter_reduce repeat_interleave masked_scatter _pack_padded_sequence
        _pad_packed_sequence lstm gru rnn_tanh rnn_relu""".split(),
        1,
    ),
    **dict.fromkeys("where nonzero argwhere".split(), 0),
}

#: Functions that contract a parameter with their input: the parameter alone makes the layer.
CONTRACTIONS = frozenset(
    """linear bilinear conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d
    conv_transpose3d conv_tbc _convolution embedding embedding_bag matmul mm bmm mv addmm addmv
    addbmm baddbmm einsum tensordot inner dot chain_matmul multi_dot linalg_multi_dot
    scaled_mm _scaled_mm grouped_mm _grouped_mm lstm gru rnn_tanh rnn_relu lstm_cell gru_cell
    rnn_tanh_cell rnn_relu_cell deform_conv2d""".split()
)

#: Functions whose arguments may change places.
COMMUTATIVE = frozenset(
    """add mul eq ne maximum minimum logical_and logical_or logical_xor and or xor bitwise_and
    bitwise_or bitwise_xor hypot gcd lcm alias stack""".split()
)

#: Functions described so far.
KNOWN: dict[Any, Function] = {}


def describe(func: Callable[..., Any]) -> Function:
    """The facts of one torch function, looked up once per process."""
    found = KNOWN.get(func)
    if found is None:
        found = _describe(func)
        if isinstance(func, (OpOverload, OpOverloadPacket)) or _of_torch(func):
            KNOWN[func] = found
    return found


def synthetic(name: str, *arg_names: str) -> Function:
    """A row no torch function made: input, output, constant, alias."""

    def nothing(*_: Any) -> None:
        raise NotImplementedError(f"{name} is not a torch function")

    found = KNOWN[nothing] = Function(nothing, name, "", Action.SKIP, arg_names)
    return found


def _of_torch(func: Any) -> bool:
    module = getattr(func, "__module__", None)
    return module is None or module.split(".")[0] == "torch"


def _describe(func: Any) -> Function:
    raw, target = raw_name(func), target_of(func)
    name = normalised(raw)
    if is_accessor(func):
        return _describe_accessor(func, raw, target)
    if raw in _READS and not _opens(func, raw):
        return Function(func, _READS[raw], target, Action.READ, lends=raw in _LENDS)
    if raw in _METADATA:
        tells = _TELLS.get(raw, "")
        return Function(func, name, target, Action.SKIP, lends=raw in _LENDS, tells=tells)
    arg_names = _arg_names(func, raw)
    if _opens(func, raw):
        return Function(func, name, target, Action.OPEN, arg_names)
    written, written_names = _writes(func, raw)
    certain, switch = True, None
    if raw in _SILENT_WRITES and not written:
        written, switch = _SILENT_WRITES[raw]
    elif raw in _SWITCHED:
        switch = _SWITCHED[raw]
    elif isinstance(func, types.FunctionType) and raw not in _LEAVES:
        written, certain = tuple(range(16)), False
    random = _draws(func, raw)
    gathers = None
    if raw in _SEQUENCES and not isinstance(func, (OpOverload, OpOverloadPacket)):
        gathers, sequence = _SEQUENCES[raw]
        arg_names = ((*arg_names, "self")[:gathers]) + (sequence,) + arg_names[gathers + 1 :]
    # deepcopy fills its memo, an argument, so the arguments must be read before the call
    careful = written or written_names or random or raw == "__deepcopy__" or _borrows(func, raw)
    action = Action.CAREFUL if careful else Action.PLAIN
    return Function(
        func, name, target, action, arg_names, written, written_names, certain, switch, random,
        gathers=gathers, repoints=raw in _REPOINTS, marks=raw in _MARKS,
        selects=_SELECTING.get(name),
    )  # fmt: skip


def _describe_accessor(func: Any, raw: str, target: str) -> Function:
    if func.__name__ == "__set__":
        if raw != "data":
            tells = "gradient" if raw == "grad" else ""
            return Function(func, raw, target, Action.SKIP, tells=tells)
        names = ("input", "data")
        return Function(func, "set_data", target, Action.CAREFUL, names, (0,), repoints=True)
    action = Action.PLAIN if raw in _TENSOR_PROPERTIES else Action.SKIP
    tells = _TELLS.get(raw, "") if action is Action.SKIP else ""
    return Function(func, raw, target, action, ("input",), lends=raw in _LENDS, tells=tells)


def _borrows(func: Any, raw: str) -> bool:
    """Whether results may lie in memory that torch does not own, as those of `as_tensor`."""
    if isinstance(func, (OpOverload, OpOverloadPacket)):
        return not str(func).startswith("aten.")
    if isinstance(func, (types.MethodDescriptorType, types.WrapperDescriptorType)):
        return False  # a method of Tensor
    return raw in _BORROWING or not hasattr(torch.ops.aten, raw)


def _opens(func: Any, raw: str) -> bool:
    if not isinstance(func, types.FunctionType) or raw in _LEAVES or raw in _METADATA:
        return False
    return func.__module__ in _OPEN_MODULES or func.__qualname__.startswith("boolean_dispatch")


def _arg_names(func: Any, raw: str) -> tuple[str, ...]:
    if isinstance(func, OpOverload):
        return tuple(a.name for a in func._schema.arguments)
    if isinstance(func, OpOverloadPacket):
        return tuple(a.name for a in getattr(func, func.overloads()[0])._schema.arguments)
    if raw in _SIGNATURES and not isinstance(func, types.FunctionType):
        return tuple(_SIGNATURES[raw].split())
    override = get_testing_overrides().get(func)
    code = getattr(override or func, "__code__", None)
    if code is not None:
        return tuple(code.co_varnames[: code.co_argcount])
    if raw.startswith("__"):
        return ("input", "other")
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{raw}")
    return tuple(a.name for a in schemas[0].arguments) if schemas else ()


def _writes(func: Any, raw: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Positions and names of the arguments that `func` writes, whatever its overload."""
    if raw == "__setitem__":
        return (0,), ()
    if raw.startswith("__"):
        return ((0,) if raw[2] == "i" and raw[3:-2] in OPERATORS else ()), ()
    if raw.endswith("_") and not isinstance(func, (OpOverload, OpOverloadPacket)):
        return (0,), ("input", "self")
    found: dict[str, int] = {}
    for schema in _schemas(func, raw):
        for position, argument in enumerate(schema.arguments):
            alias = argument.alias_info
            if alias is None or not alias.is_write or not _is_tensor(argument.type, raw):
                continue
            # the tracer looks for `out=` itself, but torch.ops may call it otherwise
            if isinstance(func, (OpOverload, OpOverloadPacket)) or not argument.kwarg_only:
                found[argument.name] = -1 if argument.kwarg_only else position
    return tuple(p for p in found.values() if p >= 0), tuple(found)


def _is_tensor(kind: Any, raw: str) -> bool:
    """Whether a written argument is a tensor: TorchScript's list methods (`sort`) share names."""
    text = str(kind)
    return "Tensor" in text and ("List" not in text or raw.startswith(("_foreach", "_fused")))


def _schemas(func: Any, raw: str) -> list[Any]:
    if isinstance(func, OpOverload):
        return [func._schema]
    if isinstance(func, OpOverloadPacket):
        return [getattr(func, name)._schema for name in func.overloads()]
    if isinstance(func, types.FunctionType):
        return []
    return list(torch._C._jit_get_schemas_for_operator(f"aten::{raw}"))


def _draws(func: Any, raw: str) -> bool:
    if raw in _RANDOM_UNTAGGED:
        return True
    if isinstance(func, OpOverload):
        return torch.Tag.nondeterministic_seeded in func.tags
    packet = func if isinstance(func, OpOverloadPacket) else getattr(torch.ops.aten, raw, None)
    if not isinstance(packet, OpOverloadPacket):
        return False
    return any(
        torch.Tag.nondeterministic_seeded in getattr(packet, name).tags
        for name in packet.overloads()
    )
