"""Names, attributes and coordinates as every file format takes them, and back.

An op label such as `linear_1:2` is no Windows file name, `T_1` and `t_1` are one on Windows and
macOS, and netCDF refuses a slash. So a variable is stored under a plain name and carries its real
one beside it; the reader restores that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lensframe_pd.errors import LensTypeError
from lensframe_pd.schema import STIMULUS

OTHER = "lensframe_attrs"
"""The attribute that holds, as JSON, those attributes netCDF has no type for."""
TEXT = "text"
"""The dtype of a coordinate whose texts are Python objects."""
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)$", re.IGNORECASE)
_PORTABLE = re.compile(r"[^A-Za-z0-9_]")
_LONGEST = 100
# Words of the formats' conventions: a reader would act upon them.
_RESERVED = frozenset(
    """_FillValue missing_value scale_factor add_offset coordinates dtype units calendar
    grid_mapping CLASS NAME DIMENSION_LIST REFERENCE_LIST _Netcdf4Dimid _Netcdf4Coordinates
    _NCProperties _nc3_strict _ARRAY_DIMENSIONS _Unsigned _Encoding""".split()
)


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
        (plain if _is_simple(str(name), value) else other)[str(name)] = value
    if other:
        try:
            plain[OTHER] = json.dumps(other)
        except TypeError as error:
            raise LensTypeError(f"attributes must be JSON to be written: {error}") from None
    return plain


def _is_simple(name: str, value: Any) -> bool:
    """Whether every format has this attribute as it is."""
    if name in _RESERVED or name.startswith("lensframe") or _PORTABLE.search(name):
        return False
    if type(value) is str:
        return "\0" not in value and value.isprintable()
    return type(value) in (int, float) and abs(value) < 2**62 and value == value


def unpack_attrs(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """What `pack_attrs` was given."""
    plain = {
        str(k): v.item() if isinstance(v, np.generic) else v
        for k, v in attrs.items()
        if not str(k).startswith("lensframe")
    }
    return {**plain, **json.loads(attrs.get(OTHER, "{}"))}


def storable(name: str, values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Values of a coordinate as numbers, times or text, and which texts are missing.

    Text is given as Python's own, so that one long text does not widen all, and a missing one
    as `""`.

    Raises
    ------
    LensTypeError
        The coordinate holds other objects: they would have to be pickled. Or an id is missing.
    """
    if values.dtype.kind not in "OTU":
        return values, []
    cells = values.astype(object)
    missing = [k for k, v in enumerate(cells.flat) if not isinstance(v, str) and _is_missing(v)]
    if missing and name == STIMULUS:
        raise LensTypeError(f"ids of stimuli {missing[:5]} are missing; give each stimulus an id")
    for k in missing:
        cells.flat[k] = ""
    kinds = sorted({type(v).__name__ for v in cells.flat if not isinstance(v, str)})
    if kinds or (missing and len(missing) == cells.size):
        raise LensTypeError(
            f"coordinate {name!r} holds objects ({', '.join(kinds) or 'all missing'}) and is not "
            "written, as nothing is ever pickled; make it text or numbers, as in "
            f".assign_coords({name}=...), or drop it"
        )
    try:
        "".join(cells.flat).encode()
    except UnicodeEncodeError as error:
        raise LensTypeError(f"coordinate {name!r} holds text that is no Unicode: {error}") from None
    return cells, missing


def restored(
    cells: np.ndarray[Any, Any], dtype: str, missing: Sequence[int]
) -> np.ndarray[Any, Any]:
    """What `storable` was given, from its values, the text of its dtype, and the missing ones."""
    if dtype == TEXT:
        cells = cells.astype(object)
        for k in missing:
            cells.flat[k] = np.nan
        return cells
    return cells.astype(np.dtype(dtype))


def dtype_name(values: np.ndarray[Any, Any]) -> str:
    """How a coordinate's dtype is written down; text that is not of fixed width is objects."""
    return TEXT if values.dtype.kind in "OT" else values.dtype.str


def _is_missing(value: Any) -> bool:
    return value is None or (np.ndim(value) == 0 and bool(pd.isna(value)))
