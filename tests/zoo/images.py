"""Vision models of other packages: segmentation, medical volumes, diffusion, image and text."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .made import Made, Maker, image, seeded

BATCH = 3


def _pixels(size: int = 64, channels: int = 3) -> Tensor:
    return image(BATCH, channels, size, size)


def _volume(size: int = 32, channels: int = 1) -> Tensor:
    return image(BATCH, channels, size, size, size)


def _made(model: nn.Module, *args: Any, **kwargs: Any) -> Made:
    return Made(model.eval(), args, kwargs, BATCH)


def _segmentation(name: str, **options: Any) -> Made:
    import segmentation_models_pytorch as smp

    options = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 4} | options
    return _made(getattr(smp, name)(**options), _pixels())


def _monai(name: str, x: Tensor, **options: Any) -> Made:
    import monai.networks.nets as nets

    return _made(getattr(nets, name)(**options), x)


def _monai_diffusion() -> Made:
    from monai.networks.nets import DiffusionModelUNet

    model = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(8, 16),
        attention_levels=(False, True),
        num_res_blocks=1,
        num_head_channels=8,
        norm_num_groups=4,
    )
    return _made(model, _pixels(16, 1), torch.tensor([1, 50, 900]))


def _kornia_tiny_vit() -> Made:
    from kornia.contrib import TinyViT

    model = TinyViT(
        img_size=64,
        num_classes=5,
        embed_dims=(16, 32, 32, 48),
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 2, 3),
        window_sizes=(4, 4, 4, 2),
    )
    return _made(model, _pixels())


def _kornia_descriptor(name: str) -> Made:
    import kornia.feature

    return _made(getattr(kornia.feature, name)(pretrained=False), _pixels(32, 1))


def _kornia_loftr() -> Made:
    from kornia.feature import LoFTR

    pair = {"image0": _pixels(64, 1), "image1": _pixels(64, 1).flip(-1)}
    return _made(LoFTR(pretrained=None), pair)


def _kornia_filters() -> Made:
    from kornia import color, enhance, filters

    model = nn.Sequential(
        color.RgbToLab(),
        filters.GaussianBlur2d((5, 5), (1.5, 1.5)),
        filters.SpatialGradient(),
        nn.Flatten(1, 2),
        filters.MedianBlur((3, 3)),
        enhance.Normalize(torch.zeros(6), torch.ones(6)),
    )
    return _made(model, _pixels(32))


def _kornia_augmented() -> Made:
    """Augmentations draw for every image: which are changed, and by how much."""
    import kornia.augmentation as change

    model = nn.Sequential(
        change.RandomHorizontalFlip(p=0.5),
        change.RandomAffine(15.0, p=0.7),
        change.ColorJiggle(0.2, 0.2, 0.2, 0.1, p=0.7),
        nn.Conv2d(3, 4, 3),
    )
    return _made(model, _pixels(32))


def _unet2d() -> Made:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return _made(model, _pixels(16), torch.tensor([1, 50, 900]))


def _conditional() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def _unet2d_condition() -> Made:
    text = image(BATCH, 5, 12)
    return _made(_conditional(), _pixels(16, 4), 7, text)


class Denoiser(nn.Module):
    """Steps of a sampler, guided by text: conditioned and unconditioned go as one batch."""

    def __init__(self, scheduler: str, steps: int) -> None:
        super().__init__()
        import diffusers

        self.unet = _conditional()
        self.scheduler = getattr(diffusers, scheduler)()
        self.scheduler.set_timesteps(steps)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        scheduler = copy.copy(self.scheduler)  # it counts its steps
        both = torch.cat([torch.zeros_like(text), text])
        for t in scheduler.timesteps:
            inner = scheduler.scale_model_input(torch.cat([x, x]), t)
            without, along = self.unet(inner, t, both).sample.chunk(2)
            noise = without + 3.0 * (along - without)
            x = scheduler.step(noise, t, x).prev_sample
        return x


def _denoiser(scheduler: str) -> Made:
    x = torch.randn(BATCH, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return _made(Denoiser(scheduler, 3), x, image(BATCH, 5, 12))


def _autoencoder_kl() -> Made:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return _made(model, _pixels(16))


def _dit() -> Made:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        sample_size=8,
        norm_num_groups=4,
        num_embeds_ada_norm=10,
    )
    labels = torch.tensor([1, 4, 9])
    return _made(model, _pixels(8, 4), torch.tensor([1, 50, 900]), class_labels=labels)


def _flux() -> Made:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return _made(
        model,
        hidden_states=image(BATCH, 16, 4),
        encoder_hidden_states=image(BATCH, 6, 32),
        pooled_projections=image(BATCH, 32),
        timestep=torch.tensor([0.1, 0.5, 0.9]),
        img_ids=torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)),
        txt_ids=torch.zeros(6, 3),
    )


_TOWERS = {
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64},
    "text_cfg": {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2},
}


def _open_clip(name: str, **options: Any) -> Made:
    import open_clip.model

    module = open_clip.coca_model if name == "CoCa" else open_clip.model
    model = getattr(module, name)(embed_dim=32, **{**_TOWERS, **options})
    words = torch.randint(1, 60, (BATCH, 12), generator=torch.Generator().manual_seed(1))
    return _made(model, _pixels(), words)


def _vit(module: str, name: str, **options: Any) -> Made:
    import importlib

    model = getattr(importlib.import_module(f"vit_pytorch.{module}"), name)(**options)
    return _made(model, _pixels())


def _navit() -> Made:
    """Images of several sizes, packed into one sequence."""
    from vit_pytorch.na_vit import NaViT

    model = NaViT(
        image_size=64,
        patch_size=16,
        num_classes=5,
        dim=32,
        depth=2,
        heads=2,
        mlp_dim=64,
        token_dropout_prob=None,
    )
    pictures = [image(3, *size) for size in ((64, 64), (32, 64), (48, 16), (16, 16))]
    call = {"group_images": True, "group_max_seq_len": 24}
    return Made(model.eval(), (pictures,), call, stimuli=len(pictures))


def _mae() -> Made:
    """A masked autoencoder, which draws the patches it hides."""
    from vit_pytorch import MAE, ViT

    encoder = ViT(**_SMALL, pool="mean")
    model = MAE(encoder=encoder, decoder_dim=24, masking_ratio=0.5, decoder_depth=1)
    return _made(model, _pixels())


_SMALL: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 16,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 64,
}
_CROSS: dict[str, Any] = {
    "image_size": 64,
    "num_classes": 5,
    "depth": 1,
    "sm_dim": 16,
    "lg_dim": 24,
    "sm_patch_size": 8,
    "lg_patch_size": 16,
    "sm_enc_depth": 1,
    "lg_enc_depth": 1,
}
_FLAT = {"spatial_dims": 2, "in_channels": 1}
_DEEP = {"spatial_dims": 3, "in_channels": 1}

BUILDS: dict[str, Maker] = {
    "segmentation_models_pytorch/Unet": lambda: _segmentation("Unet"),
    "segmentation_models_pytorch/UnetPlusPlus": lambda: _segmentation(
        "UnetPlusPlus", decoder_attention_type="scse"
    ),
    "segmentation_models_pytorch/MAnet": lambda: _segmentation("MAnet"),
    "segmentation_models_pytorch/Linknet": lambda: _segmentation("Linknet"),
    "segmentation_models_pytorch/FPN": lambda: _segmentation(
        "FPN", encoder_name="mobilenet_v2", aux_params={"classes": 3}
    ),
    "segmentation_models_pytorch/PSPNet": lambda: _segmentation("PSPNet"),
    "segmentation_models_pytorch/DeepLabV3Plus": lambda: _segmentation("DeepLabV3Plus"),
    "segmentation_models_pytorch/Segformer": lambda: _segmentation(
        "Segformer", encoder_name="mit_b0"
    ),
    "monai/UNet": lambda: _monai(
        "UNet", _volume(), **_DEEP, out_channels=2, channels=(4, 8, 16), strides=(2, 2)
    ),
    "monai/UNETR": lambda: _monai(
        "UNETR",
        _pixels(32, 1),
        **_FLAT,
        out_channels=2,
        img_size=32,
        feature_size=4,
        hidden_size=24,
        mlp_dim=48,
        num_heads=3,
    ),
    "monai/SwinUNETR": lambda: _monai(
        "SwinUNETR", _pixels(64, 1), **_FLAT, out_channels=2, feature_size=12
    ),
    "monai/SegResNet": lambda: _monai("SegResNet", _volume(16), init_filters=8),
    "monai/DenseNet121": lambda: _monai("DenseNet121", _pixels(32, 1), **_FLAT, out_channels=3),
    "monai/VNet": lambda: _monai("VNet", _volume(16), spatial_dims=3),
    "monai/DiffusionModelUNet": _monai_diffusion,
    "kornia/TinyViT": _kornia_tiny_vit,
    "kornia/HardNet": lambda: _kornia_descriptor("HardNet"),
    "kornia/SOSNet": lambda: _kornia_descriptor("SOSNet"),
    "kornia/LoFTR": _kornia_loftr,
    "kornia/filters": _kornia_filters,
    "kornia/augmented": _kornia_augmented,
    "diffusers/UNet2DModel": _unet2d,
    "diffusers/UNet2DConditionModel": _unet2d_condition,
    "diffusers/AutoencoderKL": _autoencoder_kl,
    "diffusers/DiTTransformer2DModel": _dit,
    "diffusers/FluxTransformer2DModel": _flux,
    "diffusers/ddim": lambda: _denoiser("DDIMScheduler"),
    "diffusers/euler": lambda: _denoiser("EulerDiscreteScheduler"),
    "open_clip/CLIP": lambda: _open_clip("CLIP"),
    "open_clip/CustomTextCLIP": lambda: _open_clip("CustomTextCLIP"),
    "open_clip/CoCa": lambda: _open_clip(
        "CoCa",
        vision_cfg={
            **_TOWERS["vision_cfg"],
            "attentional_pool": True,
            "attn_pooler_queries": 6,
            "output_tokens": True,
        },
        text_cfg={**_TOWERS["text_cfg"], "embed_cls": True, "output_tokens": True},
        multimodal_cfg={"width": 32, "heads": 2, "layers": 2, "context_length": 11},
    ),
    "vit_pytorch/ViT": lambda: _vit("vit", "ViT", **_SMALL),
    "vit_pytorch/SimpleViT": lambda: _vit("simple_vit", "SimpleViT", **_SMALL),
    "vit_pytorch/CaiT": lambda: _vit("cait", "CaiT", **_SMALL, cls_depth=1),
    "vit_pytorch/CrossViT": lambda: _vit("cross_vit", "CrossViT", **_CROSS),
    "vit_pytorch/NaViT": _navit,
    "vit_pytorch/MAE": _mae,
}


def models() -> dict[str, Maker]:
    """Name to maker."""
    return seeded(BUILDS)
