"""Numbers as people read them."""

from __future__ import annotations

from typing import Any

import pandas as pd


def quantity(n: Any, unit: str = "") -> str:
    """A number to be read: three digits, an SI prefix, its unit; `?` where it is missing.

    Below one only what has a unit takes a prefix: 0.25 is easier to read than 250 m.

    Examples
    --------
    >>> quantity(1814073344, "B"), quantity(0.00447, "s"), quantity(4.75, "s"), quantity(0, "s")
    ('1.81 GB', '4.47 ms', '4.75 s', '0 s')
    >>> quantity(11689512), quantity(42), quantity(999.6), quantity(0.25), quantity(None)
    ('11.7 M', '42', '1 k', '0.25', '?')
    """
    if pd.isna(n):
        return "?"
    rounded = f"{n:.2e}"  # before the prefix is chosen, so that 999.6 is 1 k and not 1000
    power = 3 * (int(rounded.partition("e")[2] or 0) // 3)
    if power not in _PREFIXES or (power < 0 and not unit):
        power = 0
    number = float(rounded) / 10.0**power + 0.0  # the sum has no minus before a zero
    return f"{number:.3g} {_PREFIXES[power]}{unit}".rstrip()


_PREFIXES = {
    18: "E", 15: "P", 12: "T", 9: "G", 6: "M", 3: "k", 0: "", -3: "m", -6: "µ", -9: "n", -12: "p",
}  # fmt: skip


def unit_of(column: str) -> str:
    """The unit of a column's numbers; '' of what is counted."""
    if column.endswith("seconds"):
        return "s"
    return "B" if column.endswith("bytes") else ""
