"""Names of modules and parameters of one model as those of another: `rename=` of `diff`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from lensframe_pd.errors import LensTypeError, unknown_names

Renaming = Mapping[str, str] | Callable[[str], str] | None
_ANY = "[^.]+"


class Common(NamedTuple):
    """What makes the names of two models comparable: a function for those of each."""

    mine: Callable[[str], str]
    theirs: Callable[[str], str]


def common_names(rename: Renaming, mine: Iterable[str], theirs: Iterable[str]) -> Common:
    """How names are read so that those that mean the same are equal.

    Parameters
    ----------
    rename
        As of `diff`.
    mine, theirs
        Paths of modules, and names of parameters and buffers, of the two models.

    Raises
    ------
    LensKeyError
        An entry names nothing in either model.
    LensTypeError
        It is no mapping of text to text, and no function.
    """
    if rename is None:
        return Common(_same, _same)
    if callable(rename):
        return Common(cache(rename), _same)
    texts = isinstance(rename, Mapping) and all(isinstance(n, str) for n in _flat(rename))
    if not texts:
        raise LensTypeError(
            "rename is a mapping of names here to names there, such as {'fc1': 'linear1'}, or a "
            f"function of a name, not {rename!r}"
        )
    of_mine, of_theirs = _with_parents(mine), _with_parents(theirs)
    forwards, backwards = dict[str, str](), dict[str, str]()
    unknown: tuple[list[str], list[str]] = ([], [])
    for here, there in rename.items():
        if _occurs(here, of_mine) and _occurs(there, of_theirs):
            forwards[here] = there
        elif _occurs(here, of_theirs) and _occurs(there, of_mine):
            backwards[here] = there
        else:
            name, side = _missing(here, there, of_mine, of_theirs)
            unknown[side].append(name)
    for missing, known, where in zip(unknown, (of_mine, of_theirs), ("here", "there"), strict=True):
        if missing:
            raise unknown_names(missing, sorted(known), f"module or parameter {where}")
    return Common(_renamer(forwards), _renamer(backwards))


def _missing(here: str, there: str, mine: set[str], theirs: set[str]) -> tuple[str, int]:
    """The name of an entry that is not where it should be: in the first model 0, in the other 1."""
    if _occurs(here, mine):
        return there, 1
    if _occurs(there, mine):
        return here, 1
    return (there, 0) if _occurs(here, theirs) else (here, 0)


def _same(name: str) -> str:
    return name


def _flat(rename: Mapping[Any, Any]) -> list[Any]:
    return [*rename.keys(), *rename.values()]


def _with_parents(names: Iterable[str]) -> set[str]:
    """The names, and each module around them out to the model itself, which is ''."""
    found = {""}
    for name in names:
        while name not in found:
            found.add(name)
            name = name.rpartition(".")[0]
    return found


def _occurs(pattern: str, names: set[str]) -> bool:
    if "*" not in pattern:
        return pattern in names
    compiled = _compiled(pattern)
    return any(compiled.fullmatch(name) for name in names)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", f"({_ANY})"))


def _renamer(entries: Mapping[str, str]) -> Callable[[str], str]:
    """The entry with most names counts, of what stands in full before those with a star."""
    if not entries:
        return _same
    ordered = sorted(entries, key=lambda e: (-e.count("."), "*" in e, e == ""))
    rules = [(re.compile(rf"{_compiled(e).pattern}(?=\.|$)"), entries[e]) for e in ordered if e]

    @cache
    def renamed(name: str) -> str:
        for rule, new in rules:
            match = rule.match(name)
            if match:
                parts = iter(match.groups())
                start = re.sub(r"\*", lambda _, parts=parts: next(parts, "*"), new)  # type: ignore[misc]
                return ".".join(filter(None, (start, name[match.end() :].lstrip("."))))
        if "" in entries:
            return ".".join(filter(None, (entries[""], name)))
        return name

    return renamed
