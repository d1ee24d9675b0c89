"""Where in the program a row was made: what two rows share before their parents are looked at.

Executions of one function are candidates for one layer when module and call site agree. The call
site is the chain of source positions from the operation out to the innermost call of a module
that holds parameters, itself or below. Modules without parameters, an activation say, are seen
through: a ReLU that two lines of a block share stands at two places.
"""

from __future__ import annotations

from typing import Any

from lensframe_pd.tape.functions import CONTRACTIONS
from lensframe_pd.tape.tape import SCRIPT, Site, Tape

_Entry = tuple[int, Any]
"""One frame of a call site: the id of its code, and the position in it."""


class Places:
    """The place of each row, of a tape that may still grow.

    Attributes
    ----------
    anchors
        For each module call, the innermost call around it (itself included) of a module that
        holds parameters; 0 is the model.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self.anchors: list[int] = []
        self._outer: list[int] = []
        self._positions: dict[int, list[Any]] = {}
        self._sites: dict[Site, int] = {}
        self._numbers: dict[Any, int] = {}

    def of(self, i: int) -> Any:
        """What row `i` shares with all candidates for its layer."""
        tape = self._tape
        if i in tape.kinds and tape.kinds[i] != "alias":
            return i
        row = tape.rows[i]
        call = tape.calls[row[0]]  # row.call: by number, for speed
        name, module = call.function.name, call.module
        while len(self.anchors) <= module:
            self._add_module()
        path = tape.modules[module].path
        if name in CONTRACTIONS:
            params = held_by(call.sources)
            if params:
                return name, row.slot, path, params
        site = self._sites.get(call.site)
        if site is None:
            site = self._site(call.site)
        return name, row.slot, path, site, self._outer[module]

    def shared(self) -> list[list[int]]:
        """All rows of the tape, those at one place together, in order of execution."""
        tape = self._tape
        calls, kinds, modules = tape.calls, tape.kinds, tape.modules
        while len(self.anchors) < len(modules):
            self._add_module()
        groups: dict[Any, list[int]] = {}
        known: dict[Any, list[int]] = {}  # what is the same without a look at positions
        for i, row in enumerate(tape.rows):
            call = calls[row[0]]  # call.function.name, slot, path, site: by number, for speed
            name, module = call[0][1], call[5]
            if name in CONTRACTIONS or i in kinds:
                groups.setdefault(self.of(i), []).append(i)
                continue
            same = name, row[1], modules[module][0], call[4], self._outer[module]
            group = known.get(same)
            if group is None:
                group = known[same] = groups.setdefault(self.of(i), [])
            group.append(i)
        return [*groups.values()]

    def _add_module(self) -> None:
        """The anchor of the next module call, and its call sites from there inward."""
        modules, i = self._tape.modules, len(self.anchors)
        called = modules[i]
        if i == 0 or called.path in self._tape.holding:
            self.anchors.append(i)
            self._outer.append(0)
            return
        around = called.parent
        while around != self.anchors[around]:
            if modules[around].path == called.path:  # it calls itself: the same place at any depth
                self.anchors.append(self.anchors[around])
                self._outer.append(self._outer[around])
                return
            around = modules[around].parent
        self.anchors.append(self.anchors[called.parent])
        self._outer.append(self._number((self._site(called.site), self._outer[called.parent])))

    def _site(self, site: Site) -> int:
        known = self._sites.get(site)
        if known is None:
            frames = zip(site[::2], site[1::2], strict=True)
            entries = [(code, self._position(code, offset)) for code, offset in frames]
            known = self._sites[site] = self._number(tuple(_without_recursion(entries)))
        return known

    def _number(self, place: Any) -> int:
        return self._numbers.setdefault(place, len(self._numbers) + 1)

    def _position(self, code_id: int, offset: int) -> Any:
        """Lines and columns of an instruction: what a compiler writes twice is one place.

        The condition of a `while` and the body of a `finally` have several copies in the code.
        Where columns are not known, or cover nothing, the offset says more.
        """
        if code_id == SCRIPT:
            return offset
        known = self._positions.get(code_id)
        if known is None:
            code = self._tape.codes[code_id]
            known = self._positions[code_id] = [*code.co_positions()]
        unit = offset // 2  # positions are given for each two bytes of code
        if not 0 <= unit < len(known) or None in known[unit]:
            return offset
        line, end_line, column, end_column = known[unit]
        return offset if (line, column) == (end_line, end_column) else known[unit]


def held_by(sources: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Which argument read which held parameter or buffer."""
    if not sources or min(sources) >= 0:
        return ()
    return tuple([(role, source) for role, source in enumerate(sources) if source < 0])


def _without_recursion(entries: list[_Entry]) -> list[_Entry]:
    """The frames of a call site, without those from a function out to its outermost call.

    So an operation of a function that calls itself is at the same place at any depth.
    """
    found: list[_Entry] = []
    i = 0
    while i < len(entries):
        found.append(entries[i])
        code = entries[i][0]
        again = [k for k in range(i, len(entries)) if entries[k][0] == code]
        i = (again[-1] if len(again) > 1 and _calls_itself(entries, again) else i) + 1
    return found


def _calls_itself(entries: list[_Entry], frames: list[int]) -> bool:
    """Whether these frames of one code are a recursion, and no wrapper around several functions.

    A wrapper (a decorator's, `map_structure`'s) calls one function and another from one position.
    """
    callees: dict[Any, int] = {}
    return all(
        callees.setdefault(entries[k][1], entries[k - 1][0]) == entries[k - 1][0]
        for k in frames
        if k
    )
