"""Values that would not come out again: random numbers without a seed, a model that moves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lensframe_pd.capture.attributes import own_attributes
from lensframe_pd.capture.origins import extra_tensors
from lensframe_pd.capture.roots import find_roots, named_modules
from lensframe_pd.errors import LensValueError, shown
from lensframe_pd.extract.fingerprint import tensors_of
from lensframe_pd.tape.tape import Tape


def check_random(tape: Tape, rows: Iterable[int], seed: int | None, labels: list[str]) -> None:
    """Raise where a value depends on random numbers and nothing says which.

    Raises
    ------
    LensValueError
        Naming the operations that drew them.
    """
    if seed is not None:
        return
    above, waiting = set(rows), [*rows]
    while waiting:
        for source in tape.calls[tape.rows[waiting.pop()].call].sources:
            if source >= 0 and source not in above:
                above.add(source)
                waiting.append(source)
    drew = sorted(r for r in above if tape.calls[tape.rows[r].call].generator is not None)
    if drew:
        raise LensValueError(
            f"{shown([labels[r] for r in drew], 5)} draw random numbers that selected values "
            "depend on, so a resumed run would not be that of one piece; give seed= (each batch "
            "runs under seed and its number), or model.eval()"
        )


class Steady:
    """The tensors of a model, to see whether a run moves them.

    In train mode buffers are copied, to be put back.
    """

    def __init__(self, model: Any) -> None:
        named = named_modules(find_roots(model))
        self._training = any([module.training for _, module in named])
        self._tensors = [
            (name, tensor, tensor._version)
            for name, tensor in (*tensors_of(named), *extra_tensors(own_attributes(named)))
            if not tensor.is_inference()
        ]
        buffers = {id(t) for _, m in named for t in m._buffers.values()}
        #: Those that fused code writes without a count: compared, and put back.
        self._copies = [
            (name, tensor, tensor.detach().clone())
            for name, tensor, _ in self._tensors
            if self._training and id(tensor) in buffers
        ]

    def check(self) -> None:
        """Raise where a tensor was written; buffers are as they were.

        Raises
        ------
        LensValueError
            Naming them.
        """
        moved = {name: tensor for name, tensor, v in self._tensors if tensor._version != v}
        moved |= {name: t for name, t, copy in self._copies if not torch.equal(t, copy)}
        if not moved:
            return
        with torch.no_grad():
            for _, tensor, copy in self._copies:
                _put_back(tensor, copy)
        how = "call model.eval()" if self._training else "extract from a model that does not"
        raise LensValueError(
            f"each batch changes {shown(moved, 5)} of this model, so values depend on which "
            f"batches ran before; {how}"
        )


def _put_back(tensor: Tensor, copy: Tensor) -> None:
    if tensor.shape == copy.shape:
        tensor.copy_(copy)
