"""Every model torchvision registers; the quantisable ones in float."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torchvision import models as tv

from .made import Made, Maker, image


class How(NamedTuple):
    """How the models of one torchvision module are built and called."""

    shape: tuple[int, ...] = (2, 3, 64, 64)
    options: dict[str, Any] = {}  # noqa: RUF012 - read, never written


_CLIP = (1, 3, 8, 64, 64)
_DETECTOR = {"weights_backbone": None, "min_size": 96, "max_size": 128}

HOW = {
    "googlenet": How((2, 3, 64, 64), {"init_weights": False}),
    "inception": How((2, 3, 96, 96), {"init_weights": False}),
    "maxvit": How((1, 3, 224, 224)),
    "vision_transformer": How((2, 3, 112, 112), {"image_size": 112}),
    "quantization.googlenet": How((2, 3, 64, 64), {"init_weights": False, "quantize": False}),
    "quantization.inception": How((2, 3, 96, 96), {"init_weights": False, "quantize": False}),
    "quantization": How((2, 3, 64, 64), {"quantize": False}),
    "segmentation": How((2, 3, 64, 64), {"weights_backbone": None}),
    "optical_flow": How((1, 3, 128, 128)),
    "video.mvit": How((1, 3, 16, 224, 224)),
    "video.s3d": How((1, 3, 16, 224, 224)),
    "video": How(_CLIP),
    "detection.ssd": How((3, 96, 128), {"weights_backbone": None}),
    "detection.ssdlite": How((3, 96, 128), {"weights_backbone": None}),
    "detection": How((3, 96, 128), _DETECTOR),
}
"""By the module a model is defined in, or the package of it."""

SIZES = {"vit_b_32": 128, "vit_l_32": 128}


def models() -> dict[str, Maker]:
    """Name to maker."""
    return {f"torchvision/{name}": partial(_make, name) for name in tv.list_models()}


def _make(name: str) -> Made:
    module = tv.get_model_builder(name).__module__.removeprefix("torchvision.models.")
    shape, options = HOW.get(module) or HOW.get(module.split(".")[0]) or How()
    if name in SIZES:
        size = SIZES[name]
        shape, options = (*shape[:-2], size, size), {"image_size": size}
    torch.manual_seed(0)
    model = tv.get_model(name, weights=None, **options).eval()
    if module.startswith("detection"):
        return Made(model, ([image(*shape), image(*shape).flip(-1)],))
    if module.startswith("optical_flow"):
        pair = image(2 * shape[0], *shape[1:]) * 2 - 1
        return Made(model, tuple(pair.chunk(2)), {"num_flow_updates": 3})
    return Made(model, (image(*shape),))
