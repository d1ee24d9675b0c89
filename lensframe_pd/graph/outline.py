"""Which modules of a big model to open, so that a picture of it has few boxes."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import chain, groupby, pairwise
from typing import Any, NamedTuple

import pandas as pd

from lensframe_pd.cells import names, plain, plain_cells
from lensframe_pd.graph.periods import LONGEST, Period, periods
from lensframe_pd.labels import distinct_labels, path_of, split_call
from lensframe_pd.schema import require

MOST = 24  #: boxes that a page shows and a reader takes in

Paths = tuple[str, ...]
"""The modules around a row, outermost first."""

Reads = tuple[int | None, ...]
"""How many groups before a row what it reads is; None for what is far away."""

_FEWEST = 3  # rows of a stretch: two as one would save a box and lose both


class Outline(NamedTuple):
    """What of a frame to put together, and how."""

    closed: tuple[str, ...]
    """Paths of the modules to collapse."""
    runs: tuple[Paths, ...]
    """Paths of modules that repeat, in order; each is closed."""
    stretches: tuple[tuple[str, ...], ...]
    """Layers that follow one another in one module, none with parameters."""
    repeated: tuple[tuple[tuple[str, ...], int], ...] = ()
    """Layers and paths of closed modules that repeat one another, in order, and how many times."""


def outline(frame: pd.DataFrame, most: int) -> Outline:
    """The modules to close and what to merge, for at most `most` rows if that can be had.

    Parameters
    ----------
    frame
        Rows of `layers`, not rolled. They are counted as if they were.
    most
        How many rows there may be.
    """
    model = _Modules(frame)
    opened: set[str] = set()
    refused: set[tuple[str, int]] = set()
    now = model.view(opened, most)
    more = True
    while more:
        more = False
        for alike, paths in model.candidates(now):
            if alike in refused:
                continue
            after = model.view(opened | paths, most)
            if after.boxes <= max(most, now.boxes):
                opened |= paths
                now, more = after, True
                break
            refused.add(alike)  # what is opened later leaves no more room for it
    return model.outline(now, most)


class _View(NamedTuple):
    """What is seen with some modules open."""

    groups: list[str | int]
    """Paths of closed modules, numbers of layers; of a run the path of its last module."""
    bare: int
    """How many there are."""
    stretches: list[list[int]]
    boxes: int
    """How many there are when stretches are one each."""


class _Unit(NamedTuple):
    """A layer at its place among the modules: one row, once rolled."""

    paths: Paths
    layer: str
    alone: tuple[str, bool] | None
    """For rows that a stretch may hold: what they must have in common, module and kind."""


class _Modules:
    """The tree of modules over the layers of a frame."""

    def __init__(self, frame: pd.DataFrame) -> None:
        require(
            frame, "collapse", "layer", "kind", "func", "shape_str", "dtype", "params",
            "param_shapes", "module_types", "returned_by",
        )  # fmt: skip
        if "step" in frame.columns:
            frame = frame.sort_values("step", kind="stable")
        calls = [names("module_stack", stack) for stack in frame["module_stack"]]
        stacks = [tuple(map(path_of, stack)) for stack in calls]
        self._units = _units(frame, stacks)
        self._members: dict[str, int] = {}
        for unit in self._units:
            for path in {*unit.paths}:
                self._members[path] = self._members.get(path, 0) + 1
        self._classes, self._around = _classes(frame, stacks)
        self._wrappers = self._that_wrap()
        self._facts = _facts(frame, calls)
        self._run_of = {
            path: run for run in self._runs(self._facts, _escapes(frame, stacks)) for path in run
        }
        self._frame, self._stacks = frame, stacks

    def view(self, opened: set[str], most: int) -> _View:
        """What is seen; stretches are put together only where there is too much."""
        groups = [*dict.fromkeys(self._seen(opened))]
        bare = len(groups)
        stretches = [*self._stretches(groups)] if bare > most else []
        return _View(groups, bare, stretches, bare - sum(len(s) - 1 for s in stretches))

    def candidates(self, view: _View) -> list[tuple[tuple[str, int], set[str]]]:
        """What could be opened next, the best first: modules of one class and level together."""
        found: dict[tuple[str, int], set[str]] = {}
        for group in view.groups:
            if isinstance(group, str) and group not in self._run_of:
                alike = self._classes[group], len(next(iter(self._around[group])))
                found.setdefault(alike, set()).add(group)
        return sorted(
            found.items(),
            key=lambda item: (
                item[1] <= self._wrappers,
                -max(self._members[path] for path in item[1]),
            ),
        )

    def outline(self, view: _View, most: int) -> Outline:
        closed: list[str] = []
        runs: list[Paths] = []
        for group in view.groups:
            if isinstance(group, str):
                run = self._run_of.get(group)
                closed += run or (group,)
                runs += [run] if run else []
        again = [*self._repeated(view.groups)] if view.boxes > most else []
        groups = dict(enumerate(view.groups))
        for start, length, times in again:
            for i in range(start, start + length * times):
                del groups[i]
        stretches = self._stretches_left(groups) if view.stretches else []
        return Outline(
            tuple(closed),
            tuple(runs),
            tuple(tuple(self._units[i].layer for i in s) for s in stretches),
            tuple((self._layers(view.groups[p.start : p.end]), p.times) for p in again),
        )

    def _stretches_left(self, groups: Mapping[int, str | int]) -> Iterator[list[int]]:
        """Stretches of the groups, by place, of which some are gone."""
        for _, beside in groupby(enumerate(groups), key=lambda item: item[1] - item[0]):
            yield from self._stretches([groups[place] for _, place in beside])

    def _layers(self, groups: Sequence[str | int]) -> tuple[str, ...]:
        found: list[str] = []
        for group in groups:
            if isinstance(group, int):
                found.append(self._units[group].layer)
            else:
                found += self._run_of.get(group, (group,))
        return tuple(found)

    def _repeated(self, groups: Sequence[str | int]) -> Iterator[Period]:
        """What repeats among these, with what it reads: the first may read what is before."""
        kinds, reads = self._kinds(groups)
        for found in periods(kinds):
            start, end = found.start, found.end
            if _read_alike(reads[start:end], found.length):
                within = [found._replace(start=0)]
            else:
                within = [
                    *periods([*zip(kinds[start:end], map(tuple, reads[start:end]), strict=True)])
                ]
            for period in within:
                if period.end - period.start >= _FEWEST:
                    yield period._replace(start=start + period.start)

    def _kinds(self, groups: Sequence[str | int]) -> tuple[list[Hashable], list[list[Reads]]]:
        """What each has in common with its repetitions, and how far before it is what it reads.

        Names may differ in their numbers.
        """
        of = {group: i for i, group in enumerate(groups)}
        place_of: dict[tuple[Paths, str], int] = {}
        for i, unit in enumerate(self._units):
            shown = (self._run_of.get(p, (p,))[-1] for p in unit.paths)
            closed = next((p for p in shown if p in of), None)
            place_of[unit.paths, unit.layer] = of[i if i in of or closed is None else closed]
        columns = ("layer", "kind", "func", "shape_str", "dtype", "param_shapes", "parents")
        rows = [*zip(self._stacks, *(self._frame[c] for c in columns), strict=True)]
        ops = distinct_labels(self._frame, "collapse")
        place, last = dict[str, int](), dict[str, int]()
        for op, (paths, layer, *_, parents) in zip(ops, rows, strict=True):
            place[op] = place_of[paths, layer]
            last |= dict.fromkeys(names("parents", parents), place[op])
        kinds: list[list[Hashable]] = [[] for _ in groups]
        reads: list[list[Reads]] = [[] for _ in groups]
        for op, (paths, _, kind, func, shape, dtype, param_shapes, parents) in zip(
            ops, rows, strict=True
        ):
            here = place[op]
            # what is read far away too is the same for all: a mask, what a loop begins with
            near = [
                here - place[p] if p in place and last[p] - place[p] <= LONGEST else None
                for p in names("parents", parents)
            ]
            alike = op if kind in ("input", "output") else _unnumbered(paths)
            shapes = tuple(map(plain, param_shapes))
            kinds[here].append((alike, func, shape, dtype, shapes, len(near)))
            reads[here].append(tuple(near))
        return [*map(tuple, kinds)], reads

    def _seen(self, opened: set[str]) -> Iterator[str | int]:
        """The group of each layer, in order; a run where its last module is.

        There it may stand before whatever reads it, and after all that it reads: rows between its
        modules are read by none of them but the later.
        """
        for i, unit in enumerate(self._units):
            path = next((p for p in unit.paths if p not in opened), None)
            if path is None or self._members[path] == 1:
                yield i
            elif path not in self._run_of or path == self._run_of[path][-1]:
                yield path

    def _stretches(self, groups: Sequence[str | int]) -> Iterator[list[int]]:
        def alone(group: str | int) -> tuple[str, bool] | None:
            return self._units[group].alone if isinstance(group, int) else None

        for what, found in groupby(groups, key=alone):
            members = [group for group in found if isinstance(group, int)]
            if what is not None and len(members) >= _FEWEST:
                yield members

    def _that_wrap(self) -> set[str]:
        """Modules that hold all they hold in one module inside: opened, they show but that."""
        return {
            outer
            for path, places in self._around.items()
            for outer in {*chain.from_iterable(places)}
            if self._members[outer] == self._members[path]
        }

    def _runs(self, facts: Mapping[str, Any], escapes: Mapping[str, set[Paths]]) -> Iterator[Paths]:
        """The longest runs of siblings that repeat one another."""
        siblings: dict[Paths, list[str]] = {}
        for path, places in self._around.items():
            if len(places) == 1:  # else it is shared: its calls are at several places
                siblings.setdefault(next(iter(places)), []).append(path)
        for children in siblings.values():
            run: list[str] = []
            for path in children:
                follows = (
                    bool(run)
                    and facts[path] == facts[run[-1]]
                    and _numbered([*run[-2:], path])
                    and all(path in paths for paths in escapes.get(run[-1], ()))
                )
                if not follows:
                    yield from self._if_run(run)
                    run = []
                run.append(path)
            yield from self._if_run(run)

    def _if_run(self, run: Sequence[str]) -> Iterator[Paths]:
        if len(run) > 1 and self._members[run[0]] > 1:
            yield tuple(run)


def _read_alike(reads: Sequence[Sequence[Reads]], length: int) -> bool:
    """Whether repetitions read alike; what is before it the first may read at another place."""
    pairs = [*zip(reads, reads[length:], strict=False)]
    if any(mine != next_ for mine, next_ in pairs[length:]):
        return False
    return all(
        mine == next_ or all(r is None or r > place for r in (mine, next_))
        for place, (first, second) in enumerate(pairs[:length])
        for mine, next_ in zip(chain(*first), chain(*second), strict=True)
    )


def _unnumbered(paths: Paths) -> Paths:
    return tuple([_NUMBER.sub("#", path) for path in paths])


def _units(frame: pd.DataFrame, stacks: Sequence[Paths]) -> list[_Unit]:
    """Each layer once, in order of first execution."""
    found: dict[tuple[Paths, str], _Unit] = {}
    cells = zip(stacks, frame["layer"], frame["kind"], frame["params"], strict=True)
    for paths, layer, kind, params in cells:
        fits = kind not in ("input", "module") and not len(params)
        alone = (paths[-1] if paths else "", kind == "output") if fits else None
        found.setdefault((paths, layer), _Unit(paths, layer, alone))
    return [*found.values()]


def _classes(
    frame: pd.DataFrame, stacks: Sequence[Paths]
) -> tuple[dict[str, str], dict[str, dict[Paths, None]]]:
    """Module to its class, and to the modules around it, in order of first execution."""
    classes: dict[str, str] = {}
    around: dict[str, dict[Paths, None]] = {}
    kinds = plain_cells(frame["module_types"])
    for (paths, types), _ in groupby(zip(stacks, kinds, strict=True)):
        for k, path in enumerate(paths):
            classes.setdefault(path, str(types[k]) if k < len(types) else "")
            around.setdefault(path, {})[paths[:k]] = None
    return classes, around


def _facts(frame: pd.DataFrame, calls: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Module to what its repetitions share: class, results and parameters, call by call."""
    results: dict[str, list[Any]] = {}
    shapes: dict[str, dict[str, Any]] = {}
    classes: dict[str, str] = {}
    places = {call: split_call(call) for call in dict.fromkeys(chain.from_iterable(calls))}
    columns = ("shape_str", "dtype", "returned_by", "module_types", "params", "param_shapes")
    for stack, *cells in zip(calls, *(frame[c] for c in columns), strict=True):
        shape, dtype, returned_by, types, params, param_shapes = cells
        returned = {*names("returned_by", returned_by)}
        held = [*zip(names("params", params), map(plain, param_shapes), strict=True)]
        for k, call in enumerate(stack):
            path, number = places[call]
            classes[path] = str(types[k]) if k < len(types) else ""
            shapes.setdefault(path, {}).update(held)
            found = results.setdefault(path, [])
            if call in returned:
                found.append((number, shape, dtype))
    return {path: (classes[path], results[path], sorted(shapes[path].values())) for path in classes}


