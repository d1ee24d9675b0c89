"""Keeps what `save=` names, which a name alone does not tell while the model runs.

A label is certain only once the run is over, since later passes decide what is one layer. So a row
is kept when its label may still turn out to be selected, and what cannot be is let go again
whenever twice as many values are held as are wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from lensframe_pd.capture.roots import named_modules
from lensframe_pd.capture.save import Save
from lensframe_pd.capture.values import Values
from lensframe_pd.capture.watch import Stop
from lensframe_pd.errors import LensKeyError, warn
from lensframe_pd.labels import main_path, module_asked, parsed, unknown_rows
from lensframe_pd.tape.passes import Passes, passes
from lensframe_pd.tape.places import Places
from lensframe_pd.tape.storage import storage_of
from lensframe_pd.tape.tape import Tape

_SLACK = 64


class Wanted(NamedTuple):
    """A selected label: the n-th layer of its function, one pass of it or all (0)."""

    name: str
    n: int
    pass_num: int


class Named(Save):
    """`save=` labels and module paths."""

    def __init__(
        self,
        tape: Tape,
        values: Values,
        names: list[str],
        stop: bool,
        roots: dict[str, nn.Module],
        modules: bool = True,
    ) -> None:
        super().__init__(tape, values)
        self._stop = stop
        self._labels: set[str] = set()
        self._wanted: dict[str, list[Wanted]] = {}
        #: Modules asked for, and by their names those that are, unless there is such a label.
        self._paths: set[str] = set()
        self._unless_labels: dict[str, str] = {}
        self._finished_paths: set[str] = set()
        self._possible = _PossibleLabels(tape)
        self._held: list[int] = []
        self._limit = 2 * len(names) + _SLACK
        self._next = 0
        self._sort(names, {path for path, _ in named_modules(roots)} if modules else set())
        self._watched = self._paths | {*self._unless_labels.values()}

    def _sort(self, names: list[str], paths: set[str]) -> None:
        """Tell paths and labels among the names apart; of some only the run will tell."""
        unknown = []
        for name in names:
            asked, said = module_asked(name), parsed(name)
            path = _main_name(name if asked is None else asked, paths, self.tape.aliases)
            if asked is None and said is not None:
                wanted = Wanted(name, said.n, said.pass_num)
                self._wanted.setdefault(said.func, []).append(wanted)
                self._labels.add(name)
                if path in paths:
                    self._unless_labels[name] = path
            elif path in paths:
                self._paths.add(path)
            else:
                unknown.append(path)
        if unknown:
            known = sorted({*paths, *self.tape.aliases} - {""})
            raise _unknown(unknown, known)

    @property
    def selects(self) -> bool:
        return bool(self._labels or self._paths)

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        self.tape.values.append(None)
        if self._may_be_selected(row):
            self.values.keep(row, tensor, storage)
            if self._stop and self._wanted:
                self._stop_if_done()

    def returned(self, row: int, tensor: Tensor, module: int) -> None:
        path = self.tape.modules[module].path
        if path in self._watched:
            self._finished_paths.add(path)
            if self.tape.values[row] is None:
                self.values.keep(row, tensor, storage_of(tensor))

    def left(self, module: int) -> None:
        if self._stop:
            self._stop_if_done(by=self.tape.modules[module].key)

    def _may_be_selected(self, row: int) -> bool:
        func = self.tape.calls[self.tape.rows[row].call].function.name
        if func not in self._wanted:
            return False
        numbers, most_passes = self._possible.of(row, func)
        if not any(w.n in numbers and w.pass_num <= most_passes for w in self._wanted[func]):
            return False
        self._held.append(row)
        if len(self._held) > self._limit and row >= self._next:
            self._let_go(row)
        return True

    def _let_go(self, row: int) -> None:
        """Of the rows before `row`, let go of those whose label, by now, is not selected."""
        chosen = self._chosen(passes(self.tape))
        chosen |= dict.fromkeys(self._returned_by(self._watched), "")
        *before, last = self._held
        self.values.drop(held for held in before if held not in chosen)
        self._held = [held for held in before if held in chosen] + [last]
        self._limit = max(self._limit, 2 * len(self._held) + _SLACK)
        self._next = row + row // 10  # so that all regroupings together stay near-linear
        # One pass found is found; a whole layer may go on.
        found = set(chosen.values())
        self._wanted = {
            func: [w for w in wanted if not w.pass_num or w.name not in found]
            for func, wanted in self._wanted.items()
        }

    def _chosen(self, grouped: Passes) -> dict[int, str]:
        """Rows whose label is selected, with the name that did it."""
        found: dict[int, str] = {}
        for row, (layer, p) in enumerate(zip(grouped.layers, grouped.pass_nums, strict=True)):
            for name in (layer, f"{layer}:{p}"):
                if name in self._labels:
                    found[row] = name
        return found

    def _stop_if_done(self, by: bool | str = True) -> None:
        if not self._paths <= self._finished_paths:
            return
        waiting = [
            name
            for name in self._labels - {*self._chosen(passes(self.tape)).values()}
            # The name of a module is that of an operation if one is still to come.
            if self._unless_labels.get(name) not in self._finished_paths or _may_come(name)
        ]
        if not waiting:
            raise Stop(by)

    def finish(self, grouped: Callable[[], Passes], layers: Callable[[], pd.DataFrame]) -> None:
        if not self.selects:
            return
        chosen = self._chosen(grouped())
        labels = {*chosen.values()}
        instead = {name: path for name, path in self._unless_labels.items() if name not in labels}
        by_module = self._returned_by(self._paths | {*instead.values()})
        kept = {i for i, value in enumerate(self.tape.values) if value is not None}
        self.values.drop(kept - chosen.keys() - by_module)
        self._check_found(labels, instead, layers)
        for name, path in self._unless_labels.items():
            if name in labels and not self._returned_by({path}) <= chosen.keys():
                warn(
                    f"save={name!r} is read as the operation; a module has that path and returned "
                    f"something else: ask for it as 'module={name}'"
                )

    def _returned_by(self, paths: set[str]) -> set[int]:
        """The rows that calls of these modules returned."""
        modules = self.tape.modules
        return {
            row
            for row, calls in self.tape.returned().items()
            if any(modules[call].path in paths for call in calls)
        }

    def _check_found(
        self, labels: set[str], instead: dict[str, str], layers: Callable[[], pd.DataFrame]
    ) -> None:
        called = self._finished_paths
        missing = [n for n in self._labels - labels if instead.get(n) not in called]
        missing += self._paths - called
        if missing:
            rows = layers()
            known = [*rows.index, *rows["layer"], *(m.path for m in self.tape.modules[1:])]
            raise unknown_rows(sorted(missing), known, "label, layer or called module")


def _unknown(names: list[str], known: list[str]) -> LensKeyError:
    """Before the run, which alone has labels: names of functions and patterns are told by those."""
    lines = [str(unknown_rows(names, known, "label or module path"))]
    lines += [
        f"{name!r} is a function: save=lambda row: row.func == {name!r}"
        for name in names
        if name not in known and _may_come(f"{name}_1")
    ]
    return LensKeyError("\n".join(lines))


def _may_come(name: str) -> bool:
    """Whether torch has a function that an operation of this label would be a call of."""
    said = parsed(name)
    if said is None:
        return False
    operators = {
        op.partition("::")[2].partition(".")[0] for op in torch._C._dispatch_get_all_op_names()
    }
    holders = (torch, Tensor, nn.functional, torch.fft, torch.linalg, torch.special)
    return said.func in operators or any(hasattr(holder, said.func) for holder in holders)


def _main_name(name: str, paths: set[str], aliases: dict[str, str]) -> str:
    """Of another path of a module the one that names it; any other name as it is."""
    main = main_path(name, aliases)
    return main if name not in paths and main in paths else name


class _PossibleLabels:
    """Which labels a row can still come to have, while the run goes on.

    The k-th row of a function, in the g-th of its candidate groups, is in a layer numbered from g
    to k, since a group only ever splits; so is its pass bounded by its place in the group.
    """

    def __init__(self, tape: Tape) -> None:
        self._places_of = Places(tape)
        self._rows: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        #: Of each candidate group its number, and how many rows it has.
        self._places: dict[Any, tuple[int, int]] = {}

    def of(self, row: int, func: str) -> tuple[range, int]:
        """The numbers its layer can have, and the largest that its pass can be. Ask in order."""
        k = self._rows[func] = self._rows.get(func, 0) + 1
        key = (func, self._places_of.of(row))
        if key not in self._places:
            self._groups[func] = self._groups.get(func, 0) + 1
            self._places[key] = (self._groups[func], 0)
        g, members = self._places[key]
        self._places[key] = (g, members + 1)
        return range(g, k + 1), members + 1
