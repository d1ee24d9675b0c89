"""Which values a torch function may be given, besides those it was called with.

Most kernels compute with a value, or compare it: any will do. Others use one as an address in
memory, as a length or as the number of rounds of a loop, and not all of them check it. A kernel
that is not torch's own may do anything.
"""

from __future__ import annotations

from enum import Enum
from functools import cache

import torch
from torch._ops import OpOverload, OpOverloadPacket

from lensframe_pd.tape.functions import Function


class Domain(Enum):
    """Which other values one argument of a function may have, and why no others."""

    ANY = "any"
    RANGE = "no other value in the range it had, as the kernel may use it as an address or a length"
    ORDER = "no other order of the values it had, as the kernel may not check others"


# Besides what torch tags as pointwise: they move, reduce, compare or multiply what they are given.
_COMPUTE = frozenset(
    """getitem setitem view view_as reshape reshape_as expand expand_as permute transpose t T mT H
    mH adjoint unsqueeze squeeze flatten unflatten ravel movedim moveaxis swapaxes swapdims select
    narrow split split_with_sizes chunk tensor_split hsplit vsplit dsplit unbind cat concat
    concatenate stack hstack vstack dstack column_stack row_stack block_diag diagonal diag
    diag_embed tril triu flip fliplr flipud roll rot90 repeat tile unfold fold im2col col2im
    clone contiguous detach to _to_copy type type_as float double half bfloat16 long int short
    bool cpu copy fill zero data set_data real imag view_as_real view_as_complex conj
    conj_physical resolve_conj resolve_neg neg broadcast_tensors broadcast_to atleast_1d
    atleast_2d atleast_3d meshgrid cartesian_prod pad constant_pad_nd reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    pixel_shuffle pixel_unshuffle channel_shuffle as_strided deepcopy requires_grad
    sum mean prod amax amin max min aminmax argmax argmin any all count_nonzero nonzero std var
    std_mean var_mean norm logsumexp softmax log_softmax _softmax _log_softmax cumsum cumprod
    cummax cummin logcumsumexp sort argsort msort topk median nanmedian nansum nanmean kthvalue
    mode isin searchsorted bucketize isclose masked_select masked_scatter diff trace unique
    unique_consecutive _unique2 vector_norm linalg_vector_norm frobenius_norm
    matmul mm bmm mv addmm addmv addbmm baddbmm addr dot vdot inner outer ger kron linear bilinear
    einsum tensordot cross vecdot linalg_vecdot linalg_cross chain_matmul cdist _cdist_forward pdist
    cosine_similarity pairwise_distance conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d conv_tbc convolution _convolution layer_norm rms_norm group_norm batch_norm
    instance_norm native_layer_norm native_group_norm native_batch_norm max_pool1d max_pool2d
    max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices avg_pool1d
    avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d scaled_dot_product_attention lstm gru rnn_tanh rnn_relu lstm_cell gru_cell
    rnn_tanh_cell rnn_relu_cell prelu glu upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d log_sigmoid
    mse_loss l1_loss smooth_l1_loss huber_loss kl_div binary_cross_entropy
    binary_cross_entropy_with_logits poisson_nll_loss soft_margin_loss margin_ranking_loss
    cosine_embedding_loss triplet_margin_loss hinge_embedding_loss nll_loss nll_loss2d
    cross_entropy_loss nll_loss_nd embedding index_select gather take take_along_dim scatter
    scatter_add scatter_reduce index_add index_copy index_fill index_put masked_fill where
    zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full new_tensor
    tensor as_tensor scalar_tensor sum_to_size floor_divide dropout feature_dropout alpha_dropout
    native_dropout""".split()
)

# Pointwise, but they run a loop as many times as an argument says.
_LOOPS = ("polynomial", "zeta", "polygamma", "mvlgamma")

# Names of Python's operators, as torch calls them.
_OPERATORS = {
    "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "invert": "bitwise_not",
    "truediv": "div", "floordiv": "floor_divide", "mod": "remainder", "lshift":
    "bitwise_left_shift", "rshift": "bitwise_right_shift",
}  # fmt: skip

