"""A tape as the DataFrame of its rows."""

from __future__ import annotations

import json
import math
import os.path
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from lensframe_pd.recurrence import Passes
from lensframe_pd.schema import COLUMNS
from lensframe_pd.tape import SCRIPT, SLOT, Call, Opaque, Site, Tape

_TORCH_FOLDER = os.path.dirname(torch.__file__) + os.sep
_TUPLE_COLUMNS = frozenset(
    """parents parent_args module_stack returned_by shape stride params param_args param_shapes
    buffers buffer_args buffer_shapes read_by""".split()
)
_STRING = pd.StringDtype(na_value=np.nan)  # pandas' default for text, made without inference
_DTYPES = {
    "pass_num": np.int64, "n_passes": np.int64, "step": np.int64, "call": np.int64,
    "n_parents": np.int64, "numel": np.int64, "nbytes": np.int64, "n_params": np.int64,
    "params_nbytes": np.int64, "n_trainable": np.int64, "seconds": np.float64,
    "requires_grad": np.bool_, "inplace": np.bool_, "random": np.bool_, "saved": np.bool_,
}  # fmt: skip


def layers(tape: Tape, grouped: Passes, unsaved: dict[int, str]) -> pd.DataFrame:
    """One row per tensor of `tape`, indexed by label, with the columns of `schema.COLUMNS`."""
    labels = grouped.labels()
    columns: dict[str, Sequence[Any]] = {
        "layer": grouped.layers,
        "pass_num": grouped.pass_nums,
        "n_passes": grouped.n_passes,
        "step": range(len(labels)),
        **_call_columns(tape, labels),
        **_tensor_columns(tape),
    }
    columns["read_by"] = _reads(tape)
    columns["returned_by"] = _returned(tape)
    columns["saved"] = [v is not None and i not in unsaved for i, v in enumerate(tape.values)]
    columns["unsaved_reason"] = [unsaved.get(i, "") for i in range(len(labels))]
    data = {name: _array(name, columns[name]) for name in COLUMNS}
    index = pd.Index(_array("op", labels), name="op")
    frame = pd.DataFrame(data, index=index, copy=False)
    frame.attrs.update(tape.facts)
    return frame


def _array(name: str, cells: Sequence[Any]) -> Any:
    if name in _DTYPES:
        return np.fromiter(cells, dtype=_DTYPES[name], count=len(cells))
    if name in _TUPLE_COLUMNS:
        return np.fromiter(cells, dtype=object, count=len(cells))
    return _STRING.__from_arrow__(pa.array(cells, pa.large_string()))  # type: ignore[attr-defined]


def _call_columns(tape: Tape, labels: list[str]) -> dict[str, Sequence[Any]]:
    """The columns that are facts of a call, spread over the rows it gave."""
    facts = CallFacts(tape)
    rows, n = tape.rows, len(tape.rows)
    calls = [tape.calls[row.call] for row in rows]
    columns: dict[str, Sequence[Any]] = {
        "func": [call.function.name for call in calls],
        "target": [call.function.target for call in calls],
        "call": [row.call for row in rows],
        "kind": _sparse(tape.kinds, n, "op"),
        "path": _sparse(tape.paths, n, ""),
        "parents": [tuple([labels[s] for s in call.sources if s >= 0]) for call in calls],
        "config": [facts.config(call) for call in calls],
        "context": [facts.context(call) for call in calls],
        "source": [facts.sources.of(call.site, call.module) for call in calls],
        "seconds": [call.seconds for call in calls],
        "random": [call.generator is not None for call in calls],
    }
    columns["n_parents"] = [len(parents) for parents in columns["parents"]]
    modules = [facts.module(call.module) for call in calls]
    for k, name in enumerate(CallFacts.of_module):
        columns[name] = [module[k] for module in modules]
    roles = [facts.roles(call) for call in calls]
    held: dict[int, tuple[Any, ...]] = {}
    for i, call in enumerate(calls):
        if call.sources and min(call.sources) < 0:
            held[i] = facts.held(call.sources, roles[i])
            roles[i] = tuple([r for r, s in zip(roles[i], call.sources, strict=True) if s >= 0])
    columns["parent_args"] = roles
    for k, name in enumerate(CallFacts.of_held):
        column = [_NOTHING_HELD[k]] * n
        for i, cells in held.items():
            column[i] = cells[k]
        columns[name] = column
    return columns


def _sparse(cells: dict[int, str], n: int, default: str) -> list[str]:
    column = [default] * n
    for i, cell in cells.items():
        column[i] = cell
    return column


