"""What was found out of one tape, kept for those that are like it.

A model is traced again and again, and most often does the same again with other numbers. Its
layers, its axes and most cells of its tables are then those of the last time. Tapes are alike if
all that these are made of is equal to the letter: not values, times, and where the run was asked
for. It is compared as it stands, by no hash, and by id only where what has the id is held here. A
function, a tensor or an object among the arguments that is not torch's own is never held: a tape
with one of these is like no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from math import copysign
from typing import Any, TypeVar

import torch

from lensframe_pd.tape.functions import KNOWN, Function
from lensframe_pd.tape.tape import SLOT, Tape

Found = TypeVar("Found")

_MOST, _MOST_ROWS = 8, 5_000
"""How many tapes are known, and how many rows they have together: some megabytes."""
_MOST_MET = 256

_NESTED = frozenset((tuple, list, slice, torch.Size))
#: Types whose values are the same where they are equal, and their parts and signs are.
_SETTLED = _NESTED.union(
    (type(SLOT), int, float, bool, str, type(None), type(Ellipsis), torch.dtype, torch.device,
     torch.layout, torch.memory_format)
)  # fmt: skip
_STARTS = frozenset((int, range))


class Findings:
    """What was found out of tapes that are alike, each thing once.

    Parameters
    ----------
    content
        What they have in common; nothing if no other tape is like this one.
    codes
        The code that is known by its id in `content`, which it keeps as it is held.
    """

    def __init__(self, content: tuple[Any, ...] = (), codes: Iterable[Any] = ()) -> None:
        self.content = content
        self._codes = (*codes,)
        self._found: dict[Any, tuple[Any, Any]] = {}

    @property
    def are_kept(self) -> bool:
        """Whether what is found is given out again, so that nobody may change it."""
        return bool(self.content)

    def once(self, find: Callable[..., Found], *made_of: Any, given: tuple[Any, ...] = ()) -> Found:
        """`find(*made_of)`, or what that was of a tape that is like this one.

        Parameters
        ----------
        find, made_of
            A function of the tape, and of what else was found out of it.
        given
            What else it depends on; compared with what that was the last time.
        """
        known = self._found.get(find)
        if known is not None and known[0] == given:
            return known[1]  # type: ignore[no-any-return]
        found = find(*made_of)
        if self.content:
            self._found[find] = given, found
        return found

    def forget(self) -> None:
        """Keep nothing from here on, though traces may hold this."""
        self.content, self._codes, self._found = (), (), {}


#: The latest first.
_recent: list[Findings] = []
#: Sizes of tapes that were met.
_met: dict[Any, None] = {}


def findings(tape: Tape) -> Findings:
    """What was found out of tapes like this one, which is complete.

    Nothing is kept of a tape of a size that was not met before: most models are traced once.
    """
    global _recent
    size = (len(tape.row_log), len(tape.call_log), len(tape.module_log))
    if size not in _met:
        if len(_met) >= _MOST_MET:
            _met.clear()
        _met[size] = None
        return Findings()
    content = _content(tape) if len(tape.row_log) <= _MOST_ROWS else ()
    if not content:
        return Findings()
    known = next((known for known in _recent if known.content == content), None)
    if known is None:
        if not _are_torchs({call.function for call in tape.calls}):
            return Findings()
        known = Findings(content, tape.codes.values())
    if known not in _recent[:1]:
        _recent = _within_limits([known, *[other for other in _recent if other is not known]])
    return known


def _within_limits(recent: Sequence[Findings]) -> list[Findings]:
    """Those of the latest tapes that there is room for; the others are forgotten."""
    kept: list[Findings] = []
    rows = 0
    for known in recent:
        rows += known.content[0] if known.are_kept else 0
        if rows <= _MOST_ROWS and len(kept) < _MOST:
            kept.append(known)
        else:
            known.forget()
    return kept


def _are_torchs(functions: Iterable[Function]) -> bool:
    """Whether all functions are torch's own, or stand for none."""
    return all([KNOWN.get(function.func) is function for function in functions])


def _content(tape: Tape) -> tuple[Any, ...]:
    """All of a tape by which it is like others; nothing if it is unfit to be compared.

    First what differs most often, and types before what has them: no `==` of others is called.
    """
    # Entries as they were written: where the tape is like another, nobody has to give them names.
    calls, rows, modules = tape.call_log.entries, tape.row_log.entries, tape.module_log.entries
    if not calls or tape.selections or not _STARTS.issuperset(map(type, tape.starts.values())):
        return ()
    functions, args, kwargs, sources, sites, places, contexts, _, states = zip(*calls, strict=True)
    kinds = _to_the_letter(args, kwargs)
    if not kinds:
        return ()
    return (
        len(rows),
        *zip(*rows, strict=True),
        functions,  # of which one is only equal to itself
        kinds,
        args,
        kwargs,
        sources,
        sites,
        places,
        contexts,
        (*[state is None for state in states],),
        (*modules,),
        [*zip(*tape.held, strict=True)][:-1],  # and not the tensors
        {*tape.holding},
        (*tape.kinds.items(),),
        (*tape.paths.items(),),
        (*tape.returns,),
        [(row, *reads) for row, reads in tape.reads.items()],
        tape.seed,
        tape.stopped,
        tape.n_stimuli,
        str(tape.starts),
        {*tape.wrapped},
        (*tape.renamed.items(),),
    )


def _to_the_letter(
    args: Sequence[tuple[Any, ...]], kwargs: Sequence[dict[str, Any]]
) -> list[tuple[Any, ...]]:
    """What equal arguments may differ in: the order of names, types, signs of zeros.

    Of parts, too, at any depth; nothing if some are not settled by that.
    """
    letter: list[tuple[Any, ...]] = [()]
    values = [*chain.from_iterable(args)]
    if any(kwargs):
        letter.append((*chain.from_iterable(kwargs),))
        values += chain.from_iterable([named.values() for named in kwargs])
    while values:
        kinds = (*map(type, values),)
        distinct = {*kinds}
        if not distinct <= _SETTLED:
            return []
        letter.append(kinds)
        if float in distinct:
            letter.append((*[copysign(1, v) for v in values if type(v) is float and v == 0],))
        if distinct.isdisjoint(_NESTED):
            break
        values = [part for v in values if type(v) in _NESTED for part in _parts(v)]
    return letter


def _parts(value: Any) -> Iterable[Any]:
    return (value.start, value.stop, value.step) if type(value) is slice else value
