"""torch's fused attention, which torch leaves while any mode is active: where a run left it.

`nn.MultiheadAttention`, `nn.TransformerEncoderLayer` and `nn.TransformerEncoder` decide in Python
whether to take one fused operator instead of their parts (in eval mode, without gradients), and
keep the reason why not in a variable. A mode is the last of the reasons.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: What all three call when they do not take the fused path.
ATTENTION = F.multi_head_attention_forward
_REASONS = ("why_not_fast_path", "why_not_sparsity_fast_path")
_A_MODE = "some Tensor argument has_torch_function"
_DEVICES = ("cpu", "cuda", "xpu")


def leaves_fused(frame: FrameType | None) -> bool:
    """Whether a call of `ATTENTION` from this frame is there for the mode of the trace alone.

    Ask outside the mode.
    """
    return any(
        values.get(name) == _A_MODE and _else_fused(values.get("tensor_args", ()))
        for name, values in _deciding(frame)
    )


def _deciding(frame: FrameType | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The frames that keep such a reason, from the inside out, by their variables."""
    while frame is not None:
        for name in _REASONS:
            if name in frame.f_code.co_varnames:
                yield name, frame.f_locals
        frame = frame.f_back


def _else_fused(arguments: tuple[Any, ...]) -> bool:
    """What torch asks after it has asked for a mode."""
    tensors = [value for value in arguments if isinstance(value, Tensor)]
    return not (
        torch.overrides.has_torch_function(tensors)  # another mode, or a tensor of a subclass
        or any(tensor.device.type not in _DEVICES for tensor in tensors)
        or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
    )