class CallFacts:
    """Facts of calls, each distinct one worked out once."""

    of_held = (
        "params", "param_args", "param_shapes", "n_params", "params_nbytes", "n_trainable",
        "buffers", "buffer_args", "buffer_shapes",
    )  # fmt: skip
    of_module = ("module", "module_type", "module_stack")

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.sources = Sources(tape)
        self._roles: dict[Any, tuple[str, ...]] = {}
        self._held: dict[Any, tuple[Any, ...]] = {}
        self._modules: dict[int, tuple[str, str, tuple[str, ...]]] = {}
        self._contexts: dict[Any, str] = {}
        self._configs: dict[Any, str] = {}

    def of(self, call: Call) -> dict[str, Any]:
        """All columns that one call decides by itself."""
        roles = self.roles(call)
        return {
            "func": call.function.name,
            "target": call.function.target,
            "parent_args": tuple(r for r, s in zip(roles, call.sources, strict=True) if s >= 0),
            "config": self.config(call),
            "context": self.context(call),
            "source": self.sources.of(call.site, call.module),
            "random": call.generator is not None,
            "seconds": call.seconds,
            **dict(zip(self.of_module, self.module(call.module), strict=True)),
            **dict(zip(self.of_held, self.held(call.sources, roles), strict=True)),
        }

    def context(self, call: Call) -> str:
        found = self._contexts.get(call.context)
        if found is None:
            found = self._contexts[call.context] = _context(call.context)
        return found

    def roles(self, call: Call) -> tuple[str, ...]:
        """The argument each slot stands for."""
        args, names = call.args, call.function.arg_names
        if not call.kwargs and args.count(SLOT) == len(call.sources):
            if args and args[0] is SLOT and len(call.sources) == 1:
                return names[:1] or ("0",)
            key = (names, tuple([a is SLOT for a in args]))
            roles = self._roles.get(key)
            if roles is None:
                roles = tuple([arg_name(names, i) for i, slot in enumerate(key[1]) if slot])
                self._roles[key] = roles
            return roles
        found: list[str] = []
        for i, value in enumerate(args):
            _slots(value, arg_name(names, i), found)
        for name, value in call.kwargs.items():
            _slots(value, name, found)
        return tuple(found)

    def held(self, sources: tuple[int, ...], roles: tuple[str, ...]) -> tuple[Any, ...]:
        key = (roles, tuple([s if s < 0 else 0 for s in sources]))
        found = self._held.get(key)
        if found is None:
            pairs = [
                (self.tape.held[-1 - s], role)
                for s, role in zip(sources, roles, strict=True)
                if s < 0
            ]
            params = [(h, role) for h, role in pairs if h.is_parameter]
            buffers = [(h, role) for h, role in pairs if not h.is_parameter]
            distinct = {h.name: h for h, _ in params}.values()
            found = self._held[key] = (
                tuple(h.name for h, _ in params),
                tuple(role for _, role in params),
                tuple(h.shape for h, _ in params),
                sum(h.numel for h in distinct),
                sum(h.nbytes for h in distinct),
                sum(h.numel for h in distinct if h.requires_grad),
                tuple(h.name for h, _ in buffers),
                tuple(role for _, role in buffers),
                tuple(h.shape for h, _ in buffers),
            )
        return found

    def module(self, index: int) -> tuple[str, str, tuple[str, ...]]:
        found = self._modules.get(index)
        if found is None:
            modules = self.tape.modules
            module = modules[index]
            stack: tuple[str, ...] = ()
            if index > 0:
                stack = (*self.module(module.parent)[2], module.key)
            found = self._modules[index] = (module.path, module.type_name, stack)
        return found

    def config(self, call: Call) -> str:
        args = call.args
        if not call.kwargs and args.count(SLOT) == len(args):
            return "{}"
        names = call.function.arg_names
        if call.kwargs or not all(type(a) in _REPR_TELLS_ALL for a in args):
            return config_json(names, args, call.kwargs)
        key = (names, repr(args))
        found = self._configs.get(key)
        if found is None:
            found = self._configs[key] = config_json(names, args, call.kwargs)
        return found


_REPR_TELLS_ALL = frozenset((type(SLOT), int, float, bool, str, tuple, list, type(None), slice))
_NOTHING_HELD = ((), (), (), 0, 0, 0, (), (), ())


def arg_name(names: tuple[str, ...], position: int) -> str:
    """The name of a positional argument, its number where the function does not name it."""
    return names[position] if position < len(names) else str(position)


def _slots(value: Any, role: str, found: list[str]) -> None:
    if value is SLOT:
        found.append(role)
    elif isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            _slots(child, f"{role}.{i}", found)
    elif isinstance(value, dict):
        for name, child in value.items():
            _slots(child, f"{role}.{name}", found)
    elif isinstance(value, slice):
        for name in ("start", "stop", "step"):
            _slots(getattr(value, name), f"{role}.{name}", found)


