"""The kept values, and that they never change afterwards.

Values are kept by reference as long as nobody but the traced calls can write them. Before such a
call writes, the kept values that share its storage get a copy of their own. Where others have a
way to the storage that no call shows (the caller's inputs, the model's state, memory that torch
does not own or that was handed out), a value is copied as soon as it is made. And when the run is
over, so is what anybody besides the trace still holds.

What is left is a write by somebody who was handed nothing, such as another thread. The version
counter tells of it, and such a value is let go of, with the reason.
"""

from __future__ import annotations

import sys
from bisect import bisect, insort
from collections.abc import Iterable
from functools import lru_cache
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd.function import AUTOGRAD_FUNCTION_COUNTER
from torch.multiprocessing.reductions import StorageWeakRef

from lensframe_pd.tape.compare import same
from lensframe_pd.tape.dispatch import detached, n_modes, unwatched
from lensframe_pd.tape.regions import Region, region_of
from lensframe_pd.tape.storage import (
    faithful_clone,
    holders,
    is_uninitialized,
    storage_of,
    use_count,
    version_of,
    view_of,
)
from lensframe_pd.tape.tape import Tape

WRITTEN_UNSEEN = "it was written out of the trace's sight, as by another thread"

_UNCOUNTED = -1  # the version of an inference tensor

_is_inference = torch.is_inference_mode_enabled


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
        self._tape = tape
        self._values = tape.values
        self._by_storage: dict[int, list[int]] = {}
        self._exposed: dict[int, _Exposed] = {}
        #: Tensors that others hold as long as the run goes on, by their storage: exposed once a
        #: value in it is kept, as few are.
        self._held: dict[int, Tensor] = {}
        #: Rows in the storages that only autograd's graph shares.
        self._postponed: dict[int, list[int]] = {}
        #: The version of a value when it was kept, where that is not 0.
        self._versions: dict[int, int] = {}
        #: Where the memory of each value began when it was kept, sorted, with its row: of the first
        #: `_n_placed` rows, as few runs ask for it.
        self._places: list[tuple[int, int]] = []
        self._n_placed = 0

    def keep(self, row: int, tensor: Tensor, storage: int) -> None:
        """Keep the value of a row that `Tape.values` has an entry for."""
        value = self._values[row] = detached(tensor)
        if not storage:
            return
        others = storage in self._exposed or storage in self._held
        if not others and not self.all_kept and _much_smaller(value):
            with unwatched():
                self._values[row] = value.clone()
            return
        version = version_of(value)  # in a dispatch mode it may not share that of the tensor
        self._versions[row] = _UNCOUNTED if version is None else version
        self._rows_in(storage).append(row)

    def _rows_in(self, storage: int) -> list[int]:
        """The rows that are kept in a storage, to add one."""
        if storage in self._held:
            self.expose(self._held.pop(storage))
        return self._by_storage.setdefault(storage, [])

    def keep_next(self, row: int, tensor: Tensor, storage: int) -> None:
        """Keep the value of a new row, where all are kept: once per operation, so in few steps."""
        value = detached(tensor) if n_modes() else tensor.detach()
        self._values.append(value)
        try:  # an error is dear, and where inference tensors are met is mostly known before
            inference = _is_inference() and tensor.is_inference()
            version = _UNCOUNTED if inference else value._version
        except RuntimeError:
            version = _UNCOUNTED
        if version:
            self._versions[row] = version
        if storage in self._by_storage:
            self._by_storage[storage].append(row)
        elif storage in self._held:
            self._rows_in(storage).append(row)
        else:
            self._by_storage[storage] = [row]

    def drop(self, rows: Iterable[int]) -> None:
        """Let go of the values of rows."""
        for row in rows:
            self._values[row] = None

    def preserve(self, storage: int) -> None:
        """The storage is about to be written: give the kept values in it their own copy."""
        if not storage or storage in self._exposed:
            return  # storage 0: sparse and other layouts, whose values are not kept by reference
        rows = self._by_storage.pop(storage, None)
        if rows is None:
            return
        copies: dict[Any, Tensor] = {}
        # a transform that runs would wrap the copies
        with temporarily_clear_interpreter_stack(), unwatched():
            for row in rows:
                value = self._as_kept(row)
                if value is not None:
                    key = view_of(value)
                    if key not in copies:
                        copies[key] = faithful_clone(value)
                    self._values[row] = copies[key]

    def _as_kept(self, row: int) -> Tensor | None:
        """A value kept by reference, if nobody wrote it; else it is let go of."""
        value, version = self._values[row], self._versions.get(row, 0)
        if value is None or version == _UNCOUNTED or version == value._version:
            return value
        self._values[row] = None
        self._tape.lost[row] = WRITTEN_UNSEEN
        return None

    def n_kept(self, storage: int) -> int:
        """How many values are kept by reference in a storage."""
        return len(self._by_storage.get(storage, ()))

    def last_in(self, storage: int) -> tuple[int, Region] | None:
        """The newest row kept in a storage, and where it is there.

        While a value is kept, its storage's address is given to no other storage.
        """
        if storage in self._exposed:
            return self._exposed[storage].last
        rows = self._by_storage.get(storage)
        value = self._values[rows[-1]] if rows else None
        return (rows[-1], region_of(value)) if rows and value is not None else None

    def expose_held(self, tensor: Tensor, storage: int) -> None:
        """As `expose`, of a tensor that is held during the run, and whose storage is known."""
        if storage and storage not in self._exposed:
            self._held[storage] = tensor

    def expose(self, tensor: Tensor) -> None:
        """Somebody can write this tensor's storage from here on without a call that is seen."""
        storage = storage_of(tensor)
        if not storage or storage in self._exposed:
            return
        with torch._C.DisableTorchFunction():  # a subclass has its own, and a mode would look on
            if tensor.is_meta or is_uninitialized(tensor):
                return
            if storage in self._by_storage:
                self.preserve(storage)
            weak = StorageWeakRef(tensor.untyped_storage())
        self._by_storage[storage] = self._exposed[storage] = _Exposed(self._values, weak)

    def expose_owner(self, foreign: Tensor) -> None:
        """As `expose`, of the storage whose memory a tensor of another storage lies in.

        A DLPack capsule gives such a tensor, and no call shows that it was made.
        """
        for row in range(self._n_placed, len(self._values)):
            value = self._values[row]
            if value is not None and storage_of(value):
                insort(self._places, (value.untyped_storage().data_ptr(), row))
        self._n_placed = len(self._values)
        pointer = foreign.data_ptr()
        below = bisect(self._places, (pointer, sys.maxsize))
        while below:
            below -= 1
            start, row = self._places[below]
            value = self._values[row]
            if value is None or value.untyped_storage().data_ptr() != start:
                del self._places[below]  # it was dropped, or has a copy of its own by now
                continue
            if pointer < start + value.untyped_storage().nbytes():
                self.expose(value)
                self._tape.lent.add(row)
            return  # storages do not overlap

    def counts_again(self, frame: FrameType | None) -> bool:
        """Whether a write in this frame moves the version again, later and unseen.

        So it does in the forward of an `autograd.Function` that marks a tensor as dirty.
        """
        forwards = _custom_forwards(repr(AUTOGRAD_FUNCTION_COUNTER))
        while frame is not None and id(frame.f_code) not in forwards:
            frame = frame.f_back
        return frame is not None

    def settle(self, held: set[int] | None = None) -> None:
        """The run is over: nobody but the trace may reach a kept value from here on.

        Parameters
        ----------
        held
            The storages that somebody can reach. The others that are shared are so with autograd's
            graph, which nobody writes: `finish` looks at them again. None: all that are shared.
        """
        values, versions = self._values, self._versions
        self._by_storage.pop(0, None)
        shared = []
        for storage, rows in self._by_storage.items():
            if len(rows) == 1:  # as most are; what is exposed has none
                row = rows[0]
                value = values[row]
                if value is None:
                    continue
                version = versions.get(row, 0)
                if version == _UNCOUNTED or value._version == version:
                    if use_count(storage) > 1 and holders(value) > 1:  # the first is quick
                        shared.append(storage)
                    continue
            # by row, as one that was dropped and kept again is there twice
            kept = {row: value for row in rows if (value := self._as_kept(row)) is not None}
            if kept and use_count(storage) > len(kept) < holders(next(iter(kept.values()))):
                shared.append(storage)
        for storage in shared:
            if held is None or storage in held:
                self.preserve(storage)
            else:
                self._postponed[storage] = self._by_storage[storage]
        self._by_storage.clear()
        self._exposed.clear()
        self._held.clear()
        self._places.clear()
        if not self._postponed:
            self._versions.clear()

    def finish(self) -> None:
        """The values are about to be shown: copy what is still shared, let go of what was written.

        Once autograd's graph is gone, which shared them, there is nothing to be done.
        """
        for storage, rows in self._postponed.items():
            kept = {row: value for row in rows if (value := self._as_kept(row)) is not None}
            if kept and holders(next(iter(kept.values()))) > len(kept):
                self._by_storage[storage] = rows
                self.preserve(storage)
        self._postponed.clear()
        self._versions.clear()


