"""Where in the program a row was made: what two rows share before their parents are looked at.

Executions of one function are candidates for one layer when module and call site agree. The call
site is the chain of source positions from the operation out to the innermost call of a module
that holds parameters, itself or below. Modules without parameters, an activation say, are seen
through: a ReLU that two lines of a block share stands at two places.
"""

from __future__ import annotations

from types import CodeType
from typing import Any

from lensframe_pd.tape.codes import once_per_code
from lensframe_pd.tape.functions import CONTRACTIONS
from lensframe_pd.tape.tape import SCRIPT, Call, Site, Tape

_Entry = tuple[int, int]
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
        #: By number, for speed: the last ones have no names yet.
        self._modules = tape.module_log.entries
        self.anchors: list[int] = []
        self._outer: list[int] = []
        self._positions: dict[int, list[int]] = {}
        self._sites: dict[Site, int] = {}
        self._numbers: dict[Any, int] = {}
        #: By the sources behind the first, where all these are held.
        self._held: dict[tuple[int, ...], tuple[tuple[int, int], ...]] = {}

    def of(self, i: int) -> Any:
        """What row `i` shares with all candidates for its layer."""
        tape = self._tape
        if i in tape.kinds and tape.kinds[i] != "alias":
            return i
        row = tape.row_log.entries[i]  # by number, for speed: row.call, row.slot, call.module
        call = tape.call_log.entries[row[0]]
        while len(self.anchors) <= call[5]:
            self._add_module()
        return self._place(row[1], call)

    def shared(self) -> list[list[int]]:
        """The rows of the tape that stand at one place with others, together.

        In order, and the groups in the order of their first rows.
        """
        tape = self._tape
        calls, kinds, modules = tape.call_log.entries, tape.kinds, self._modules
        sites, outer = self._sites, self._outer
        while len(self.anchors) < len(modules):
            self._add_module()
        groups: dict[Any, Any] = {}  # a row, or several
        for i, row in enumerate(tape.row_log.entries):
            call = calls[row[0]]  # as in `_place`, by number and without a call of it, for speed
            name, module, site = call[0].name, call[5], sites.get(call[4])
            if i in kinds:
                place = self.of(i)
            elif site is None or name in CONTRACTIONS:
                place = self._place(row[1], call)
            else:
                place = name, row[1], modules[module][0], site, outer[module]
            group = groups.get(place)
            if type(group) is list:
                group.append(i)
            else:
                groups[place] = i if group is None else [group, i]
        return [group for group in groups.values() if type(group) is list]

    def _place(self, slot: int, call: Call) -> Any:
        name, sources, module = call[0].name, call[3], call[5]
        path = self._modules[module][0]
        if name in CONTRACTIONS:
            params = self._held_by(sources)
            if params:
                return name, slot, path, params
        site = self._sites.get(call[4]) or self._site(call[4])
        return name, slot, path, site, self._outer[module]

    def _held_by(self, sources: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """As `held_by`; of what reads one tensor and then what is held, as most do, found once."""
        if len(sources) < 2 or sources[0] < 0:
            return held_by(sources)
        known = self._held.get(sources[1:])
        if known is None:
            known = held_by(sources)
            if len(known) == len(sources) - 1:
                self._held[sources[1:]] = known
        return known

    def _add_module(self) -> None:
        """The anchor of the next module call, and its call sites from there inward."""
        modules, anchors, outer = self._modules, self.anchors, self._outer
        i = len(anchors)
        path, _, parent, _, site = modules[i]
        if i == 0 or path in self._tape.holding:
            anchors.append(i)
            outer.append(0)
            return
        around = parent
        while around != anchors[around]:
            if modules[around][0] == path:  # it calls itself: the same place at any depth
                anchors.append(anchors[around])
                outer.append(outer[around])
                return
            around = modules[around][2]
        anchors.append(anchors[parent])
        outer.append(self._number((self._sites.get(site) or self._site(site), outer[parent])))

    def _site(self, site: Site) -> int:
        known = self._sites.get(site)
        if known is None:
            codes = site[::2]
            entries = [*zip(codes, map(self._position, codes, site[1::2]), strict=True)]
            if len({*codes}) < len(codes):
                entries = _without_recursion(entries)
            known = self._sites[site] = self._number(tuple(entries))
        return known

    def _number(self, place: Any) -> int:
        return self._numbers.setdefault(place, len(self._numbers) + 1)

    def _position(self, code_id: int, offset: int) -> int:
        """The first of the instructions that stand where this one does in the source.

        The condition of a `while` and the body of a `finally` have several copies in the code.
        """
        if code_id == SCRIPT:
            return offset
        known = self._positions.get(code_id)
        if known is None:
            known = self._positions[code_id] = _first_copies(self._tape.codes[code_id])
        unit = offset // 2  # an instruction is two bytes of code, or several times two
        return known[unit] if 0 <= unit < len(known) else unit


@once_per_code
def _first_copies(code: CodeType) -> list[int]:
    """For each instruction the first one at the same lines and columns.

    Where columns are not known, or cover nothing, it stands for itself. To read all positions takes
    longer than all else here, where long functions call few operations.
    """
    first: dict[Any, int] = {}
    copies = []
    for unit, position in enumerate(code.co_positions()):
        line, end_line, column, end_column = position
        nowhere = None in position or (line, column) == (end_line, end_column)
        copies.append(unit if nowhere else first.setdefault(position, unit))
    return copies


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
