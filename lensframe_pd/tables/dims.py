"""What the axes of each tensor are, by the operation that made them.

`axes` says what an operation does to axes; here they are followed along the tape. An axis
nobody named is `dim{position}_{extent}`; an axis is `stimulus` where its entries are the stimuli
from first to last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from lensframe_pd.schema import STIMULUS
from lensframe_pd.tables.aliases import after_write
from lensframe_pd.tables.axes import rule_of
from lensframe_pd.tables.case import Case, Operand, Ruled, elementwise, without_order
from lensframe_pd.tables.order import (
    ALL,
    MIXED,
    NONE,
    OF_ALL,
    Name,
    Names,
    carries,
    fits,
    named,
    numbers,
    of_all,
    of_axis,
    of_both,
    together,
)
from lensframe_pd.tables.pointwise import is_listed, is_pointwise
from lensframe_pd.tables.readers import input_names
from lensframe_pd.tape.tape import Call, Tape

#: Their results are told apart by what the call gave in all.
_TOGETHER = frozenset(
    """split chunk split_with_sizes tensor_split unsafe_split unsafe_chunk
    unsafe_split_with_sizes vsplit hsplit grad""".split()
)
#: What they give depends on how their tensors lie in memory.
_BY_MEMORY = frozenset(("as_strided", "alias"))

_AS_THEY_ARE: Mapping[str, str] = MappingProxyType({})


def axis_names(tape: Tape) -> list[Names]:
    """What each axis of every row is; `None` where no operation named the axis."""
    followed = _Followed(tape)
    return [followed.operands[k].names for k in followed.found]


def dimensions(tape: Tape) -> list[tuple[str, ...]]:
    """The dimension names of every row."""
    followed = _Followed(tape)
    found: dict[int, tuple[str, ...]] = {}
    for k in set(followed.found):  # and not of what is held
        operand = followed.operands[k]
        found[k] = dims(operand.names, operand.shape, tape.renamed)
    return [found[k] for k in followed.found]


def dims(
    names: Names, shape: Sequence[int], renamed: Mapping[str, str] = _AS_THEY_ARE
) -> tuple[str, ...]:
    """Dimension names: `("stimulus", None)` of shape (8, 49) is `("stimulus", "dim1_49")`."""
    taken: list[str] = []
    for k, (name, n) in enumerate(zip(names, shape, strict=True)):
        if name == STIMULUS:
            dim = STIMULUS
        else:
            own = name if isinstance(name, str) else f"dim{k}"
            dim = f"{renamed.get(own, own)}_{n}"
        while dim in taken:
            dim += "_"
        taken.append(dim)
    return tuple(taken)


class _Followed:
    """The axes of the rows; equal ones are one operand, known by its number."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.n = tape.n_stimuli
        self.operands: list[Operand] = []
        #: Whether anything of an operand comes from stimuli, by its number.
        self._informs: list[bool] = []
        #: Number of the operand that each row is.
        self.found: list[int] = []
        self._numbers: dict[Operand, int] = {}
        #: Number of the operand that parameters and buffers of a shape are.
        self._held: dict[tuple[int, ...], int] = {}
        self._memo: dict[Any, int] = {}
        self._by_entry: dict[str, bool] = {}
        self._inputs = input_names(tape)
        #: The call of which a row was looked at last, and what a rule may look at of it.
        self._last: tuple[int, Case] | None = None
        self._follow()

    def _follow(self) -> None:
        """Find out what each row is, in order."""
        tape, found, memo, operands = self.tape, self.found, self._memo, self.operands
        calls, kinds, selections, wrapped = (
            tape.call_log.entries, tape.kinds, tape.selections, tape.wrapped
        )  # fmt: skip
        by_entry = self._by_entry
        #: Numbers of what is held, by the sources of a call behind the first.
        held: dict[tuple[int, ...], tuple[int, ...]] = {}
        for i, row in enumerate(tape.row_log.entries):
            # By number, for speed: row.call, slot and shape; call.function.name, sources, args.
            number, slot, shape = row[0], row[1], row[2]
            call = calls[number]
            name, sources = call[0].name, call[3]
            if not sources:
                found.append(self._number(self._begun(i, tuple(shape))))
                continue
            # The numbers of its operands, not these themselves: they are hashed once per row.
            n, first = len(sources), sources[0]
            if n == 1 and first >= 0:
                ids: tuple[int, ...] = (found[first],)
            elif n == 2 and first >= 0 <= sources[1]:
                ids = found[first], found[sources[1]]
            elif first >= 0 and sources[1:] in held:
                ids = found[first], *held[sources[1:]]
            else:
                ids = tuple([found[s] if s >= 0 else self._of_held(s) for s in sources])
                if max(sources[1:], default=0) < 0:
                    held[sources[1:]] = ids[1:]
            is_wrapped = number in wrapped
            goes_by_entry = by_entry.get(name)
            if (
                (self._goes_by_entry(name) if goes_by_entry is None else goes_by_entry)
                and operands[ids[0]][1] == shape
                and ids.count(ids[0]) == len(ids)
                and not is_wrapped
                and kinds.get(i, "output") == "output"  # and no alias, that was written
            ):
                found.append(ids[0])  # it is what it was made of, entry by entry
                continue
            key: Any = None
            if number not in selections and not _is_apart(name):
                key = (name, ids, call[1], shape, slot, is_wrapped, *call[2].items())
                try:
                    known = memo.get(key)
                except TypeError:  # slices and lists among the arguments
                    known = key = None
                if known is not None:
                    found.append(known)
                    continue
            made = self._number(self._made(i, tape.call(number), ids))
            if key is not None:
                memo[key] = made
            found.append(made)

    def _goes_by_entry(self, name: str) -> bool:
        """Whether the results of a function have the axes of what it is given."""
        by_entry = self._by_entry.get(name)
        if by_entry is None:
            # Of a single stimulus the first axis may be named yet, by its extent.
            by_entry = self._by_entry[name] = rule_of(name) is elementwise and self.n != 1
        return by_entry

    def _number(self, operand: Operand) -> int:
        number = self._numbers.get(operand)
        if number is None:
            number = self._numbers[operand] = len(self.operands)
            self.operands.append(operand)
            self._informs.append(operand.has_stimuli())
        return number

    def _of_held(self, source: int) -> int:
        shape = self.tape.held[-1 - source].shape
        number = self._held.get(shape)
        if number is None:
            number = self._held[shape] = self._number(Operand((None,) * len(shape), shape))
        return number

    def _begun(self, i: int, shape: tuple[int, ...]) -> Operand:
        """A row that nothing went into: an input, a constant, a tensor made anew."""
        names: Names = self._inputs.get(i, (None,) * len(shape))
        if len(names) != len(shape):
            names = (None,) * len(shape)
        start = self.tape.starts.get(i)
        if isinstance(start, int) and not (self.n == 1 and shape[:1] == (1,)):
            return Operand(names, shape, start)
        if isinstance(start, range):
            return Operand((STIMULUS if start else None, *names[1:]), shape)
        if start is not None:
            along = named(np.atleast_1d(start), self.n)
            return Operand((along, *names[1:]), shape)
        # What went into it is out of sight; the order of its entries is not known.
        unseen = self.tape.kinds.get(i) == "constant" and i not in self.tape.paths
        if not unseen or not self.tape.starts:
            return Operand(names, shape, NONE)
        return Operand(names, shape, MIXED if self.n in shape else ALL)

    def _made(self, i: int, call: Call, ids: tuple[int, ...]) -> Operand:
        shape = tuple(self.tape.row(i).shape)
        case = self._case(i, ids)
        ruled = self._ruled(i, call, case)
        names, whole = ruled if isinstance(ruled, Ruled) else (ruled, None)
        if names is None or len(names) != len(shape):
            names, whole = (None,) * len(shape), None
        if whole is None:
            whole = _whole([self.operands[k] for k in ids if self._informs[k]], names)
        if self.n > 1:
            names = _with_whole(names, shape, whole, self.n)
        unfit = [not fits(n, extent, self.n) for n, extent in zip(names, shape, strict=True)]
        if True in unfit:
            if any([carries(name) for name, out in zip(names, unfit, strict=True) if out]):
                whole = MIXED
            names = tuple([None if out else n for n, out in zip(names, unfit, strict=True)])
            if self.n > 1:
                names = _with_whole(names, shape, whole, self.n)
        if self.n == 1 and shape[:1] == (1,) and names[0] is None and whole != NONE:
            names = (STIMULUS, *names[1:])  # there is but one
        return Operand(tuple(names), shape, whole)

    def _ruled(self, i: int, call: Call, case: Case) -> Names | Ruled | None:
        name = call.function.name
        if self.tape.kinds.get(i) == "alias":
            return self._alias(call, case)
        if self.tape.row(i).call in self.tape.wrapped:
            return _inside_vmap(case) if is_pointwise(name) else None
        rule = rule_of(name)
        if rule is None:
            return None
        try:
            return rule(case)
        except Exception:  # arguments that the rule does not expect, of whatever kind
            return None

    def _case(self, i: int, ids: tuple[int, ...]) -> Case:
        """What a rule may look at; of the results of one call much is the same."""
        row = self.tape.row(i)
        if self._last is not None and self._last[0] == row.call:
            return self._last[1]._replace(shape=tuple(row.shape), slot=row.slot)
        case = case_of(self.tape, i, [self.operands[k] for k in ids], self.n)
        self._last = (row.call, case)
        return case

    def _alias(self, call: Call, case: Case) -> Ruled | None:
        """What a tensor is after writes through others into its storage."""
        if "offsets" not in call.kwargs:  # what wraps others, or is wrapped: only its class knows
            return None
        found = Ruled(case.first.names, case.first.whole)
        for k in range(1, len(case.operands)):
            written = case.operands[k]
            if self._brings(call.sources[0], call.sources[k], written):
                here, other = self.tape.rows[len(self.found)], self.tape.rows[call.sources[k]]
                bytes_on = call.kwargs["offsets"][k] - call.kwargs["offset"]
                before = Operand(found.names, case.shape, found.whole)
                found = after_write(case, before, written, here, other, bytes_on)
        return found

    def _brings(self, target: int, source: int, written: Operand) -> bool:
        """Whether the writes since a tensor was last read brought other stimuli than it had."""
        if written.whole == NONE and not any(map(carries, written.names)):
            return False
        while source > target:
            call = self.tape.calls[self.tape.rows[source].call]
            if "out" in call.kwargs or not call.sources or call.sources[0] < 0:
                return True  # what was there before is not among what it read
            before = call.sources[0]
            old, new = self.operands[self.found[before]], self.operands[self.found[source]]
            # What is mixed may be in another order now, and what all went into at some places only.
            if new.whole in (MIXED, *OF_ALL) or old.names != new.names or old.whole != new.whole:
                return True
            if not self.tape.rows[source].inplace:
                return False
            source = before
        return False


