"""What a rule on axes may look at, and how tensors that are aligned share their axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lensframe_pd.tables.order import (
    ALL,
    MIXED,
    NONE,
    OF_ALL,
    PLACED,
    Name,
    Names,
    Numbers,
    carries,
    named,
    numbers,
    of_all,
    of_axis,
    of_both,
    plain,
    together,
)
from lensframe_pd.tape.tape import SLOT

_NOTHING: Mapping[int, Any] = MappingProxyType({})


def entry_number(whole: int) -> int:
    """The number along a new axis of a tensor that becomes an entry there."""
    return NONE if whole in OF_ALL else whole


class Operand(NamedTuple):
    """A tensor that an operation read."""

    names: Names
    shape: tuple[int, ...]
    whole: int = NONE
    """The number of the stimulus that all of it comes from."""

    def number(self, axis: int) -> Numbers:
        """The numbers along an axis; of one without its own, those of the whole."""
        name = self.names[axis]
        if carries(name):
            return numbers(name, self.shape[axis])
        return np.full(self.shape[axis], NONE if self.whole in OF_ALL else self.whole)

    def has_stimuli(self) -> bool:
        """Whether anything of it comes from stimuli."""
        return self.whole != NONE or any([carries(name) for name in self.names if name is not None])

    def elsewhere(self) -> int:
        """The number of the entries along an axis that tells no stimuli itself.

        Beside stimuli along another axis they have places of their own: of each, all stimuli.
        """
        beside = self.whole in (NONE, *OF_ALL) and any(map(carries, self.names))
        return MIXED if beside else self.whole


class Ruled(NamedTuple):
    """What a rule says of a result, where it knows its number, too."""

    names: Names
    whole: int


class Case(NamedTuple):
    """What a rule may look at."""

    operands: list[Operand]
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    slot: int = 0
    n: int = 0
    """How many stimuli there are."""
    values: Mapping[int, Any] = _NOTHING
    """Integers and masks among the operands, by position, where they select entries."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of all the results of the call, by slot; where the rule is of those that need it."""
    stride: tuple[int, ...] = ()
    """Of the first tensor, where the rule is of those that need it."""

    @property
    def first(self) -> Operand:
        return self.operands[0] if self.operands else Operand((), ())

    def given(self) -> list[Any]:
        """The arguments that are no tensors, in order."""
        return [a for a in self.arguments.values() if a is not SLOT]

    def argument(self, *names: str, default: Any = None) -> Any:
        """The argument of one of these names, if it was given and is no tensor."""
        for name in names:
            value = self.arguments.get(name, SLOT)
            if value is not SLOT:
                return value
        return default

    def summed(self, name: Name, extent: int) -> int:
        """The number of what all the entries along an axis of an operand are made into."""
        number = of_axis(name, extent, self.n)
        placed = number == ALL and any([o.whole == PLACED for o in self.operands])
        return MIXED if placed else number

    def axis(self, default: int | None = None, rank: int | None = None) -> int | None:
        """The axis an operation works along, counted from the front."""
        found = self.argument("dim", "axis", "dimension")
        if found is None:  # of a function whose arguments have no names
            unnamed = [a for k, a in self.arguments.items() if k.isdigit() and type(a) is int]
            found = unnamed[0] if unnamed else default
        if type(found) is not int:
            return None
        return found % max(1, len(self.first.shape) if rank is None else rank)


Rule = Callable[[Case], Names | Ruled | None]


def moves(rule: Rule) -> Rule:
    """A rule of an operation that only moves the entries of its first tensor, or drops some."""

    def exact(case: Case) -> Names | Ruled | None:
        names = rule(case)
        if names is None or isinstance(names, Ruled):
            return names
        return Ruled(names, case.first.whole)

    return exact


def shared(
    operands: Sequence[tuple[Name, int, int]], extent: int, n: int, *, lenient: bool = False
) -> Name:
    """What an axis is that several tensors have in common, entry by entry.

    Parameters
    ----------
    operands
        Of each tensor: what its axis is, its extent there, and the number of the whole tensor.
    extent
        Of the axis of the result; a tensor that has less there is spread along it.
    n
        How many stimuli there are.
    lenient
        A tensor whose order is not known only chooses among the entries of the others.

    Returns
    -------
    Name
        None where the orders are unlike, or one of them is not known.
    """
    found: Name = None
    unknown = False
    for name, size, whole in operands:
        if size != extent:
            continue
        if not carries(name):
            unknown |= whole == MIXED
            found = found if found is not None else name
        elif not carries(found) or found == name:
            found = name
        else:
            found = named(together(numbers(found, extent), numbers(name, extent)), n)
    if carries(found) and unknown and extent != 1 and not lenient:
        return None
    return found


