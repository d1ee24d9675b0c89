"""Values as another type: what does not fit is counted or refused, never wrong without a word."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from lensframe_pd.errors import LensValueError
from lensframe_pd.extract.columns import BFLOAT16

Array = np.ndarray[Any, Any]
_EXACT = "give dtype= a type that holds them, or none for the traced one"


class Cast(NamedTuple):
    """From one type to another, both by torch's names."""

    source: str
    target: str

    @property
    def stored(self) -> np.dtype[Any]:
        """The type of the array: NumPy has no bfloat16, and float32 holds it exactly."""
        return numpy_dtype(self.target)

    @property
    def may_overflow(self) -> bool:
        """Whether finite numbers can become infinite."""
        there, here = numpy_dtype(self.source), self.stored
        if here.kind not in "fc" or there.kind not in "fc":
            return False
        return np.finfo(here).max < np.finfo(there).max or self.target == BFLOAT16

    def check(self, op: str) -> None:
        """Raise where values would be cut: a float as an integer, a complex number as a real one.

        Raises
        ------
        LensValueError
            Naming the row.
        """
        rank = "biufc".replace("iu", "i")
        there, here = (np.dtype(d).kind.replace("u", "i") for d in (self.from_dtype, self.stored))
        if rank.index(here) < rank.index(there):
            raise LensValueError(
                f"{op!r} is {self.source}, and {self.target} would lose what these values are; "
                + _EXACT
            )

    @property
    def from_dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.source)

    def __call__(self, op: str, values: Array) -> tuple[Array, Array | None]:
        """The values as the new type, and where they became infinite; None if nowhere.

        Raises
        ------
        LensValueError
            Integers that the new type does not hold.
        """
        if self.target == BFLOAT16:
            halved = torch.from_numpy(np.array(values)).to(torch.bfloat16).float().numpy()
            self._check_integers(op, values, halved)
            return halved, self._infinite(values, halved)
        if values.dtype == self.stored:
            return values, None
        with np.errstate(over="ignore", invalid="ignore"):
            found = values.astype(self.stored)
        self._check_integers(op, values, found)
        return found, self._infinite(values, found)

    def _check_integers(self, op: str, values: Array, found: Array) -> None:
        if values.dtype.kind not in "iu":
            return
        with np.errstate(invalid="ignore"):
            moved = found.astype(values.dtype) != values
        if moved.any():
            raise LensValueError(
                f"{op!r} holds integers such as {values[moved].flat[0]} that {self.target} does "
                f"not; {_EXACT}"
            )

    def _infinite(self, before: Array, after: Array) -> Array | None:
        if not self.may_overflow:
            return None
        became = np.isinf(after) & np.isfinite(before)
        return became if became.any() else None


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The type of NumPy that holds values of one of torch's."""
    return np.dtype("float32" if name == BFLOAT16 else name)


def fill_of(dtype: np.dtype[Any]) -> Any:
    """What stands where a stimulus has no value: NaN, and of types without it 0."""
    return dtype.type(np.nan) if dtype.kind in "fc" else dtype.type(0)