def case_of(tape: Tape, i: int, operands: list[Operand], n: int) -> Case:
    """What a rule may look at of the call that made row `i`."""
    row = tape.row(i)
    call = tape.call(row.call)
    name = call.function.name
    chosen = tape.selections.get(row.call)
    return Case(
        operands,
        _arguments(call),
        tuple(row.shape),
        row.slot,
        n,
        {} if chosen is None else _entries(chosen),
        shapes_of(tape, i) if _is_apart(name) else (),
        _stride_of(tape, call) if name in _BY_MEMORY else (),
    )


def shapes_of(tape: Tape, i: int) -> tuple[tuple[int, ...], ...]:
    """The shapes of all results of the call that made row `i`, by slot."""
    rows = tape.rows
    first = end = i - rows[i].slot
    while end < len(rows) and rows[end].call == rows[i].call:
        end += 1
    return tuple([tuple(row.shape) for row in rows[first:end]])


def _stride_of(tape: Tape, call: Call) -> tuple[int, ...]:
    first = call.sources[0]
    return tuple(tape.rows[first].stride) if first >= 0 else ()


@cache
def _is_apart(name: str) -> bool:
    """Whether calls with like arguments may give unlike axes, for which more must be known."""
    return name in _TOGETHER or name in _BY_MEMORY or is_listed(name)


