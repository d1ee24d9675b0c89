"""What surrounds a call: torch's switches, taken, entered, written and read; its generator.

A cell of the column `context` is written and read here only. Besides the switches it holds what
the run was and no other cell could say: the seed that random numbers came from, and, in the last
row, that the run was stopped there.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from lensframe_pd.tape.dispatch import unwatched
from lensframe_pd.tape.tape import Context

_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps")


_NO_GENERATORS = frozenset(
    (Tensor, Parameter, tuple, list, bool, int, float, str, type(None), torch.dtype)
)


def context_now() -> Context:
    """The switches a call made now runs under."""
    autocast: tuple[tuple[str, str], ...] = ()
    if torch._C._is_any_autocast_enabled():
        autocast = tuple(
            (device, str(torch.get_autocast_dtype(device)).removeprefix("torch."))
            for device in _AUTOCAST_DEVICES
            if torch.is_autocast_enabled(device)
        )
    return _shared(Context(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast))


@lru_cache(maxsize=64)
def _shared(context: Context) -> Context:
    """The same object for the same switches: tapes are compared with earlier ones."""
    return context


def generator_state(args: Any, kwargs: Any) -> Tensor:
    """State of the generator that a call with these arguments would draw from."""
    generator = kwargs.get("generator")
    if generator is None:
        others = [a for a in args if type(a) not in _NO_GENERATORS]  # `isinstance` is dear here
        generator = next((a for a in others if isinstance(a, torch.Generator)), None)
    if generator is not None:
        state: Tensor = generator.get_state()
        return state
    for value in (*args, kwargs.get("device")):
        device = value.device if isinstance(value, Tensor) else value
        if isinstance(device, str):
            device = torch.device(device)
        if isinstance(device, torch.device) and device.type == "cuda":  # untested: no GPU here
            return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def none_drawn(state: Tensor, args: Any, kwargs: Any) -> bool:
    """Whether the generator of such a call is still in this state."""
    with unwatched():
        return torch.equal(state, generator_state(args, kwargs))


def context_json(context: Context, seed: int | None = None, stopped: bool | str = False) -> str:
    """A cell of the column `context`: what is not at its default.

    Parameters
    ----------
    context
        The switches of the call.
    seed
        `Tape.seed`, where the call drew random numbers.
    stopped
        `Tape.stopped`, in the last row.
    """
    facts: dict[str, Any] = {}
    if not context.grad:
        facts["grad"] = False
    if context.inference:
        facts["inference"] = True
    if context.autocast:
        facts["autocast"] = dict(context.autocast)
    if seed is not None:
        facts["seed"] = seed
    if stopped:
        facts["stopped"] = stopped
    return json.dumps(facts)


def context_of(cell: str) -> Context:
    """The switches that a cell of `context` says.

    Examples
    --------
    >>> context_of('{"grad": false, "autocast": {"cpu": "bfloat16"}}')
    Context(grad=False, inference=False, autocast=(('cpu', 'bfloat16'),))
    """
    facts = _facts(cell)
    autocast = tuple(facts.get("autocast", {}).items())
    return Context(facts.get("grad", True), facts.get("inference", False), autocast)


class RunFacts(NamedTuple):
    """What a cell of `context` says of the whole run."""

    seed: int | None
    stopped: bool | str


def run_facts(cell: str) -> RunFacts:
    """What a cell of `context` says of the run that the row is of.

    Examples
    --------
    >>> run_facts('{"grad": false, "stopped": "enc.0:3"}')
    RunFacts(seed=None, stopped='enc.0:3')
    """
    facts = _facts(cell)
    return RunFacts(facts.get("seed"), facts.get("stopped", False))


def _facts(cell: str) -> dict[str, Any]:
    facts = json.loads(cell or "{}")
    if not isinstance(facts, dict):
        raise ValueError(f"context is {cell!r}, which is no JSON object")
    return facts


class Surroundings:
    """Enters the switches of a call, and leaves them only when a call has others."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._context: Context | None = None

    def __enter__(self) -> Surroundings:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def enter(self, context: Context) -> None:
        if context == self._context:
            return
        self._stack.close()
        self._context = context
        self._stack.enter_context(torch.inference_mode(context.inference))
        self._stack.enter_context(torch.set_grad_enabled(context.grad))
        enabled = dict(context.autocast)
        for device in _AUTOCAST_DEVICES:
            if device in enabled:
                dtype = getattr(torch, enabled[device])
                self._stack.enter_context(torch.autocast(device, dtype))
            elif torch.is_autocast_enabled(device):
                self._stack.enter_context(torch.autocast(device, enabled=False))
