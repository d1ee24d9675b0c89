"""What can go wrong, each error also the builtin a caller would expect."""

from __future__ import annotations

import os.path
import sys
import warnings
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

from rapidfuzz import fuzz, process

#: Frames and warnings of files below this folder are this package's own, never the user's code.
OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep


class LensError(Exception):
    """Base of every error this library raises on purpose."""


class LensTypeError(LensError, TypeError):
    """An argument is of a kind the call cannot work with."""


class LensValueError(LensError, ValueError):
    """An argument has the right kind and an impossible value."""


class LensFileError(LensValueError, OSError):
    """A file or folder cannot be written there: no permission, no space, no such place."""


class LensKeyError(LensError, KeyError):
    """A label, layer, module path or column that is not there."""

    def __str__(self) -> str:  # KeyError would show the repr, quotes and all
        return str(self.args[0]) if self.args else ""


class LensAttributeError(LensError, AttributeError):
    """A name that is elsewhere; the message says where."""


class LensRuntimeError(LensError, RuntimeError):
    """The call cannot run in this situation."""


class LensValidationError(LensError, AssertionError):
    """A trace is not what the model does; `report` has one row per op."""

    report: Any = None


class LensWarning(UserWarning):
    """Something a careful reader of a trace wants to know."""


def warn(message: str) -> None:
    """Warn, at the line of the user's code that called, whichever verb calls which inside."""
    level = 1
    caller: FrameType | None = sys._getframe()
    while caller is not None and caller.f_code.co_filename.startswith(OURS):
        level, caller = level + 1, caller.f_back
    warnings.warn(message, LensWarning, stacklevel=level)


def unknown_names(asked: Iterable[str], known: Iterable[str], what: str) -> LensKeyError:
    """One error for all names that are not in `known`, with the near misses of each."""
    known = list(dict.fromkeys(known))
    lines = []
    for name in asked:
        close = near_misses(name, known)
        hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
        lines.append(f"no {what} {name!r}{hint}")
    shown = known if len(known) <= 8 else [*known[:4], "...", *known[-3:]]
    lines.append(f"there are: {', '.join(shown)}" if known else "there are none")
    return LensKeyError("\n".join(lines))


def near_misses(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Names that may have been meant: the last parts of a path first, then what is spelt alike.

    Examples
    --------
    >>> near_misses("IT", ["areas.V4", "areas.IT", "areas.IT.ff"])
    ['areas.IT']
    >>> near_misses("Conv2d", ["conv2d_1", "conv2d_2", "relu_1"])
    ['conv2d_1', 'conv2d_2']
    """
    asked, known = name.casefold(), [*known]
    ends = [k for k in known if k.casefold().endswith(f".{asked}")]
    alike = process.extract(
        asked, known, scorer=fuzz.ratio, processor=str.casefold, limit=n, score_cutoff=60
    )
    return list(dict.fromkeys([*ends, *(match for match, _, _ in alike)]))[:n]


def needs(package: str, what: str) -> None:
    """Raise an error that says what to install, if `package` is not there."""
    try:
        __import__(package)
    except ImportError as error:
        raise LensRuntimeError(
            f"{what} need the package {package}: pip install {package}"
        ) from error


def shown(names: Sequence[Any] | Iterable[Any], at_most: int = 8) -> str:
    """Names for a message, the first few of many."""
    listed = [repr(getattr(n, "item", lambda n=n: n)()) for n in names]
    if len(listed) > at_most:
        return f"{', '.join(listed[:at_most])} ... ({len(listed)} in all)"
    return ", ".join(listed)
