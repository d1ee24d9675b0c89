"""The models of timm below 40 million parameters and the lightest of each family; see timm.txt."""

from __future__ import annotations

import os.path
from functools import partial

import timm
import torch

from .made import Made, Maker, image

LIST = os.path.join(os.path.dirname(__file__), "timm.txt")
"""Per line: name, channels, input size, and `img_size` if the model is built for that size."""


def models() -> dict[str, Maker]:
    """Name to maker."""
    made: dict[str, Maker] = {}
    with open(LIST) as file:
        for line in file:
            name, channels, size, *built_for = line.split()
            made[f"timm/{name}"] = partial(_make, name, int(channels), int(size), bool(built_for))
    return made


def _make(name: str, channels: int, size: int, built_for_size: bool) -> Made:
    torch.manual_seed(0)
    options = {"img_size": size} if built_for_size else {}
    model = timm.create_model(name, pretrained=False, **options).eval()
    return Made(model, (image(2, channels, size, size),), stimuli=2)
