"""What keeps the values that `save=` asks for: all, none, those a function or a plan wants.

Rows of an earlier frame are a plan: each is known by its address as soon as it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pandas as pd
from torch import Tensor

from lensframe_pd.capture.plan import Address, Addresses, planned
from lensframe_pd.capture.values import Values
from lensframe_pd.capture.watch import Stop, Watcher
from lensframe_pd.errors import LensError, LensValueError
from lensframe_pd.labels import label, labels
from lensframe_pd.tape.facts import CallFacts, LiveRow
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Tape

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


class Everything(Save):
    """`save="all"`."""

    def __init__(self, tape: Tape, values: Values) -> None:
        super().__init__(tape, values)
        self.made = values.keep_next  # type: ignore[method-assign]  # one call less per operation


class Nothing(Save):
    """`save=None`: the entries of all rows are made when the run is over."""


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
