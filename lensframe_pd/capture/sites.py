"""Which rows and module calls the keys of `values=` mean, before the model runs with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr

from lensframe_pd.capture.given import joined
from lensframe_pd.capture.plan import ADDRESSED_BY, Address, by_address, followed, lines_to
from lensframe_pd.cells import names, places_of, raw_cells
from lensframe_pd.errors import LensTypeError, LensValueError, shown, unknown_names, warn
from lensframe_pd.labels import (
    activations_of,
    labels,
    main_path,
    module_asked,
    parsed,
    path_of,
    split_call,
    unknown_rows,
)
from lensframe_pd.schema import require
from lensframe_pd.tape.passes import passes
from lensframe_pd.tape.tape import Tape

_TOLD = (*ADDRESSED_BY, "kind")
_OF_MODEL = ("module_types", "params", "param_shapes", "shape")
_UNEDITABLE = {
    "output": "it is what the model returns: edit the row it shows, its parent",
    "alias": "it is what a write elsewhere made of a view: edit the row that was written",
    "constant": "no operation made it: edit what reads it",
    "edit": "it is a value that was given: edit the row it replaced",
}


class Facts(NamedTuple):
    """What a row of an earlier frame says of the model that it is of, besides its address."""

    line: str
    """`file.py:line`; empty if it is not known."""
    module_types: tuple[str, ...]
    """Of the modules around it, outermost first."""
    params: tuple[str, ...]
    """What it reads."""
    param_shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]


class Site(NamedTuple):
    """One value, and what was said of where it goes."""

    key: str
    value: Any


@dataclass
class Sites:
    """Where values go.

    Attributes
    ----------
    rows
        By address.
    modules
        By path and number of a call; 0 for every call.
    every
        Layers that were given one value for all passes, with the key.
    passed_over
        Variables of a Dataset that are no rows which could be given a value.
    n_rows
        How many rows the run without values has, if that is known.
    lines
        The lines of code that led to what is at an address, without values.
    facts
        Instead, what a row of an earlier frame says of what is at its address.
    """

    rows: dict[Address, Site] = field(default_factory=dict)
    modules: dict[tuple[str, int], Site] = field(default_factory=dict)
    every: dict[str, str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)
    n_rows: int | None = None
    lines: dict[Address, tuple[str, ...]] = field(default_factory=dict)
    facts: dict[Address, Facts] = field(default_factory=dict)
    given: Sites | None = None
    """These with the values as they were given, of stimuli of every id; None if these are."""

    def joined(self, ids: pd.Index | None) -> Sites:
        """These with the values of the stimuli of a run, in their order.

        Raises
        ------
        LensValueError
            A value has none for some of them.
        """
        sites = (*self.rows.values(), *self.modules.values())
        if not any(isinstance(site.value, xr.DataArray) for site in sites):
            return self  # only these know their stimuli
        made: dict[int, Site] = {}

        def of(site: Site) -> Site:
            if id(site) not in made:
                made[id(site)] = site._replace(value=joined(site.key, site.value, ids))
            return made[id(site)]

        return replace(
            self,
            rows={address: of(site) for address, site in self.rows.items()},
            modules={call: of(site) for call, site in self.modules.items()},
            given=self.given or self,
        )

    @property
    def by_key(self) -> dict[str, Any]:
        """What was asked for, and the value."""
        return {s.key: s.value for s in (*self.rows.values(), *self.modules.values())}


class Plain(NamedTuple):
    """A row of the run without values."""

    label: str
    layer: str
    kind: str
    address: Address
    returned: tuple[str, ...] = ()
    """The module calls that returned it; of a row of a frame not said."""
    lines: tuple[str, ...] = ()
    """Those of code that led to it, as `lines_to` gives them."""
    facts: Facts | None = None
    """Of a row of an earlier frame, with the first of these lines."""


def plain_rows(tape: Tape) -> list[Plain]:
    """What a finished run tells of its rows."""
    grouped = passes(tape)
    kinds = [tape.kinds.get(row, "op") for row in range(len(tape.rows))]
    modules, by = tape.modules, tape.returned()
    returned = [tuple([modules[m].key for m in by.get(row, ())]) for row in range(len(tape.rows))]
    lines = [lines_to(tape, tape.calls[row.call]) for row in tape.rows]
    facts = (grouped.labels(), grouped.layers, kinds, followed(tape), returned, lines)
    return [Plain(*row) for row in zip(*facts, strict=True)]


@dataclass
class Asked:
    """What `values=` says, as yet without the run."""

    values: dict[str, Any]
    rows: list[Plain] | None = None
    """Those that are known already, from the rows of an earlier frame."""
    passes_over: bool = False
    """Whether what cannot be edited is passed over."""
    frame: pd.DataFrame | None = None
    """The earlier frame, for what is seldom asked of its rows."""


def asked(values: Any) -> Asked:
    """`values=` of `lf.trace`, taken apart.

    Raises
    ------
    LensTypeError
        It is no Dataset, no Mapping and no rows.
    LensKeyError
        Rows without a column of values.
    """
    if type(values) is pd.DataFrame:  # before it is asked for what only a trace has
        return _of_frame(values)
    values = activations_of(values)
    if isinstance(values, xr.Dataset):
        return Asked({str(k): v for k, v in values.data_vars.items()}, passes_over=True)
    if isinstance(values, pd.Series) and "func" in values.index:  # one row
        values = values.to_frame().T
    if isinstance(values, pd.DataFrame):
        return _of_frame(values)
    if isinstance(values, (Mapping, pd.Series)):
        given = dict(values.items())
        if all(isinstance(key, str) for key in given):
            return Asked(given)
        odd = next(key for key in given if not isinstance(key, str))
        raise LensTypeError(f"values: the key {odd!r} is no text; give labels or module paths")
    raise LensTypeError(
        f"values= got a {type(values).__name__}; give a Dataset of activations, a dict of labels "
        "or module paths to values, or rows of a trace's layers with a column 'value'"
    )


def _of_frame(frame: pd.DataFrame) -> Asked:
    # In few steps: for one edit of a small model they are most of what it costs.
    require(frame, "values=")
    ops = labels(frame, "values=")
    if len({*ops}) < len(ops):
        twice = [op for op, n in Counter(ops).items() if n > 1]
        raise LensValueError(f"values: {shown(twice)}: in several rows; give each value once")
    places = places_of(frame.columns)
    column = "value" if "value" in places else "values"
    try:
        cells = raw_cells(frame, (*_TOLD, "source", *_OF_MODEL, column))
    except KeyError:  # not all of these are there
        return _of_narrow_frame(frame, ops, column)
    if "module" in cells[3] or ("unrolled" in places and _have_passes(frame)):
        return _named(ops, cells[-1])  # what stands for several rows has the place of none
    return _placed(frame, ops, cells)


def _have_passes(frame: pd.DataFrame) -> bool:
    return any(n > 1 for n in raw_cells(frame, ["n_passes"])[0])


def _of_narrow_frame(frame: pd.DataFrame, ops: list[str], column: str) -> Asked:
    """As `_of_frame`, where the frame lacks columns."""
    if column not in frame.columns:
        raise unknown_names(["value"], map(str, frame.columns), "column")
    there = {*frame.columns}
    if there.issuperset(_TOLD):
        unknown = [None] * len(ops)
        cells = [
            raw_cells(frame, [name])[0] if name in there else unknown
            for name in (*_TOLD, "source", *_OF_MODEL, column)
        ]
        return _placed(frame, ops, cells)
    return _named(ops, raw_cells(frame, [column])[0])


def _named(ops: list[str], given: list[Any]) -> Asked:
    """Rows of which only their names are known.

    Raises
    ------
    LensValueError
        Some have no value, as where it was assigned to others of the frame.
    """
    missing = [op for op, v in zip(ops, given, strict=True) if isinstance(v, float) and v != v]
    if missing:
        raise LensValueError(
            f"values: {shown(missing)} have none, the column says NaN: leave these rows out, as by "
            ".dropna(subset=['value']); NaN itself is given by a function or a dict"
        )
    return Asked(dict(zip(ops, given, strict=True)))


def _placed(frame: pd.DataFrame, ops: list[str], cells: list[list[Any]]) -> Asked:
    """Rows with the cells of `_TOLD`, `source`, `_OF_MODEL` and the values, column by column."""
    *place, kinds = cells[: len(_TOLD)]
    *told, given = cells[len(_TOLD) :]
    addresses = by_address(ops, place, "values=")
    facts = map(Facts._make, zip(*told, strict=True))
    rows = [
        Plain(op, op.partition(":")[0], kind, address, (), (), said)
        for op, kind, address, said in zip(ops, kinds, addresses, facts, strict=True)
    ]
    asked = _named(ops, given)
    asked.rows, asked.frame = rows, frame
    return asked


def needs_rows(asked: Asked, paths: set[str], aliases: Mapping[str, str]) -> bool:
    """Whether keys are labels, of which only a run of the model can tell where they are."""
    if asked.rows is not None:
        return False
    return any(not _is_path(key, paths, aliases) or parsed(key) for key in asked.values)


def _is_path(key: str, paths: set[str], aliases: Mapping[str, str]) -> bool:
    return _path(key, paths, aliases) is not None


def _path(key: str, paths: set[str], aliases: Mapping[str, str]) -> tuple[str, int] | None:
    """Path and number of the calls that a key means as a module; None if there is none."""
    said = module_asked(key)
    name = key if said is None else said
    for path, number in ((name, 0), split_call(name)) if ":" in name else ((name, 0),):
        for known in (path, main_path(path, aliases)) if aliases else (path,):
            if known in paths and known:
                return known, number
    return None


def resolved(
    asked: Asked,
    rows: Iterable[Plain],
    paths: set[str],
    aliases: Mapping[str, str],
) -> Sites:
    """Where each value goes.

    Raises
    ------
    LensKeyError
        Keys that are neither labels nor module paths; all are named, with near misses.
    LensValueError
        Keys that name rows which cannot be given a value, or one row twice.
    """
    rows = [*rows]
    # Rows of a frame are meant themselves, whatever else is called as they are.
    by_name = _by_name(rows) if asked.rows is None else {row.label: [row] for row in rows}
    sites = Sites()
    unknown, wrong = [], []
    for key, value in asked.values.items():
        meant = by_name.get(key, ()) if module_asked(key) is None else ()
        may_be_path = not meant or aliases or ":" in key or key in paths
        path = _path(key, paths, aliases) if may_be_path else None
        if not meant and path is None:
            unknown.append(key)
            continue
        site = Site(key, value)
        if meant:
            if path is not None and not all(_returned_by(path[0], row, asked) for row in meant):
                warn(
                    f"values: {key!r} is read as the operation; a module has that path and "
                    f"returned something else: ask for it as 'module={key}'"
                )
            reasons = [_UNEDITABLE[row.kind] for row in meant if row.kind in _UNEDITABLE]
            if reasons and asked.passes_over:
                sites.passed_over.append(key)
            elif reasons:
                wrong.append(f"{key!r} cannot be given a value: {reasons[0]}")
            else:
                wrong += _place(sites, site, meant)
        elif path is not None:
            sites.modules[path] = site
    if unknown:
        known = [*(row.label for row in rows), *by_name, *sorted(paths - {""}), *aliases]
        raise unknown_rows(unknown, known, "label or module path")
    if wrong:
        raise LensValueError("values: " + "\n".join(wrong))
    return sites


def _by_name(rows: Iterable[Plain]) -> dict[str, list[Plain]]:
    by_name: dict[str, list[Plain]] = {}
    for row in rows:
        for name in dict.fromkeys((row.label, row.layer, _with_pass(row))):
            by_name.setdefault(name, []).append(row)
    return by_name


def _returned_by(path: str, row: Plain, asked: Asked) -> bool:
    calls, frame = row.returned, asked.frame
    if frame is not None and "returned_by" in frame.columns:
        calls = raw_cells(frame, ["returned_by"])[0][[*asked.values].index(row.label)]
    return any(path_of(call) == path for call in names("returned_by", calls))


def _with_pass(row: Plain) -> str:
    return f"{row.layer}:1" if row.label == row.layer else row.label


def _place(sites: Sites, site: Site, rows: Iterable[Plain]) -> list[str]:
    wrong = []
    for row in rows:
        other = sites.rows.setdefault(row.address, site)
        if other is not site:
            wrong.append(f"{other.key!r} and {site.key!r} both give a value for {row.label!r}")
        if row.facts is None:
            sites.lines[row.address] = row.lines
        else:
            sites.facts[row.address] = row.facts
        if site.key == row.layer:
            sites.every[row.layer] = site.key
    return wrong
