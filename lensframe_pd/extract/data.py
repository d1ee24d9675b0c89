"""`data=` as batches in a known order, whatever it is, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
)

from lensframe_pd.errors import LensTypeError, LensValueError

DEFAULT_BATCH = 32
Want = Callable[[int, int], bool]
"""Whether the batch with these first and last stimuli (exclusive) is wanted."""


class Raw(NamedTuple):
    """A batch as the data gives it."""

    number: int
    start: int | None
    """Which stimulus is its first; None where sizes are known only when batches are met."""
    size: int | None
    given: Any


class Data:
    """Batches in order.

    Attributes
    ----------
    n
        How many stimuli there are, None where the data cannot say.
    borders
        First stimulus of each batch, and at the end how many there are; None where not known.
    batch
        Stimuli in a batch, if it is one number.
    by_number
        Whether a batch can be had without those before it.
    one_shot
        Whether it can be gone through only once.
    """

    n: int | None = None
    borders: list[int] | None = None
    batch: int | None = None
    by_number = False
    one_shot = False

    def settle(self, n: int) -> None:
        """There are `n` stimuli."""
        self.n = n

    def __iter__(self) -> Iterator[Raw]:
        return self.wanted(lambda start, end: True)

    def wanted(self, want: Want) -> Iterator[Raw]:
        """The batches that are wanted; all, where it is not known before which they are."""
        raise NotImplementedError


class Singles(Data):
    """Single stimuli by number, made into batches."""

    by_number = True

    def __init__(
        self, data: Any, n: int | None, batch: int, num_workers: int, slices: bool
    ) -> None:
        self.n, self.batch = n, batch
        self._data, self._workers, self._slices = data, num_workers, slices
        if n is not None:
            self.settle(n)

    def settle(self, n: int) -> None:
        assert self.batch is not None
        self.n, self.borders = n, [*range(0, n, self.batch), n]

    def wanted(self, want: Want) -> Iterator[Raw]:
        assert self.borders is not None
        spans = [*pairwise(self.borders)]
        chosen = [(k, a, b) for k, (a, b) in enumerate(spans) if want(a, b)]
        if self._slices:
            for k, a, b in chosen:
                yield Raw(k, a, b - a, _sliced(self._data, a, b))
            return
        loader = DataLoader(
            _Items(self._data),
            batch_sampler=_Spans([(a, b) for _, a, b in chosen]),
            num_workers=self._workers,
            collate_fn=collated,
            generator=torch.Generator(),  # else it would draw from the one the model may draw from
        )
        for (k, a, b), given in zip(chosen, loader, strict=True):
            yield Raw(k, a, b - a, given)


class _Spans:
    """The numbers in batches, made when they are asked for."""

    def __init__(self, spans: list[tuple[int, int]]) -> None:
        self._spans = spans

    def __iter__(self) -> Iterator[list[int]]:
        return ([*range(a, b)] for a, b in self._spans)

    def __len__(self) -> int:
        return len(self._spans)


class _Items(Dataset[Any]):
    """Anything with items by number, as torch's loader wants it."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitem__(self, k: int) -> Any:
        return self.data[k]


class Stream(Data):
    """Single stimuli that come one after the other, made into batches."""

    def __init__(self, data: Iterable[Any], n: int | None, batch: int) -> None:
        self.n, self.batch = n, batch
        self.one_shot = iter(data) is data
        self._data = data

    def settle(self, n: int) -> None:
        assert self.batch is not None
        self.n, self.borders = n, [*range(0, n, self.batch), n]

    def wanted(self, want: Want) -> Iterator[Raw]:
        items, start, number = [], 0, 0
        for item in self._data:
            items.append(item)
            if len(items) == self.batch:
                yield Raw(number, start, len(items), collated(items))
                items, start, number = [], start + len(items), number + 1
        if items:
            yield Raw(number, start, len(items), collated(items))


