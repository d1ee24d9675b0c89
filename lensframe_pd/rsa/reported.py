"""What a reviewer asks of a result: how it was made, beside it, as plain numbers and texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

NONE = "none"
"""What was not asked for: an attribute in a file can hold no None."""


def reported(*packages: str, **facts: Any) -> dict[str, Any]:
    """Facts as attributes that every file format takes, and the versions of what computed them.

    Parameters
    ----------
    packages
        Those that took part besides this one, numpy and scipy.
    facts
        `comparison`, `metric`, `pool`, `n_stimuli`, `n_pairs`, `bootstrap`, `confidence`, `seed`,
        `resampled`, or others; in this order.

    Returns
    -------
    dict
        Numbers and texts; `"none"` for None.
    """
    found = {name: _plain(fact) for name, fact in facts.items()}
    return {**found, "versions": _versions(("lensframe-pd", "numpy", "scipy", *packages))}


def pool_text(pool: Any) -> str:
    """What was done about space and tokens, as text; arrays by their kind: they are no text."""
    if isinstance(pool, Mapping):
        return ", ".join(f"{axis}: {_how(how)}" for axis, how in pool.items())
    return NONE if pool is None else str(pool)


def _how(how: Any) -> str:
    return str(how) if isinstance(how, (str, int, np.integer)) else "mask"


def _plain(fact: Any) -> Any:
    if fact is None:
        return NONE
    if isinstance(fact, np.generic):
        return fact.item()
    if isinstance(fact, bool):
        return int(fact)
    return fact if isinstance(fact, (int, float, str)) else str(fact)


@cache
def _versions(packages: tuple[str, ...]) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # used from its folder
            found.append(package)
    return ", ".join(found)
