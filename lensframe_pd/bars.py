"""Progress bars: where somebody looks on, and only once a thing has taken a while."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")

DELAY = 2.0  #: seconds before a bar appears
_NOTEBOOK = "ipykernel"  # its stderr says that it is no terminal


class _Bar(tqdm):  # type: ignore[misc]
    """Without a thread that looks after it, which a later fork would find."""

    monitor_interval = 0


def bar(of: str, total: int | None = None, unit: str = "", **options: Any) -> Any:
    """A bar of `tqdm` on a terminal or in a notebook; elsewhere one that shows nothing.

    Parameters
    ----------
    of
        What is being done.
    total
        Of how many; None where that is not known.
    unit
        What is counted.
    **options
        More of tqdm's.
    """
    disable = False if _NOTEBOOK in sys.modules else None
    shown = {
        "desc": of, "unit": f" {unit}", "delay": DELAY, "disable": disable, "leave": False,
        "miniters": 1,
    }  # fmt: skip
    return _Bar(total=total, **(shown | options))


def counted(items: Iterable[Item], of: str, unit: str) -> Iterator[Item]:
    """The items, with a bar that counts those that are done."""
    total = len(items) if isinstance(items, Sized) else None
    with bar(of, total, unit) as progress:
        if progress.disable:
            yield from items
            return
        for item in items:
            yield item
            progress.update()
