"""What the model returns, with other tensors in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from lensframe_pd.tape.contents import CODE
from lensframe_pd.tape.objects import tensors_of, walk
from lensframe_pd.tape.rebuilt import Unbuilt, with_others
from lensframe_pd.tape.tape import Tape


class Outputs:
    """What a finished run returned, made anew with what changed.

    Parameters
    ----------
    output
        Of the run.
    tape
        Of the run, with all values.
    modules
        Of the model: what they hold is no part of an output.
    """

    def __init__(self, output: Any, tape: Tape, modules: Collection[nn.Module]) -> None:
        self._output = output
        self._values = tape.values
        self._rows = [row for row, kind in tape.kinds.items() if kind == "output"]
        self._tensors = tensors_of(output)
        self._is_closed = _is_closed(output, {id(module) for module in modules})

    def having(self, changed: Mapping[int, Tensor]) -> Any:
        """The output with the saved values, and those that changed, by their rows.

        Raises
        ------
        Unbuilt
            It is, or holds, an object that cannot be made anew.
        """
        if self._is_closed:
            raise Unbuilt("output with code that holds tensors")
        if len(self._rows) != len(self._tensors):
            raise Unbuilt("output that was changed")
        new = {}
        for row, tensor in zip(self._rows, self._tensors, strict=True):
            value = changed.get(row, self._values[row])
            if value is None:
                raise Unbuilt("tensor that was not saved")
            # A metric may write what was computed for this value alone, but nothing that is saved.
            own = row in changed and not value._is_view()
            new[id(tensor)] = value if own else value.clone()
        return with_others(self._output, new)


def _is_closed(output: Any, modules: Collection[int]) -> bool:
    """Whether there is something in an output that may hold tensors and is not looked into."""
    for _, _, value in walk((("", output),), (nn.Module, *CODE)):
        kind = type(value)
        if issubclass(kind, nn.Module):
            if id(value) not in modules:
                return True
        elif issubclass(kind, FunctionType):
            if value.__closure__ or value.__defaults__ or value.__kwdefaults__:
                return True
        elif issubclass(kind, (MethodType, BuiltinFunctionType)):
            owner = value.__self__
            if id(owner) not in modules and type(owner) not in (ModuleType, type(None), type):
                return True
        elif issubclass(kind, Iterator):
            return True
    return False
