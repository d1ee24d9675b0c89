"""Inputs that the model may read by another name than that of its argument."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType
from typing import Any

from torch import Tensor, nn

from lensframe_pd.capture.inventory import Inventory
from lensframe_pd.capture.roots import globals_of
from lensframe_pd.capture.run import named_inputs
from lensframe_pd.capture.state import Origin
from lensframe_pd.capture.stimuli import by_parameter
from lensframe_pd.tape.contents import CODE
from lensframe_pd.tape.objects import walk
from lensframe_pd.tape.tape import Tape

_DEPTH = 2  # containers, from the name of a global to a tensor


def held_inputs(tape: Tape, origin: Origin, made_of: Inventory) -> set[int]:
    """Rows of the inputs that are also a tensor of the model's, or of a global it names."""
    given = named_inputs(by_parameter(origin.model, origin.args, origin.kwargs))
    rows = [row for row, kind in tape.kinds.items() if kind == "input"]
    known = {id(tensor): row for row, (_, tensor) in zip(rows, given, strict=False)}
    return {known[key] for key in map(id, _held(tape, origin, made_of)) if key in known}


def held_tensors(made_of: Inventory) -> Iterator[Tensor]:
    """The parameters and buffers of a model."""
    for _, module in made_of.named:
        for tensors in (module._parameters, module._buffers):
            yield from (tensor for tensor in tensors.values() if tensor is not None)


def _held(tape: Tape, origin: Origin, made_of: Inventory) -> Iterator[Tensor]:
    yield from (tensor for _, tensor in made_of.state)
    yield from held_tensors(made_of)
    names = {name for code in tape.codes.values() for name in _names(code)}
    functions = [origin.model, *(type(module).forward for _, module in made_of.named)]
    known = {id(found): found for found in map(globals_of, functions)}
    for found in known.values():
        for name in names & found.keys():
            for _, _, value in walk(((name, found[name]),), (nn.Module, type, *CODE), _DEPTH):
                if issubclass(type(value), Tensor):
                    yield value


def _names(code: Any) -> Iterator[str]:
    """The names in code, and in the code within it."""
    if type(code) is CodeType:
        yield from code.co_names
        for part in code.co_consts:
            yield from _names(part)
