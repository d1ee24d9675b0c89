"""The arguments of a call: those that are no tensors as JSON, and all of them read back.

A row holds a call in pieces: the values in `config`, the tensors by name in `parent_args`,
`param_args` and `buffer_args`. What these leave open, how many arguments were given by position
and which sequences were tuples, is in `n_positional` and `tuple_args`; so there is one reading.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from lensframe_pd.tape.functions import Function
from lensframe_pd.tape.tape import SLOT, Array, Opaque
from lensframe_pd.tape.targets import Unreadable


class Encoded(NamedTuple):
    """The arguments of a call as the columns of these names have them."""

    config: str
    n_positional: int
    tuple_args: tuple[str, ...]


class Decoded(NamedTuple):
    """The arguments of a call as `Call` has them, and the role of each slot, in order."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    roles: tuple[str, ...]


_to_text = json.JSONEncoder(allow_nan=False).encode  # `json.dumps` makes an encoder for each text


def encode(function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Encoded:
    """The arguments of a call that are no tensors, by name, and how all of them were given.

    Numbers given one by one where the function takes them so (`x.view(2, 3)`) are one list.
    NumPy's numbers become Python's, ranges lists, and `torch.Size` a tuple; of what JSON cannot
    hold (enums, bytes, a dict whose keys are no text) there is only a description.

    Examples
    --------
    >>> from lensframe_pd.tape.functions import describe
    >>> encode(describe(torch.Tensor.sum), (SLOT, (0, 1)), {"keepdim": True})
    Encoded(config='{"dim": [0, 1], "keepdim": true}', n_positional=2, tuple_args=('dim',))
    """
    first = function.gathers
    if first is not None and len(args) > first and {type(a) for a in args[first:]} == {int}:
        args = (*args[:first], [*args[first:]])
    named = [*zip(positional_names(function, args, kwargs), args, strict=True), *kwargs.items()]
    tuples: list[str] = []
    config = {name: to_json(v, name, tuples) for name, v in named if v is not SLOT}
    return Encoded(_to_text(config), len(args), tuple(tuples))


def decode(function: Function, encoded: Encoded, roles: Collection[str]) -> Decoded:
    """The arguments that `encode` wrote.

    Parameters
    ----------
    roles
        The tensors among them, by name and in any order: a row's `parent_args`, `param_args`
        and `buffer_args`.

    Raises
    ------
    Unreadable
        The cells are not those of a call of this function.

    Examples
    --------
    >>> from lensframe_pd.tape.functions import describe
    >>> written = Encoded('{"dim": [0, 1], "keepdim": true}', 2, ("dim",))
    >>> decode(describe(torch.Tensor.sum), written, ["input"])
    Decoded(args=(<tensor>, (0, 1)), kwargs={'keepdim': True}, roles=('input',))
    """
    tuples = frozenset(encoded.tuple_args)
    values = {k: from_json(v, k, tuples) for k, v in json.loads(encoded.config).items()}
    tensors = [role for role in roles if "." not in role]
    args: list[Any] = []
    for position in range(encoded.n_positional):
        name = _name_at(position, function.arg_names, next(iter(values), ""), tensors)
        if name in tensors:
            tensors.remove(name)
            args.append(SLOT)
        else:
            args.append(values.pop(name))
    kwargs = values | dict.fromkeys(tensors, SLOT)
    found = slot_roles(function, args, kwargs)
    if {*found} != {*roles}:
        raise Unreadable(
            f"its tensors are the arguments {', '.join(roles) or 'none'}, and its config has room "
            f"for {', '.join(found) or 'none'}"
        )
    return Decoded(tuple(args), kwargs, found)


def arg_name(names: Sequence[str], position: int) -> str:
    """The name of a positional argument, its number where the function does not name it."""
    return names[position] if position < len(names) else str(position)


def positional_names(
    function: Function, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[str]:
    """What each positional argument is called; its number where that name is taken.

    Functions with several signatures have the names of one: in `randint(0, 10, size=(2,))` the
    second argument is not the one that is called `size`.
    """
    names: list[str] = []
    for position, value in enumerate(args):
        name = arg_name(function.arg_names, position)
        # x.to("cpu") and x.to(torch.int8) have the same place for a device and for a dtype
        if name == "dtype" and isinstance(value, (torch.device, str)):
            name = name if kwargs.get(name) is SLOT else "device"
        names.append(str(position) if name in kwargs or name in names else name)
    return names


def _name_at(position: int, names: Sequence[str], following: str, tensors: Collection[str]) -> str:
    """What the argument at a position is called, `following` being the next in `config`.

    The values in `config` are in order, those given by position first; a tensor is not there.
    """
    number, name = str(position), arg_name(names, position)
    if following == number or number in tensors:
        return number
    if name in tensors or following == name:
        return name
    if name == "dtype" and following == "device":
        return following
    raise Unreadable(f"its row does not say what argument {position} was")


def slot_roles(
    function: Function, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, ...]:
    """The argument, or the part of it, that each slot stands for: `input`, `tensors.1`."""
    names = positional_names(function, args, kwargs)
    roles: list[str] = []
    for name, value in (*zip(names, args, strict=True), *kwargs.items()):
        _add_slots(value, name, roles)
    return tuple(roles)


def _add_slots(value: Any, role: str, found: list[str]) -> None:
    if value is SLOT:
        found.append(role)
    elif not isinstance(value, (Opaque, Array)):
        for name, part in _parts(value):
            _add_slots(part, f"{role}.{name}", found)


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, (list, tuple)):
        return enumerate(value)
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, slice):
        return [("start", value.start), ("stop", value.stop), ("step", value.step)]
    return ()


