"""Which row each living tensor comes from.

A tensor is known by its `id`, checked with a weak reference since ids are reused at once; what
the model or the caller holds during the run is held here too, so that it can be swapped. Its
storage's address links it to its views: a write through one alias makes a later read of another
an `alias` row, whose parents are that alias' old value and the writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter

from lensframe_pd.capture.known import HeldIn, Known, KnownHeld
from lensframe_pd.capture.origins import Origins
from lensframe_pd.capture.roots import named_modules
from lensframe_pd.capture.values import Values
from lensframe_pd.capture.writes import Writes
from lensframe_pd.tape.dispatch import unwatched
from lensframe_pd.tape.regions import covers, region_of
from lensframe_pd.tape.storage import (
    is_plain,
    is_uninitialized,
    same_view,
    sparse_parts,
    storage_of,
    unwrapped,
    wrapped_by,
)
from lensframe_pd.tape.tape import Held, Tape

NEVER = -sys.maxsize
"""A row before all rows, and before all held tensors."""


class Lineage:
    """Parents, parameters and constants of a run, as tensors are met.

    Parameters
    ----------
    add_row
        A method that adds an `alias` or `constant` row: called with the kind, the sources, the
        tensor, where it stands and its configuration, gives the row. Known weakly: its owner
        holds this object, and a circle would keep the tape alive.
    """

    def __init__(
        self,
        tape: Tape,
        values: Values,
        origins: Origins,
        add_row: Callable[..., int],
    ) -> None:
        self.tape = tape
        self.values = values
        self.origins = origins
        self._weak_add_row = WeakMethod(add_row)
        self.live: dict[int, Known | KnownHeld] = {}
        #: Storage address to the tensor last made in it.
        self.newest: dict[int, Known | KnownHeld] = {}
        self.writes: dict[int, Writes] = {}
        self.held_in = HeldIn()
        #: What the tensors are known as that a wrapper around them is made of: parts of its row.
        self._parts: dict[int, Known] = {}
        #: By address, storages that a subclass' tensor was made in. `as_subclass`, which no call
        #: shows, gives another object of one; while it is referred to, no other has the address.
        self._held_addresses: dict[int, StorageWeakRef] = {}
        #: The names of tensors that others hold during the run as well, and that are held here.
        self.pinned: dict[int, str] = {}

    def _add_row(self, *cells: Any) -> int:
        add_row = self._weak_add_row()
        assert add_row is not None  # the tracer, which asks, is alive
        return add_row(*cells)

    def known(self, tensor: Tensor) -> Known | KnownHeld | None:
        """What is known of this very tensor."""
        known = self.live.get(id(tensor))
        return known if known is not None and known() is tensor else None

    def know(self, tensor: Tensor, source: int, storage: int) -> None:
        kind = KnownHeld if id(tensor) in self.pinned else Known.of
        self.live[id(tensor)] = kind(tensor, source, storage)

    def pin(self, tensor: Tensor, name: str) -> None:
        """Hold a known tensor, which others hold during the run as well."""
        known = self.live[id(tensor)]
        pinned = self.live[id(tensor)] = KnownHeld(tensor, known.source, known.storage)
        self.pinned[id(tensor)] = name
        if self.newest.get(known.storage) is known:
            self.newest[known.storage] = pinned

    def hold_address(self, tensor: Tensor, storage: int) -> None:
        """A call gave a tensor of a subclass, which may be gone when another shows its memory."""
        if storage and storage not in self._held_addresses and not is_uninitialized(tensor):
            with torch._C.DisableTorchFunction():
                self._held_addresses[storage] = StorageWeakRef(tensor.untyped_storage())

    def forget(self) -> None:
        """The run is over: refer to no tensor any more."""
        self._held_addresses.clear()
        self.live.clear()
        self.newest.clear()
        self.pinned.clear()
        self._parts.clear()
        self.origins.forget()

    def source(self, tensor: Tensor) -> int:
        """The row that made `tensor` (or the held parameter it is), as it stands now."""
        known = self.known(tensor)
        return self._meet(tensor) if known is None else self.fresh(tensor, known)

    def fresh(self, tensor: Tensor, known: Known | KnownHeld) -> int:
        """`known.source`, or a new alias row if the storage was written through another alias."""
        writes = self.writes.get(known.storage)
        newer = writes.since(known.source, tensor) if writes is not None else []
        if newer:
            return self._written_alias(known.source, tensor, newer)
        if is_plain(tensor):  # it has no parts
            return known.source
        rows = self._parts_written(tensor, known.source)
        return self._add_row("alias", (known.source, *rows), tensor) if rows else known.source

    def tell(self, tensor: Tensor) -> None:
        """The program has learned something of what a tensor shows, and no row says that."""
        known, tape = self.known(tensor), self.tape
        if known is None:
            self._tell_unknown(tensor)
            return
        writes = self.writes.get(known.storage)
        newer = writes.since(known.source, tensor) if writes is not None else ()
        tape.told.update((known.source, *(row for row, _ in newer)))

    def _tell_unknown(self, tensor: Tensor) -> None:
        """As `tell`, of one that no call was seen to make: of any row that was, maybe."""
        storage = storage_of(unwrapped(tensor))
        is_made = storage in self.newest or storage in self.writes
        if is_made or self.origins.find(tensor, sys._getframe(1)) is None:
            self.tape.blurred = len(self.tape.row_log)

    def _parts_written(self, tensor: Tensor, row: int) -> list[int]:
        """Rows after `row` that wrote what a wrapper is made of."""
        found: set[int] = set()
        for part in wrapped_by(tensor):
            writes = self.writes.get(storage_of(part))
            newer = writes.since(row, part) if writes is not None else []
            found |= {last for last, _ in newer} | {*self._parts_written(part, row)}
        return sorted(found)

    def _has_history(self, tensor: Tensor) -> bool:
        """Whether it is known, or made of a tensor that is."""
        known = self.known(tensor) or self._part(tensor)
        return known is not None or any(map(self._has_history, wrapped_by(tensor)))

    def _part(self, tensor: Tensor) -> Known | None:
        """What is known of a wrapper that this very tensor is a part of."""
        part = self._parts.get(id(tensor))
        return part if part is not None and part() is tensor else None

    def take_apart(self, tensor: Tensor, source: int) -> None:
        """`tensor`, made by row `source`, may be a wrapper: what it is made of comes from there."""
        for part in wrapped_by(tensor):
            self._parts[id(part)] = Known.of(part, source, storage_of(part))
            self.take_apart(part, source)

    def _written_alias(self, source: int, tensor: Tensor, newer: list[tuple[int, int]]) -> int:
        """A row for what a tensor became by writes through other aliases."""
        rows, lows = zip(*newer, strict=True)
        return self._alias((source, *rows), (region_of(tensor).low, *lows), tensor)

    def _alias(self, sources: tuple[int, ...], offsets: tuple[int, ...], tensor: Tensor) -> int:
        """A row for a tensor whose storage was made, or written, as other tensors.

        Its configuration says at which byte of the storage it and its parents begin.
        """
        config = {"offset": region_of(tensor).low, "offsets": offsets}
        return self._add_row("alias", sources, tensor, "", config)

    def about_to_write(self, storage: int) -> None:
        """A call may write this storage: keep the parameters and buffers in it as they are."""
        for k in self.held_in.places(storage) if storage else ():
            if k not in self.tape.before:
                tensor = self.tape.held[k].tensor if self.values.all_kept else None
                if tensor is None or is_uninitialized(tensor):
                    self.tape.before[k] = None
                else:
                    with temporarily_clear_interpreter_stack(), unwatched():
                        self.tape.before[k] = tensor.detach().clone()

    def wrote(self, tensor: Tensor, row: int) -> None:
        """The call of `row` wrote `tensor`."""
        if id(tensor) in self.pinned:
            self.pin(tensor, self.pinned[id(tensor)])
        storage = storage_of(unwrapped(tensor))
        if storage and not is_uninitialized(tensor):
            writes = self.writes.get(storage)
            if writes is None:
                writes = self.writes[storage] = Writes(tensor)
            writes.add(row, tensor)
        elif not storage:  # of a sparse layout, maybe, whose indices and values others can hold
            for part in sparse_parts(tensor):
                self.wrote(part, row)
        for part in wrapped_by(tensor):
            self.wrote(part, row)

    def _meet(self, tensor: Tensor) -> int:
        """A tensor no call was seen to make."""
        inner = unwrapped(tensor)
        if inner is not tensor:
            source = self.source(inner)
            if source >= 0:
                self.know(tensor, source, storage_of(inner))
            return source
        whole = self._part(tensor)
        if whole is not None:
            return self._add_row("alias", (whole.source,), tensor)
        storage = storage_of(tensor)
        twin = self._twin(tensor, storage)
        if twin is not None:
            row, same, low = twin
            if not same:
                return self._alias((row,), (low,), tensor)
            self.tape.guessed.add(row)
            self.know(tensor, row, storage)
            return row
        if self._is_made(storage):  # by something that is gone, or shows another part
            self.tape.blurred = len(self.tape.row_log)
        parts = wrapped_by(tensor)
        if any(map(self._has_history, parts)):
            return self._add_row("alias", (*map(self.source, parts),), tensor)
        row = self._meet_alone(tensor)
        # It lies in a storage that was written through other tensors, and shows what they wrote.
        writes = self.writes.get(storage)
        newer = writes.since(NEVER, tensor) if writes is not None else []
        return self._written_alias(row, tensor, newer) if newer else row

    def _meet_alone(self, tensor: Tensor) -> int:
        """A tensor that nothing known shows: a parameter, or a constant."""
        origin = self.origins.find(tensor, sys._getframe(1))
        swapped = self.pinned.get(id(tensor))  # known, and has other content since
        if swapped is not None:
            return self._add_row("constant", (), tensor, swapped)
        if isinstance(tensor, Parameter) and origin is not None:
            return self.hold(origin, tensor, True)
        row = self._add_row("constant", (), tensor, origin or "")
        if origin is None:
            self.origins.unknown.append(row)
        return row

    def _twin(self, tensor: Tensor, storage: int) -> tuple[int, bool, int] | None:
        """A row that shows all that `tensor` does, whether it is the same view, its first byte.

        Of the newest row in the same storage, or of the tensor that this one is a view of.
        """
        known = self.newest.get(storage) if storage else None
        if known is None:
            return None
        region = region_of(tensor)
        other = known()
        if other is None:
            return self._gone_twin(tensor, storage, known.source)
        base = tensor._base
        for shown in (other,) if base is None else (other, base):
            if storage_of(shown) != storage:  # given another unseen, as `torch.load` does
                continue
            seen = self.known(shown)
            if seen is not None and seen.storage == storage and covers(region_of(shown), region):
                return self.fresh(shown, seen), same_view(tensor, shown), region_of(shown).low
        return None

    @contextmanager
    def passing_view(self, tensor: Any) -> Iterator[None]:
        """A view that torch makes for one write: it is no help in finding others afterwards.

        It may be one of a parameter or buffer that nobody has read yet.
        """
        if not isinstance(tensor, Tensor) or self.known(tensor) is not None:
            yield
            return
        storage = storage_of(tensor)
        before = self.newest.get(storage)
        if before is None:
            self._meet_in_held(tensor, storage)
        yield
        if before is None:
            self.newest.pop(storage, None)
        else:
            self.newest[storage] = before

    def _meet_in_held(self, tensor: Tensor, storage: int) -> None:
        region = region_of(tensor)
        for k in self.held_in.places(storage):
            held = self.tape.held[k].tensor
            if held is not None and covers(region_of(held), region):
                self._alias((self.source(held),), (region_of(held).low,), tensor)
                return

    def _gone_twin(self, tensor: Tensor, storage: int, newest: int) -> tuple[int, bool, int] | None:
        """As `_twin`, where the newest tensor in the storage is gone.

        A kept value proves that the storage is not, or that its address was held; failing that,
        only nn.Parameter(...) is known to take over a storage that nothing else shows.
        """
        kept = self.values.last_in(storage)
        row, shown = kept or (newest, region_of(tensor))
        made = self.tape.rows[row]
        same = tensor.shape == made.shape and tensor.stride() == made.stride
        if kept is None:
            held = storage in self._held_addresses and _fills(tensor)
            if not (same and (held or isinstance(tensor, Parameter))):
                return None
        return (row, same, shown.low) if covers(shown, region_of(tensor)) else None

    def hold_all(self, prefix: str, root: nn.Module) -> None:
        """Make the parameters and buffers of a module known."""
        for path, module in named_modules({prefix: root}):
            # What the run made them of is their history, as of those that `deepcopy` gives.
            for tensor in module._parameters.values():
                if tensor is not None:
                    self._know_as_made(tensor)
            self.hold_own(path, module, prefix, self.values.all_kept)

    def _know_as_made(self, parameter: Tensor) -> None:
        """A parameter of a module that the run made may be what a row gave."""
        if self.known(parameter) is not None or is_uninitialized(parameter):
            return
        storage = storage_of(parameter)
        twin = self._twin(parameter, storage)
        if twin is not None and twin[0] >= 0 and twin[1]:  # the row, and the same view
            row: int | None = twin[0]
        elif self._is_made(storage):
            row = self._same_in(parameter, storage)
        else:
            return
        if row is None:
            self.tape.blurred = len(self.tape.row_log)
            return
        self.tape.guessed.add(row)
        self.know(parameter, row, storage)

    def _is_made(self, storage: int) -> bool:
        """Whether what lies in a storage is known to come from a row."""
        known = self.newest.get(storage) if storage else None
        if known is None:
            return False
        shown = known()
        if shown is None:
            return self.values.last_in(storage) is not None
        return storage_of(shown) == storage

    def _same_in(self, tensor: Tensor, storage: int) -> int | None:
        """The row of a living tensor that shows just what `tensor` does."""
        for known in [*self.live.values()]:
            if known.storage == storage and known.source >= 0:
                shown = known()
                if shown is not None and storage_of(shown) == storage and same_view(tensor, shown):
                    return self.fresh(shown, known)
        return None

    def hold_own(self, path: str, module: nn.Module, top: str = "", held: bool = True) -> None:
        """Make the parameters and buffers that a module holds itself known.

        That it holds some is noted of the modules around it too, out to `top`. Not `held` are those
        of a module that the run made, and may let go of.
        """
        if any(parameter is not None for parameter in module._parameters.values()):
            self.tape.note_holder(path, top)
        before = f"{path}." if path else ""
        for tensors, are_parameters in ((module._parameters, True), (module._buffers, False)):
            for name, tensor in tensors.items():
                if tensor is not None:
                    self.hold(before + name, tensor, are_parameters, held)

    def hold(self, name: str, tensor: Tensor, is_parameter: bool, keep: bool = True) -> int:
        """Make a parameter or buffer known by its name."""
        # within torch.func a module may be lent what wraps another's parameter, or a result
        tensor = unwrapped(tensor)
        key = id(tensor)
        known = self.live.get(key)
        if known is not None and known() is tensor:
            return known.source
        tape_held = self.tape.held
        plain = is_plain(tensor)  # as nearly all are: what is asked of the others takes its time
        shape: tuple[int, ...] = ()
        numel = nbytes = 0
        if plain or not is_uninitialized(tensor):
            shape, numel = tuple(tensor.shape), tensor.numel()
            nbytes = numel * tensor.element_size()
        facts = (shape, tensor.dtype, numel, nbytes, tensor.requires_grad)
        tape_held.append(Held(name, is_parameter, *facts, tensor if keep else None))
        source = -len(tape_held)
        storage = storage_of(tensor)
        self.held_in.storages.append(storage)
        if keep:
            self.pinned[key] = name
            self.live[key] = KnownHeld(tensor, source, storage, plain)
        else:
            self.live[key] = Known.of(tensor, source, storage)
        if not plain:
            self.take_apart(tensor, source)
        if keep:
            self.values.expose_held(tensor, storage)
        else:
            self.values.expose(tensor)
        return source


def _fills(tensor: Tensor) -> bool:
    """Whether a tensor shows all of its storage."""
    with torch._C.DisableTorchFunction():
        return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
