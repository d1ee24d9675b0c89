"""Whether a call reads the values of a tensor it is given, or only what kind of tensor it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from lensframe_pd.replay.call import Rerun
from lensframe_pd.tape.dispatch import Dispatched

# They make a tensor of the kind of another one.
_OF_ITS_KIND = frozenset(
    """empty_like zeros_like ones_like full_like rand_like randn_like randint_like new_empty
    new_empty_strided new_zeros new_ones new_full sym_size sym_numel sym_stride
    sym_storage_offset""".split()
)


# They make of one tensor what is of the shape or the type of the other.
_LIKE_THE_OTHER = frozenset("type_as view_as reshape_as expand_as".split())


def may_read_the_kind_only(name: str, role: str) -> bool:
    """Whether a function of this name is given this argument for what kind of tensor it is."""
    return name in _OF_ITS_KIND or (role == "other" and name in _LIKE_THE_OTHER)


def reads_values(run: Rerun, tensors: Sequence[Tensor], slots: Sequence[int]) -> bool:
    """Whether the tensor in `slots`, or a view of it, reaches a kernel or the result.

    The operators are seen as torch executes them, so this is no guess from what the result shows.
    """
    watch = _Readers(tensors[slots[0]])
    try:
        with watch:
            made = run(tensors)
    except Exception:  # torch and what a user's function calls raise every kind
        return True
    return watch.found or any([watch.follows(tensor) for tensor in made])


class _Readers(Dispatched):
    """Looks for a kernel that is given one tensor or a view of it."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False
        self._views = {id(tensor): tensor}  # held, so that their ids stay theirs

    def follows(self, value: Any) -> bool:
        return id(value) in self._views

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = any([self.follows(leaf) for leaf in tree_leaves((args, kwargs or {}))])
        result = func(*args, **(kwargs or {}))
        if given and func.is_view:
            self._views |= {id(t): t for t in tree_leaves(result) if isinstance(t, Tensor)}
        elif given and not _is_of_its_kind(func):
            self.found = True
        return result


def _is_of_its_kind(func: Any) -> bool:
    """Of an operator; one of somebody else's may have such a name and read values."""
    return func.namespace == "aten" and func.overloadpacket.__name__ in _OF_ITS_KIND
