"""Transformers' models of every type a tiny configuration can be made for; see transformers.txt."""

from __future__ import annotations

import os.path
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .made import Made, Maker
from .overrides import OVERRIDES, WHOLE
from .tiny import overridden, shrunk

BATCH = 3
"""Stimuli that a model is given, where it takes more than one."""
LIST = os.path.join(os.path.dirname(__file__), "transformers.txt")
"""Per line: class, type of its configuration, and its inputs, as `drawn` reads them."""


def models() -> dict[str, Maker]:
    """Name to maker."""
    made: dict[str, Maker] = {}
    with open(LIST) as file:
        for line in file:
            name, kind, *inputs = line.split()
            made[f"transformers/{name}"] = partial(make, name, kind, tuple(inputs))
    return made


def make(name: str, kind: str, inputs: tuple[str, ...]) -> Made:
    """A model of a class, called with inputs such as `input_ids=ids:1,12`."""
    model = built(name, kind)
    generator = torch.Generator().manual_seed(1)
    named = dict(text.split("=", 1) for text in inputs)
    given = {key: drawn(how, generator) for key, how in named.items()}
    extents = {value.shape[0] for value in given.values() if isinstance(value, Tensor)}
    return Made(model, (), given, stimuli=BATCH if BATCH in extents else 0)


def built(name: str, kind: str) -> transformers.PreTrainedModel:
    """A tiny model with random weights."""
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    return getattr(transformers, name)._from_config(tiny(kind)).float().eval()


def tiny(kind: str) -> PreTrainedConfig:
    """The tiny configuration of a type."""
    default = CONFIG_MAPPING[kind]
    values = default().to_dict()
    values = overridden(values if kind in WHOLE else shrunk(values), OVERRIDES.get(kind, {}))
    for key in ("model_type", "transformers_version", "dtype", "architectures"):
        values.pop(key, None)
    return default.from_dict(values)


def drawn(how: str, generator: torch.Generator) -> Any:
    """A value written as `kind:details`.

    `ids:1,12` token ids, `ids:1,12:5x127` the same where 5 in the middle are the id 127,
    `normal:1,3,8,8` and `uniform:1,3,8,8` floats, `ones:1,12` and `zeros:1,12` integers,
    `true:1,12` booleans, `is:1,4,4` this row of integers, `value:3` a number.
    """
    kind, details, *special = how.split(":")
    numbers = [int(n) for n in details.split(",")]
    if kind == "ids":
        return _ids(numbers, special, generator)
    if kind in ("normal", "uniform"):
        draw = torch.randn if kind == "normal" else torch.rand
        return draw(*numbers, generator=generator)
    if kind == "is":
        return torch.tensor([numbers])
    if kind == "value":
        return numbers[0]
    fill, dtype = {"ones": (1, int), "zeros": (0, int), "true": (1, bool)}[kind]
    return torch.full(numbers, fill, dtype={int: torch.long, bool: torch.bool}[dtype])


def _ids(shape: list[int], special: list[str], generator: torch.Generator) -> Tensor:
    ids = torch.randint(10, 60, shape, generator=generator)
    at = 2
    for part in special:
        count, token = map(int, part.split("x"))
        ids[:, at : at + count] = token
        at += count + 1
    return ids
