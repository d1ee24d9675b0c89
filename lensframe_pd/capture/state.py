"""What a model, its inputs and the random generators hold, so that a run can be undone."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from lensframe_pd.capture.modules import extra_tensors, find_roots
from lensframe_pd.tape.compare import difference, same
from lensframe_pd.tape.objects import tensors_in
from lensframe_pd.tape.storage import storage_of

_LEAVES = (bool, int, float, complex, str, bytes, type, type(None), torch.dtype, torch.device)


class Snapshot:
    """Everything reachable from `objects`: `restore` puts it back in place.

    Tensors get their data back, and modules, containers and plain objects their attributes and
    items. Code, and objects of other libraries, are not entered.
    """

    def __init__(self, *objects: Any) -> None:
        self._kept: dict[int, _Kept] = {}
        self._attributes: list[tuple[Any, dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._seen: dict[int, Any] = {}
        for value in objects:
            self._walk(value)

    def _walk(self, value: Any) -> None:
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, _LEAVES) or id(value) in self._seen:
                continue
            self._seen[id(value)] = value
            if isinstance(value, Tensor):
                self._kept[id(value)] = _Kept(value)
                if value.is_leaf and value.grad is not None:
                    waiting.append(value.grad)
            elif isinstance(value, (dict, list, set, deque)):
                self._containers.append((value, value.copy()))
                waiting += value.values() if isinstance(value, dict) else value
            elif isinstance(value, (tuple, frozenset)):
                waiting += value
            elif isinstance(value, nn.Module) or _plain(value):
                attributes = vars(value)
                self._attributes.append((value, dict(attributes)))
                waiting += attributes.values()

    def unchanged(self, tensor: Tensor) -> bool:
        """Whether this tensor still holds what it held then."""
        kept = self._kept.get(id(tensor))
        return kept is not None and kept.unchanged()

    def restore(self) -> None:
        for owner, attributes in self._attributes:
            now = vars(owner)
            if not _same_items(now, attributes):
                now.clear()
                now.update(attributes)
        for container, items in self._containers:
            if isinstance(container, MutableMapping):
                if not _same_items(container, items):
                    container.clear()
                    container.update(items)
            elif list(map(id, container)) != list(map(id, items)):
                container.clear()
                (container.update if isinstance(container, set) else container.extend)(items)
        for kept in self._kept.values():
            kept.restore()


def everything(model: Any, args: Any, kwargs: Any) -> Snapshot:
    """What a run may change: the modules, the arguments and what a callable holds."""
    return Snapshot(*find_roots(model).values(), args, kwargs, *_closure_of(model))


def _closure_of(model: Any) -> Iterator[Any]:
    """What a callable that is no module holds besides modules."""
    if not isinstance(model, nn.Module):
        yield getattr(model, "__dict__", {})
        for cell in getattr(model, "__closure__", None) or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue


class _Kept:
    """One tensor, with a copy of its data."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.copy: Tensor | None = None
        if isinstance(tensor, UninitializedTensorMixin) or tensor.is_meta:
            return
        self.storage = storage_of(tensor)
        self.requires_grad, self.grad = tensor.requires_grad, None
        if tensor.is_leaf:
            self.grad = tensor.grad
        try:
            self.alias = tensor.detach()
            self.copy = self.alias.clone()
        except (RuntimeError, NotImplementedError):
            self.copy = None

    def unchanged(self) -> bool:
        return self.copy is not None and same(self.tensor, self.copy)

    def restore(self) -> None:
        tensor, copy = self.tensor, self.copy
        if copy is None:
            return
        with torch.no_grad():
            if self.storage and storage_of(tensor) != self.storage:  # `.data = ...`
                tensor.data = self.alias
            if not same(self.alias, copy):  # a version counter does not see every write
                self.alias.copy_(copy)
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad


def _plain(value: Any) -> bool:
    """Whether an object is of user code, and holds what it holds in its attributes."""
    return (
        not callable(value)
        and hasattr(value, "__dict__")
        and type(value).__module__.split(".")[0] not in _FOREIGN
    )


