"""Small models whose control flow is their own: loops, cells, inner gradients, early stops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from . import cells, loops, nets
from .made import Made, Maker

Build = Callable[[], tuple[nn.Module, tuple[torch.Tensor, ...]]]


def models() -> dict[str, Maker]:
    """Name to maker."""
    found = {**cells.BUILDS, **loops.BUILDS, **nets.BUILDS}
    return {f"recurrent/{name}": partial(_make, build) for name, build in found.items()}


def _make(build: Build) -> Made:
    torch.manual_seed(0)
    model, args = build()
    return Made(model.eval(), args)
