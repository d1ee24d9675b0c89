"""Names, attributes and coordinates as every file format takes them, and back.

An op label such as `linear_1:2` is no Windows file name, `T_1` and `t_1` are one on Windows and
macOS, and netCDF refuses a slash. So a variable is stored under a plain name and carries its real
one beside it; the reader restores that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lensframe_pd.errors import LensTypeError

OTHER = "lensframe_attrs"
"""The attribute that holds, as JSON, those attributes netCDF has no type for."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)
_PORTABLE = re.compile(r"[^A-Za-z0-9_]")
_LONGEST = 100


def stored_names(names: Iterable[Any]) -> dict[str, str]:
    """Real name to a stored one that any file system and format takes; no two differ by case only.

    Examples
    --------
    >>> stored_names(["relu_1", "linear_1:2", "T_1", "t_1"])
    {'relu_1': 'relu_1', 'linear_1:2': 'linear_1-2', 'T_1': 'T_1', 't_1': 't_1-b'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in map(str, names):
        plain = _PORTABLE.sub("-", name)[:_LONGEST]
        if not plain or not plain[0].isalpha() or _DEVICES.match(plain):
            plain = f"v_{plain}"
        stored, n = plain, 1
        while stored.lower() in taken:
            n += 1
            stored = f"{plain}-{_letters(n)}"
        taken.add(stored.lower())
        found[name] = stored
    return found


def _letters(n: int) -> str:
    """2 is b, 27 is aa: letters, as digits would look like a pass number."""
    text = ""
    while n:
        n, digit = divmod(n - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def pack_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as text and numbers; the rest (bool, None, lists) as JSON under one name."""
    plain: dict[str, Any] = {}
    other: dict[str, Any] = {}
    for name, value in attrs.items():
        value = value.item() if isinstance(value, np.generic) else value
        value = value.tolist() if isinstance(value, np.ndarray) else value
        simple = type(value) is str or (
            type(value) in (int, float) and abs(value) < 2**62 and value == value
        )
        (plain if simple else other)[str(name)] = value
    if other:
        try:
            plain[OTHER] = json.dumps(other)
        except TypeError as error:
            raise LensTypeError(f"attributes must be JSON to be written: {error}") from None
    return plain


def unpack_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """What `pack_attrs` was given."""
    plain = {
        str(k): v.item() if isinstance(v, np.generic) else v
        for k, v in attrs.items()
        if not str(k).startswith("lensframe")
    }
    return {**plain, **json.loads(attrs.get(OTHER, "{}"))}


def storable(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Values of a coordinate as numbers, times or text, not as Python objects.

    Raises
    ------
    LensTypeError
        The coordinate holds other objects: they would have to be pickled.
    """
    if values.dtype.kind not in "OT":
        return values
    if all(isinstance(v, str) for v in values.flat):
        return values.astype(np.str_)
    kinds = sorted({type(v).__name__ for v in values.flat})
    raise LensTypeError(
        f"coordinate {name!r} holds objects ({', '.join(kinds)}) and is not written, as nothing is "
        f"ever pickled; make it text or numbers, as in .assign_coords({name}=...), or drop it"
    )
