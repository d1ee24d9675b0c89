"""What a model holds before it runs is made known: many tensors, nearly all of them plain."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import Parameter

from lensframe_pd.capture.known import KnownHeld
from lensframe_pd.capture.lineage import Lineage
from lensframe_pd.tape.storage import is_wrapped, storage_of
from lensframe_pd.tape.tape import Held

_new = tuple.__new__  # takes half as long as a named tuple's own


def hold_given(lineage: Lineage, named: Iterable[tuple[str, nn.Module]]) -> None:
    """Make the parameters and buffers of the model's modules known, as `hold_own` does of each."""
    live, held, expose = lineage.live, lineage.tape.held, lineage.values.expose_held
    storages, pinned = lineage.held_in.storages, lineage.pinned
    for path, module in named:
        parameters, buffers = module._parameters, module._buffers
        if not parameters and not buffers:
            continue
        if any([parameter is not None for parameter in parameters.values()]):
            lineage.tape.note_holder(path, "")
        before = f"{path}." if path else ""
        for tensors, are_parameters in ((parameters, True), (buffers, False)):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                kind, key = type(tensor), id(tensor)
                if not (kind is Parameter or kind is Tensor) or is_wrapped(tensor):
                    lineage.hold(before + name, tensor, are_parameters)
                    continue
                if key in live:  # which holds it, so that the id is its own
                    continue
                storage, dtype, numel = storage_of(tensor), tensor.dtype, tensor.numel()
                size = (numel, numel * dtype.itemsize)
                facts = (tuple(tensor.shape), dtype, *size, tensor.requires_grad)
                pinned[key] = place = before + name
                held.append(_new(Held, (place, are_parameters, *facts, tensor)))
                live[key] = KnownHeld(tensor, -len(held), storage, True)
                storages.append(storage)
                expose(tensor, storage)
