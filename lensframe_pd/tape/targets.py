"""How a torch function is called in a row, and which function has that name."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

#: Of which `__iadd__` and `__radd__` are forms.
OPERATORS = frozenset(
    "add sub mul div truediv floordiv mod pow matmul lshift rshift and or xor divmod".split()
)


class Unreadable(Exception):
    """The cells of a row do not say the call that it was; the text says why."""


def resolve(target: str) -> Callable[..., Any]:
    """The function that a cell of `target` names.

    Raises
    ------
    Unreadable
        Nothing importable has this name.

    Examples
    --------
    >>> resolve("torch.Tensor.__rsub__")(torch.tensor(1), 3)
    tensor(2)
    >>> resolve("torch.Tensor.T.__get__")(torch.zeros(2, 3)).shape
    torch.Size([3, 2])
    """
    parts = target.split(".")
    # torch.split is a Python composite, too; the row is the C++ function it called
    if len(parts) == 2 and parts[0] == "torch":
        found: Any = getattr(torch._C._VariableFunctions, parts[1], None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    for k in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:k]))
            for name in parts[k:]:
                found = getattr(found, name)
        except (ImportError, AttributeError):
            continue
        if callable(found):
            return found  # type: ignore[no-any-return]
    raise Unreadable(f"{target} cannot be imported here")


def is_accessor(func: Any) -> bool:
    """Whether `func` is `Tensor.some_property.__get__` or `.__set__`."""
    return isinstance(func, types.MethodWrapperType)


def raw_name(func: Any) -> str:
    """The name that torch gives a function, underscores and all."""
    if is_accessor(func):
        return str(getattr(func.__self__, "fget", func.__self__).__name__)  # property, descriptor
    if isinstance(func, OpOverload):
        return str(func._schema.name).split("::")[-1]
    return str(getattr(func, "__name__", type(func).__name__))


def normalised(raw: str) -> str:
    """`relu_`, `__iadd__` and `__radd__` are `relu`, `add` and `add`."""
    if raw.startswith("__") and raw.endswith("__"):
        name = raw[2:-2]
        if name[0] in "ir" and name[1:] in OPERATORS:
            name = name[1:]
        return name
    return raw.rstrip("_") or raw


def target_of(func: Any) -> str:
    """The cell of `target` that names a function."""
    if is_accessor(func):
        return f"torch.Tensor.{raw_name(func)}.{func.__name__}"
    if isinstance(func, (OpOverload, OpOverloadPacket)):
        return f"torch.ops.{func}"
    if isinstance(func, (types.MethodDescriptorType, types.WrapperDescriptorType)):
        return f"torch.Tensor.{func.__name__}"
    name = getattr(func, "__qualname__", type(func).__name__)
    if name.startswith("_VariableFunctionsClass."):
        return f"torch.{func.__name__}"
    module = getattr(func, "__module__", None) or "torch"
    if module == "torch._tensor":
        module = "torch"
    return f"{module}.{name}"