class Loaded(Data):
    """A DataLoader over numbered stimuli in their order: batches can be passed over unloaded."""

    by_number = True

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.n = len(loader.dataset)  # type: ignore[arg-type]
        self._batches = [list(numbers) for numbers in loader.batch_sampler or ()]
        sizes = [len(numbers) for numbers in self._batches]
        self.borders = [0, *np.cumsum(sizes).tolist()]
        self.batch = loader.batch_size
        self._loader = loader

    def wanted(self, want: Want) -> Iterator[Raw]:
        assert self.borders is not None
        spans = [*pairwise(self.borders)]
        chosen = [(k, a, b) for k, (a, b) in enumerate(spans) if want(a, b)]
        given = self._loader
        loader = DataLoader(
            given.dataset,
            batch_sampler=[self._batches[k] for k, _, _ in chosen],
            num_workers=given.num_workers,
            collate_fn=given.collate_fn,
            pin_memory=given.pin_memory,
            timeout=given.timeout,
            worker_init_fn=given.worker_init_fn,
            multiprocessing_context=given.multiprocessing_context,
            generator=given.generator or torch.Generator(),
            prefetch_factor=given.prefetch_factor,
        )
        for (k, a, b), batch in zip(chosen, loader, strict=True):
            yield Raw(k, a, b - a, batch)


class Batches(Data):
    """Batches as they come; how many stimuli each has is known when it is met."""

    def __init__(self, data: Iterable[Any], n: int | None) -> None:
        self.n = n
        self.one_shot = iter(data) is data
        self._data = data

    def wanted(self, want: Want) -> Iterator[Raw]:
        for number, given in enumerate(self._data):
            yield Raw(number, None, None, given)


def data_of(data: Any, batch_size: Any, num_workers: int, has_ids: str) -> Data:
    """`data=` of `lf.extract`.

    Parameters
    ----------
    has_ids
        "all" where ids of the whole set are given, "batch" where they are made per batch, else "".

    Raises
    ------
    LensTypeError
        It is nothing to go through, or a bare tensor, array or frame without `batch_size`.
    LensValueError
        `batch_size` or `num_workers` is no number, or belongs to the loader; or the loader's order
        is not torch's own, and nothing says which stimulus is which.
    """
    num_workers = whole_number("num_workers", num_workers, 0)
    if batch_size is not None:
        batch_size = whole_number("batch_size", batch_size, 1)
    if isinstance(data, DataLoader):
        return _of_loader(data, batch_size, num_workers, has_ids)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        n = _length(data) if hasattr(data, "__len__") else None
        return Singles(data, n, batch_size or DEFAULT_BATCH, num_workers, False)
    if batch_size is None:
        return _of_batches(data, num_workers)
    if isinstance(data, (Tensor, np.ndarray, pd.DataFrame, pd.Series, Mapping)):
        return Singles(data, _length(data), batch_size, 0, True)
    if isinstance(data, (str, bytes)) or not (
        hasattr(data, "__getitem__") or isinstance(data, Iterable)
    ):
        raise LensTypeError(f"data= got a {type(data).__name__}; give a Dataset, or stimuli")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return Singles(data, len(data), batch_size, num_workers, False)
    if num_workers:
        raise LensValueError(
            "num_workers= loads stimuli by number, which an iterable has not; give a DataLoader, "
            "with ids per batch: stimulus=lambda batch: ..."
        )
    return Stream(data, None, batch_size)


def _of_batches(data: Any, num_workers: int) -> Data:
    if isinstance(data, (Tensor, np.ndarray, pd.DataFrame, pd.Series, Mapping, str, bytes)):
        raise LensTypeError(
            f"data= got a {type(data).__name__} alone, which is one batch or many stimuli: give "
            "batch_size= to have it cut, or a list of batches"
        )
    if num_workers:
        raise LensValueError(
            "num_workers= is for single stimuli; give batch_size=, or a DataLoader"
        )
    if not isinstance(data, Iterable):
        raise LensTypeError(
            f"data= got a {type(data).__name__}; give a Dataset, a DataLoader, or batches"
        )
    return Batches(data, None)


