"""What a maker of the zoo gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn


class Made(NamedTuple):
    """A model in eval mode and what to call it with."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - read, never written
    stimuli: int = 0
    """How many of them the first input holds along axis 0; 0 where that axis is none."""
    method: str = "__call__"
    """What is called: `generate`, `encode_image`."""

    @property
    def call(self) -> Callable[..., Any]:
        """What is run and traced."""
        return self.model if self.method == "__call__" else getattr(self.model, self.method)

    @property
    def ids(self) -> list[str] | None:
        """A name for each stimulus."""
        return [f"s{i}" for i in range(self.stimuli)] or None


Maker = Callable[[], Made]


def run(made: Made) -> Any:
    """What is called gives, with random numbers that are the same each time."""
    torch.manual_seed(0)
    return made.call(*made.args, **made.kwargs)


def seeded(builds: dict[str, Maker]) -> dict[str, Maker]:
    """Makers that draw the same weights whatever was built before."""

    def make(build: Maker) -> Made:
        torch.manual_seed(0)
        return build()

    return {name: partial(make, build) for name, build in builds.items()}


def image(*shape: int) -> torch.Tensor:
    """Random pixels, from a generator of its own: the same whatever the model drew before."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))
