"""What must be the same for two calls to fill one store: the model, its state, and what torch does.

Other data under the same ids is seen only as far as the first stored batch, which is computed
again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from lensframe_pd.capture.roots import find_roots, named_modules
from lensframe_pd.errors import LensValueError
from lensframe_pd.extract.cast import Array
from lensframe_pd.files.checksums import of_facts
from lensframe_pd.tape.context import context_now


def fingerprint(model: Any) -> dict[str, Any]:
    """What of a model and its surroundings decides the values, as JSON."""
    named = named_modules(find_roots(model))
    context = context_now()
    return {
        "classes": {path: type(module).__name__ for path, module in named},
        "train mode": [path for path, module in named if module.training],
        "weights": {name: sha256(tensor) for name, tensor in tensors_of(named)},
        "versions": {"torch": str(torch.__version__), "lensframe_pd": _version("lensframe-pd")},
        "grad": context.grad,
        "inference mode": context.inference,
        "autocast": [list(pair) for pair in context.autocast],
        "default dtype": str(torch.get_default_dtype()),
    }


def tensors_of(named: list[tuple[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, also those that no state_dict has.

    Not other tensors that a module holds: many keep what they computed last.

    Raises
    ------
    LensValueError
        One has no values yet.
    """
    for path, module in named:
        prefix = f"{path}." if path else ""
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if isinstance(tensor, UninitializedTensorMixin):
                raise LensValueError(
                    f"{prefix}{name} gets its shape and values with the first batch, so runs would "
                    "not be of one model; run the model once before"
                )
            if tensor is not None:
                yield prefix + name, tensor


def sha256(tensor: Tensor) -> str:
    """Of type, shape and values."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    try:
        with torch._C.DisableTorchFunction():
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found.update(plain.numpy().data)
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, lazy
        found.update(_as_text(tensor))
    return found.hexdigest()


def _as_text(tensor: Tensor) -> bytes:
    try:
        return str(tensor.detach().to_dense().tolist()).encode()
    except (RuntimeError, TypeError, NotImplementedError, ValueError):
        return type(tensor).__name__.encode()


def of_ids(ids: Mapping[str, Any]) -> dict[str, str]:
    """A checksum of each coordinate."""
    return {name: _sum(values) for name, (_, values) in ids.items()}


def _sum(values: Array) -> str:
    kind = "text" if values.dtype.kind in "UOT" else values.dtype.str
    cells = values.astype(str) if values.dtype.kind in "mM" else values
    return of_facts([kind, cells.tolist()])


def differences(before: Mapping[str, Any], now: Mapping[str, Any], what: str = "") -> list[str]:
    """What is not the same, a line for each fact."""
    lines = []
    for name in {**before, **now}:
        a, b = before.get(name), now.get(name)
        if a == b:
            continue
        path = f"{what}{name}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{path}: " if path else "")
        elif isinstance(a or b, Mapping) and None in (a, b):  # as a row that save= has not any more
            lines.append(f"{path} is new" if a is None else f"{path} is missing, and was there")
        elif isinstance(a, str) and len(a) == 64:  # a checksum tells nobody anything
            lines.append(f"{path} has other values" if b is not None else f"{path} is missing")
        else:
            lines.append(f"{path} is {_brief(b)}, and was {_brief(a)}")
    return lines


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:90]}...{text[-6:]}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
