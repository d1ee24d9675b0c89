"""One model of the zoo: run plainly, traced, compared and validated."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lensframe_pd as lf
from lensframe_pd.errors import LensWarning
from lensframe_pd.schema import STIMULUS
from lensframe_pd.tape.objects import tensors_in

from . import frames
from .made import Made, run
from .models import models

SHORT = 400
COPIED_BYTES = 2**30
"""Models with more parameters than this run themselves instead of a copy."""
REPEATED_S = 2.0
"""A plain run quicker than this is timed again: the first one also warms up."""


def examine(name: str, tell: Callable[[str], None] = lambda stage: None) -> dict[str, Any]:
    """What building, running, tracing and validating one model gives, as JSON values.

    `tell` is called with each stage as it begins; an exception becomes `error`, with the `stage`.
    """
    torch.set_num_threads(1)
    found: dict[str, Any] = {"name": name, "source": name.split("/")[0]}

    def begin(stage: str) -> None:
        found["stage"] = stage
        tell(stage)

    start = perf_counter()
    try:
        with torch.no_grad(), warnings.catch_warnings(), _no_fused_attention():
            warnings.simplefilter("ignore")
            _stages(models()[name], found, begin)
    except Exception as error:
        found["error"] = shortened(error)
        if found["stage"] != "build" and len(getattr(error, "layers", ())):
            found["last"] = str(error.layers.index[-1])
    found["total_s"] = round(perf_counter() - start, 3)
    return found


def shortened(error: BaseException) -> str:
    """Type and message on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:SHORT]


def _stages(make: Callable[[], Made], found: dict[str, Any], begin: Callable[[str], None]) -> None:
    begin("build")
    made, found["build_s"] = _timed(make)
    parameters = dict(made.model.named_parameters())
    found["n_params"] = sum(p.numel() for p in parameters.values())
    found["training"] = any(module.training for module in made.model.modules())
    plain, found["copied"] = _copied(made, 4 * found["n_params"])

    begin("plain")
    expected, found["plain_s"] = _timed(lambda: run(plain))
    expected = [(path, tensor.clone()) for path, tensor in tensors_in(expected)]
    found["n_outputs"] = len(expected)
    if found["plain_s"] < REPEATED_S and found["copied"]:
        args, kwargs = copy.deepcopy((made.args, made.kwargs))
        again = plain._replace(args=args, kwargs=kwargs)
        found["plain_s"] = min(found["plain_s"], _timed(lambda: run(again))[1])

    begin("trace")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trace, found["trace_s"] = _timed(lambda: _trace(made))
    found["warnings"] = [
        str(w.message)[:SHORT] for w in caught if issubclass(w.category, LensWarning)
    ]
    found["output"] = _difference(expected, list(tensors_in(trace.output)))
    found["exact"] = found["output"] == ""

    begin("tables")
    layers, found["layers_s"] = _timed(lambda: trace.layers)
    frames.keep(found["name"], layers)
    activations, found["activations_s"] = _timed(lambda: trace.activations)
    found |= {
        "n_rows": len(layers),
        "n_layers": int(layers["layer"].nunique()),
        "max_passes": int(layers["n_passes"].max()),
        "n_values": len(activations),
        "n_stimulus": sum(STIMULUS in value.dims for value in activations.values()),
        "overhead_us": (found["trace_s"] - found["plain_s"]) / len(layers) * 1e6,
    }
    unread = set(parameters) - {name for names in layers["params"] for name in names}
    found["n_unread"] = len(unread)
    found["missed"] = _missed(made, {name: parameters[name] for name in unread})
    begin("validate")
    found |= _validated(trace)
    begin("done")


@contextmanager
def _no_fused_attention() -> Iterator[None]:
    """Torch leaves its fused attention under any mode, so that outputs differ in the last bits."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _trace(made: Made) -> lf.Trace:
    torch.manual_seed(0)
    return lf.trace(made.call, made.args, made.kwargs, stimulus=made.ids)


def _validated(trace: lf.Trace) -> dict[str, Any]:
    """What `trace.validate()` says, its attrs under `v_`."""
    if not hasattr(trace, "validate"):
        return {"passed": None, "validate_s": None, "n_failing": None, "reasons": None}
    report, seconds = _timed(trace.validate)
    failing = report[~report["passed"].astype(bool)]
    return {
        "passed": failing.empty,
        "validate_s": seconds,
        "n_failing": len(failing),
        "reasons": [f"{at}: {why}"[:SHORT] for at, why in failing["reason"].head(3).items()],
        **{f"v_{key}": value for key, value in report.attrs.items()},
    }


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = perf_counter()
    result = run()
    return result, perf_counter() - start


def _copied(made: Made, nbytes: int) -> tuple[Made, bool]:
    """A copy to run plainly, because some models cache what they computed."""
    if nbytes < COPIED_BYTES:
        try:
            return Made(*copy.deepcopy(tuple(made))), True
        except Exception:  # not every model can be copied
            pass
    return made, False


def _difference(want: list[tuple[str, torch.Tensor]], got: list[tuple[str, torch.Tensor]]) -> str:
    """Where two outputs differ first; empty if they are the same bit for bit, NaN equal to NaN."""
    if [path for path, _ in want] != [path for path, _ in got]:
        return f"{len(want)} tensors plainly, {len(got)} traced"
    for (path, a), (_, b) in zip(want, got, strict=True):
        try:
            torch.testing.assert_close(b, a, rtol=0, atol=0, equal_nan=True)
        except AssertionError as error:
            return f"{path}: {' '.join(str(error).split())}"[:SHORT]
    return ""


class _Witness(TorchDispatchMode):
    """Notes the storage of every tensor an ATen operator is given."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        self.read |= _storages(tree_leaves((args, kwargs)))
        return func(*args, **(kwargs or {}))


def _storages(values: Iterable[Any]) -> set[int]:
    return {
        value.untyped_storage()._cdata
        for value in values
        if isinstance(value, torch.Tensor) and value.layout is torch.strided
    }


def _missed(made: Made, unread: dict[str, nn.Parameter]) -> list[str]:
    """Of the parameters no row read, those an ATen operator was given all the same."""
    if not unread:
        return []
    with _Witness() as witness:
        run(made)
    return [name for name, p in sorted(unread.items()) if _storages([p]) & witness.read]


def quiet() -> None:
    """Silence what models print and log, and keep to one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import transformers

    transformers.logging.set_verbosity_error()
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of a worker
