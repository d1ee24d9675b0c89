"""What a failing call may have been given by mistake: a note on the model's own error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

_AXES = re.compile(r"expected (?P<wanted>\d)D.*got (?P<got>\d)D")
_FEW = 8  # sizes that a shape may have, to be one


def hints(args: Any, kwargs: Mapping[str, Any] | None, error: BaseException) -> list[str]:
    """What is unlike a tensor in what `lf.trace` was given, and what to give instead.

    Parameters
    ----------
    args, kwargs
        As the caller gave them.
    error
        What the model raised.
    """
    if isinstance(error, TypeError):
        if type(args) is tuple and not args and not kwargs:
            return ["lf.trace: the model was called without arguments; give them: (model, args)"]
        if isinstance(args, Mapping) and "keyword" in str(error):
            return [
                "lf.trace: a mapping is keyword arguments, one for each key; where it is itself "
                "the argument of the model, give it in a tuple: (args,)"
            ]
        if type(args) is tuple and isinstance(args[-1], Mapping) and not kwargs:
            return [
                "lf.trace: the dict at the end of args is one more positional argument; keyword "
                "arguments are the third: (model, args[:-1], args[-1])"
            ]
    if _is_shape(args):
        sizes = ", ".join(map(str, args))
        was = "a tuple is the positional arguments" if type(args) is tuple else "args are numbers"
        return [f"lf.trace: {was}; for an input of that shape give a tensor: torch.rand({sizes})"]
    return [
        f"lf.trace: {name} is {what}"
        for name, value in _given(args, kwargs)
        if (what := _unlike_a_tensor(name, value))
    ]


def axis_hint(args: Any, kwargs: Mapping[str, Any] | None, error: BaseException) -> list[str]:
    """Where a tensor lacks the one axis that torch says is missing: mostly that of the batch."""
    said = _AXES.search(str(error))
    if said is None or int(said["got"]) != int(said["wanted"]) - 1:
        return []
    return [
        f"lf.trace: {name} has {value.ndim} axes; a batch of one is {name}[None]"
        for name, value in _given(args, kwargs)
        if isinstance(value, Tensor) and value.ndim == int(said["got"])
    ]


def dtype_hint(model: Any, args: Any, kwargs: Mapping[str, Any] | None) -> list[str]:
    """Where a tensor of numbers has another type than the parameters, which torch does not mix."""
    own = {p.dtype for p in model.parameters()} if isinstance(model, nn.Module) else set()
    if len(own) != 1 or not (wanted := own.pop()).is_floating_point:
        return []
    return [
        f"lf.trace: {name} is {_short(value.dtype)} and the parameters are {_short(wanted)}: give "
        f"{name}.to(torch.{_short(wanted)})"
        for name, value in _given(args, kwargs)
        if isinstance(value, Tensor)
        and (value.is_floating_point() or value.dtype is torch.uint8)
        and value.dtype is not wanted
    ]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _given(args: Any, kwargs: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """Each argument with a name to call it by."""
    if type(args) is tuple:
        yield from ((f"args[{k}]", value) for k, value in enumerate(args))
    elif isinstance(args, Mapping):
        yield from ((f"args[{name!r}]", args[name]) for name in args)
    else:
        yield "args", args
    yield from ((f"kwargs[{name!r}]", value) for name, value in (kwargs or {}).items())


def _is_shape(args: Any) -> bool:
    is_collection = isinstance(args, (tuple, list)) and 1 < len(args) <= _FEW
    return is_collection and all(type(n) is int and n > 0 for n in args)


def _unlike_a_tensor(name: str, value: Any) -> str:
    """What a value is, if torch takes no such thing, and what to give; else ''."""
    kind = type(value)  # and no isinstance, which may run a user's code
    if issubclass(kind, np.ndarray):
        if value.dtype.kind not in "fiubc":
            return f"a NumPy array of {value.dtype}, which is no number"
        more = ".float(), as NumPy counts in float64" if value.dtype == np.float64 else ""
        return f"a NumPy array; give torch.as_tensor({name}){more}"
    if issubclass(kind, (pd.DataFrame, pd.Series, xr.DataArray)):
        return f"a {kind.__name__}; give torch.as_tensor({name}.to_numpy(), dtype=torch.float32)"
    if issubclass(kind, DataLoader):
        return (
            f"a DataLoader; give one batch of it, next(iter({name})), or all to lf.extract(model, "
            "loader, to=...)"
        )
    if issubclass(kind, Dataset):
        return (
            "a data set; give a batch, torch.stack of some of its items, or all to "
            "lf.extract(model, dataset, to=..., batch_size=...)"
        )
    if issubclass(kind, PurePath):
        return "a path, and no file is read; give the tensor that is in it"
    if issubclass(kind, str):
        return _of_texts(name)
    if issubclass(kind, (list, tuple)):
        return _of_list(name, value)
    if kind.__module__.partition(".")[0] == "PIL":
        return (
            "an image; give torchvision.transforms.functional.to_tensor(image)[None], or what the "
            "model's own transforms make of it"
        )
    return ""


def _of_texts(name: str) -> str:
    return (
        f"text; a model takes what its tokenizer makes of it: tokenizer({name}, "
        'return_tensors="pt")'
    )


def _of_list(name: str, value: list[Any] | tuple[Any, ...]) -> str:
    kind = type(value).__name__
    if value and all(isinstance(item, Tensor) for item in value):
        several = f"; where they are several arguments, tuple({name})" if name == "args" else ""
        return f"a {kind} of tensors, one argument; for a batch give torch.stack({name}){several}"
    if value and all(isinstance(item, str) for item in value):
        return _of_texts(name)
    if value and all(isinstance(item, (int, float, list, tuple, np.ndarray)) for item in value):
        return f"a {kind} of numbers; give torch.tensor({name})"
    if value and all(_unlike_a_tensor("it", item) for item in value):
        return f"a {kind} in which each is {_unlike_a_tensor(f'{name}[0]', value[0])}"
    return ""