def _of_loader(loader: DataLoader[Any], batch_size: Any, num_workers: int, has_ids: str) -> Data:
    if batch_size is not None or num_workers:
        raise LensValueError(
            "a DataLoader has its own batch size and workers; give data=loader alone, or "
            "data=loader.dataset with batch_size="
        )
    if isinstance(loader.dataset, IterableDataset):
        if loader.num_workers and has_ids != "batch":
            raise LensValueError(
                "an IterableDataset with workers gives batches in an order of its own; have each "
                "batch say its ids: stimulus=lambda batch: ..., and args= take them off"
            )
        try:
            n = len(loader.dataset)  # type: ignore[arg-type]
        except TypeError:
            n = None
        return Batches(loader, n)
    ordered = _is_in_order(loader)
    if not ordered and has_ids != "batch" and (not has_ids or _is_shuffled(loader)):
        raise LensValueError(
            f"this DataLoader does not give all stimuli in their order ({_order(loader)}), so "
            "nothing says which stimulus is which; make it with shuffle=False and without "
            "drop_last, or have each batch say its ids: stimulus=lambda batch: ..."
        )
    if ordered:
        return Loaded(loader)
    return Batches(loader, None if loader.drop_last else len(loader.dataset))  # type: ignore[arg-type]


def _is_in_order(loader: DataLoader[Any]) -> bool:
    sampler = loader.batch_sampler
    return (
        type(sampler) is BatchSampler
        and type(sampler.sampler) is SequentialSampler
        and not sampler.drop_last
        and getattr(loader, "in_order", True)
    )


def _is_shuffled(loader: DataLoader[Any]) -> bool:
    """Whether torch itself mixes or drops stimuli; of another's sampler that is not known."""
    random = ("RandomSampler", "SubsetRandomSampler", "WeightedRandomSampler")
    own = type(getattr(loader.batch_sampler, "sampler", loader.sampler)).__name__
    return own in random or not getattr(loader, "in_order", True)


def _order(loader: DataLoader[Any]) -> str:
    if loader.drop_last:
        return "drop_last"
    if not getattr(loader, "in_order", True):
        return "in_order=False"
    sampler = getattr(loader.batch_sampler, "sampler", None) or loader.batch_sampler
    return type(sampler).__name__


def _length(data: Any) -> int:
    if isinstance(data, Mapping):
        lengths = {len(value) for value in data.values()}
        if len(lengths) != 1:
            raise LensValueError(
                f"the entries of data= have {sorted(lengths)} stimuli; all need the same number"
            )
        return lengths.pop()
    try:
        return len(data)
    except TypeError:
        raise LensTypeError(
            f"a {type(data).__name__} does not say how many stimuli it has; give one that has a "
            "length, or batches"
        ) from None


def _sliced(data: Any, start: int, end: int) -> Any:
    """Stimuli of one array, copied: a model may write its input."""
    if isinstance(data, Mapping):
        return {name: _sliced(value, start, end) for name, value in data.items()}
    if isinstance(data, Tensor):
        return data[start:end].clone()
    if isinstance(data, np.ndarray):
        part = np.array(data[start:end])
        return torch.from_numpy(part) if part.dtype.kind in "biufc" else part
    if isinstance(data, (pd.DataFrame, pd.Series)):
        return data.iloc[start:end]
    return data[start:end]


def collated(items: Sequence[Any]) -> Any:
    """Stimuli as torch's loader makes a batch of them; a list of those that make no array.

    Images of unlike sizes, for one: then the model, or `args=`, gets the list.
    """
    try:
        return default_collate([*items])
    except (RuntimeError, TypeError):
        return [*items]


def whole_number(name: str, value: Any, least: int) -> int:
    """An option that is a whole number, NumPy's too.

    Raises
    ------
    LensValueError
        It is none, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise LensValueError(f"{name}={value!r} is no number from {least}")
    return int(value)
