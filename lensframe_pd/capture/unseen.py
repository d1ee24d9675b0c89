"""Writes that torch shows no function mode: `y.real = z`, `y.imag = z` and `y.set_(z)`.

They are seen one floor lower, by a dispatch mode; but there each operation of the model would cost
some microseconds more. So it is entered only where the code that runs says one of these names.
"""

from __future__ import annotations

import dis
import os.path
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lensframe_pd.capture.origins import Own
from lensframe_pd.capture.roots import belongings
from lensframe_pd.errors import OURS
from lensframe_pd.tape.codes import once_per_code
from lensframe_pd.tape.contents import CODE, class_attribute, class_dict, mro

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


def may_write_unseen(model: Any, modules: Sequence[nn.Module], own: Iterable[Own]) -> bool:
    """Whether a model may make such a write: by its code, its modules', and what these name.

    Parameters
    ----------
    own
        The attributes of the modules.
    """
    seen: set[int] = set()
    members: dict[int, dict[str, Any]] = {}
    met: set[int] = set()
    waiting: list[tuple[Any, type]] = [(model, type(model))]
    waiting += [(value, kind) for _, value, kind in own if type(value) in CODE]
    for module in modules:
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            if hooks:
                waiting += [(hook, type(module)) for hook in hooks.values()]
    kinds = {id(type(module)): type(module) for module in modules}
    waiting += [(class_attribute(kind, "forward"), kind) for kind in kinds.values()]
    waiting += [(value, type(model)) for _, value in belongings(model)]
    while waiting:
        value, owner = waiting.pop()
        if value is torch.Tensor.set_:
            return True
        function = _function(value)
        if function is None or id(function.__code__) in seen:
            continue
        seen.add(id(function.__code__))
        if _is_of_torch(function.__code__):
            continue
        if id(owner) not in members:
            members[id(owner)] = _members(owner)
        held = members[id(owner)]
        for code in _with_nested(function.__code__):
            if writes_unseen(code):
                return True
            waiting += [(found, owner) for found in _named(code, function, held, met)]
        waiting += [(value, owner) for _, value in belongings(function)]
    return False


def _is_of_torch(code: CodeType) -> bool:
    return code.co_filename.startswith(_NOT_THE_USERS)


def _function(value: Any) -> FunctionType | None:
    """The Python function that a callable comes down to, None for any other object."""
    kind = type(value)
    if kind is FunctionType:  # as most are
        return value  # type: ignore[no-any-return]
    if kind in (MethodType, staticmethod, classmethod):
        value = value.__func__
    elif kind is property:
        value = value.fget
    elif kind not in CODE and not issubclass(kind, (type, nn.Module)):
        value = class_attribute(kind, "__call__")
    return value if type(value) is FunctionType else None


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for part in code.co_consts:
        if type(part) is CodeType:
            yield from _with_nested(part)


def _members(kind: type) -> dict[str, Any]:
    """What a class holds, by name, less what torch gives every module."""
    found: dict[str, Any] = {}
    for base in reversed(mro(kind)):
        if base is not object and base is not nn.Module:
            found.update(class_dict(base))
    return found


def _named(
    code: CodeType, function: FunctionType, members: dict[str, Any], met: set[int]
) -> Iterator[Any]:
    """What the names in code stand for: globals, attributes of its class, of modules it imports.

    Parameters
    ----------
    members
        The attributes of the class that were not looked up before; loses those that are now.
    met
        The ids of the globals that were met before; takes those that are now.
    """
    known = function.__globals__
    for name in code.co_names:
        if name in known:
            found = known[name]
            if type(found) is ModuleType:
                if found.__name__.split(".")[0] != "torch":
                    yield from (found.__dict__[n] for n in code.co_names if n in found.__dict__)
            elif id(found) not in met:
                met.add(id(found))
                yield found
        if name in members:
            yield members.pop(name)


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
