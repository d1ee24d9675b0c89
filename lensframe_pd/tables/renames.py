"""Other names for axes than operations give them: what `dims=` may say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.schema import STIMULUS

_OF_OPERATIONS = re.compile(r"batch|channel|feature|head|part|time|token|x|y|z|dim\d+")
"""What operations call axes, and those that none does."""
_OF_SPACE = re.compile(r"x|y|z|dim\d+")


def renames(given: Any) -> dict[str, str]:
    """`dims=`: names that operations give to axes, and others instead.

    Raises
    ------
    LensTypeError
        It is no mapping of texts.
    LensValueError
        A name that no operation gives, or one that cannot stand instead.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(
        [isinstance(name, str) for pair in given.items() for name in pair]
    ):
        raise LensTypeError(f'dims= is a dict of names, as {{"z": "frame"}}, not {given!r}')
    for old, new in given.items():
        if not _OF_OPERATIONS.fullmatch(old):
            raise LensValueError(
                f"dims= renames {old!r}, which no operation calls an axis: there are x, y, z, "
                "time, token, channel, feature, head, and dim1 for a second axis without a name"
            )
        word = re.fullmatch(r"[^\W\d_](\w*[^\W\d_])?", new)
        if not word or new in (STIMULUS, "pass_num") or (_OF_SPACE.fullmatch(new) and new != old):
            raise LensValueError(
                f"dims= renames {old!r} to {new!r}, which is not free: give a word of letters that "
                "is not stimulus, pass_num or another axis of space"
            )
    return dict(given)
