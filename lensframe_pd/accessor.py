"""`layers.lens` and `activations.lens`: lists of verbs. Work and words are in the functions."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import pandas as pd
import xarray as xr

from lensframe_pd import glance
from lensframe_pd.collector import collector_paused
from lensframe_pd.draw.draw import draw
from lensframe_pd.errors import LensKeyError, LensValueError
from lensframe_pd.graph.collapse import collapse
from lensframe_pd.graph.diff import diff
from lensframe_pd.graph.edges import edges, to_networkx
from lensframe_pd.graph.roll import roll, unroll
from lensframe_pd.graph.select import ancestors, between, descendants, find, keep
from lensframe_pd.profile.chrome import chrome_trace
from lensframe_pd.profile.costs import costs
from lensframe_pd.profile.memory import alive, memory
from lensframe_pd.profile.plots import plot_memory, plot_params, plot_time
from lensframe_pd.profile.profile import profile
from lensframe_pd.profile.scatter import plot_flops, plot_roofline
from lensframe_pd.profile.summary import summary
from lensframe_pd.rsa.cka import cka
from lensframe_pd.rsa.differences import score_differences
from lensframe_pd.rsa.encode import encode
from lensframe_pd.rsa.features import features
from lensframe_pd.rsa.handoff import (
    to_assembly,
    to_datatree,
    to_rsatoolbox,
    to_rsatoolbox_rdms,
    to_sklearn,
    to_stacked,
)
from lensframe_pd.rsa.rdm import rdm
from lensframe_pd.rsa.score import score
from lensframe_pd.rsa.score_picture import plot_scores
from lensframe_pd.rsa.stats import stats
from lensframe_pd.rsa.tokens import tokens
from lensframe_pd.rsa.view import select
from lensframe_pd.signposts import keywords, no_items, no_such_keyword, not_a_verb
from lensframe_pd.validation.validate import validate

Table = TypeVar("Table")
Options = ParamSpec("Options")
Result = TypeVar("Result")


class Verbs(Generic[Table]):
    """What both accessors are: a table, on which their verbs are called."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __repr__(self) -> str:
        return glance.as_text(self._table, type(self))

    def _repr_html_(self) -> str:
        return glance.as_html(self._table, type(self))

    def __getattr__(self, name: str) -> Any:
        raise not_a_verb(name, type(self))

    def __getitem__(self, key: Any) -> Any:
        raise no_items(key)

    __iter__ = None  # else Python would ask for item 0

    def __contains__(self, key: Any) -> bool:
        """Whether `lens[key]` has that name."""
        with suppress(LensValueError):  # it is there, and no one array
            try:
                self[key]
            except LensKeyError:
                return False
        return True


def verb(
    function: Callable[Concatenate[Table, Options], Result],
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Callable[Concatenate[Verbs[Table], Options], Result]:
    """A function of a table as a method of its accessor, with the same words and signature.

    Parameters
    ----------
    within
        What it is called within: those that make rows of rows make many small objects, none of
        them garbage meanwhile.
    """

    _, *known = keywords(function)
    any_name = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())

    @functools.wraps(function)
    def method(self: Verbs[Table], /, *args: Options.args, **kwargs: Options.kwargs) -> Result:
        for name in () if any_name else kwargs.keys() - {*known}:
            raise no_such_keyword(function, name, known)
        with within():
            return function(self._table, *args, **kwargs)

    signature = inspect.signature(function)
    table, *options = signature.parameters.values()
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__doc__ = without_table(inspect.getdoc(function) or "", table.name)
    # else inspect, which finds the source by __wrapped__, would find the table there too
    method.__signature__ = signature.replace(parameters=[itself, *options])  # type: ignore[attr-defined]
    return method


def without_table(words: str, table: str) -> str:
    """The docstring less the first of its Parameters, and less the heading if it was alone."""
    before, heading, entries = words.partition("Parameters\n----------\n")
    entry = rf"{table}(?:, |(?:\n(?: .*)?)+)"  # beside others, or with the lines below it
    entries = re.sub(rf"\A{entry}", "", entries)
    alone = not entries or re.match(r".+\n--+\n", entries)
    return (before if alone else before + heading) + entries


@pd.api.extensions.register_dataframe_accessor("lens")
class LayersAccessor(Verbs[pd.DataFrame]):
    """Verbs on rows of `layers`; each takes the frame as it stands."""

    draw = verb(draw)
    edges = verb(edges, collector_paused)
    roll = verb(roll, collector_paused)
    unroll = verb(unroll, collector_paused)
    collapse = verb(collapse, collector_paused)
    keep = verb(keep, collector_paused)
    find = verb(find, collector_paused)
    ancestors = verb(ancestors, collector_paused)
    descendants = verb(descendants, collector_paused)
    between = verb(between, collector_paused)
    diff = verb(diff, collector_paused)
    to_networkx = verb(to_networkx, collector_paused)
    validate = verb(validate)
    costs = verb(costs, collector_paused)
    profile = verb(profile, collector_paused)
    summary = verb(summary, collector_paused)
    memory = verb(memory, collector_paused)
    alive = verb(alive, collector_paused)
    plot_time = verb(plot_time)
    plot_params = verb(plot_params)
    plot_flops = verb(plot_flops)
    plot_roofline = verb(plot_roofline)
    plot_memory = verb(plot_memory)
    chrome_trace = verb(chrome_trace)
    plot_scores = verb(plot_scores)


@xr.register_dataset_accessor("lens")
class ActivationsAccessor(Verbs[xr.Dataset]):
    """Verbs on activations; each takes the Dataset as it stands."""

    __getitem__ = verb(select)
    tokens = verb(tokens)
    features = verb(features)
    rdm = verb(rdm)
    cka = verb(cka)
    score = verb(score)
    encode = verb(encode)
    score_differences = verb(score_differences)
    stats = verb(stats)
    to_rsatoolbox = verb(to_rsatoolbox)
    to_rsatoolbox_rdms = verb(to_rsatoolbox_rdms)
    to_assembly = verb(to_assembly)
    to_stacked = verb(to_stacked)
    to_datatree = verb(to_datatree)
    to_sklearn = verb(to_sklearn)
