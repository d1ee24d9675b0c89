"""Whether what is at an address is what an earlier run had there: made at that line, by that model.

An address tells where in a run a row is; another run may have something else there, and another
model. What rows of a frame say of their model is compared; what does not say it (widths of a row
that reads no parameter) is compared once the run is over, when its axes are known.
"""

from __future__ import annotations

import os.path
from itertools import zip_longest
from typing import Any

from lensframe_pd.capture.plan import Address, each_line_to, lines_to
from lensframe_pd.capture.sites import Facts, Sites
from lensframe_pd.cells import plain
from lensframe_pd.tape.tape import SCRIPT, Call, Tape


def elsewhere(tape: Tape, sites: Sites, address: Address, call: Call) -> str | None:
    """Why the call at an address is not the one that a value was given for; None if it is."""
    key, facts = sites.rows[address].key, sites.facts.get(address)
    if facts is None:
        apart, again = lines_apart(tape, call, sites.lines.get(address, ())), ""
    else:
        other = model_apart(tape, call, facts)
        if other is not None:
            return (
                f"{key!r} is a row of another model, of {other[0]}, and what is at its place here, "
                f"{address}, of {other[1]}: give rows of a trace of this model, or a dict by "
                "label, which is looked up in it"
            )
        apart = line_apart(tape, call, facts.line)
        again = ", or the rows are of code that was changed since"
    if apart is None:
        return None
    return (
        f"{key!r} was made at {apart[0]} in the run without values, and what is at its place here, "
        f"{address}, at {apart[1]}: this run went another way{again}; give the value to the module"
    )


def model_apart(tape: Tape, call: Call, facts: Facts) -> tuple[str, str] | None:
    """What a row of another model says of it, and what is so here; None if it says nothing else.

    Parameters
    ----------
    call
        At the address of the row.
    """
    held, types, module = tape.held, [], call.module
    while module:
        called = tape.modules[module]
        types.append(called.type_name)
        module = called.parent
    # By number, for speed: the names, and shapes, of those which are parameters.
    params = [h for s in call.sources if s < 0 and (h := held[~s])[1]]
    columns = [*zip(*params, strict=True)] or [()] * 3
    here = tuple(types[::-1]), columns[0], columns[2]
    said = facts[1:4]
    if {*map(type, said)} == {tuple} and said == here:  # in a file they are other sequences
        return None
    for what, cell, found in zip(_COMPARED, said, here, strict=True):
        if _is_sequence(cell) and plain(cell) != found:
            is_lazy = any(str(name).startswith(_UNTIL_CALLED) for name in facts.module_types)
            return None if is_lazy else (f"{what} {_listed(plain(cell))}", _listed(found))
    return None


_COMPARED = ("modules of the classes", "parameters", "parameters of the shapes")
_UNTIL_CALLED = "Lazy"
"""How torch begins the names of modules that are others after their first call."""


def _is_sequence(cell: Any) -> bool:
    """Whether a cell is there, and was not made text by a file."""
    return hasattr(cell, "__len__") and not isinstance(cell, str)


def _listed(cells: tuple[Any, ...]) -> str:
    return ", ".join(map(str, cells)) or "none"


def lines_apart(tape: Tape, call: Call, planned: tuple[str, ...]) -> tuple[str, str] | None:
    """Where a call was planned to be made and was made, if these are different lines.

    Parameters
    ----------
    planned
        `lines_to` of what is at its address in an earlier run of this code; empty if not known.
    """
    here = lines_to(tape, call)
    if not planned or not here or planned == here:
        return None
    pairs = zip_longest(planned, here, fillvalue="no line")
    return next(pair for pair in pairs if pair[0] != pair[1])


def line_apart(tape: Tape, call: Call, planned: Any) -> tuple[str, str] | None:
    """As `lines_apart`, of the first line alone, of a run whose code may be another.

    Only where the code of that line runs here, too: other code may do the same.
    """
    here = next(each_line_to(tape, call), planned)
    if here == planned or not isinstance(planned, str) or not _has_run(tape, planned):
        return None
    return planned, here


def _has_run(tape: Tape, source: str) -> bool:
    """Whether a line is one of the code that operations of this run were called from."""
    name, _, line = source.rpartition(":")
    calls = [tape.calls[made.call] for row, made in enumerate(tape.rows) if row not in tape.kinds]
    codes = [
        tape.codes[key] for key in {key for call in calls for key in call.site[::2]} - {SCRIPT}
    ]
    return any(
        os.path.basename(code.co_filename) == name
        and any(str(here) == line for _, _, here in code.co_lines())
        for code in codes
    )
