"""What a model, its inputs and the random generators hold, so that a run can be undone."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedTensorMixin  # type: ignore[attr-defined]

from lensframe_pd.capture.attributes import own_attributes
from lensframe_pd.capture.origins import extra_tensors
from lensframe_pd.capture.roots import find_roots
from lensframe_pd.capture.snapshot import Snapshot
from lensframe_pd.errors import LensValueError
from lensframe_pd.tape.compare import difference
from lensframe_pd.tape.objects import tensors_in
from lensframe_pd.tape.switches import Switches


def everything(model: Any, args: Any, kwargs: Any) -> Snapshot:
    """What a run may change: the modules, the arguments and what a callable holds."""
    roots = find_roots(model)
    return Snapshot([*roots.items(), ("args", args), ("kwargs", kwargs), ("", model)])


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
        if not _alike(self.numpy, other.numpy):
            found.append("NumPy's random generator is in another state")
        return found


def _alike(state: Any, other: Any) -> bool:
    """Whether two states of NumPy's generator are one: a tuple of names, numbers and an array."""
    return all([np.array_equal(a, b) for a, b in zip(state, other, strict=True)])


class Origin(NamedTuple):
    """What a trace was made from."""

    model: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    generator: Tensor
    """State of torch's default random generator at the start."""
    switches: Switches | None = None
    """How the switches stood at the start; None for as they stand now."""


class Start:
    """The state that a run starts from: what model and arguments hold, and every generator.

    A context manager: on leaving, all is as it was found.
    """

    def __init__(self, origin: Origin) -> None:
        self.snapshot = everything(origin.model, origin.args, origin.kwargs)
        self._generators = Generators()
        self._switches = Switches()
        self._origin = origin

    def again(self, unmoved: Collection[int] = (), stands: bool = False) -> None:
        """Put all back for another run, which draws the numbers that `origin` says.

        `unmoved` and `stands` are as for `Snapshot.restore`.
        """
        self.restore(unmoved, stands)
        torch.set_rng_state(self._origin.generator)

    def restore(self, unmoved: Collection[int] = (), stands: bool = False) -> None:
        self.snapshot.restore(unmoved, stands)
        self._generators.restore()
        self._switches.restore()

    def __enter__(self) -> Start:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def repeatable(origin: Origin, asked: str, instead: str) -> Start:
    """The state that further runs start from.

    Parameters
    ----------
    asked, instead
        What needs them, and what to give instead of it.

    Raises
    ------
    LensValueError
        Not all of it could be put back.
    """
    before = Start(origin)
    for path, kind in before.snapshot.unrestorable:
        raise LensValueError(
            f"{asked}: {path!r} is a {kind}, which further runs would move on and nobody "
            f"could put back; give {instead}"
        )
    return before


_FACTS = frozenset(map(id, (bool, int, float, str)))  # by id: a metaclass may have a hash


class State:
    """What the modules hold after a run: tensors, numbers and flags, by path.

    Of tensors that are as in `before` only that is noted. Where all stands as it did then, as most
    models leave it, there is nothing to be noted; what it is then is asked once another run's state
    is not that.

    Attributes
    ----------
    stands
        Whether all is as it was then.
    unmoved
        The ids of tensors that lie where they lay then, with each bit as it was.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Module]], before: Snapshot) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.unmoved: Collection[int] = ()
        self._before = before
        self.facts: dict[str, Any] = {}
        self._named = list(named)
        self.stands = before.stands()
        if self.stands:
            self.unmoved = before.everything()
        else:
            self._note()

    def _note(self) -> None:
        unmoved: set[int] = set()
        for path, module in self._named:
            prefix = f"{path}." if path else ""
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._keep(prefix + name, tensor, unmoved)
            for name, value in vars(module).items():
                if id(type(value)) in _FACTS:
                    self.facts[prefix + name] = value
                elif name.endswith("_hooks"):
                    self.facts[prefix + name] = len(value)
        for path, tensor in extra_tensors(own_attributes(self._named)):
            self._keep(path, tensor, unmoved)
        self.unmoved = unmoved

    def _keep(self, name: str, tensor: Tensor, unmoved: set[int]) -> None:
        if isinstance(tensor, UninitializedTensorMixin):
            return
        self.facts[f"{name}.requires_grad"] = tensor.requires_grad
        if id(tensor) in unmoved or self._before.unmoved(tensor):
            unmoved.add(id(tensor))
            self.facts[f"{name} is"] = "as before"
            return
        if self._before.unchanged(tensor):
            self.facts[f"{name} is"] = "as before"
            return
        try:
            self.tensors[name] = tensor.detach().clone()
        except (RuntimeError, NotImplementedError):
            self.facts[f"{name} is"] = type(tensor).__name__

    def _noted(self, other: State) -> None:
        """Have facts to be compared with those of `other`, the state after another run.

        Of a state where all stood they are those of now, once all is put back.
        """
        for mine, theirs in ((self, other), (other, self)):
            if mine.stands and not mine.facts and (theirs.facts or not theirs.stands):
                self._before.restore()
                mine._note()

    def moved(self, before: State) -> list[str]:
        """Names of what is not as it was in `before`, a state of which nothing had changed yet."""
        self._noted(before)
        facts = {**before.facts, **self.facts}
        apart = [name for name in facts if self.facts.get(name) != before.facts.get(name)]
        bare = [name.removesuffix(" is").removesuffix(".requires_grad") for name in apart]
        return [*dict.fromkeys([*bare, *self.tensors])]

    def differences(self, other: State) -> list[str]:
        """What is not as in `other`, in words; the state is put back where that has to be seen."""
        self._noted(other)
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