def _escapes(frame: pd.DataFrame, stacks: Sequence[Paths]) -> dict[str, set[Paths]]:
    """Module to where, outside it, what it made is read."""
    place = dict(zip(distinct_labels(frame, "collapse"), stacks, strict=True))
    found: dict[str, set[Paths]] = {}
    for paths, cell in zip(stacks, frame["parents"], strict=True):
        for parent in names("parents", cell):
            for path in place.get(parent, ()):
                if path not in paths:
                    found.setdefault(path, set()).add(paths)
    return found


def numbered(paths: Sequence[str]) -> str:
    """`layer3.1..5` of `layer3.1` to `layer3.5`; '' unless one number alone counts up or down.

    Examples
    --------
    >>> numbered(["h.0.mlp", "h.1.mlp", "h.2.mlp"]), numbered(["a.1.b.1", "a.2.b.2"])
    ('h.0..2.mlp', '')
    """
    parts = [_NUMBER.split(path) for path in paths]
    if len({len(p) for p in parts}) > 1:
        return ""
    differ = [k for k, words in enumerate(zip(*parts, strict=True)) if len({*words}) > 1]
    if len(differ) != 1 or not differ[0] % 2:  # numbers stand at the odd places
        return ""
    (k,) = differ
    counted = [int(p[k]) for p in parts]
    if {b - a for a, b in pairwise(counted)} not in ({1}, {-1}):
        return ""
    first, last = parts[0], parts[-1]
    return "".join([*first[:k], f"{first[k]}..{last[k]}", *first[k + 1 :]])


_NUMBER = re.compile(r"(\d+)")


def _numbered(paths: Sequence[str]) -> bool:
    return bool(numbered(paths))