# Integers among their arguments that are addresses, which they check.
_ADDRESSES = {
    "getitem": ("idx",), "setitem": ("k",), "embedding": ("input", "indices"),
    **dict.fromkeys(
        """index_select gather take take_along_dim scatter scatter_add scatter_reduce index_add
        index_copy index_fill index_put nll_loss nll_loss2d nll_loss_nd
        cross_entropy_loss""".split(),
        ("index", "indices", "target", "1", "2"),
    ),
}  # fmt: skip

# They divide: of integers the smallest by -1 ends the process.
_DIVIDE = frozenset("div divide floor_divide remainder fmod gcd lcm".split())


class Domains:
    """What functions may be given, each asked once; these have to live as long as this does."""

    def __init__(self) -> None:
        self._anything: dict[int, bool] = {}
        self._domains: dict[tuple[int, str, torch.dtype], Domain] = {}

    def may_be_given_anything(self, function: Function) -> bool:
        key = id(function)
        known = self._anything.get(key)
        if known is None:
            known = self._anything[key] = may_be_given_anything(function)
        return known

    def of(self, function: Function, role: str, dtype: torch.dtype) -> Domain:
        """As `domain_of`."""
        key = (id(function), role, dtype)
        known = self._domains.get(key)
        if known is None:
            known = self._domains[key] = domain_of(function, role, dtype)
        return known


def domain_of(function: Function, role: str, dtype: torch.dtype) -> Domain:
    """What a tensor given to a function as this argument may hold instead.

    Examples
    --------
    >>> from lensframe_pd.tape.functions import describe
    >>> embedding, relu = describe(torch.embedding), describe(torch.relu)
    >>> domain_of(embedding, "input", torch.int64).name
    'RANGE'
    >>> domain_of(relu, "input", torch.float32).name
    'ANY'
    """
    if not function.target:  # a row no torch function made
        return Domain.ANY
    if not _is_of_torch(function):
        return Domain.ORDER
    if dtype is torch.bool:
        return Domain.ANY
    integers = not (dtype.is_floating_point or dtype.is_complex)
    if not _computes(function):
        return Domain.ORDER if integers else Domain.RANGE
    name = _name_of(function)
    address = integers and role.partition(".")[0] in _ADDRESSES.get(name, ())
    return Domain.RANGE if address else Domain.ANY


def may_be_given_anything(function: Function) -> bool:
    """Whether its kernel only computes with its arguments, or checks them."""
    return not function.target or (_is_of_torch(function) and _computes(function))


def _computes(function: Function) -> bool:
    return _name_of(function) in _COMPUTE or is_pointwise(function)


def divides(function: Function) -> bool:
    """Whether the smallest integer, divided by -1, may end the process."""
    return _name_of(function) in _DIVIDE


def is_pointwise(function: Function) -> bool:
    """Whether each element of its result is made of the elements at that place."""
    return _is_pointwise(_name_of(function)) and not function.random


def _name_of(function: Function) -> str:
    """Its name, of one of Python's operators that of the function which torch calls."""
    return _OPERATORS.get(function.name, function.name)


def _is_of_torch(function: Function) -> bool:
    func = function.func
    if isinstance(func, OpOverload):
        return func.namespace in ("aten", "prims")
    if isinstance(func, OpOverloadPacket):
        return func._qualified_op_name.startswith(("aten::", "prims::"))
    return function.target.startswith("torch.") or function.target == "torch"


@cache
def _is_pointwise(name: str) -> bool:
    if any([word in name for word in _LOOPS]):
        return False
    packets = [getattr(torch.ops.aten, found, None) for found in (name, f"special_{name}")]
    return any([_is_tagged(p) for p in packets if isinstance(p, OpOverloadPacket)])


def _is_tagged(packet: OpOverloadPacket) -> bool:
    overloads = [getattr(packet, name) for name in packet.overloads()]
    return any([torch.Tag.pointwise in overload.tags for overload in overloads])
