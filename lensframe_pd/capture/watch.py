"""The seam through which a run is watched: what keeps values, follows a plan, ends the run.

A watcher is told of every tensor that gets a row, of every tensor that a module call returns, of
every call that may write, before it is made, and of every module call that ends. It overrides what
it needs: the tracer binds those methods once, before the run, and what nobody overrides costs
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


class Ended(BaseException):
    """Ends a run; no model catches it."""


def ended_by(error: BaseException, before: BaseException | None) -> Ended | None:
    """What ended a run from which `error` came out.

    A model may raise something else on the way out, as a context manager does whose end fails; but
    an interrupt, or what else is no `Exception`, is what it is.

    Parameters
    ----------
    before
        What was being handled already when the run began: what is behind it is of other runs.
    """
    if not isinstance(error, Exception):
        return error if isinstance(error, Ended) else None
    seen: set[int] = set()
    here: BaseException | None = error
    while here is not None and here is not before and id(here) not in seen:
        if isinstance(here, Ended):
            return here
        seen.add(id(here))
        here = here.__context__
    return None


class Stop(Ended):
    """Ends a run early, as was asked.

    Attributes
    ----------
    by
        True where the row just made ended it, else the call of a module whose end did.
    """

    def __init__(self, by: bool | str = True) -> None:
        super().__init__()
        self.by = by


class Watcher:
    """Looks on while a model runs; what its methods raise ends the run."""

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        """`tensor` has the new row `row`; `storage` is its storage's address, 0 if it has none."""

    def returned(self, row: int, tensor: Tensor, module: int) -> None:
        """The call `module` of `Tape.modules` returned the tensor of `row`."""

    def about_to_write(self, sources: tuple[int, ...]) -> None:
        """A call is to be made that may write what it reads: these rows, and what is held."""

    def left(self, module: int) -> None:
        """The call `module` of `Tape.modules` has ended, after all it returned was told."""


def overridden(watchers: Sequence[Watcher], method: str) -> tuple[Callable[..., None], ...]:
    """This method of each watcher that has one of its own, bound."""
    plain = getattr(Watcher, method)
    bound = [getattr(watcher, method) for watcher in watchers]
    return tuple(m for m in bound if getattr(m, "__func__", None) is not plain)


def together(functions: Sequence[Callable[..., None]]) -> Callable[..., None]:
    """One function that calls all: itself where there is only one, to save the hot path a loop."""
    if len(functions) == 1:
        return functions[0]

    def call_all(*args: Any) -> None:
        for function in functions:
            function(*args)

    return call_all