def config_json(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The arguments that are no tensors, by name; JSON with tags for what JSON lacks."""
    config = {arg_name(names, i): encode(a) for i, a in enumerate(args) if a is not SLOT}
    config.update((k, encode(v)) for k, v in kwargs.items() if v is not SLOT)
    return json.dumps(config, allow_nan=False)


def encode(value: Any) -> Any:
    """`value` as JSON: `{"$slice": [0, 5, null]}`, `{"$dtype": "float32"}`, `{"$float": "inf"}`.

    A tensor inside a container is `{"$tensor": true}`: it is among the row's parents.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if value is SLOT:
        return {"$tensor": True}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, int):
        return int(value)
    if isinstance(value, complex):
        return {"$complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, slice):
        return {"$slice": [encode(value.start), encode(value.stop), encode(value.step)]}
    if value is Ellipsis:
        return {"$ellipsis": True}
    if isinstance(value, (tuple, torch.Size)) and not isinstance(value, Opaque):
        return {"$tuple": [encode(v) for v in value]} if _nested(value) else [*map(encode, value)]
    if isinstance(value, (list, range)):
        return [encode(v) for v in value]
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    for kind, tag in _TAGS:
        if isinstance(value, kind):
            return {tag: str(value).removeprefix("torch.")}
    if isinstance(value, Opaque):
        return {"$object": value.description}
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, np.ndarray):
        return {"$array": list(value.shape), "dtype": str(value.dtype)}
    return {"$object": repr(value)[:200]}


_TAGS = (
    (torch.dtype, "$dtype"),
    (torch.device, "$device"),
    (torch.layout, "$layout"),
    (torch.memory_format, "$memory_format"),
)


def _nested(value: Iterable[Any]) -> bool:
    """Whether a tuple is an index, in which a tuple and a list mean different things."""
    return any(
        v is SLOT or v is None or isinstance(v, (slice, list, type(Ellipsis))) for v in value
    )


def _context(context: Any) -> str:
    facts: dict[str, Any] = {}
    if not context.grad:
        facts["grad"] = False
    if context.inference:
        facts["inference"] = True
    if context.autocast:
        facts["autocast"] = dict(context.autocast)
    return json.dumps(facts)


class Sources:
    """Call sites as `file.py:line` of the first frame outside torch."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self._found: dict[tuple[Site, int], str] = {}
        self._lines: dict[tuple[int, int], str] = {}

    def of(self, site: Site, module: int) -> str:
        key = (site, module)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._search(site, module)
        return found

    def _search(self, site: Site, module: int) -> str:
        while True:
            for code, offset in zip(site[::2], site[1::2], strict=True):
                line = "" if code == SCRIPT else self._line(code, offset)
                if line:
                    return line
            if module <= 0:
                return self.tape.caller
            entry = self.tape.modules[module]
            site, module = entry.site, entry.parent

    def _line(self, code_id: int, offset: int) -> str:
        key = (code_id, offset)
        if key not in self._lines:
            self._lines[key] = line_of(self.tape.codes[code_id], offset)
        return self._lines[key]


def line_of(code: Any, offset: int) -> str:
    """`file.py:line` of an instruction, empty inside torch."""
    if code.co_filename.startswith(_TORCH_FOLDER):
        return ""
    for start, end, line in code.co_lines():
        if start <= offset < end and line is not None:
            return f"{os.path.basename(code.co_filename)}:{line}"
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}"


def _tensor_columns(tape: Tape) -> dict[str, list[Any]]:
    facts: dict[Any, dict[str, Any]] = {}
    columns: list[dict[str, Any]] = []
    for row in tape.rows:
        key = row[2:6]
        found = facts.get(key)
        if found is None:
            found = facts[key] = tensor_facts(*key)
        columns.append(found)
    names = ("shape", "shape_str", "stride", "dtype", "device", "numel", "nbytes")
    result: dict[str, list[Any]] = {name: [c[name] for c in columns] for name in names}
    result["requires_grad"] = [row.requires_grad for row in tape.rows]
    result["inplace"] = [row.inplace for row in tape.rows]
    return result


def tensor_facts(shape: Any, stride: Any, dtype: Any, device: Any) -> dict[str, Any]:
    """The columns that describe a tensor of this shape and kind."""
    sizes = tuple([int(n) for n in shape])
    numel = math.prod(sizes) if all(n >= 0 for n in sizes) else 0
    return {
        "shape": sizes,
        "shape_str": "x".join(map(str, sizes)),
        "stride": tuple([int(n) for n in stride]),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "numel": numel,
        "nbytes": numel * dtype.itemsize,
    }


def _reads(tape: Tape) -> list[tuple[str, ...]]:
    if not tape.reads:
        return [()] * len(tape.rows)
    sources = Sources(tape)
    return [
        tuple(f"{name}: {sources.of(site, module)}" for name, site, module in tape.reads.get(i, ()))
        for i in range(len(tape.rows))
    ]


def _returned(tape: Tape) -> list[tuple[str, ...]]:
    keys = [module.key for module in tape.modules]
    empty: tuple[str, ...] = ()
    returned = tape.returned
    return [
        tuple(dict.fromkeys(keys[m] for m in returned[i])) if i in returned else empty
        for i in range(len(tape.rows))
    ]