def _inside_vmap(case: Case) -> Ruled | None:
    """Element by element, where the axes of an unwrapped value can be told apart.

    An argument such as `dim` does not count the axis that is mapped over, and torch moves that
    axis to the front as it likes: axes of one extent may have changed places.
    """
    for o in case.operands:
        if o.shape and o.shape != case.shape:
            return None
        for name, extent in zip(o.names, o.shape, strict=True):
            if carries(name) and o.shape.count(extent) > 1:
                return None
    return elementwise(case)


def _entries(selection: dict[int, Tensor]) -> dict[int, Any]:
    """As arrays; torch takes bytes as masks."""
    arrays = {k: tensor.cpu().numpy() for k, tensor in selection.items()}
    return {k: a.astype(np.bool_) if a.dtype == np.uint8 else a for k, a in arrays.items()}


def _with_whole(names: Names, shape: Sequence[int], whole: int, n: int) -> Names:
    """The axes of a tensor that comes from a stimulus as a whole, too, or from who knows which."""
    if whole == MIXED:
        return without_order(names, range(len(names)))
    if whole < 0 or not any([carries(name) for name in names]):
        return names
    found: list[Name] = []
    for name, extent in zip(names, shape, strict=True):
        along = together(numbers(name, extent), np.full(extent, whole))
        found.append(named(along, n) if carries(name) else name)
    return tuple(found)


def _whole(operands: Sequence[Operand], names: Sequence[Name]) -> int:
    """The number of a result of a rule that says nothing of it.

    Stimuli along an axis that is gone went in who knows how; of one alone it is that one's.
    """
    whole = of_all([operand.whole for operand in operands])
    here = [name for name in names if carries(name)]
    for operand in operands:
        left = here.copy()
        for name, extent in zip(operand.names, operand.shape, strict=True):
            if not carries(name):
                continue
            if name in left:
                left.remove(name)
                continue
            number = of_axis(name, extent, 0)
            whole = of_both(whole, number if number >= 0 else MIXED)
    return whole


def _arguments(call: Call) -> dict[str, Any]:
    names = call.function.arg_names
    named = {names[i] if i < len(names) else str(i): a for i, a in enumerate(call.args)}
    return {**named, **call.kwargs}
