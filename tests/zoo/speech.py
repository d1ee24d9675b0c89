"""Speech models of transformers on sounds of several lengths, and their transcriptions."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .language import built
from .made import Made, Maker

BATCH = 3
SAMPLES, FRAMES = [4000, 2400, 3200], [64, 40, 56]
"""Of the sounds; the longest comes first but they are not sorted."""

WAVES = {
    "Wav2Vec2Model": "wav2vec2",
    "Wav2Vec2ForCTC": "wav2vec2",
    "HubertModel": "hubert",
    "HubertForSequenceClassification": "hubert",
    "WavLMModel": "wavlm",
    "UniSpeechSatModel": "unispeech-sat",
    "SEWModel": "sew",
    "Data2VecAudioModel": "data2vec-audio",
}
"""Class to type, of those that read samples."""

SPECTRA = {
    "Speech2TextModel": "speech_to_text",
    "Speech2TextForConditionalGeneration": "speech_to_text",
    "WhisperModel": "whisper",
    "WhisperForConditionalGeneration": "whisper",
}
"""Class to type, of those that read spectrograms and say words."""

TOLD = {
    "Speech2TextForConditionalGeneration": {"num_beams": 2},
    "WhisperForConditionalGeneration": {},
}
"""Class to keywords of `generate`, of those that are asked for a transcription as well."""


def models() -> dict[str, Maker]:
    """Name to maker."""
    return {
        **{f"speech/{name}": partial(_wave, name, kind) for name, kind in WAVES.items()},
        **{f"speech/{name}": partial(_spectrum, name, kind) for name, kind in SPECTRA.items()},
        **{f"speech/{name}_told": partial(_told, name, how) for name, how in TOLD.items()},
    }


def _wave(name: str, kind: str) -> Made:
    mask = _mask(SAMPLES)
    sounds = _drawn(BATCH, max(SAMPLES)) * mask
    return Made(
        built(name, kind), (), {"input_values": sounds, "attention_mask": mask}, stimuli=BATCH
    )


def _spectrum(name: str, kind: str) -> Made:
    model = built(name, kind)
    words = torch.randint(10, 60, (BATCH, 5), generator=torch.Generator().manual_seed(2))
    return Made(model, (), {**_heard(kind), "decoder_input_ids": words}, stimuli=BATCH)


def _told(name: str, how: dict[str, int]) -> Made:
    kind = SPECTRA[name]
    special = {"decoder_start_token_id": 1, "pad_token_id": 0, "eos_token_id": 2}
    length = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    return Made(
        built(name, kind), (), {**_heard(kind), **special, **length, **how}, BATCH, "generate"
    )


def _heard(kind: str) -> dict[str, Any]:
    """Spectrograms and which of their frames hold sound; time is whisper's last axis."""
    mask = _mask(FRAMES)
    spectra = _drawn(BATCH, max(FRAMES), 80) * mask[..., None]
    if kind == "whisper":
        return {"input_features": spectra.transpose(1, 2).contiguous()}
    return {"input_features": spectra, "attention_mask": mask}


def _mask(lengths: list[int]) -> Tensor:
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))
