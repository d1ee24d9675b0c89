"""Every model of the zoo: name to what makes it."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from . import (
    adapted,
    densities,
    dynamics,
    generate,
    graphs,
    images,
    language,
    recurrent,
    sequences,
    sounds,
    speech,
    timm_models,
    vision,
)
from .made import Made, Maker

__all__ = ["Made", "Maker", "models"]

SOURCES = (
    vision,
    timm_models,
    language,
    generate,
    recurrent,
    sequences,
    speech,
    images,
    graphs,
    dynamics,
    densities,
    adapted,
    sounds,
)


def models() -> dict[str, Maker]:
    """Name to maker, nothing built yet: `torchvision/resnet18`, `recurrent/lstm_classifier`."""
    return {name: make for source in SOURCES for name, make in source.models().items()}
