"""Writes that torch shows no function mode: `y.real = z`, `y.imag = z` and `y.set_(z)`.

They are seen one floor lower, by a dispatch mode; but there each operation of the model would cost
some microseconds more. So it is entered only where the code that runs says one of these names.
"""

from __future__ import annotations

import dis
import os.path
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import cached_property, partial, partialmethod
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lensframe_pd.capture.attributes import Attributes
from lensframe_pd.capture.roots import belongings
from lensframe_pd.errors import OURS
from lensframe_pd.tape.codes import once_per_code
from lensframe_pd.tape.contents import (
    ATOMS,
    CACHE,
    CODE,
    class_attribute,
    class_dict,
    mro,
    partial_parts,
)

_ASSIGNED = frozenset(("real", "imag"))
_CALLED = "set_"
_OF_PARAMETRIZATIONS = "_maybe_set"  # which calls `set_`
_PARAMETRIZING = frozenset(
    """parametrize parametrizations register_parametrization remove_parametrizations orthogonal
    spectral_norm weight_norm""".split()
)
_NOT_THE_USERS = (os.path.dirname(torch.__file__) + os.sep, OURS)

_aten: Any = torch.ops.aten


@once_per_code
def writes_unseen(code: CodeType) -> bool:
    """Whether a user's code, or that of torch's parametrizations, may make such a write.

    It is told by the names in the code.
    """
    names, texts = code.co_names, code.co_consts
    if _is_of_torch(code):
        return _OF_PARAMETRIZATIONS in names
    if "__set__" in names or _CALLED in names or _CALLED in texts:
        return True
    if not _PARAMETRIZING.isdisjoint(names):
        return True
    if "setattr" in names:
        said = {text for text in texts if type(text) is str and text.isidentifier()}
        if not said or said & _ASSIGNED:  # the name may come from elsewhere
            return True
    if _ASSIGNED.isdisjoint(names):
        return False
    steps = dis.get_instructions(code)
    return any([s.opname == "STORE_ATTR" and s.argval in _ASSIGNED for s in steps])


class _Said(NamedTuple):
    """What a user's code says, with the functions and comprehensions in it."""

    writes: bool
    names: frozenset[str]
    """Of attributes and global variables."""


@once_per_code
def _said(code: CodeType) -> _Said:
    """Nothing is said by code of torch and of Python, which names no functions of the user's."""
    if _is_of_torch(code) or _is_of_python(code):
        return _Said(False, frozenset())
    inside = [_said(part) for part in code.co_consts if type(part) is CodeType]
    writes = writes_unseen(code) or any([part.writes for part in inside])
    return _Said(writes, frozenset(code.co_names).union(*[part.names for part in inside]))


def may_write_unseen(model: Any, attributes: Attributes) -> bool:
    """Whether a model may make such a write: by its code, its modules', and what these name.

    Each run asks it of some hundred functions, so in few steps.
    """
    waiting: list[Any] = [class_attribute(kind, "forward") for kind in attributes.kinds]
    waiting += [value for _, value, _ in attributes.own if id(type(value)) in _RUN]
    waiting += [hook for _, hook, _ in attributes.hooks]
    waiting += [model, *[value for _, value in belongings(model)]]
    members = _Members([*attributes.kinds, *_owners(model)])
    met: set[int] = set()
    said: set[str] = set()
    while waiting:
        value = waiting.pop()
        key = id(value)
        if key not in met:
            met.add(key)
            if type(value) is FunctionType:
                writes, names = _said(value.__code__)
                if writes:
                    return True
                waiting += _held_by(value)
                if names:
                    waiting += _known(names, value.__globals__)
                    said |= names
            elif id(type(value)) not in _NO_CODE:
                if value is _SET:
                    return True
                waiting += _behind(value)
        if not waiting:
            waiting += members.named(said)
    return False


def _owners(model: Any) -> list[type]:
    """The classes of a callable, and of the object that it is a method of, inside partials."""
    kinds = [type(model)]
    while issubclass(kinds[-1], partial):
        model, _, _ = partial_parts(model)
        kinds.append(type(model))
    return [*kinds, type(model.__self__)] if kinds[-1] is MethodType else kinds


def _is_of_torch(code: CodeType) -> bool:
    return code.co_filename.startswith(_NOT_THE_USERS)


def _is_of_python(code: CodeType) -> bool:
    """Whether it is of the standard library, below which packages may be installed as well."""
    return code.co_filename.startswith(_STANDARD) and "-packages" not in code.co_filename


_STANDARD = (os.path.dirname(os.__file__) + os.sep, "<frozen ")
_SET = torch.Tensor.set_


