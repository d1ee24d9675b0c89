"""The first batch of two stimuli or more: traced, it tells what the store will be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any, NamedTuple

import pandas as pd
import torch

from lensframe_pd.capture.sites import Sites
from lensframe_pd.errors import LensKeyError, LensTypeError, LensValueError
from lensframe_pd.extract.batches import Batch
from lensframe_pd.extract.columns import Wanted, wanted
from lensframe_pd.extract.data import whole_number
from lensframe_pd.extract.plan import Plan, check_ragged, make_plan
from lensframe_pd.extract.randomness import Steady, check_random
from lensframe_pd.extract.reduce import Reduced
from lensframe_pd.traced import Trace
from lensframe_pd.tracing import trace

#: Of a run, not of what was run.
_MEASURED = "seconds"
_SEEDS = 2**63
_OF_ONE_RUN = frozenset((_MEASURED, "stopped", "seed"))


class Settings(NamedTuple):
    """Those options of `lf.extract` that say what becomes of a batch."""

    save: Any
    seed: int | None
    ragged: Mapping[str, int]
    passes: int | None
    values: Any = None


class First(NamedTuple):
    """What the first batch gave."""

    batch: Batch
    plan: Plan
    stored: Mapping[str, Reduced]
    layers: pd.DataFrame
    attrs: Mapping[str, Any]
    sites: Sites | None = None
    """What is given other values, for stimuli of every id."""


def settings(save: Any, seed: Any, ragged: Any, passes: Any, values: Any = None) -> Settings:
    """The options, checked.

    Raises
    ------
    LensTypeError, LensValueError
        One is of a kind, or a number, that it cannot be.
    """
    if save is None:
        raise LensValueError(
            "save=None stores nothing; give rows of a trace's layers, labels or module paths"
        )
    if isinstance(save, pd.Series) and "func" in save.index:  # one row
        save = save.to_frame().T
    seed = None if seed is None else _seed(seed)
    passes = None if passes is None else whole_number("passes", passes, 1)
    if ragged is not None and not isinstance(ragged, Mapping):
        raise LensTypeError(
            f"ragged= got a {type(ragged).__name__}; give a dict of axes to how many at most, as "
            'ragged={"token": 512}'
        )
    most = {axis: whole_number(f"ragged[{axis!r}]", n, 1) for axis, n in (ragged or {}).items()}
    return Settings(save, seed, most, passes, values)


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise LensTypeError(f"seed={seed!r} is no whole number")
    number = int(seed)
    if not -_SEEDS <= number < _SEEDS:
        raise LensValueError(f"seed={number} is no number of 64 bits, as torch takes")
    return number


def first_of(model: Any, batch: Batch, chosen: Settings, table: pd.DataFrame) -> First:
    """Trace a batch, and plan the store by it.

    Parameters
    ----------
    table
        The ids of its stimuli, with what else is said of them.
    """
    asked: dict[str, Wanted] = wanted(chosen.save)
    steady = Steady(model)
    with naming(batch), seeded(chosen.seed, batch.number):
        done = _traced(model, batch, chosen, table)
    steady.check()
    tape = done.tape
    kept = [row for row, value in enumerate(tape.values) if value is not None]
    check_random(tape, kept, chosen.seed, done._passes.labels())
    plan, stored = make_plan(done, asked, chosen, batch.given)
    check_ragged(chosen.ragged, plan)
    attrs = {k: v for k, v in done.activations.attrs.items() if k not in _OF_ONE_RUN}
    sites = None if done._sites is None else done._sites.given or done._sites
    layers = done.layers.copy(deep=False)
    # a text of other length in each run, so that a plan could not tell the bytes of a store
    layers.attrs = {k: v for k, v in layers.attrs.items() if k != _MEASURED}
    return First(batch, plan, stored, layers, attrs, sites)


def _traced(model: Any, batch: Batch, chosen: Settings, table: pd.DataFrame) -> Trace:
    options = {"save": chosen.save, "stimulus": table, "values": chosen.values}
    return trace(model, batch.args, batch.kwargs, **options)


@contextmanager
def seeded(seed: int | None, number: int) -> Iterator[None]:
    """Random numbers by seed and number of the batch meanwhile; then as if none had been drawn."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed + number)
        yield


@contextmanager
def naming(batch: Batch) -> Iterator[None]:
    """An exception in a batch says which, and that all is well with those before."""
    try:
        yield
    except (LensTypeError, LensKeyError):
        raise
    except BaseException as error:
        pair = ""
        given = batch.given.called_with
        if type(given) in (list, tuple) and len(given) == 2:
            pair = (
                "; each batch is a pair: if it is of images and labels, give "
                "args=lambda batch: batch[0]"
            )
        error.add_note(
            f"lf.extract: in {batch}{pair}; what was written stays, and the same call goes on"
        )
        raise
