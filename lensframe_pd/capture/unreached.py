"""What was asked of `values=` and did not happen, once a run is over."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from operator import attrgetter, itemgetter

from lensframe_pd.capture.sites import Sites
from lensframe_pd.errors import LensKeyError, LensValueError, shown
from lensframe_pd.tape.passes import Passes
from lensframe_pd.tape.tape import Tape


def unreached(sites: Sites, made: Iterable[tuple[int, str]]) -> LensKeyError | None:
    """Keys of which no row was made."""
    reached = {key for _, key in made}
    missed = [key for key in sites.by_key if key not in reached]
    if not missed:
        return None
    return LensKeyError(
        f"values: {shown(missed)}: never reached in this run, which went another way than the "
        "plain one, or does not call that; the trace is in this exception's .trace"
    )


def late(
    tape: Tape,
    n_rows: int | None,
    every: Sequence[int],
    given: Container[int],
    passes_of_run: Callable[[], Passes],
) -> LensValueError | None:
    """Passes that have no value, of layers which were given one for every pass.

    Parameters
    ----------
    n_rows
        Of the run without values, if that is known.
    every
        Rows whose value was given for every pass of their layer.
    given
        All rows that were given a value.
    """
    if not every:
        return None
    if n_rows is not None and n_rows == len(tape.rows) - [*tape.kinds.values()].count("edit"):
        return None
    # To tell layers takes much longer than to see that nothing else can be of these.
    own = {tape.rows[row].call for row in every}
    functions = {tape.calls[call].function.name for call in own}
    names = [*map(_NAME, map(_FUNCTION, tape.calls))]
    if sum(map(names.count, functions)) == len(own):
        return None
    could = {_kind_of(tape, row) for row in every}
    others = [row for row in range(len(tape.rows)) if _kind_of(tape, row) in could]
    if len(others) == len(every):
        return None
    grouped = passes_of_run()
    layers = grouped.layers
    whole = {layers[row] for row in every}
    found = [
        f"pass {grouped.pass_nums[row]} of {layers[row]!r}"
        for row in others
        if layers[row] in whole and row not in given
    ]
    if not found:
        return None
    return LensValueError(
        f"values: {shown(found)} is not in the plain run and has no value: give one to the module; "
        "the trace is in this exception's .trace"
    )


_FUNCTION, _NAME = itemgetter(0), attrgetter("name")  # call.function


def _kind_of(tape: Tape, row: int) -> tuple[str, int, str]:
    """What all passes of a layer share: function, place in its result, module."""
    made = tape.rows[row]
    call = tape.calls[made.call]
    return call.function.name, made.slot, tape.modules[call.module].path
