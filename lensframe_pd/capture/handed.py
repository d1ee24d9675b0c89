"""Calls that hand their argument back: rows, but not where that tensor comes from for everybody.

`x.to(x.dtype)`, `contiguous` or dropout in eval give the very object that they were given. The code
that made the call goes on with that object, so it reads the row of the call. But whoever else holds
the object did not ask for the call: a residual connection reads what its block was given, not what
a normalisation inside the block called it. So the object has its former row again when the module
call ends in which it was handed back, unless it is what that module call returns.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any, NamedTuple

from torch import Tensor

from lensframe_pd.capture.known import Known, KnownHeld
from lensframe_pd.tape.tape import Tape


class _Handed(NamedTuple):
    """An object that calls within one module call have handed back."""

    before: Known | KnownHeld
    """What was known of it before the first of them."""
    latest: Known | KnownHeld
    """What was known of it after the last; another since then: it was written, or is no more."""
    parent: int | None
    """What those made by the module itself read, None while only modules inside it made some."""


class HandedBack:
    """The tensors that were handed back in the module calls that run, the innermost last.

    Parameters
    ----------
    live
        `Lineage.live`, which is changed here.
    """

    def __init__(self, tape: Tape, live: dict[int, Known | KnownHeld]) -> None:
        self._tape = tape
        self._live = live
        #: The running module calls, the innermost last.
        self.running: Sized = ()
        #: What was handed back in them, by their depth: in few of them anything is.
        self.some: dict[int, dict[int, _Handed]] = {}

    def end(self, result: Any, depth: int, n_rows: int) -> None:
        """A module call has ended that was `depth` deep, and returned `result`.

        When it began there were `n_rows` rows.
        """
        for key, handed in self.some.pop(depth + 1, {}).items():
            if self._live.get(key) is not handed.latest:
                continue
            if isinstance(result, Tensor) and id(result) == key:
                self._went_out(key, handed)
            elif handed.before.source < n_rows:  # what was made inside has no former row
                self._live[key] = handed.before

    def _here(self) -> dict[int, _Handed]:
        """What was handed back in the innermost module call."""
        return self.some.setdefault(len(self.running), {})

    def is_handed_back(self, tensor: Tensor) -> bool:
        """Whether the last row of this object is a call that gave it back as it was given it."""
        handed = self.some.get(len(self.running), {}).get(id(tensor))
        return handed is not None and handed.latest is self._live.get(id(tensor))

    def back(self, key: int, known: Known | KnownHeld, new: Known, call: int) -> None:
        """`call` has handed back an object of which `known` was known; `new` has its new row."""
        if known.source < 0:  # a parameter stays what it is
            return
        here = self._here()
        handed = here.get(key)
        before, parent = known, known.source
        if handed is not None and handed.latest is known:
            before = handed.before
            if handed.parent is not None:
                parent = handed.parent
                self._read_instead(call, known.source, parent)
        here[key] = _Handed(before, new, parent)
        self._live[key] = new

    def _went_out(self, key: int, inside: _Handed) -> None:
        """A module call returned the object: for the call around it this was a handing back too."""
        around = self._here()
        handed = around.get(key)
        going_on = handed is not None and handed.latest is inside.before
        before = handed.before if handed is not None and going_on else inside.before
        around[key] = _Handed(before, inside.latest, None)

    def _read_instead(self, call: int, row: int, parent: int) -> None:
        """A call reads `parent` where it was said to read `row`."""
        recorded = self._tape.calls[call]
        sources = tuple([parent if source == row else source for source in recorded.sources])
        self._tape.calls[call] = recorded._replace(sources=sources)
