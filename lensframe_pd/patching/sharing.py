"""Operations whose result may lie in the memory of what they were given, or be that itself."""

from __future__ import annotations

from functools import cache

import torch

# They have no schema by their name, or one that does not say that they may hand back an argument.
_MAY_SHARE = frozenset(
    """dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout bernoulli
    atleast_1d atleast_2d atleast_3d data broadcast_tensors meshgrid cartesian_prod einsum
    unsafe_chunk unsafe_split _unsafe_view sum_to_size conj_physical histogramdd lift lift_fresh
    lstm gru rnn_tanh rnn_relu nonzero where""".split()
)


@cache
def may_share(name: str) -> bool:
    """Whether an operation, by its normalised name, may give memory that others hold.

    What torch has no schema of is believed to.

    Examples
    --------
    >>> may_share("reshape"), may_share("getitem"), may_share("linear"), may_share("dropout")
    (True, True, False, True)
    """
    schemas = torch._C._jit_get_schemas_for_operator(f"aten::{name}")
    if not schemas or name in _MAY_SHARE:
        return True
    return any(
        returned.alias_info is not None and not returned.alias_info.is_write
        for schema in schemas
        for returned in schema.returns
    )