_FOREIGN = frozenset("builtins numpy pandas threading logging io re enum inspect PIL types".split())


def _same_items(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(
        k == other and v is b[k] for (k, v), other in zip(a.items(), b, strict=True)
    )


class Generators:
    """The state of every random generator a forward may draw from."""

    def __init__(self) -> None:
        self.torch = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self.numpy = np.random.get_state()  # noqa: NPY002 (models draw from it)
        self.python = random.getstate()

    def restore(self) -> None:
        torch.set_rng_state(self.torch)
        if self.cuda:  # untested: no GPU here
            torch.cuda.set_rng_state_all(self.cuda)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)

    def differences(self, other: Generators) -> list[str]:
        found = []
        if not torch.equal(self.torch, other.torch):
            found.append("torch's random generator is in another state")
        if self.python != other.python:
            found.append("Python's random generator is in another state")
        if str(self.numpy) != str(other.numpy):
            found.append("NumPy's random generator is in another state")
        return found


class Origin(NamedTuple):
    """What a trace was made from."""

    model: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    generator: Tensor
    """State of torch's default random generator at the start."""


class Start:
    """The state that a run starts from: what model and arguments hold, and every generator.

    A context manager: on leaving, all is as it was found.
    """

    def __init__(self, origin: Origin) -> None:
        self.snapshot = everything(origin.model, origin.args, origin.kwargs)
        self._generators = Generators()
        self._origin = origin

    def again(self) -> None:
        """Put all back for another run, which draws the numbers that `origin` says."""
        self.restore()
        torch.set_rng_state(self._origin.generator)

    def restore(self) -> None:
        self.snapshot.restore()
        self._generators.restore()

    def __enter__(self) -> Start:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


class State:
    """What the modules hold after a run: tensors, numbers and flags, by path.

    Of tensors that are as in `before` only that is noted.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Module]], before: Snapshot) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._before = before
        self.facts: dict[str, Any] = {}
        named = list(named)
        for path, module in named:
            prefix = f"{path}." if path else ""
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._keep(prefix + name, tensor)
            for name, value in vars(module).items():
                if type(value) in (bool, int, float, str):
                    self.facts[prefix + name] = value
                elif name.endswith("_hooks"):
                    self.facts[prefix + name] = len(value)
        for path, tensor in extra_tensors(named):
            self._keep(path, tensor)

    def _keep(self, name: str, tensor: Tensor) -> None:
        if isinstance(tensor, UninitializedTensorMixin):
            return
        self.facts[f"{name}.requires_grad"] = tensor.requires_grad
        if self._before.unchanged(tensor):
            self.facts[f"{name} is"] = "as before"
            return
        try:
            self.tensors[name] = tensor.detach().clone()
        except (RuntimeError, NotImplementedError):
            self.facts[f"{name} is"] = type(tensor).__name__

    def differences(self, other: State) -> list[str]:
        """What is not as in `other`, in words."""
        found = [
            f"{name} is {self.facts.get(name)!r} instead of {other.facts.get(name)!r}"
            for name in {**self.facts, **other.facts}
            if self.facts.get(name) != other.facts.get(name)
        ]
        for name in {**self.tensors, **other.tensors}:
            mine, theirs = self.tensors.get(name), other.tensors.get(name)
            if mine is None or theirs is None:
                found.append(f"{name} is {'missing' if mine is None else 'new'}")
            elif not (apart := difference(mine, theirs)).same:
                found.append(f"{name}: {apart.reason}")
        return found


def outputs_of(value: Any) -> list[tuple[str, Tensor]]:
    """The tensors in what a model returned, copied: restoring its state may change them."""
    return [(path, _own(tensor)) for path, tensor in tensors_in(value)]


def _own(tensor: Tensor) -> Tensor:
    try:
        return tensor.detach().clone()
    except (RuntimeError, NotImplementedError):
        return tensor
