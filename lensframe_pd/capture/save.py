"""Which values `save=` asks for, decided while the model runs.

Rows of an earlier frame are a plan: each is known by its address as soon as it is made. A name is
not: a label is certain only once the run is over, since later passes decide what is one layer. So
a row is kept when its label may still turn out to be selected, and what cannot be is let go again
whenever twice as many values are held as are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from lensframe_pd.capture.plan import ADDRESSED_BY, Address, Addresses, planned
from lensframe_pd.capture.roots import named_modules
from lensframe_pd.capture.values import NoValues, Values
from lensframe_pd.capture.watch import Stop, Watcher
from lensframe_pd.errors import LensError, LensKeyError, LensTypeError, LensValueError, warn
from lensframe_pd.labels import label, labels, main_path, module_asked, parsed, unknown_rows
from lensframe_pd.tape.facts import CallFacts, LiveRow
from lensframe_pd.tape.passes import Passes, passes
from lensframe_pd.tape.places import Places
from lensframe_pd.tape.storage import storage_of
from lensframe_pd.tape.tape import Tape

_SLACK = 64
_SHOWN = 5


class Save(Watcher):
    """A watcher that gives `Tape.values` an entry for each new row, and keeps what it selects."""

    def __init__(self, tape: Tape, values: Values) -> None:
        self.tape = tape
        self.values = values

    def finish(self, grouped: Callable[[], Passes], layers: Callable[[], pd.DataFrame]) -> None:
        """The run is over: let go of what was kept on suspicion, and see that all was found.

        Parameters
        ----------
        grouped, layers
            Give the passes and the frame of the run, which few need here.

        Raises
        ------
        LensKeyError
            Naming every label and module path that this run did not have.
        LensValueError
            `save` was rows of a frame that does not describe this run.
        """


class Selection:
    """What `save=` may be besides, for callers inside: something that makes its own watcher."""

    def watcher(self, tape: Tape, values: Values) -> Save:
        """The watcher of a run that writes `tape`."""
        raise NotImplementedError


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
    return Named(tape, values, _names_of(save), stop, roots)


def _names_of(save: Any) -> list[str]:
    try:
        given = list(save)
    except TypeError:
        given = [save]
    if not all(isinstance(name, str) for name in given):
        raise LensTypeError(
            f"save= got {save!r}; give 'all', None, rows of a trace's layers, labels or module "
            "paths, or a function of a row"
        )
    return given


class Everything(Save):
    """`save="all"`."""

    def __init__(self, tape: Tape, values: Values) -> None:
        super().__init__(tape, values)
        self.made = values.keep_next  # type: ignore[method-assign]  # one call less per operation


class Nothing(Save):
    """`save=None`."""

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        self.tape.values.append(None)


class Asked(Save):
    """`save=` a function: ask it about each row."""

    def __init__(self, tape: Tape, values: Values, function: Callable[[LiveRow], bool]) -> None:
        super().__init__(tape, values)
        self._function = function
        self._facts = CallFacts(tape)

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        self.tape.values.append(None)
        try:
            wanted = bool(self._function(LiveRow(self.tape, self._facts, row)))
        except LensError:
            raise
        except Exception as error:
            error.add_note("lf.trace: raised by the function given as save=")
            raise
        if wanted:
            self.values.keep(row, tensor, storage)


class Planned(Save):
    """`save=` rows of an earlier frame."""

    def __init__(self, tape: Tape, values: Values, frame: pd.DataFrame, stop: bool) -> None:
        super().__init__(tape, values)
        self._frame = frame
        self._plan = planned(frame)
        self._addresses = Addresses(tape)
        self._stop = stop
        self._found: dict[int, Address] = {}

    @property
    def selects(self) -> bool:
        return bool(self._plan)

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        self.tape.values.append(None)
        address = self._addresses.next(row)
        if address in self._plan:
            self.values.keep(row, tensor, storage)
            self._found[row] = address
            if self._stop and len(self._found) == len(self._plan):
                raise Stop

    def finish(self, grouped: Callable[[], Passes], layers: Callable[[], pd.DataFrame]) -> None:
        found = {*self._found.values()}
        missing = [address for address in self._plan if address not in found]
        moved = [*self._moved(grouped())] if self._found else []
        if missing or moved:
            wrong = [*self._missing(layers(), missing), *moved]
            more = f"\n... and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            raise LensValueError(
                "save= has rows of another model, or of a run that went another way:\n"
                + "\n".join(wrong[:_SHOWN])
                + more
            )

    def _moved(self, grouped: Passes) -> Iterator[str]:
        """What is wrong with each row that is there under another label than in the frame."""
        for row, address in self._found.items():
            asked = self._plan[address]
            layer, p, n = grouped.layers[row], grouped.pass_nums[row], grouped.n_passes[row]
            # Of a run that was stopped, or went on, a layer may have another number of passes.
            if asked not in (layer, f"{layer}:{p}"):
                here = label(layer, p, n)
                yield f"{address} is {asked!r} in save= and {here!r} in this run"

    def _missing(self, layers: pd.DataFrame, addresses: Iterable[Address]) -> list[str]:
        """What is wrong with each address that was not there: the first fact that differs."""
        asked = self._frame.assign(op=labels(self._frame, "save=")).set_index("op")
        wrong = []
        for op in [self._plan[address] for address in addresses]:
            reason = f"{op!r} is not in this run"
            if op in layers.index:
                for column in ("func", "module", "ordinal"):
                    there: Any = asked.loc[op, column]
                    here: Any = layers.loc[op, column]
                    if there != here:
                        reason = f"{op!r} has {column} {there!r} in save= and {here!r} in this run"
                        break
            wrong.append(reason)
        return wrong


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
            for row, calls in self.tape.returned.items()
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
