"""Every model of the zoo: name to what makes it."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from . import generate, language, recurrent, sequences, speech, timm_models, vision
from .made import Made, Maker

__all__ = ["Made", "Maker", "models"]


def models() -> dict[str, Maker]:
    """Name to maker, nothing built yet: `torchvision/resnet18`, `recurrent/lstm_classifier`."""
    return {
        **vision.models(),
        **timm_models.models(),
        **language.models(),
        **generate.models(),
        **recurrent.models(),
        **sequences.models(),
        **speech.models(),
    }
