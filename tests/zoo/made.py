"""What a maker of the zoo gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn


class Made(NamedTuple):
    """A model in eval mode and what to call it with."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - read, never written


Maker = Callable[[], Made]


def image(*shape: int) -> torch.Tensor:
    """Random pixels, from a generator of its own: the same whatever the model drew before."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))
