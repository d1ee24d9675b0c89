"""Where the stimuli are among the arguments of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lensframe_pd.errors import LensValueError
from lensframe_pd.tape.objects import tensors_in


def stimulus_input(args: tuple[Any, ...], kwargs: dict[str, Any], n: int) -> Tensor | None:
    """The first tensor whose axis 0 is the `n` stimuli.

    Returns
    -------
    torch.Tensor or None
        None where the stimuli are along no axis yet: a list of n tensors, one of each, or a
        PackedSequence of n sequences.

    Raises
    ------
    LensValueError
        There is no place for n stimuli, or a list that can be read in two ways.
    """
    extents = list[int]()
    for value in _parts([*args, *kwargs.values()]):
        if isinstance(value, PackedSequence):
            extents.append(int(value.batch_sizes[0]))
            if extents[-1] == n:
                return None
        elif isinstance(value, list):
            if len(value) == n:
                _check_one_reading(value, n)
                return None
            extents.append(len(value))
        elif value.dim():
            if value.shape[0] == n:
                return value
            extents.append(value.shape[0])
    found = f"axis 0 of the input has {extents[0]}" if extents else "there is no tensor with axis 0"
    raise LensValueError(f"stimulus gives {n} ids, but {found}; give one id per item")


def _parts(values: Iterable[Any]) -> Iterator[PackedSequence | list[Tensor] | Tensor]:
    """Packed sequences and lists of tensors as they are, and else the tensors inside, in order."""
    for value in values:
        if isinstance(value, PackedSequence):
            yield value
        elif type(value) is list and value and all(issubclass(type(v), Tensor) for v in value):
            yield value if len(value) > 1 else value[0]
        elif type(value) in (list, tuple):
            yield from _parts(value)
        elif type(value) is dict:
            yield from _parts(value.values())
        else:
            yield from (tensor for _, tensor in tensors_in(value))


def _check_one_reading(tensors: list[Tensor], n: int) -> None:
    if all(tensor.dim() and tensor.shape[0] == n for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[:3])
        raise LensValueError(
            f"{n} ids for a list of {n} tensors whose axis 0 is {n} too ({shapes}): either each "
            f"tensor is one stimulus, or each has all {n} along axis 0. Give no stimulus=, and the "
            "ids to the result with .assign_coords; or, of the second, the tensors as a tuple"
        )
