"""What is said of a model: no class, nothing that runs later; which parts are in train mode."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import AsyncGeneratorType, CodeType, CoroutineType, FunctionType, GeneratorType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from lensframe_pd.errors import LensTypeError, shown, warn
from lensframe_pd.tape.contents import class_attribute, partial_parts

_RUN_LATER: tuple[tuple[Callable[[Any], bool], type, str, str], ...] = (
    (
        inspect.iscoroutinefunction,
        CoroutineType,
        "a coroutine",
        "lambda *args: asyncio.run(model(*args))",
    ),
    (inspect.isgeneratorfunction, GeneratorType, "a generator", "lambda *args: list(model(*args))"),
    (
        inspect.isasyncgenfunction,
        AsyncGeneratorType,
        "an async generator",
        "a function that runs it to its end",
    ),
)
"""How a function tells, what it returns, that in words, and what to trace instead."""


def check_model(model: Any) -> None:
    """Raise for what would do nothing, or something else, when it is called.

    Raises
    ------
    LensTypeError
        It cannot be called; it is a class, whose call would make an instance; or it is async or a
        generator, whose call runs nothing.
    """
    inner = model
    while issubclass(type(inner), partial):
        inner, _, _ = partial_parts(inner)
    if isinstance(inner, type):
        raise LensTypeError(
            f"{inner.__name__} is a class, and calling it makes an instance: trace one, "
            f"{inner.__name__}(...), with the arguments of its call"
        )
    if not callable(model):
        first = "; the model comes first, then args" if isinstance(model, torch.Tensor) else ""
        raise LensTypeError(
            f"cannot trace a {type(model).__name__}: give an nn.Module or another callable{first}"
        )
    function = _function_of(inner)
    for is_such, _, what, instead in _RUN_LATER:
        if is_such(function):
            raise LensTypeError(
                f"calling this model gives {what} and runs none of its code; trace what runs it: "
                f"{instead}"
            )


def check_output(output: Any) -> None:
    """Warn where the model returned code that has not run."""
    for _, kind, what, instead in _RUN_LATER:
        if type(output) is kind:
            warn(
                f"the model returned {what}, whose code has not run: what it computes is not in "
                f"the trace; trace what runs it: {instead}"
            )


def _function_of(model: Any) -> Any:
    """What runs when the model is called."""
    if isinstance(model, nn.Module):
        return getattr(model, "forward", None)
    if isinstance(model, FunctionType) or inspect.ismethod(model):
        return model
    return class_attribute(type(model), "__call__")


# ------------------------------------------------------------------ train mode


def warn_of_training(named: Iterable[tuple[str, nn.Module]]) -> None:
    """Warn of modules in train mode that do something else there than in eval mode.

    Of torch's own it is known what the mode changes: dropout with a probability above 0,
    normalisation with running statistics. Any other module does if its code reads `training`.
    """
    reads: dict[type, bool] = {}  # a class once; not kept, as it would keep the class
    found = [
        f"{path or '(model)'} ({type(module).__name__})"
        for path, module in named
        if getattr(module, "training", False) and _differs_in_training(module, reads)
    ]
    if found:
        warn(
            f"in train mode, where they behave differently: {shown(found, 5)}; the model is traced "
            "as it is; call model.eval() for inference"
        )


def _differs_in_training(module: nn.Module, reads: dict[type, bool]) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return "self.training" in str(getattr(module, "code", ""))
    for cls in type(module).__mro__:
        if cls in _OF_TORCH:
            return _OF_TORCH[cls](module)
        if cls not in reads:
            own = cls.__module__.startswith("torch.nn.")
            reads[cls] = not own and any(map(_reads_training, _functions(cls)))
        if reads[cls]:
            return True
    return False


def _functions(cls: type) -> Iterator[FunctionType]:
    for name, value in vars(cls).items():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if type(function) is FunctionType and name not in _ABOUT_THE_MODE:
            yield function


def _reads_training(function: FunctionType) -> bool:
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        waiting += [const for const in code.co_consts if isinstance(const, CodeType)]
        if "training" in code.co_names and any(
            step.argval == "training" and step.opname.startswith("LOAD")
            for step in dis.get_instructions(code)
        ):
            return True
    return False


_ABOUT_THE_MODE = frozenset("__init__ __repr__ extra_repr train eval".split())


def _never(module: Any) -> bool:
    return False


_OF_TORCH: dict[type, Callable[[Any], bool]] = {
    nn.Module: _never,
    _DropoutNd: lambda module: module.p > 0,
    _BatchNorm: lambda module: module.running_mean is not None,  # else of the batch in both modes
    _InstanceNorm: lambda module: module.running_mean is not None,
    nn.RNNBase: lambda module: module.dropout > 0 and module.num_layers > 1,
    nn.MultiheadAttention: lambda module: module.dropout > 0,
    nn.RReLU: lambda module: module.lower != module.upper,
    # These ask only whether they may take a fused path of the same values.
    nn.TransformerEncoder: _never,
    nn.TransformerEncoderLayer: _never,
}
"""Modules of torch that read their mode, to whether they do anything with it."""
