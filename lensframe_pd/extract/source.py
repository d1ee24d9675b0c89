"""Where the stimuli of an extraction come from: how many, which, and in which batches."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pandas as pd

from lensframe_pd.capture.model import check_model
from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.extract.batches import Batch, Batched, Ids
from lensframe_pd.extract.data import Want, data_of, whole_number
from lensframe_pd.tables.stimuli import stimulus_table

_TWO = 2
"""Of fewer stimuli it cannot be told which axes are theirs."""


class Source:
    """The stimuli of an extraction: how many, which, and in which batches.

    Parameters
    ----------
    model, data, stimulus, args, batch_size, n, num_workers
        As of `lf.extract`.
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        stimulus: Any,
        args: Any,
        batch_size: int | None,
        n: int | None,
        num_workers: int,
    ) -> None:
        check_model(model)
        if args is not None and not callable(args):
            raise LensTypeError(
                f"args= got a {type(args).__name__}; give a function of a batch that returns what "
                "lf.trace takes, as args=lambda batch: batch[0]"
            )
        self.ids = Ids(stimulus)
        self.data = data_of(data, batch_size, num_workers, self.ids.given)
        said = self.data.n
        if (
            said is None
            and n is None
            and self.ids.table is None
            and isinstance(data, (list, tuple))
        ):
            said = Batched(model, self.data, Ids(stimulus), args, sys.maxsize).count()
        self.n = _how_many(self.ids, said, n)
        self.ids.settle(self.n)
        self.data.settle(self.n)
        self._batches = Batched(model, self.data, self.ids, args, self.n)
        self._begun: Iterator[Batch] = iter(())

    def wanted(self, want: Want) -> Iterator[Batch]:
        """The batches that are wanted, in order; of those that come one by one, all."""
        if self.data.by_number:
            return self._batches.wanted(want)
        return self._begun

    def one(self, start: int) -> Batch:
        """The batch that begins with a stimulus, of those that are known by number."""
        return next(self._batches.wanted(lambda a, b: a == start))

    def table_of(self, batch: Batch) -> pd.DataFrame:
        """The ids of a batch, with what else is known of its stimuli."""
        if self.ids.table is not None:
            return self.ids.slice(batch.start, batch.end)
        found = stimulus_table(batch.given.ids)
        assert found is not None
        return found

    @cached_property
    def first(self) -> Batch:
        """The first batch of two stimuli or more, else the first."""
        if self.data.by_number and self.data.borders:
            spans = [*itertools.pairwise(self.data.borders)]
            large = [a for a, b in spans if b - a >= _TWO]
            return self.one(large[0] if large else spans[0][0])
        held, rest = list[Batch](), self._batches.wanted(lambda start, end: True)
        for batch in rest:
            held.append(batch)
            if batch.size >= _TWO:
                break
        if not held:
            raise LensValueError("data= gives no stimuli")
        self._begun = itertools.chain(held, rest)
        return held[-1] if held[-1].size >= _TWO else held[0]


def _how_many(ids: Ids, said: int | None, n: Any) -> int:
    """How many stimuli there are, as all who say it agree.

    Raises
    ------
    LensValueError
        They do not, nobody says it, or there are none.
    """
    n = None if n is None else whole_number("n", n, 1)
    found: dict[str, int | None] = {"n=": n, "the data": said}
    if ids.table is not None:
        found["stimulus="] = len(ids.table)
    known = {what: k for what, k in found.items() if k is not None}
    if not known:
        raise LensValueError(
            "nothing says how many stimuli there are; give n=, or ids of all as stimulus="
        )
    if len({*known.values()}) > 1:
        counts = ", ".join(f"{what} says {k}" for what, k in known.items())
        raise LensValueError(
            f"how many stimuli are there? {counts}; give one id per stimulus, too few or too many "
            "would stand at the wrong ones"
        )
    number = next(iter(known.values()))
    if not number:
        raise LensValueError("there are no stimuli in data=")
    return number
