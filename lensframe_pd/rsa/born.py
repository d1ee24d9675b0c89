"""Where NaN and infinity first are: in which values, and not in what those were made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.cells import names
from lensframe_pd.labels import labels
from lensframe_pd.rsa.moments import Moments, smallest
from lensframe_pd.schema import UNWRITTEN
from lensframe_pd.tables.pointwise import is_pointwise

_KINDS = ("nan", "inf")


_INTEGERS = frozenset("int8 int16 int32 int64 uint8 uint16 uint32 uint64".split())
_CONVERSIONS = frozenset("to type type_as long int short char byte".split())


class Source(NamedTuple):
    """What a value was made of: labels, and the kinds of what other arguments held."""

    parents: list[str]
    given: frozenset[str]


class Births:
    """Tells in which variables of a Dataset a NaN or infinity is that none of their sources had.

    Parameters
    ----------
    dataset
        Activations.
    frame
        Rows of `layers`, for rows whose value is not in the Dataset; or None.
    moments_of
        The moments of a variable.
    """

    def __init__(
        self,
        dataset: xr.Dataset,
        frame: pd.DataFrame | None,
        moments_of: Callable[[str], Moments],
    ) -> None:
        # not by dataset[name], which looks through all variables for each
        self._variables, self._moments_of = dataset.variables, moments_of
        self._is_of_values = "without" not in dataset.attrs  # gradients come from their readers
        self._rows = {} if frame is None else _sources(frame)

    def at(self, op: str) -> bool | None:
        """Whether one is first seen in this variable; None where its sources are not known."""
        own = self._moments_of(op)
        kinds = [kind for kind in _KINDS if own.holds(kind)]
        if not kinds or self._attrs(op).get("func") in UNWRITTEN:
            return False
        source = self._of(op) if self._is_of_values else None
        if source is None:
            return None
        verdicts = [self._kind_at(op, kind, own, source) for kind in kinds]
        return True if True in verdicts else None if None in verdicts else False

    def _kind_at(self, op: str, kind: str, own: Moments, source: Source) -> bool | None:
        if kind in source.given:
            return False
        if not source.parents:
            return kind == "nan" or not _is_mask(own)
        only_below = kind == "inf" and not own.nan and not own.positive_inf
        if only_below and (self._is_sum_of_masks(op, source) or self._becomes_an_integer(op)):
            return False
        there, given, known = self._seen(source.parents)
        if any([self._moments_of(parent).holds(kind) for parent in there]):
            return self._has_one_of_its_own(op, kind, source)
        if kind in given:
            return False
        return True if known else None

    def _attrs(self, op: str) -> Mapping[Any, Any]:
        return self._variables[op].attrs

    def _of(self, op: str) -> Source | None:
        """What a row was made of, as its variable says; as the frame says if that is silent."""
        attrs = self._attrs(op)
        if "parents" in attrs:
            given = frozenset(attrs.get("nonfinite_args", "").split())
            return Source(attrs["parents"].split(), given)
        return self._rows.get(op)

    def _seen(self, parents: list[str]) -> tuple[list[str], set[str], bool]:
        """The parents whose values are there; for others what they were made of, and so on.

        Returns
        -------
        Labels of variables, the kinds that arguments on the way held, and whether all are known.
        """
        todo, done, there = [*parents], set[str](), list[str]()
        given, known = set[str](), True
        while todo:
            op = todo.pop()
            if op in done:
                continue
            done.add(op)
            if op in self._variables:
                there.append(op)
            elif op in self._rows:
                todo += self._rows[op].parents
                given |= self._rows[op].given
            else:
                known = False
        return there, given, known

    def _has_one_of_its_own(self, op: str, kind: str, source: Source) -> bool:
        """Whether an operation by element has one where no parent has NaN or infinity."""
        values = self._side_by_side(op, source)
        if values is None:
            return False
        own, parents = values
        found = np.isnan(own) if kind == "nan" else np.isinf(own)
        for parent in parents:
            found = found & np.isfinite(parent)
        return bool(np.asarray(found.any()))

    def _becomes_an_integer(self, op: str) -> bool:
        """Whether all that is not finite in what a row leads to is converted to whole numbers.

        So the logarithm of a distance of 0 is, on its way to the number of a bucket.
        """
        todo, seen = [op], {op}
        while todo:
            readers = self._readers.get(todo.pop(), ())
            if not readers:
                return False  # it is an output, or nobody knows what was made of it
            for reader in readers:
                attrs = self._attrs(reader)
                if attrs.get("torch_dtype") in _INTEGERS and attrs.get("func") in _CONVERSIONS:
                    continue
                if not self._moments_of(reader).holds("inf"):
                    return False
                if reader not in seen:
                    seen.add(reader)
                    todo.append(reader)
        return True

    @cached_property
    def _readers(self) -> dict[str, list[str]]:
        """Of each variable those that were made of it."""
        found: dict[str, list[str]] = {}
        for op, variable in self._variables.items():
            for parent in variable.attrs.get("parents", "").split():
                found.setdefault(parent, []).append(str(op))
        return found

    def _is_sum_of_masks(self, op: str, source: Source) -> bool:
        """Whether there is an infinity only where a parent has the least number of its type.

        Masks are written with that too, and one added to another overflows.
        """
        values = self._side_by_side(op, source)
        if values is None:
            return False
        own_values, parents = values
        left = np.isinf(own_values)
        for parent, label in zip(parents, source.parents, strict=True):
            least = smallest(self._variables[label])
            if least is not None:
                left = left & (parent != least)
        return not bool(np.asarray(left.any()))

    def _side_by_side(self, op: str, source: Source) -> tuple[Any, list[Any]] | None:
        """Values of an operation by element and of all its parents, whose elements are its own."""
        variables = self._variables
        if not is_pointwise(self._attrs(op).get("func", "")):
            return None
        if any([parent not in variables for parent in source.parents]):
            return None
        own = variables[op].data
        parents = [variables[parent].data for parent in source.parents]
        if any([_broadcast(own.shape, parent.shape) != own.shape for parent in parents]):
            return None
        return own, parents


def _broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(first, second)
    except ValueError:
        return None


def _is_mask(own: Moments) -> bool:
    """Whether infinities are those of an additive mask, or of logarithms of probabilities."""
    return not own.nan and not own.positive_inf and not own.high > 0


def _sources(frame: pd.DataFrame) -> dict[str, Source]:
    if "parents" not in frame.columns:
        return {}
    ops = labels(frame, "stats")
    configs = frame["config"] if "config" in frame.columns else ["{}"] * len(ops)
    return {
        op: Source([*names("parents", parents)], frozenset(_kinds(config)))
        for op, parents, config in zip(ops, frame["parents"], configs, strict=True)
    }


def _kinds(config: Any) -> set[str]:
    """The kinds of the numbers in a cell of `config` that are not finite."""
    if not isinstance(config, str) or '"$float"' not in config:
        return set()
    return {"nan" if number == "nan" else "inf" for number in _tagged(json.loads(config))}


def _tagged(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and "$float" in value:
        yield str(value["$float"])
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tagged(part)
