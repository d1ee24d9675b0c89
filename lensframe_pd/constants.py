"""Where a tensor came from that no traced call made: the model's state, a closure, a global."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any
from weakref import ref

from torch import Tensor

from lensframe_pd.tape import tensors_in


class Origins:
    """Names tensors that existed before the trace; what it cannot name is a broken link."""

    def __init__(self, state: Iterable[tuple[str, Tensor]]) -> None:
        self._state: dict[int, tuple[Callable[[], Tensor | None], str]] = {
            id(tensor): (ref(tensor), path) for path, tensor in state
        }
        #: Rows of constants nobody could name.
        self.unknown: list[int] = []

    def name(self, tensor: Tensor) -> str | None:
        alive, path = self._state.get(id(tensor), (None, None))
        return path if alive is not None and alive() is tensor else None

    def find(self, tensor: Tensor, frame: FrameType | None) -> str | None:
        """The name under which the model, or the code that runs, holds `tensor`."""
        found = self.name(tensor)
        while found is None and frame is not None:
            for path, value in _reachable(frame):
                if value is tensor:
                    found = path
                    break
            frame = frame.f_back
        if found is not None:
            self._state[id(tensor)] = (ref(tensor), found)
        return found


def _reachable(frame: FrameType) -> Iterator[tuple[str, Tensor]]:
    """Tensors in the closure and in the globals that a frame's code uses."""
    code = frame.f_code
    for name in code.co_freevars:
        yield from _within(frame.f_locals.get(name), name)
    for name in code.co_names:
        if name in frame.f_globals:
            yield from _within(frame.f_globals[name], name)


def _within(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, (Tensor, list, tuple, dict)):
        yield from tensors_in(value, name)
