"""The kept values, and that they never change afterwards.

Values are kept by reference; before a write, and at the end for what others can still reach,
the kept values that share the storage get a copy of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from lensframe_pd.tape.storage import faithful_clone
from lensframe_pd.tape.tape import Tape


class Values:
    """The kept values of a tape.

    Parameters
    ----------
    tape
        Its `values` list has one entry a row; the entries are set here.
    all_kept
        Whether every row's value is kept. Then a view may keep its storage alive: the storage is
        kept anyhow, by the row that made it.
    """

    def __init__(self, tape: Tape, all_kept: bool) -> None:
        self.all_kept = all_kept
        self._values = tape.values
        self._by_storage: dict[int, list[int]] = {}
        self._shared: set[int] = set()

    def keep(self, row: int, tensor: Tensor, storage: int) -> None:
        """Keep the value of a row that `Tape.values` has an entry for."""
        value = tensor.detach()
        if storage:
            if not self.all_kept and _much_smaller(value):
                value = value.clone()
            else:
                self._by_storage.setdefault(storage, []).append(row)
        self._values[row] = value

    def keep_next(self, row: int, tensor: Tensor, storage: int) -> None:
        """Keep the value of a new row, where all are kept: once per operation, so in few steps."""
        self._values.append(tensor.detach())
        if storage in self._by_storage:
            self._by_storage[storage].append(row)
        else:
            self._by_storage[storage] = [row]

    def drop(self, rows: Iterable[int]) -> None:
        """Let go of the values of rows."""
        for row in rows:
            self._values[row] = None

    def preserve(self, storage: int) -> None:
        """The storage is about to be written: give the kept values in it their own copy."""
        if not storage:  # sparse and other layouts: their values are not kept by reference
            return
        copies: dict[Any, Tensor] = {}
        for row in self._by_storage.pop(storage, ()):
            value = self._values[row]
            if value is not None:
                key = (
                    value.storage_offset(), value.shape, value.stride(), value.dtype,
                    value.is_conj(), value.is_neg(),
                )  # fmt: skip
                if key not in copies:
                    copies[key] = faithful_clone(value)
                self._values[row] = copies[key]

    def last_in(self, storage: int) -> int | None:
        """The newest row kept by reference in a storage, which therefore is still that storage."""
        rows = self._by_storage.get(storage)
        return rows[-1] if rows else None

    def share(self, storage: int) -> None:
        """Somebody outside the trace can reach the storage: parameters, NumPy arrays."""
        self._shared.add(storage)

    def settle(self, kept_elsewhere: Callable[[], set[int]]) -> None:
        """The run is over: nobody but the trace may reach a kept value from here on."""
        if self._by_storage:
            for storage in (kept_elsewhere() | self._shared) & self._by_storage.keys():
                self.preserve(storage)
            self._by_storage.clear()


def _much_smaller(value: Tensor) -> bool:
    """Whether keeping this view would keep alive a storage more than twice its size."""
    return value.untyped_storage().nbytes() > 2 * value.numel() * value.element_size()
