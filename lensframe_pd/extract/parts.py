"""An extraction in parts, each by a process of its own: tasks of `dask.distributed`."""

from __future__ import annotations

import inspect
import threading
import uuid
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset

from lensframe_pd.errors import LensTypeError, LensValueError, needs
from lensframe_pd.extract.extraction import Extraction
from lensframe_pd.extract.first import settings
from lensframe_pd.extract.source import Source
from lensframe_pd.tape.context import Surroundings, context_now
from lensframe_pd.tape.tape import Context

_PARTS_A_WORKER = 2
"""More balance workers of unlike speed; each begins by tracing the first batch."""
_alone = threading.Lock()


def checked_part(part: Any) -> tuple[int, int]:
    """`part=` of `lf.extract`; all of it where None is given.

    Raises
    ------
    LensValueError
        It is no pair of a part, from 0, and how many there are.
    """
    if part is None:
        return 0, 1
    try:
        i, n = part
    except (TypeError, ValueError):
        i = n = None
    numbers = [isinstance(k, Integral) and not isinstance(k, bool) for k in (i, n)]
    if not all(numbers) or not 0 <= i < n:
        raise LensValueError(
            f"part={part!r} is no part; give (i, n), the i-th of n from 0, as (0, 4) to (3, 4)"
        )
    return int(i), int(n)


def extraction_of(model: Any, data: Any, options: Mapping[str, Any], once: bool = False) -> Any:
    """The extraction that a call of `lf.extract` asks for; one batch of it is run."""
    chosen = settings(*[options[k] for k in ("save", "seed", "ragged", "passes", "values")])
    names = ("stimulus", "args", "batch_size", "n", "num_workers")
    source = Source(model, data, *[options[name] for name in names])
    if once and source.data.one_shot:
        raise LensValueError(
            "plan=True runs a batch, and from a one-shot iterator that batch is gone then; give "
            "data that can be gone through again, as a list or a Dataset"
        )
    return Extraction(model, source, chosen, options["compress"])


def run_on(client: Any, model: Any, data: Any, options: Mapping[str, Any], to: Any) -> None:
    """Have the workers of a client fill a store.

    Raises
    ------
    LensTypeError
        `client` is none of `dask.distributed`.
    LensValueError
        There are no workers.
    """
    needs("distributed", "clients")
    from distributed import Client

    if not isinstance(client, Client):
        raise LensTypeError(
            f"client= got a {type(client).__name__}; give a dask.distributed.Client"
        )
    workers = len(client.nthreads())
    if not workers:
        raise LensValueError("the client has no workers yet; client.wait_for_workers(1) waits")
    if isinstance(to, Path):
        to = to.absolute()  # a worker may be in another folder
    parts, run = workers * _PARTS_A_WORKER, uuid.uuid4().hex
    how = context_now()
    futures = [
        client.submit(
            _fill_part, model, data, dict(options), to, (k, parts), how,
            key=f"lf.extract-{run}-{k}", pure=False,
        )
        for k in range(parts)
    ]  # fmt: skip
    try:
        client.gather(futures)
    except BaseException:
        client.cancel(futures, force=True)
        raise


def _fill_part(
    model: Any, data: Any, options: Mapping[str, Any], to: Any, part: tuple[int, int], how: Context
) -> None:
    """A task: one part, in a process where no other part runs meanwhile."""
    with _alone, Surroundings() as around:
        around.enter(how)
        if not isinstance(model, nn.Module) and _builds(model):
            model = model()
        if callable(data) and not isinstance(data, (Dataset, DataLoader)):
            data = data()
        extraction_of(model, data, options).fill(to, part, options["sync"])


def _builds(model: Any) -> bool:
    """Whether this is no model, but a function of nothing that makes one."""
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all([p.default is not p.empty or p.kind in kinds for p in parameters])
