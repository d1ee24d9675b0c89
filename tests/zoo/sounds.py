"""torchaudio: recognition, separation and synthesis, of sounds of several lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .made import Made, Maker, image, seeded

BATCH, FRAMES = 3, 24


def _lengths() -> Tensor:
    """In no order."""
    return torch.tensor([16, FRAMES, 9])


def _model(name: str, *args: Any, **options: Any) -> Made:
    import torchaudio

    model = getattr(torchaudio.models, name)(**options)
    return Made(model.eval(), args, stimuli=BATCH)


def _wav2vec2() -> Made:
    return _model(
        "wav2vec2_model",
        image(BATCH, 1600) - 0.5,
        torch.tensor([1000, 1600, 800]),
        extractor_mode="group_norm",
        extractor_conv_layer_config=[(16, 10, 5), (16, 3, 2), (16, 3, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=24,
        encoder_projection_dropout=0.1,
        encoder_pos_conv_kernel=8,
        encoder_pos_conv_groups=4,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_attention_dropout=0.1,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.1,
        encoder_dropout=0.1,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=10,
    )


def _tacotron() -> Made:
    words = torch.randint(0, 20, (BATCH, 7), generator=torch.Generator().manual_seed(1))
    return _model(
        "Tacotron2",
        words,
        torch.tensor([7, 5, 3]),  # it packs with the longest first
        image(BATCH, 8, 6),
        torch.tensor([6, 4, 5]),
        n_mels=8,
        n_symbol=20,
        symbol_embedding_dim=16,
        encoder_embedding_dim=16,
        encoder_n_convolution=1,
        decoder_rnn_dim=16,
        attention_rnn_dim=16,
        attention_hidden_dim=8,
        attention_location_n_filter=4,
        attention_location_kernel_size=5,
        prenet_dim=8,
        postnet_n_convolution=2,
        postnet_embedding_dim=8,
    )


def _emformer() -> Made:
    return _model(
        "Emformer",
        image(BATCH, FRAMES + 2, 8),
        _lengths(),
        input_dim=8,
        num_heads=2,
        ffn_dim=16,
        num_layers=2,
        segment_length=8,
        right_context_length=2,
        max_memory_size=2,
    )


def _spectrogram() -> Made:
    """A mel spectrogram in decibels, then convolutions."""
    import torchaudio

    model = nn.Sequential(
        torchaudio.transforms.Resample(8000, 4000),
        torchaudio.transforms.MelSpectrogram(4000, n_fft=128, n_mels=16),
        torchaudio.transforms.AmplitudeToDB(),
        nn.Conv1d(16, 8, 3),
        nn.ReLU(),
    )
    return Made(model.eval(), (image(BATCH, 2400) - 0.5,), stimuli=BATCH)


BUILDS: dict[str, Maker] = {
    "torchaudio/wav2vec2": _wav2vec2,
    "torchaudio/Conformer": lambda: _model(
        "Conformer",
        image(BATCH, FRAMES, 16),
        _lengths(),
        input_dim=16,
        num_heads=2,
        ffn_dim=24,
        num_layers=2,
        depthwise_conv_kernel_size=5,
    ),
    "torchaudio/Emformer": _emformer,
    "torchaudio/ConvTasNet": lambda: _model(
        "ConvTasNet",
        image(BATCH, 1, 400) - 0.5,
        enc_num_feats=16,
        msk_num_feats=8,
        msk_num_hidden_feats=16,
        msk_num_layers=2,
        msk_num_stacks=2,
    ),
    "torchaudio/DeepSpeech": lambda: _model(
        "DeepSpeech", image(BATCH, 1, FRAMES, 8), n_feature=8, n_hidden=16, n_class=5
    ),
    "torchaudio/Tacotron2": _tacotron,
    "torchaudio/WaveRNN": lambda: _model(
        "WaveRNN",
        image(BATCH, 1, 32),
        image(BATCH, 1, 8, 8),
        upsample_scales=[2, 4],
        n_classes=10,
        hop_length=8,
        n_res_block=1,
        n_rnn=16,
        n_fc=16,
        n_freq=8,
        n_hidden=8,
        n_output=8,
    ),
    "torchaudio/spectrogram": _spectrogram,
}


def models() -> dict[str, Maker]:
    """Name to maker."""
    return seeded(BUILDS)
