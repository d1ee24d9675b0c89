"""What surrounds a call: torch's switches and the state of its random generators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lensframe_pd.tape.tape import Context


def context_now() -> Context:
    """The switches a call made now runs under."""
    autocast: tuple[tuple[str, str], ...] = ()
    if torch._C._is_any_autocast_enabled():
        autocast = tuple(
            (device, str(torch.get_autocast_dtype(device)).removeprefix("torch."))
            for device in ("cpu", "cuda", "xpu", "mps")
            if torch.is_autocast_enabled(device)
        )
    return Context(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast)


def generator_state(args: Any, kwargs: Any) -> Tensor:
    """State of the generator that a call with these arguments would draw from."""
    generator = kwargs.get("generator")
    if generator is None:
        generator = next((a for a in args if isinstance(a, torch.Generator)), None)
    if generator is not None:
        state: Tensor = generator.get_state()
        return state
    for value in (*args, kwargs.get("device")):
        device = value.device if isinstance(value, Tensor) else value
        if isinstance(device, str):
            device = torch.device(device)
        if isinstance(device, torch.device) and device.type == "cuda":  # untested: no GPU here
            return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()