def to_json(value: Any, path: str, tuples: list[str]) -> Any:
    """`value` as JSON: `{"$slice": [0, 5, null]}`, `{"$dtype": "float32"}`, `{"$float": "inf"}`.

    A tensor inside a container is `{"$tensor": true}`: it is among the row's parents.

    Parameters
    ----------
    path
        The value's name, dotted inside containers as in `slot_roles`.
    tuples
        Takes the paths of tuples that are written as JSON lists.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if value is SLOT:
        return {"$tensor": True}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(float(value))}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, complex):
        return {"$complex": [to_json(part, path, tuples) for part in (value.real, value.imag)]}
    if value is Ellipsis:
        return {"$ellipsis": True}
    for kind, tag in _TAGS:
        if isinstance(value, kind):
            return {tag: str(value).removeprefix("torch.")}
    if isinstance(value, Opaque):
        return {"$object": value.description}
    if isinstance(value, Array):
        return _array_json(value.value)
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        return to_json(value.item(), path, tuples)
    if isinstance(value, range):
        return [*value]
    if isinstance(value, (list, tuple, slice)):
        return _sequence_json(value, path, tuples)
    if isinstance(value, dict) and all(isinstance(k, str) and k[:1] != "$" for k in value):
        return {k: to_json(v, f"{path}.{k}", tuples) for k, v in value.items()}
    return {"$object": repr(value)[:200]}


_TAGS = (
    (torch.dtype, "$dtype"),
    (torch.device, "$device"),
    (torch.layout, "$layout"),
    (torch.memory_format, "$memory_format"),
)


def _sequence_json(value: Any, path: str, tuples: list[str]) -> Any:
    content = [to_json(part, f"{path}.{name}", tuples) for name, part in _parts(value)]
    if isinstance(value, slice):
        return {"$slice": content}
    if isinstance(value, tuple):
        if any(v is None or isinstance(v, _OF_INDICES) for v in value):
            return {"$tuple": content}
        tuples.append(path)
    return content


#: A tuple that holds one of these, or None, is an index, and says so in `config` itself.
_OF_INDICES = (type(SLOT), slice, list, type(Ellipsis))


#: Element types, by NumPy's letters, that Python's numbers and text hold exactly.
_EXACT = "?bBhHiIlLqQefdFDU"


def _array_json(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    if array.dtype.char not in _EXACT:
        return {"$object": f"numpy.ndarray of {array.dtype}"}
    content = {"$array": to_json(array.tolist(), "", []), "dtype": str(array.dtype)}
    return content if array.size else content | {"shape": list(array.shape)}


def from_json(value: Any, path: str, tuples: Collection[str]) -> Any:
    """The value that `to_json` wrote; what it only describes is `Opaque`.

    Raises
    ------
    Unreadable
        A tag that `to_json` does not write.

    Examples
    --------
    >>> from_json({"$slice": [0, {"$float": "inf"}, None]}, "1", ())
    slice(0, inf, None)
    """
    if isinstance(value, list):
        content = [from_json(v, f"{path}.{i}", tuples) for i, v in enumerate(value)]
        return tuple(content) if path in tuples else content
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if tag == "$slice":
        parts = zip(("start", "stop", "step"), value[tag], strict=True)
        return slice(*(from_json(v, f"{path}.{name}", tuples) for name, v in parts))
    if tag == "$tuple":
        return tuple(from_json(v, f"{path}.{i}", tuples) for i, v in enumerate(value[tag]))
    if tag.startswith("$"):
        if tag not in _SCALARS:
            raise Unreadable(f"config has the tag {tag}, which this version does not know")
        return _SCALARS[tag](value)
    return {k: from_json(v, f"{path}.{k}", tuples) for k, v in value.items()}


_SCALARS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "$tensor": lambda v: SLOT,
    "$float": lambda v: float(v["$float"]),
    "$complex": lambda v: complex(*from_json(v["$complex"], "", ())),
    "$ellipsis": lambda v: ...,
    "$dtype": lambda v: getattr(torch, v["$dtype"]),
    "$layout": lambda v: getattr(torch, v["$layout"]),
    "$memory_format": lambda v: getattr(torch, v["$memory_format"]),
    "$device": lambda v: torch.device(v["$device"]),
    "$array": lambda v: Array(_array(v)),
    "$object": lambda v: Opaque(v["$object"]),
}


def _array(content: dict[str, Any]) -> np.ndarray[Any, Any]:
    array = np.array(from_json(content["$array"], "", ()), content["dtype"])
    return array.reshape(content["shape"]) if "shape" in content else array
