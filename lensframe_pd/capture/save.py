"""Which values `save=` asks for, decided while the model runs.

A label is known for certain only once the run is over, since later passes decide what is one
layer. So a row is kept when its label may still turn out to be selected, and what cannot be is
let go again whenever twice as many values are held as are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pandas as pd
from torch import nn

from lensframe_pd.capture.modules import plain_path
from lensframe_pd.errors import (
    LensError,
    LensKeyError,
    LensTypeError,
    LensValueError,
    unknown_names,
)
from lensframe_pd.schema import COLUMNS, labels, parsed
from lensframe_pd.tape.facts import CallFacts, tensor_facts
from lensframe_pd.tape.passes import candidate_key, passes
from lensframe_pd.tape.tape import Tape

_SLACK = 64


class Stop(BaseException):
    """Ends the run after the last selected operation."""


class Wanted(NamedTuple):
    """A selected label: the n-th layer of a function, one pass of it or all (0)."""

    name: str
    n: int
    pass_num: int


class Selection:
    """Parsed `save=`.

    Raises
    ------
    LensKeyError
        A name that can be neither a label nor a module path.
    LensTypeError
        `save` is none of the forms it can take.
    """

    def __init__(self, save: Any, stop: bool, tape: Tape, roots: dict[str, nn.Module]) -> None:
        self.tape = tape
        self.stop = stop
        self.wanted: bool | Callable[[int], bool] = False
        self.module_wanted: Callable[[int], bool] | None = None
        self.on_row: Callable[[int], None] | None = None
        self._rows: pd.DataFrame | None = None
        self._names: list[str] = []
        self._labels: dict[str, list[Wanted]] = {}
        self._paths: set[str] = set()
        self._finished_paths: set[str] = set()
        self._counts: dict[str, int] = {}
        self._groups: dict[Any, list[int]] = {}
        self._held: list[int] = []
        self._limit = 0
        self._next = 0
        self._drop: Callable[[Iterable[int]], None] = lambda rows: None
        if isinstance(save, pd.Series) and "func" in save.index:
            save = save.to_frame().T
        if isinstance(save, str) and save == "all":
            self.wanted = True
        elif save is None:
            self.wanted = False
        elif isinstance(save, pd.DataFrame):
            self._rows = save
            self._select(labels(save, "save="), roots, modules=False)
        elif isinstance(save, str):
            self._select([save], roots)
        elif callable(save):
            self.wanted = _Asked(tape, save)
        else:
            self._select(_names_of(save), roots)
        if stop and not self._names:
            raise LensValueError(
                "stop=True ends the run after the last selected operation, which only names and "
                "rows can tell: give save= labels, module paths or rows of an earlier frame"
            )

    def attach(self, drop: Callable[[Iterable[int]], None]) -> None:
        """`drop` lets go of the values of rows."""
        self._drop = drop

    def _select(self, names: list[str], roots: dict[str, nn.Module], modules: bool = True) -> None:
        paths = {
            plain_path(path)
            for prefix, root in roots.items()
            for path, _ in root.named_modules(prefix=prefix)
        }
        unknown = []
        for name in names:
            label = parsed(name)
            if modules and name in paths:
                self._paths.add(name)
            elif label is not None:
                self._labels.setdefault(label.func, []).append(
                    Wanted(name, label.n, label.pass_num)
                )
            else:
                unknown.append(name)
        if unknown:
            raise unknown_names(unknown, sorted(paths - {""}), "label or module path")
        self._names = names
        self._limit = 2 * len(names) + _SLACK
        self.wanted = self._may_be_selected
        if self._paths:
            self.module_wanted = self._module_is_selected
        if self.stop and self._labels:
            self.on_row = self._stop_if_done

    # ---------------------------------------------------------- while it runs

    def _may_be_selected(self, row: int) -> bool:
        """Whether the label of `row` can turn out to be a selected one.

        The k-th row of a function, in the g-th of its candidate groups, is in a layer numbered
        from g to k, since a group only ever splits; so is its pass bounded by its place j.
        """
        func = self.tape.calls[self.tape.rows[row].call].function.name
        selected = self._labels.get(func)
        if selected is None:
            return False
        k = self._counts[func] = self._counts.get(func, 0) + 1
        place = self._groups.setdefault(
            (func, candidate_key(self.tape, row)), [self._counts.get(func + "\0", 0) + 1, 0]
        )
        if not place[1]:
            self._counts[func + "\0"] = place[0]
        place[1] += 1
        g, j = place
        if not any(g <= w.n <= k and w.pass_num <= j for w in selected):
            return False
        self._held.append(row)
        if len(self._held) > self._limit and row >= self._next:
            self._let_go(row)
        return True

    def _let_go(self, row: int) -> None:
        chosen = self._chosen()
        self._drop(held for held in self._held[:-1] if held not in chosen)
        self._held = [held for held in self._held[:-1] if held in chosen] + self._held[-1:]
        self._limit = max(self._limit, 2 * len(self._held) + _SLACK)
        self._next = row + row // 10  # so that all regroupings together stay near-linear
        # One pass found is found; a whole layer may go on.
        found = set(chosen.values())
        self._labels = {
            func: [w for w in selected if not w.pass_num or w.name not in found]
            for func, selected in self._labels.items()
        }

    def _chosen(self) -> dict[int, str]:
        """Rows whose label, judged by the rows so far, is selected; with the name that did it."""
        grouped = passes(self.tape)
        found: dict[int, str] = {}
        names = set(self._names)
        for row, (layer, p) in enumerate(zip(grouped.layers, grouped.pass_nums, strict=True)):
            for name in (layer, f"{layer}:{p}"):
                if name in names:
                    found[row] = name
        return found

    def _module_is_selected(self, module: int) -> bool:
        path = self.tape.modules[module].path
        if path in self._paths:
            self._finished_paths.add(path)
            return True
        return False

    def check_stop(self) -> None:
        """After a module returned: end the run if nothing selected is still to come."""
        if self.stop and self._finished_paths == self._paths:
            self._stop_if_done(-1)

    def _stop_if_done(self, row: int) -> None:
        if self._finished_paths != self._paths:
            return
        if row >= 0 and self.tape.values[row] is None:
            return
        wanted = set(self._names) - self._paths
        if wanted <= set(self._chosen().values()):
            raise Stop

    # --------------------------------------------------------------- when over

    def finish(self, layers: Callable[[], pd.DataFrame]) -> None:
        """Let go of what was kept on suspicion; raise if a name selected nothing.

        Raises
        ------
        LensKeyError
            Naming every label and module path that this run did not have.
        LensValueError
            `save` was rows of a frame that does not describe this model.
        """
        if not self._names:
            return
        chosen = self._chosen()
        by_module = {
            row
            for row, modules in self.tape.returned.items()
            if any(self.tape.modules[m].path in self._paths for m in modules)
        }
        kept = {i for i, value in enumerate(self.tape.values) if value is not None}
        self._drop(kept - chosen.keys() - by_module)
        found = {*chosen.values(), *self._finished_paths}
        missing = [name for name in self._names if name not in found]
        if self._rows is not None:
            self._check_rows(layers(), missing)
        if missing:
            rows = layers()
            known = [*rows.index, *rows["layer"], *(m.path for m in self.tape.modules[1:])]
            raise unknown_names(missing, known, "label, layer or called module")

    def _check_rows(self, layers: pd.DataFrame, missing: list[str]) -> None:
        assert self._rows is not None
        rows = self._rows
        wrong = [f"{name!r} is not in this run" for name in missing]
        columns = [c for c in ("func", "module") if c in rows.columns]
        for label, cells in zip(
            labels(rows, "save="), rows[columns].itertuples(index=False), strict=True
        ):
            if label in layers.index:
                here = layers.loc[label]
                wrong += [
                    f"{label!r} has {column} {cell!r} in save= and {here[column]!r} in this run"
                    for column, cell in zip(columns, cells, strict=True)
                    if here[column] != cell
                ]
        if wrong:
            shown = "\n".join(wrong[:5]) + (
                f"\n... and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            )
            raise LensValueError(
                f"save= has rows of another model, or of a run that went another way:\n{shown}"
            )


def _names_of(save: Any) -> list[str]:
    try:
        names = list(save)
    except TypeError:
        names = [save]
    if not all(isinstance(name, str) for name in names):
        raise LensTypeError(
            f"save= got {save!r}; give 'all', None, rows of a trace's layers, labels or module "
            "paths, or a function of a row"
        )
    return names


class LiveRow:
    """A row as `save=` functions see it while the model runs, by `row.func` or `row["func"]`.

    It has every column that is known at that moment: not the labels, which need the whole run.
    """

    def __init__(self, tape: Tape, facts: CallFacts, index: int) -> None:
        self._tape, self._facts, self._index = tape, facts, index
        self._cells: dict[str, Any] | None = None

    def __getitem__(self, column: str) -> Any:
        if self._cells is None:
            self._cells = self._look_up()
        if column not in self._cells:
            what = COLUMNS.get(column)
            reason = "is known only after the run" if what else "is no column"
            raise LensKeyError(
                f"{column!r} {reason}; a save= function can use {', '.join(self._cells)}"
            )
        return self._cells[column]

    def __getattr__(self, column: str) -> Any:
        if column.startswith("__"):
            raise AttributeError(column)
        return self[column]

    def _look_up(self) -> dict[str, Any]:
        tape, i = self._tape, self._index
        row = tape.rows[i]
        call = tape.calls[row.call]
        return {
            "step": i,
            "kind": tape.kinds.get(i, "op"),
            "call": row.call,
            "path": tape.paths.get(i, ""),
            "requires_grad": row.requires_grad,
            "inplace": row.inplace,
            **self._facts.of(call),
            **tensor_facts(row.shape, row.stride, row.dtype, row.device),
        }


class _Asked:
    """`save=` a function: ask it about each row."""

    def __init__(self, tape: Tape, function: Callable[[LiveRow], bool]) -> None:
        self._tape, self._function = tape, function
        self._facts = CallFacts(tape)

    def __call__(self, row: int) -> bool:
        try:
            return bool(self._function(LiveRow(self._tape, self._facts, row)))
        except LensError:
            raise
        except Exception as error:
            error.add_note("lf.trace: raised by the function given as save=")
            raise