def aligned(case: Case, operands: Sequence[Operand] | None = None) -> Names:
    """The axes of tensors that are worked on element by element, aligned at their last axes."""
    operands = case.operands if operands is None else operands
    return tuple([_along(case, operands, k) for k in range(len(case.shape), 0, -1)])


def _along(case: Case, operands: Sequence[Operand], k: int) -> Name:
    """What the axis is that is the k-th from the last."""
    extent = case.shape[-k]
    here = [(o.names[-k], o.shape[-k], o.elsewhere()) for o in operands if len(o.shape) >= k]
    found = shared(here, extent, case.n)
    single = of_all(
        [_single(o, k) for o in operands if len(o.shape) >= k and o.shape[-k] != extent]
    )
    lost = found is None and any([carries(name) and n == extent for name, n, _ in here])
    if single == NONE or lost:
        return found
    return named(together(numbers(found, extent), np.full(extent, single)), case.n, found)


def _single(operand: Operand, k: int) -> int:
    """The stimulus of the only entry along an axis, which is spread along it."""
    return int(numbers(operand.names[-k], 1)[0]) if carries(operand.names[-k]) else NONE


def elementwise(case: Case) -> Ruled:
    """Tensors that are worked on entry by entry, aligned at their last axes."""
    names = aligned(case)
    return Ruled(names, of_spread(case.operands, names))


def of_spread(operands: Sequence[Operand], names: Names) -> int:
    """The number of a result whose axes are those of the operands, aligned at the last.

    It is mixed where stimuli stood along an axis and stand there no more.
    """
    whole = of_all([o.whole for o in operands])
    for o in operands:
        for k, name in enumerate(reversed(o.names), 1):
            if carries(name) and (k > len(names) or not carries(names[-k])):
                return MIXED
    return of_both(whole, PLACED) if at_places(operands, names) else whole


def at_places(operands: Sequence[Operand], names: Names) -> bool:
    """Whether stimuli along an axis meet entries that have places of their own.

    Of tensors whose axes are aligned at the last of a result's.
    """
    return any(
        carries(name)
        and meets_places(
            [(o.names[-k], o.shape[-k], o.whole) for o in operands if len(o.shape) >= k]
        )
        for k, name in enumerate(reversed(names), 1)
    )


def meets_places(here: Sequence[tuple[Name, int, int]]) -> bool:
    """Whether of tensors that have an axis of stimuli in common some have no stimuli there.

    Parameters
    ----------
    here
        As for `shared`; a single entry is spread along all stimuli.
    """
    return any([extent > 1 and not carries(name) for name, extent, _ in here])


def from_states(case: Case, names: Names, here: Sequence[tuple[Name, int, int]]) -> Names | Ruled:
    """What begins from states: those that nobody made of the stimuli stand at places.

    Parameters
    ----------
    here
        As for `shared`, of the sequences and of the states.
    """
    if not meets_places(here) or not any(map(carries, names)):
        return names
    read = [name for o in case.operands for name in o.names if name is not None]
    lost = [name for name in read if name not in names and carries(name)]
    return Ruled(names, MIXED if lost else of_all([PLACED, *[o.whole for o in case.operands]]))


def kept(case: Case) -> Names | Ruled | None:
    """The axes of the first tensor, which the operation leaves what they are."""
    if len(case.first.shape) != len(case.shape):
        return None
    if any([any(map(carries, o.names)) for o in case.operands[1:] if o.shape]):
        return Ruled(case.first.names, MIXED)  # weights of each, along who knows which axis
    return case.first.names


def without_order(names: Sequence[Name], axes: Sequence[int]) -> Names:
    """The same axes, but these are in an order that is not known."""
    return tuple(
        [plain(name) if k in axes and carries(name) else name for k, name in enumerate(names)]
    )
