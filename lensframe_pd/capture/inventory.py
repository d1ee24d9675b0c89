"""What a run asks of a model before it begins: its modules, what these hold, its code."""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor, nn

from lensframe_pd.capture.attributes import attributes_of
from lensframe_pd.capture.origins import cached_by_methods, extra_tensors, held_by_callable
from lensframe_pd.capture.roots import (
    find_roots,
    has_compile_wrapper,
    module_aliases,
    named_modules,
)
from lensframe_pd.capture.unseen import may_write_unseen
from lensframe_pd.collector import collector_paused


class Inventory(NamedTuple):
    """It is the same for all runs that begin from one state, so one serves them."""

    roots: dict[str, nn.Module]
    named: list[tuple[str, nn.Module]]
    aliases: dict[str, str]
    state: list[tuple[str, Tensor]]
    """Tensors that are held as no parameters and buffers, with their names."""
    compiled: bool
    writes_unseen: bool
    """Whether it may write what no function mode sees."""


def inventory(model: Any) -> Inventory:
    """Of a model as it is now."""
    with collector_paused():  # else it looks through a big model for what is made of modules
        roots = find_roots(model)
        named = named_modules(roots)
        attributes = attributes_of(named)
        own, kinds = attributes.own, attributes.kinds
        state = chain(extra_tensors(own), cached_by_methods(kinds), held_by_callable(model))
        return Inventory(
            roots,
            named,
            module_aliases(roots, named),
            [*state],
            has_compile_wrapper(named, kinds),
            may_write_unseen(model, attributes),
        )
