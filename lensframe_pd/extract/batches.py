"""Batches with all that is known of them: the arguments of the model, the stimuli and their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from lensframe_pd.capture.run import bound_arguments
from lensframe_pd.capture.stimuli import by_parameter, stimuli
from lensframe_pd.errors import LensError, LensTypeError, LensValueError, shown
from lensframe_pd.extract.cast import Array
from lensframe_pd.extract.data import Data, Raw, Want
from lensframe_pd.extract.reduce import Given
from lensframe_pd.tables.stimuli import coordinates, stimulus_table
from lensframe_pd.tape.objects import tensors_in


class Batch(NamedTuple):
    """One batch, ready to be run."""

    number: int
    start: int
    size: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: Given

    @property
    def end(self) -> int:
        """The first stimulus after it."""
        return self.start + self.size

    def __str__(self) -> str:
        return f"batch {self.number} (stimuli {self.start} to {self.end - 1})"


class Ids:
    """Which stimulus is which.

    Parameters
    ----------
    stimulus
        As of `lf.extract`: ids or a table of all, a function of a batch, or None for their numbers.
    """

    def __init__(self, stimulus: Any) -> None:
        self.of_batch: Callable[[Any], Any] | None = None
        self.table: pd.DataFrame | None = None
        if callable(stimulus) and not isinstance(stimulus, (pd.DataFrame, pd.Series, pd.Index)):
            self.of_batch = stimulus
        elif stimulus is not None:
            self.table = stimulus_table(stimulus)
        self.numbered = stimulus is None
        #: Each id that was met, with the number of its stimulus.
        self._met: dict[Any, int] = {}
        self._kind = ""

    @property
    def given(self) -> str:
        """Of what ids are given: "all" or "batch"; "" where stimuli are known by number only."""
        if self.of_batch is not None:
            return "batch"
        return "" if self.table is None else "all"

    def settle(self, n: int) -> None:
        """There are `n` stimuli: without ids they are numbered."""
        if self.of_batch is None and self.table is None:
            self.table = pd.DataFrame(index=pd.RangeIndex(n))

    def ask(self, raw: Raw) -> Array | None:
        """The ids that a batch says it has; None where they are known otherwise.

        Raises
        ------
        LensValueError, LensTypeError
            They are no ids, missing, twice, or of another kind than before.
        """
        if self.of_batch is None:
            return None
        try:
            table = stimulus_table(self.of_batch(raw.given))
        except LensError as error:
            error.add_note(f"these are the ids of batch {raw.number}")
            raise
        except Exception as error:
            error.add_note(f"lf.extract: raised by stimulus= of batch {raw.number}")
            raise
        if table is None:
            raise LensValueError(f"stimulus= gave no ids for batch {raw.number}; give one each")
        found: Array = coordinates(table)["stimulus"][1]
        kind = "text" if found.dtype.kind in "UOT" else found.dtype.kind
        if self._kind and len(found) and kind != self._kind:
            raise LensTypeError(
                f"the ids of batch {raw.number} are of another kind than those before "
                f"({shown(found[:3])}); give ids of one kind"
            )
        self._kind = self._kind or (kind if len(found) else "")
        return found.astype(object) if kind == "text" else found

    def meet(self, ids: Array, start: int) -> None:
        """These are the ids of the stimuli from `start` on.

        Raises
        ------
        LensValueError
            Another stimulus has one of them.
        """
        numbered = [(i, start + k) for k, i in enumerate(ids.tolist())]
        twice = [i for i, k in numbered if self._met.get(i, k) != k]
        if twice:
            raise LensValueError(
                f"ids come more than once: {shown(twice)} are those of stimuli "
                f"{shown([self._met[i] for i in twice])} and from {start} on; an id stands for one "
                "stimulus. What was written stays"
            )
        self._met.update(numbered)

    def slice(self, start: int, end: int) -> pd.DataFrame:
        assert self.table is not None
        return self.table.iloc[start:end]


class Batched:
    """The batches of data, one after the other.

    Parameters
    ----------
    model
        For the names of its parameters.
    data, ids
        What they are made of.
    args
        A batch as given to what `lf.trace` takes; None for as it is.
    n
        How many stimuli there are; more are refused when they are met.
    """

    def __init__(
        self, model: Any, data: Data, ids: Ids, args: Callable[[Any], Any] | None, n: int
    ) -> None:
        self._model, self._data, self._ids, self._args, self.n = model, data, ids, args, n

    def wanted(self, want: Want) -> Iterator[Batch]:
        """Those that are wanted, where that is known before; no empty ones."""
        start = 0
        for raw in _loaded(self._data.wanted(want)):
            batch = self._prepared(raw, start if raw.start is None else raw.start)
            if batch is None:
                continue
            start = batch.end
            if start > self.n:
                raise LensValueError(
                    f"{batch} goes beyond the {self.n} stimuli that there are to be: ids, n= or "
                    "len(data) say too few, or the data gives too many. What was written stays"
                )
            yield batch

    def count(self) -> int:
        """How many stimuli there are in all."""
        everything = self._data.wanted(lambda start, end: True)
        return sum(self._size_of(raw, 0)[0] for raw in everything)

    def _prepared(self, raw: Raw, start: int) -> Batch | None:
        size, asked, called_with = self._size_of(raw, start)
        if not size:
            return None
        if asked is not None:
            self._ids.meet(asked, start)
            ids = asked
        else:
            ids = coordinates(self._ids.slice(start, start + size))["stimulus"][1]
        args, kwargs = bound_arguments(called_with, None)
        arguments = _flat(by_parameter(self._model, args, kwargs))
        if not any(True for _ in tensors_in(arguments)):
            raise LensTypeError(self._no_tensor(called_with, raw))
        return Batch(raw.number, start, size, args, kwargs, Given(called_with, arguments, ids))

    def _size_of(self, raw: Raw, start: int) -> tuple[int, Array | None, Any]:
        """How many stimuli a batch has, the ids that it says, and what the model is called with."""
        if raw.size == 0 or _is_empty(raw.given):
            return 0, None, None
        asked = self._ids.ask(raw)
        if asked is not None and raw.size not in (None, len(asked)):
            raise LensValueError(
                f"batch {raw.number} has {raw.size} stimuli, and stimulus= gave {len(asked)} ids "
                "for it; give one each"
            )
        called_with = self._called_with(raw)
        if asked is not None:
            return len(asked), asked, called_with
        if raw.size is not None:
            return raw.size, None, called_with
        args, kwargs = bound_arguments(called_with, None)
        return _size(by_parameter(self._model, args, kwargs), raw.number), None, called_with

    def _no_tensor(self, called_with: Any, raw: Raw) -> str:
        what = f"a {type(called_with).__name__}"
        if isinstance(called_with, (list, tuple)) and called_with:
            what += f" of {len(called_with)} {type(called_with[0]).__name__}"
        whose = "args= gives the model" if self._args is not None else "the model would get"
        return (
            f"{whose} {what} for batch {raw.number}, and no tensor is in it; have the data give "
            "tensors or numbers, as a transform= does of images, or args= make them of a batch"
        )

    def _called_with(self, raw: Raw) -> Any:
        if self._args is not None:
            try:
                return self._args(raw.given)
            except Exception as error:
                error.add_note(f"lf.extract: raised by args= of batch {raw.number}")
                raise
        if is_labelled(raw.given):
            raise LensTypeError(
                "each batch is a pair, as of images and labels, and a model takes the images: "
                "give args=lambda batch: batch[0]"
            )
        return raw.given


def _loaded(batches: Iterator[Raw]) -> Iterator[Raw]:
    """The same; what goes wrong while the next is loaded says after which."""
    after = "while the first batch was loaded"
    while True:
        try:
            raw = next(batches)
        except StopIteration:
            return
        except LensError:
            raise
        except Exception as error:
            error.add_note(
                f"lf.extract: raised by data=, {after}; what was written stays, and the same call "
                "goes on"
            )
            raise
        yield raw
        after = f"while what comes after batch {raw.number} was loaded"


def is_labelled(given: Any) -> bool:
    """Whether a batch is a pair of stimuli and an integer for each."""
    if type(given) not in (list, tuple) or len(given) != 2:
        return False
    first, second = given
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return False
    integers = not second.dtype.is_floating_point and not second.dtype.is_complex
    return first.dim() > 1 and second.shape == first.shape[:1] and integers


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, those of a `**kwargs` too."""
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if name == "kwargs" and isinstance(value, dict):
            found.update(value)
        else:
            found[name] = value
    return found


def _is_empty(given: Any) -> bool:
    if isinstance(given, (Tensor, np.ndarray)):
        return given.ndim > 0 and len(given) == 0
    if isinstance(given, (list, tuple)) and not given:
        return True
    if isinstance(given, Mapping) and given:
        return all([isinstance(v, (Tensor, np.ndarray)) and _is_empty(v) for v in given.values()])
    if isinstance(given, (list, tuple)):
        return all([isinstance(v, (Tensor, np.ndarray)) and _is_empty(v) for v in given])
    return False


def _size(arguments: Mapping[str, Any], number: int) -> int:
    """How many stimuli are in a batch that does not say it: a list of tensors has one each."""
    for value in arguments.values():
        if type(value) is list and value and all([isinstance(v, Tensor) for v in value]):
            return stimuli(arguments, len(value))[0]
        break
    n, found = stimuli(arguments, None)
    if not found:
        raise LensValueError(
            f"batch {number} does not say how many stimuli it has, as no tensor is among the "
            "model's arguments; have it say its ids: stimulus=lambda batch: ..."
        )
    return n
