"""Later batches: the model runs to the last selected operation, and only those values are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from lensframe_pd.capture.edits import Refused
from lensframe_pd.capture.plan import Address, Addresses
from lensframe_pd.capture.run import Run
from lensframe_pd.capture.save import Save, Selection
from lensframe_pd.capture.sites import Sites
from lensframe_pd.capture.values import Values
from lensframe_pd.capture.watch import Stop
from lensframe_pd.tables.activations import described, unsaved_reasons
from lensframe_pd.tape.passes import passes
from lensframe_pd.tape.tape import Site, Tape


class Picked(Selection):
    """`save=` addresses: the rows at these places, whatever their labels.

    Parameters
    ----------
    addresses
        Where the rows are.
    stop
        Whether the run ends when all were made.
    """

    def __init__(self, addresses: Iterable[Address], stop: bool) -> None:
        self.addresses, self.stop = frozenset(addresses), stop

    def watcher(self, tape: Tape, values: Values) -> Save:
        return _Picking(tape, values, self)


class _Picking(Save):
    def __init__(self, tape: Tape, values: Values, picked: Picked) -> None:
        super().__init__(tape, values)
        self._wanted, self._stop = picked.addresses, picked.stop
        self._addresses = Addresses(tape)
        self.found: dict[Address, int] = {}

    def made(self, row: int, tensor: Tensor, storage: int) -> None:
        self.tape.values.append(None)
        address = self._addresses.next(row)
        if address in self._wanted:
            self.values.keep(row, tensor, storage)
            self.found[address] = row
            if self._stop and len(self.found) == len(self._wanted):
                raise Stop


class Facts(NamedTuple):
    """What a row of a run is, as far as batches are compared."""

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    pass_num: int
    n_passes: int
    site: Site
    """Where the program called it, within the call of its module; nowhere for inputs and outputs.

    An operation that only some batches run moves the ordinals of those after it.
    """


class Filled(NamedTuple):
    """What a later batch gave."""

    values: dict[Address, Tensor]
    facts: dict[Address, Facts]
    reasons: dict[Address, str]
    """Of rows whose values could not be kept, why."""
    stopped: bool


class Known:
    """The run before, and what its rows were: most runs are like it."""

    def __init__(self) -> None:
        self._tape: Tape | None = None
        self._facts: dict[Address, Facts] = {}

    def facts(self, tape: Tape, rows: dict[Address, int]) -> dict[Address, Facts]:
        """As `facts_of`, which need not be found out again for a run that is like the last."""
        if self._tape is None or not _alike(tape, self._tape):
            self._facts = facts_of(tape, rows)
            tape.values.clear()  # only what it did is kept
            self._tape = tape
        return self._facts


def _alike(here: Tape, there: Tape) -> bool:
    """Whether two runs did the same with tensors of the same shapes, as far as facts depend on it.

    Which entries a call took is not compared: where it matters, runs are not alike.
    """
    if here.selections or len(here.calls) != len(there.calls) or here.kinds != there.kinds:
        return False
    if here.stopped != there.stopped or here.modules != there.modules:
        return False
    try:
        same = [a[:6] == b[:6] for a, b in zip(here.calls, there.calls, strict=True)]
        if not all(same) or here.rows != there.rows or here.starts.keys() != there.starts.keys():
            return False
        return all([np.array_equal(here.starts[k], there.starts[k]) for k in here.starts])
    except (ValueError, TypeError, RuntimeError):  # arguments that do not compare
        return False


def run_picked(
    model: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    n: int,
    picked: Picked,
    sites: Sites | None = None,
    known: Known | None = None,
) -> Filled:
    """Run the model on a batch of `n` stimuli; the values at the addresses, and what they are.

    Parameters
    ----------
    sites
        What is given other values.
    known
        Of the batches before.

    Raises
    ------
    LensError
        A value does not fit, or its place was never reached.
    """
    run = Run(model, picked, sites=sites)
    try:
        run.execute(args, kwargs, n)
    except Refused as refusal:
        raise refusal.error from None
    assert isinstance(run.save, _Picking)
    tape, found = run.tape, run.save.found
    if run.tracer.edits is not None and not tape.stopped:
        error = run.tracer.edits.problem(lambda: passes(tape))
        if error is not None:
            raise error
    reasons = unsaved_reasons(tape)
    values = {a: tape.values[row] for a, row in found.items() if row not in reasons}
    stopped = bool(tape.stopped)
    if known is None or sites is not None:
        known = Known()
    facts = known.facts(tape, found)
    return Filled(
        {address: value for address, value in values.items() if value is not None},
        facts,
        {address: reasons[row] for address, row in found.items() if row in reasons},
        stopped,
    )


def facts_of(tape: Tape, rows: dict[Address, int]) -> dict[Address, Facts]:
    """What these rows of a finished run are."""
    grouped = passes(tape)
    address_of = {row: address for address, row in rows.items()}
    return {
        address_of[row]: Facts(
            dims,
            tuple(tape.rows[row].shape),
            attrs["torch_dtype"],
            grouped.pass_nums[row],
            grouped.n_passes[row],
            () if row in tape.kinds else tape.calls[tape.rows[row].call].site,
        )
        for row, dims, attrs in described(tape, grouped, [*address_of])
    }
