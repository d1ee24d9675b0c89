"""Which operations work element by element, and those that take of a tensor only its kind."""

from __future__ import annotations

import torch
from torch._ops import OpOverloadPacket

from lensframe_pd.schema import STIMULUS
from lensframe_pd.tables.case import Case, Operand, Ruled, elementwise
from lensframe_pd.tables.order import NONE, carries
from lensframe_pd.tape.tape import SLOT

#: Element by element, though torch does not tag them so.
_POINTWISE = frozenset(
    """dropout feature_dropout alpha_dropout feature_alpha_dropout clone contiguous detach
    requires_grad half float bfloat16 double int long short char byte bool cfloat cdouble chalf
    type _to_copy alias output edit identity deepcopy lift_fresh zero masked_fill native_dropout
    bernoulli conj resolve_conj resolve_neg conj_physical real imag positive cpu cuda xpu
    pin_memory rename rrelu rrelu_with_noise l1_loss mse_loss smooth_l1_loss huber_loss
    binary_cross_entropy binary_cross_entropy_with_logits kl_div maximum minimum fmax fmin
    complex polar isclose lerp nan_to_num uniform normal exponential cauchy geometric log_normal
    random fake_quantize_per_tensor_affine stochastic_depth hardtanh softplus threshold
    hardswish log_sigmoid as_tensor asarray dequantize
    quantize_per_tensor quantize_per_tensor_dynamic absolute negative pos invert and or xor lshift
    rshift truediv floordiv floor_divide mod divide multiply subtract true_divide greater
    greater_equal less less_equal not_equal arccos arccosh arcsin arcsinh arctan arctan2 arctanh
    fix isreal poisson binomial special_digamma special_erf special_erfc special_erfinv
    special_exp2 special_expit special_expm1 special_gammainc special_gammaincc special_gammaln
    special_i0 special_log1p special_logit special_multigammaln special_ndtr special_polygamma
    special_psi special_round special_sinc special_xlogy poisson_nll_loss soft_margin_loss
    alias_copy detach_copy expand_copy cross linalg_cross""".split()
)
_known: dict[str, bool] = {}


def is_pointwise(name: str) -> bool:
    """Whether an operation works element by element."""
    known = _known.get(name)
    if known is None:
        packet = getattr(torch.ops.aten, name, None)
        known = name in _POINTWISE or (
            isinstance(packet, OpOverloadPacket)
            and any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads())
        )
        _known[name] = known
    return known


_LISTED = "_foreach_"


def is_listed(name: str) -> bool:
    """Whether an operation does to each tensor of a list what another does to one, by entry."""
    return name.startswith(_LISTED) and is_pointwise(name.removeprefix(_LISTED))


def listed(case: Case) -> Ruled | None:
    """A result for each tensor of the first list, made of those at its place in all lists."""
    mine: list[Operand] = []
    at = 0
    for argument in case.arguments.values():
        if isinstance(argument, (tuple, list)):
            tensors = argument.count(SLOT)
            if tensors and len(case.shapes) != tensors:
                return None  # one tensor twice in a list: it is not known which result is whose
            mine += case.operands[at : at + tensors][case.slot : case.slot + 1]
            at += tensors
        elif argument is SLOT:
            mine.append(case.operands[at])
            at += 1
    return elementwise(case._replace(operands=mine))


def fresh(case: Case) -> Ruled:
    """A new tensor of the kind of another: in its order only as far as that is the plain one."""
    first = case.first
    if len(first.shape) != len(case.shape):
        return Ruled((None,) * len(case.shape), NONE)
    names = [n if n == STIMULUS or not carries(n) else None for n in first.names]
    return Ruled(tuple(names), NONE)


def converted(case: Case) -> Ruled:
    """A tensor made of the kind of another, of which nothing else is read."""
    return Ruled(case.first.names, case.first.whole)


def made(case: Case) -> Ruled:
    return Ruled((None,) * len(case.shape), NONE)
