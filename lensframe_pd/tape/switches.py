"""Switches of torch, NumPy and the process that a forward may set and leave set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from operator import call
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.deterministic

from lensframe_pd.tape.silence import filters_of_others, put_filters

_AUTOCAST_DEVICES = ("cpu", "cuda")


class _Switch(NamedTuple):
    """How one of them is read and set."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


class Switches:
    """How all switches stand when it is made."""

    def __init__(self) -> None:
        self._states = [*map(call, _READ)]  # at each call of a run that is proven

    def restore(self) -> None:
        """Set again what stands otherwise now."""
        for switch, state in zip(_SWITCHES, self._states, strict=True):
            if switch.read() != state:
                switch.write(state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Switches) and self._states == other._states

    __hash__ = None  # type: ignore[assignment]


@contextmanager
def standing(switches: Switches | None) -> Iterator[None]:
    """Let all switches stand like these meanwhile; None for as they are."""
    if switches is None:
        yield
        return
    before = Switches()
    switches.restore()
    try:
        yield
    finally:
        before.restore()


_deterministic: Any = torch.utils.deterministic


def _write_deterministic(state: tuple[bool, bool, bool]) -> None:
    torch.use_deterministic_algorithms(state[0], warn_only=state[1])
    _deterministic.fill_uninitialized_memory = state[2]


_of_thread: Any = torch._GLOBAL_DEVICE_CONTEXT


def _read_device() -> torch.device | None:
    """The default device of this thread; None where nobody has set one."""
    context = _of_thread.__dict__.get("device_context")  # an attribute that is missing is dear
    return None if context is None else context.device


def _write_anomaly(state: tuple[bool, bool]) -> None:
    torch.autograd.set_detect_anomaly(state[0], check_nan=state[1])


# Torch's own readers wrap these, which takes most of their time; each call of a run that is proven
# asks for all.
_SWITCHES = (
    _Switch(torch.get_default_dtype, torch.set_default_dtype),
    _Switch(_read_device, torch.set_default_device),
    _Switch(
        lambda: (
            torch._C._get_deterministic_algorithms(),
            torch._C._get_deterministic_algorithms_warn_only(),
            torch._C._get_deterministic_fill_uninitialized_memory(),
        ),
        _write_deterministic,
    ),
    _Switch(torch.get_num_threads, torch.set_num_threads),
    _Switch(torch.is_grad_enabled, torch.set_grad_enabled),
    *[
        _Switch(partial(torch.is_autocast_enabled, d), partial(torch.set_autocast_enabled, d))
        for d in _AUTOCAST_DEVICES
    ],
    *[
        _Switch(partial(torch.get_autocast_dtype, d), partial(torch.set_autocast_dtype, d))
        for d in _AUTOCAST_DEVICES
    ],
    _Switch(torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    _Switch(torch._C._get_float32_matmul_precision, torch.set_float32_matmul_precision),
    _Switch(torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    _Switch(torch._C._get_flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    _Switch(torch._C._get_math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    _Switch(torch._C._get_mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    _Switch(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
    _Switch(torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled),
    _Switch(torch._C._get_cudnn_benchmark, torch._C._set_cudnn_benchmark),
    _Switch(torch._C._get_cudnn_deterministic, torch._C._set_cudnn_deterministic),
    _Switch(
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()), _write_anomaly
    ),
    _Switch(torch._C._get_warnAlways, torch.set_warn_always),
    _Switch(np.geterr, lambda state: np.seterr(**state)),
    _Switch(filters_of_others, put_filters),
)
_READ = [switch.read for switch in _SWITCHES]