class NoValues(Values):
    """Those of a run that keeps none: who may write what is not asked."""

    def __init__(self, tape: Tape) -> None:
        super().__init__(tape, all_kept=False)

    def preserve(self, storage: int) -> None:
        pass

    def expose_held(self, tensor: Tensor, storage: int) -> None:
        pass

    def expose(self, tensor: Tensor) -> None:
        pass

    def expose_owner(self, foreign: Tensor) -> None:
        pass

    def counts_again(self, frame: FrameType | None) -> bool:
        return False

    def settle(self, held: set[int] | None = None) -> None:
        self._values[:] = [None] * len(self._tape.row_log)


@lru_cache(maxsize=1)
def _custom_forwards(made: str) -> set[int]:
    """Ids of the code of the forward of each `autograd.Function` that there is.

    Not the code itself: its hash is that of all that is in it. How many such classes were `made`
    torch counts: they are looked up again once there are more.
    """
    kinds = [torch.autograd.Function]
    for kind in kinds:
        kinds += type.__subclasses__(kind)
    forwards = [vars(kind).get("forward") for kind in kinds]
    functions = [getattr(f, "__func__", f) for f in forwards if f is not None]
    return {id(f.__code__) for f in functions if type(f) is FunctionType}


class _Exposed(list[int]):
    """Takes the place of the rows in a storage that others can write: each gets its own copy."""

    __slots__ = ("_latest", "_storage", "_values", "last")

    def __init__(self, values: list[Tensor | None], storage: StorageWeakRef) -> None:
        super().__init__()
        self._values = values
        self._storage = storage  # while it is referred to, no other storage gets its address
        self._latest: dict[Any, int] = {}
        self.last: tuple[int, Region] | None = None

    def append(self, row: int) -> None:
        """The value of a row was kept by reference just now."""
        value = self._values[row]
        assert value is not None
        self.last = row, region_of(value)
        key = view_of(value)
        latest = self._values[self._latest.get(key, row)]
        with unwatched():
            if latest is value or latest is None or not same(latest, value):
                latest = faithful_clone(value)
        self._values[row] = latest
        self._latest[key] = row


def _much_smaller(value: Tensor) -> bool:
    """Whether keeping this view would keep alive a storage more than twice its size."""
    return value.untyped_storage().nbytes() > 2 * value.numel() * value.element_size()