def _behind(value: Any) -> Iterable[Any]:
    """What runs when something is called that is no function of Python's, or is read."""
    kind = type(value)
    if kind is MethodType or kind is staticmethod or kind is classmethod:
        return (value.__func__,)
    if kind is property:
        return value.fget, value.fset, value.fdel
    if kind is CACHE:
        return (value.__dict__.get("__wrapped__"),)
    if issubclass(kind, partial):
        function, args, keywords = partial_parts(value)
        return function, *args, *dict.values(keywords)
    if kind is partialmethod or kind is cached_property:
        return (value.func,)
    if issubclass(kind, (type, nn.Module)):
        return ()
    return (class_attribute(kind, "__call__"),)


_NO_CODE = ATOMS | {*map(id, (BuiltinFunctionType, dict, list, set, tuple))}
"""Types of what runs no code of Python's."""
_RUN = frozenset(map(id, (*CODE, partial, CACHE)))
"""Types of attributes that are known to be called."""


def _held_by(function: FunctionType) -> list[Any]:
    """What a function holds in its closure and its defaults."""
    held: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    if function.__defaults__:
        held += function.__defaults__
    if function.__kwdefaults__:
        held += function.__kwdefaults__.values()
    return held


def _known(names: frozenset[str], variables: dict[str, Any]) -> list[Any]:
    """What global variables of such names are, and, of modules among them, what they have."""
    found = []
    for name in variables.keys() & names:
        value = variables[name]
        if type(value) is not ModuleType:
            found.append(value)
        elif value.__name__.split(".")[0] != "torch":
            held = value.__dict__
            found += [held[inner] for inner in held.keys() & names]
    return found


class _Members:
    """What classes and their bases hold, less what torch gives every module."""

    def __init__(self, kinds: Iterable[type]) -> None:
        bases = {id(base): base for kind in kinds for base in mro(kind)}
        for usual in (object, nn.Module):
            bases.pop(id(usual), None)
        self._held = [class_dict(base) for base in bases.values()]
        self._names: set[str] = set().union(*self._held)

    def named(self, names: set[str]) -> list[Any]:
        """What has such names, and was not asked for before."""
        asked = names & self._names
        self._names -= asked
        return [held[name] for name in asked for held in self._held if name in held]


class UnseenWrites(TorchDispatchMode):
    """Makes rows of operators that come from no call which the function mode saw.

    Parameters
    ----------
    mode
        The function mode: while it handles a call it is not on torch's stack of modes.
    make_rows
        Runs an operator and adds its rows.
    """

    def __init__(self, mode: TorchFunctionMode, make_rows: Callable[..., Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._mode = mode
        self._make_rows = make_rows
        self._stack = ExitStack()
        self._outer = -1
        self._number: Tensor | None = None

    def ready(self) -> ExitStack:
        """The run begins; what is given ends this mode with it."""
        self._outer = torch._C._len_torch_dispatch_stack()
        return self._stack

    def enter(self) -> None:
        """See operators from here on: unless another mode is entered, which would end before it."""
        if torch._C._len_torch_dispatch_stack() == self._outer:
            self._outer = -1
            self._stack.enter_context(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._is_torch_function_all_disabled() or not self._is_unseen():
            with torch._C.DisableTorchFunction():
                return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if func is _aten.lift_fresh.default:  # a Python number on its way into the tensor
                self._number = func(*args)
                return self._number
            if func.is_view:  # an alias row of what it shows, as soon as it is read
                return func(*args, **kwargs)
            number = self._number if len(args) > 1 and args[1] is self._number else None
            return self._make_rows(func, args, kwargs, number)

    def _is_unseen(self) -> bool:
        n = torch._C._len_torch_function_stack()
        return n > 0 and torch._C._get_function_stack_at(n - 1) is self._mode


def recordable(func: Any, args: Any, number: Tensor | None) -> tuple[Any, Any]:
    """The same write by an operator of which all arguments can be recorded.

    Parameters
    ----------
    number
        The second argument, where torch made it of a Python number.
    """
    if func is _aten.copy_.default and number is not None:
        return _aten.fill_.Scalar, (args[0], number.item())
    if func is _aten.set_.source_Storage:
        return _aten.set_.source_Tensor, (args[0], _whole(args[1], args[0]))
    if func is _aten.set_.source_Storage_storage_offset:
        whole = _whole(args[1], args[0])
        return _aten.set_.source_Tensor_storage_offset, (args[0], whole, *args[2:])
    return func, args


def _whole(storage: torch.UntypedStorage, like: Tensor) -> Tensor:
    """A whole storage as a tensor."""
    return torch.empty(0, dtype=like.dtype, device=like.device).set_(storage)
