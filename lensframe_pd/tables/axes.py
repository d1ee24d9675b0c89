"""The table of axis names: which operation makes which axes, keeps, moves, merges or drops them.

A rule looks at a `Case` and says what each axis of the result is, `None` where it does not know;
an operation without a rule names nothing. Names are never guessed. A rule moves an axis with the
stimuli along it as one thing, so what holds for names holds for the order of stimuli, too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from lensframe_pd.tables import (
    indexing,
    joining,
    norms,
    pointwise,
    products,
    reductions,
    reshape,
    selection,
    sequences,
    space,
    writes,
)
from lensframe_pd.tables.case import (
    Case,
    Operand,
    Rule,
    Ruled,
    aligned,
    elementwise,
    kept,
    moves,
    of_spread,
    without_order,
)
from lensframe_pd.tables.order import (
    MIXED,
    Names,
    carries,
    of_all,
)
from lensframe_pd.tape.tape import SLOT

#: They leave the axes of their first tensor what they are, whatever the others are for; entries
#: that change places change them in the result, too.
_KEEPING = frozenset(
    """prelu fill index_fill lift_fresh_copy fake_quantize_per_channel_affine to_dense
    view_as_real_copy embedding_renorm quantize_per_channel""".split()
)


@cache
def rule_of(name: str) -> Rule | None:
    """The rule of an operation, by its normalised name."""
    known = RULES.get(name)
    if known is None and pointwise.is_listed(name):
        return pointwise.listed
    return known or (elementwise if pointwise.is_pointwise(name) else None)


def _along(default: int | None, name: bool = True) -> Rule:
    """Operations by which entries along one axis depend on their order, or change it."""

    def rule(case: Case) -> Names | None:
        if len(case.first.shape) != len(case.shape) or not case.shape:
            return None
        axis = case.axis(default)
        if axis is None:
            return None
        names = without_order(case.first.names, (axis,))
        return names if name else (*names[:axis], None, *names[axis + 1 :])

    return rule


def _frequencies(default: tuple[int, ...] | None) -> Rule:
    """Fourier transforms: the axes along which they go are made anew."""

    def rule(case: Case) -> Names | None:
        rank = len(case.first.shape)
        if rank != len(case.shape):
            return None
        axes = case.argument("dim", default=default)
        axes = range(rank) if axes is None else [axes] if type(axes) is int else axes
        gone = {int(d) % rank for d in axes}
        return tuple([None if k in gone else n for k, n in enumerate(case.first.names)])

    return rule


def _with_classes(case: Case) -> Names:
    """`one_hot`: a last axis more."""
    return (*case.first.names, None)


def _drawn(case: Case) -> Names:
    """`multinomial`: entries of the last axis are drawn."""
    return (*case.first.names[:-1], None)


def _matrices(case: Case) -> Ruled | None:
    """Functions of matrices: those before the last two axes stay what they are."""
    operands = [o for o in case.operands if len(o.shape) >= 2]
    n = max([len(o.shape) - 2 for o in operands], default=0)
    if len(case.shape) < n:
        return None
    lead = [Operand(o.names[:-2], o.shape[:-2], o.whole) for o in operands]
    names = aligned(case._replace(shape=case.shape[:n]), lead)
    matrix = any([carries(name) for o in operands for name in o.names[-2:]])
    whole = MIXED if matrix else of_spread(lead, names)
    return Ruled((*names, *(None,) * (len(case.shape) - n)), whole)


def _strided_windows(case: Case) -> Names | None:
    """`Tensor.unfold`: windows along one axis, and an axis more for what is in them."""
    axis = case.axis()
    if axis is None or len(case.shape) != len(case.first.shape) + 1:
        return None
    return (*without_order(case.first.names, (axis,)), None)


def _spectrogram(case: Case) -> Names | None:
    lead = case.first.names[:1] if len(case.first.shape) == 2 else ()
    return (*lead, *(None,) * (len(case.shape) - len(lead)))


def _with_parts(case: Case) -> Names:
    """`view_as_real`: real and imaginary parts are an axis more."""
    return (*case.first.names, None)


def _without_parts(case: Case) -> Names:
    return case.first.names[:-1]


def _gradient(case: Case) -> Ruled | None:
    """The gradient of a tensor has its axes."""
    if "outputs" not in case.arguments:  # the property of a tensor
        first = case.first
        return Ruled(first.names, first.whole) if first.shape == case.shape else None
    n_outputs = _slots(case.arguments["outputs"])
    n_inputs = _slots(case.arguments.get("inputs"))
    inputs = case.operands[n_outputs : n_outputs + n_inputs]
    # Inputs that have no gradient give no row, and then it is not known which is whose.
    if len(case.shapes) != n_inputs or case.slot >= len(inputs):
        return None
    found = inputs[case.slot]
    if found.shape != case.shape:
        return None
    return Ruled(found.names, of_all([found.whole, *[o.whole for o in case.operands[:n_outputs]]]))


def _slots(value: Any) -> int:
    if isinstance(value, (tuple, list)):
        return sum([_slots(part) for part in value])
    return int(value is SLOT)


def _rules() -> dict[str, Rule]:
    rules: dict[str, Rule] = {}

    def add(rule: Rule, names: str) -> None:
        rules.update(dict.fromkeys(names.split(), rule))

    add(kept, " ".join(_KEEPING))
    add(pointwise.converted, "to type_as")
    add(
        norms.along,
        "softmax log_softmax _softmax _log_softmax softmin gumbel_softmax special_softmax "
        "special_log_softmax normalize",
    )
    add(norms.over_last, "layer_norm rms_norm native_layer_norm")
    add(norms.of_batch, "batch_norm native_batch_norm")
    add(norms.in_groups, "group_norm native_group_norm")
    add(norms.of_each(2), "instance_norm")
    add(norms.of_rows, "renorm")
    add(norms.by_place((1,)), "local_response_norm")
    add(norms.by_place((-1, -2)), "_transformer_encoder_layer_fwd")
    add(norms.triangle, "triu tril")
    add(norms.found_in, "isin")
    add(
        pointwise.fresh,
        "zeros_like ones_like empty_like full_like rand_like randn_like randint_like",
    )
    add(pointwise.made, "new_zeros new_ones new_full new_empty new_tensor new new_empty_strided")
    for n in (1, 2, 3):
        add(space.convolution(n), f"conv{n}d conv_transpose{n}d")
        add(
            space.spatial(n, None),
            f"max_pool{n}d avg_pool{n}d adaptive_avg_pool{n}d adaptive_max_pool{n}d "
            f"max_pool{n}d_with_indices fractional_max_pool{n}d lp_pool{n}d max_unpool{n}d "
            f"_adaptive_avg_pool{n}d reflection_pad{n}d replication_pad{n}d",
        )
    add(space.any_convolution, "convolution space.convolution")
    add(space.spatial(2, "channel"), "deform_conv2d slow_conv2d thnn_conv2d slow_conv_dilated2d")
    add(space.spatial(1, None), "upsample_nearest1d upsample_linear1d _upsample_nearest_exact1d")
    add(
        space.spatial(2, None),
        "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa "
        "_upsample_bicubic2d_aa _upsample_nearest_exact2d",
    )
    add(space.spatial(3, None), "upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact3d")
    add(space.shuffled(2), "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle")
    add(space.sampled, "grid_sampler grid_sampler_2d grid_sampler_3d")
    add(space.windows, "im2col")
    add(space.folded, "col2im")
    add(products.linear, "linear")
    add(products.cell, "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
    add(products.bilinear, "bilinear")
    add(products.embedding, "embedding")
    add(products.embedding_bag, "embedding_bag")
    add(products.matmul, "matmul mm bmm mv dot vdot linalg_matmul")
    add(products.added_product, "addmm baddbmm addmv")
    add(products.batches_added, "addbmm")
    add(products.grouped, "grouped_mm _grouped_mm")
    add(products.outer, "outer ger")
    add(products.multiplied, "linalg_multi_dot chain_matmul")
    add(products.inner, "inner")
    add(products.distances, "cdist _cdist_forward")
    add(products.correlations, "cov corrcoef")
    add(products.tensordot, "tensordot")
    add(products.attention, "scaled_dot_product_attention")
    add(products.einsum, "einsum")
    add(sequences.recurrent, "lstm gru rnn_tanh rnn_relu")
    add(reshape.permuted(reshape.swap), "transpose swapaxes swapdims")
    add(reshape.permuted(reshape.permute), "permute")
    add(reshape.permuted(reshape.last_two), "mT mH t adjoint")
    add(reshape.permuted(reshape.backwards), "T H")
    add(reshape.permuted(reshape.moved), "movedim moveaxis")
    add(
        reshape.reshaped,
        "view reshape flatten unflatten _unsafe_view view_as reshape_as ravel "
        "view_copy atleast_1d atleast_2d atleast_3d",
    )
    add(reshape.strided, "as_strided")
    add(moves(reshape.unsqueezed), "unsqueeze")
    add(reshape.squeezed, "squeeze")
    add(_along(None), "cumsum cumprod cummax cummin logcumsumexp")
    add(_along(-1), "sort argsort glu diff topk cumulative_trapezoid")
    add(_along(0), "msort")
    add(_frequencies((-1,)), "fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft")
    add(_frequencies((-2, -1)), "fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2")
    add(_frequencies(None), "fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_fftshift fft_ifftshift")
    add(
        reductions.reduced,
        "sum mean amax amin logsumexp std var norm linalg_vector_norm "
        "prod any all nansum nanmean std_mean var_mean aminmax count_nonzero quantile nanquantile "
        "linalg_norm frobenius_norm nuclear_norm special_logsumexp",
    )
    add(reductions.placed(0), "argmax argmin")
    add(reductions.placed(1), "median nanmedian mode kthvalue")
    add(reductions.greatest, "max min")
    add(reductions.compared(1), "cosine_similarity")
    add(reductions.compared(-1), "linalg_vecdot vecdot")
    add(reductions.without_last, "pairwise_distance")
    add(reductions.of_vectors(3), "triplet_margin_loss")
    add(reductions.of_vectors(2), "cosine_embedding_loss")
    add(reductions.losses, "nll_loss nll_loss_nd cross_entropy_loss nll_loss2d")
    add(
        reductions.distance,
        "l1_loss mse_loss smooth_l1_loss huber_loss binary_cross_entropy kl_div soft_margin_loss "
        "binary_cross_entropy_with_logits poisson_nll_loss dist margin_ranking_loss "
        "hinge_embedding_loss",
    )
    add(_with_classes, "one_hot")
    add(_drawn, "multinomial")
    add(
        _matrices,
        "linalg_inv linalg_pinv linalg_cholesky linalg_qr linalg_svd linalg_eigh linalg_eig "
        "linalg_eigvals linalg_eigvalsh linalg_svdvals linalg_det linalg_slogdet linalg_solve "
        "linalg_lstsq linalg_matrix_exp matrix_exp inverse det logdet slogdet cholesky "
        "cholesky_solve triangular_solve linalg_solve_triangular matrix_power "
        "linalg_matrix_power linalg_inv_ex linalg_cholesky_ex linalg_lu linalg_lu_factor "
        "linalg_lu_solve linalg_matrix_rank linalg_cond linalg_matrix_norm linalg_solve_ex "
        "linalg_householder_product trace qr svd lu_solve pinverse cholesky_inverse",
    )
    add(_strided_windows, "unfold")
    add(_spectrogram, "stft istft")
    add(_with_parts, "view_as_real")
    add(_without_parts, "view_as_complex")
    add(_gradient, "grad")
    add(indexing.getitem, "getitem")
    add(indexing.index, "index _unsafe_index")
    add(indexing.index_select, "index_select")
    add(indexing.gather, "gather take_along_dim")
    add(indexing.take, "take")
    add(indexing.masked_select, "masked_select")
    add(indexing.chosen, "where")
    add(indexing.places, "nonzero argwhere")
    add(selection.narrow, "narrow narrow_copy")
    add(moves(selection.piece), "slice")
    add(selection.select, "select")
    add(selection.unbind, "unbind")
    add(
        moves(selection.split),
        "split chunk split_with_sizes tensor_split unsafe_split unsafe_chunk vsplit "
        "unsafe_split_with_sizes",
    )
    add(joining.cat, "cat concat concatenate")
    add(joining.stack, "stack")
    add(joining.hstack, "hstack")
    add(joining.dstack, "dstack")
    add(joining.column_stack, "column_stack")
    add(joining.vstack, "vstack row_stack")
    add(moves(selection.repeat), "repeat tile")
    add(selection.repeat_interleave, "repeat_interleave")
    add(moves(selection.expand), "expand expand_as broadcast_to")
    add(selection.broadcast, "broadcast_tensors")
    add(moves(selection.flip), "flip")
    add(moves(selection.flipped(1)), "fliplr")
    add(moves(selection.flipped(0)), "flipud")
    add(moves(selection.roll), "roll")
    add(moves(selection.rot90), "rot90")
    add(moves(selection.pad), "pad constant_pad_nd")
    add(selection.diagonal(0, 1), "diagonal")
    add(selection.diagonal(-2, -1), "linalg_diagonal")
    add(selection.diag, "diag")
    add(selection.diag_embed, "diag_embed")
    add(joining.meshgrid, "meshgrid")
    add(moves(selection.columns), "hsplit")
    add(sequences.padded, "pad_sequence")
    add(writes.setitem, "setitem")
    add(writes.index_put, "index_put _index_put_impl _unsafe_index_put")
    add(writes.index_copy, "index_copy index_add index_reduce")
    add(writes.scatter, "scatter scatter_add scatter_reduce")
    add(writes.slice_scatter, "slice_scatter")
    add(writes.select_scatter, "select_scatter")
    add(writes.masked_scatter, "masked_scatter")
    add(writes.copied, "copy set_data")
    add(sequences.pack, "_pack_padded_sequence")
    add(sequences.unpack, "_pad_packed_sequence")
    add(sequences.searched, "searchsorted bucketize")
    return rules


RULES = _rules()
