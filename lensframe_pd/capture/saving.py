"""What `save=` may be, and which watcher keeps that."""

from __future__ import annotations

from typing import Any

import pandas as pd
from torch import nn

from lensframe_pd.capture.named import Named
from lensframe_pd.capture.plan import ADDRESSED_BY
from lensframe_pd.capture.save import Asked, Everything, Nothing, Planned, Save, Selection
from lensframe_pd.capture.values import NoValues, Values
from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.labels import labels, texts_in
from lensframe_pd.tape.tape import Tape


def save_of(save: Any, stop: bool, tape: Tape, roots: dict[str, nn.Module]) -> Save:
    """`save=` and `stop=` of `lf.trace` as the watcher that does it.

    Raises
    ------
    LensKeyError
        A name that can be neither a label nor a module path.
    LensTypeError
        `save` is none of the forms it can take.
    LensValueError
        `stop` without anything to stop after.
    """
    if isinstance(save, pd.Series) and "func" in save.index:  # one row
        save = save.to_frame().T
    found = _save_of(save, stop, tape, roots)
    if stop and not (isinstance(found, (Named, Planned)) and found.selects):
        raise LensValueError(
            "stop=True ends the run after the last selected operation, which only names and "
            "rows can tell: give save= labels, module paths or rows of an earlier frame"
        )
    return found


def _save_of(save: Any, stop: bool, tape: Tape, roots: dict[str, nn.Module]) -> Save:
    if isinstance(save, str) and save == "all":
        return Everything(tape, Values(tape, all_kept=True))
    if save is None:
        return Nothing(tape, NoValues(tape))
    values = Values(tape, all_kept=False)
    if isinstance(save, Selection):
        return save.watcher(tape, values)
    if isinstance(save, pd.DataFrame):
        ops = labels(save, "save=")
        if {*ADDRESSED_BY} <= {*save.columns}:
            return Planned(tape, values, save, stop)
        return Named(tape, values, ops, stop, roots, modules=False)
    if isinstance(save, str):
        return Named(tape, values, [save], stop, roots)
    if callable(save):
        return Asked(tape, values, save)
    names = texts_in(save)
    if names is None:
        raise LensTypeError(
            f"save= got {save!r}; give 'all', None, rows of a trace's layers, labels or module "
            "paths, or a function of a row"
        )
    return Named(tape, values, names, stop, roots)
