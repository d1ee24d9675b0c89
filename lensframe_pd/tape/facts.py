"""The facts of calls and tensors that become columns, each distinct one worked out once."""

from __future__ import annotations

import math
import os.path
from bisect import bisect
from collections.abc import Hashable, Iterable, Sequence
from functools import cache
from types import CodeType
from typing import Any, NamedTuple

import torch

from lensframe_pd.errors import OURS, LensKeyError
from lensframe_pd.schema import COLUMNS
from lensframe_pd.tape.codes import once_per_code
from lensframe_pd.tape.config import encode, slot_roles
from lensframe_pd.tape.context import context_json
from lensframe_pd.tape.functions import KNOWN, Function
from lensframe_pd.tape.tape import ALL_SLOTS, SCRIPT, SLOT, Call, Context, Held, Site, Tape

#: Frames of torch and of this package are never the user's code.
_FOLDERS = (os.path.dirname(torch.__file__) + os.sep, OURS)
#: Types of arguments that settle them together with their values;
_TOLD = frozenset((type(SLOT), int, bool, str, type(None)))
#: and that do where no number is zero, and tuples hold integers.
_SETTLED = _TOLD | {float, tuple}
_WHOLE = frozenset((int,))


class Template(NamedTuple):
    """What calls of one function have in common whose arguments are alike, tensors aside."""

    roles: tuple[str, ...]
    """The argument each slot stands for."""
    func: str
    target: str
    config: str
    n_positional: int
    tuple_args: tuple[str, ...]


#: The cells of the columns `CallFacts.of_module`.
ModuleCells = tuple[str, str, tuple[str, ...], tuple[str, ...]]


class CallFacts:
    """Facts of calls, each distinct one worked out once."""

    of_held = (
        "params", "param_args", "param_shapes", "param_dtypes",
        "n_params", "params_nbytes", "n_trainable",
        "buffers", "buffer_args", "buffer_shapes", "buffer_dtypes",
    )  # fmt: skip
    #: Their cells where a call read no parameter and no buffer.
    nothing_held: tuple[Any, ...] = ((), (), (), (), 0, 0, 0, (), (), (), ())
    of_module = ("module", "module_type", "module_stack", "module_types")

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.sources = Sources(tape)
        self._templates: dict[Any, Template] = {}
        self._held: dict[Any, tuple[tuple[Any, ...], tuple[str, ...]]] = {}
        self._modules: list[ModuleCells] = []
        self._types: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._contexts: dict[Any, str] = {}

    def of(self, call: Call) -> dict[str, Any]:
        """All columns that one call decides by itself."""
        roles, *template = self.template(call.function, call.args, call.kwargs)
        held, others = self.held(call.sources, roles)
        return {
            **dict(zip(Template._fields[1:], template, strict=True)),
            "parent_args": others,
            "context": self.context(call.context, call.generator is not None),
            "source": self.sources.of(call.site, call.module),
            "random": call.generator is not None,
            "seconds": call.seconds,
            **dict(zip(self.of_module, self.modules()[call.module], strict=True)),
            **dict(zip(self.of_held, held, strict=True)),
        }

    def switches(self, context: Context) -> str:
        """The column `context` of most calls: those that drew nothing, and did not end the run."""
        found = self._contexts.get(context)
        if found is None:
            found = self._contexts[context] = context_json(context)
        return found

    def context(self, context: Context, random: bool, stopped: bool | str = False) -> str:
        """The column `context` of any call."""
        return context_json(context, self.tape.seed if random else None, stopped)

    def template(self, function: Function, args: Any, kwargs: dict[str, Any]) -> Template:
        """What a call of a function with these arguments shows of itself."""
        return self.templates([function], [args], [kwargs])[0][0]

    def templates(
        self,
        functions: Sequence[Function],
        args: Sequence[Any],
        kwargs: Sequence[dict[str, Any]],
    ) -> tuple[list[Template], list[int]]:
        """Those of some calls, each once, and which of them each call has."""
        found: list[Template] = []
        which: list[int] = []
        of_functions: dict[Function, dict[Any, int]] = {}
        for function, given, named in zip(functions, args, kwargs, strict=True):
            numbers = of_functions.get(function)
            if numbers is None:
                numbers = of_functions[function] = {}
            n = len(given)
            if not named and n < len(ALL_SLOTS) and ALL_SLOTS[n] == given:
                exactly: Hashable = n
            else:
                exactly = _exactly(given, named)
            number = numbers.get(exactly)
            if number is None:
                number = numbers[exactly] = len(found)
                key = id(function), exactly
                if key not in self._templates:
                    self._templates[key] = _template(key, function, given, named)
                found.append(self._templates[key])
            which.append(number)
        return found, which

    def held(
        self, sources: tuple[int, ...], roles: tuple[str, ...]
    ) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        """The columns `of_held`, and the arguments that are not held."""
        key = (roles, tuple([s if s < 0 else 0 for s in sources]))
        found = self._held.get(key)
        if found is None:
            params: list[tuple[Held, str]] = []
            buffers: list[tuple[Held, str]] = []
            others = []
            for source, role in zip(sources, roles, strict=True):
                if source >= 0:
                    others.append(role)
                else:
                    held = self.tape.held[-1 - source]
                    (params if held.is_parameter else buffers).append((held, role))
            distinct = {h.name: h for h, _ in params}.values()
            cells = (
                *_described(params),
                sum([h.numel for h in distinct]),
                sum([h.nbytes for h in distinct]),
                sum([h.numel for h in distinct if h.requires_grad]),
                *_described(buffers),
            )
            found = self._held[key] = cells, tuple(others)
        return found

    def modules(self) -> list[ModuleCells]:
        """The columns `of_module`, of each module call so far."""
        known, modules = self._modules, self.tape.module_log.entries
        keys = self.tape.module_keys()
        for path, _, parent, type_name, _ in modules[len(known) :]:
            if parent < 0:  # the model itself
                known.append((path, type_name, (), ()))
            else:
                _, _, stack, types = known[parent]
                types = (*types, type_name)
                types = self._types.setdefault(types, types)  # few differ, and deep ones are long
                known.append((path, type_name, (*stack, keys[len(known)]), types))
        return known


_templates: dict[Any, Template] = {}
_MOST_TEMPLATES, _LONGEST = 2**12, 1000


def _template(key: Any, function: Function, args: Any, kwargs: dict[str, Any]) -> Template:
    """A template, kept for other runs where it is of torch's own function: that stays as it is."""
    found = _templates.get(key)
    if found is None:
        roles = slot_roles(function, args, kwargs)
        cells = encode(function, args, kwargs)
        found = Template(roles, function.name, function.target, *cells)
        if KNOWN.get(function.func) is function and len(found.config) < _LONGEST:
            if len(_templates) >= _MOST_TEMPLATES:
                _templates.clear()
            _templates[key] = found
    return found


def _described(tensors: list[tuple[Held, str]]) -> tuple[tuple[Any, ...], ...]:
    """Names, arguments, shapes and dtypes."""
    if not tensors:
        return ((), (), (), ())
    held, roles = zip(*tensors, strict=True)
    dtypes = tuple([dtype_name(h.dtype) for h in held])
    return tuple([h.name for h in held]), roles, tuple([h.shape for h in held]), dtypes


@cache
def dtype_name(dtype: torch.dtype) -> str:
    """A cell of the column `dtype`, as `"float32"`."""
    return str(dtype).removeprefix("torch.")


def _exactly(args: Any, kwargs: dict[str, Any]) -> Hashable:
    """What arguments have in common that are alike to the letter.

    1, 1.0 and True are equal, and so are 0.0 and -0.0, but not the same JSON. Where types settle
    it, a tuple is quicker than text.
    """
    kinds = tuple(map(type, args))
    if not kwargs and _TOLD.issuperset(kinds):
        return args, kinds
    if not kwargs and _SETTLED.issuperset(kinds):
        parts = [a for a in args if type(a) is tuple] if tuple in kinds else ()
        zeros = [a for a in args if type(a) is float and a == 0] if float in kinds else ()
        if not zeros and all([_WHOLE.issuperset(map(type, part)) for part in parts]):
            return args, kinds
    return repr((args, kwargs))


def tensor_facts(shape: Any, stride: Any, dtype: Any, device: Any) -> dict[str, Any]:
    """The columns that describe a tensor of this shape and kind."""
    sizes = tuple([int(n) for n in shape])
    numel = math.prod(sizes) if all(n >= 0 for n in sizes) else 0
    return {
        "shape": sizes,
        "shape_str": "x".join(map(str, sizes)),
        "stride": tuple([int(n) for n in stride]),
        "dtype": dtype_name(dtype),
        "device": str(device),
        "numel": numel,
        "nbytes": numel * dtype.itemsize,
    }


class Sources:
    """Call sites as `file.py:line` of the first frame outside torch."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self._sites: dict[Site, str] = {(): ""}
        self._modules: list[str] = []
        self._lines: dict[tuple[int, int], str] = {}

    def line(self, site: Site) -> str:
        """The line that a site names; empty where all its frames are torch's."""
        line = self._sites.get(site)
        if line is None:
            line = self._sites[site] = self._search(site)
        return line

    def of(self, site: Site, module: int) -> str:
        """The line of a call; where its frames are all torch's, that of the call of its module."""
        return self.line(site) or self.of_modules()[module]

    def of_modules(self) -> list[str]:
        """The lines of the module calls so far."""
        known, modules, lines = self._modules, self.tape.module_log.entries, self._sites
        for _, _, parent, _, site in modules[len(known) :]:
            if parent < 0:
                known.append(self.tape.caller)
                continue
            line = lines.get(site)
            known.append((self.line(site) if line is None else line) or known[parent])
        return known

    def _search(self, site: Site) -> str:
        for code, offset in zip(site[::2], site[1::2], strict=True):
            line = "" if code == SCRIPT else self._line(code, offset)
            if line:
                return line
        return ""

    def _line(self, code_id: int, offset: int) -> str:
        key = (code_id, offset)
        if key not in self._lines:
            self._lines[key] = line_of(self.tape.codes[code_id], offset)
        return self._lines[key]


def line_of(code: Any, offset: int) -> str:
    """`file.py:line` of an instruction, empty inside torch and this package."""
    lines = _lines(code)
    if lines is None:
        return ""
    here = bisect(lines.begins, offset) - 1
    return lines.texts[here] if here >= 0 else lines.first


class _Lines(NamedTuple):
    """Where each line begins in code, and what it is called."""

    begins: list[int]
    texts: list[str]
    first: str
    """Of the line where all of the code begins."""


@once_per_code
def _lines(code: CodeType) -> _Lines | None:
    """None of code inside torch and this package."""
    if code.co_filename.startswith(_FOLDERS):
        return None
    name, first = os.path.basename(code.co_filename), code.co_firstlineno
    lines = [*code.co_lines()]
    texts = [f"{name}:{first if line is None else line}" for _, _, line in lines]
    return _Lines([start for start, _, _ in lines], texts, f"{name}:{first}")


class Ordinals:
    """Which row of its function each row is within its module call, from 1."""

    def __init__(self, n_modules: int) -> None:
        self._n_modules = n_modules
        self._functions: dict[str, int] = {}
        self._counts: dict[int, int] = {}

    def key(self, function: str) -> int:
        """What with the number of a module call added tells both from all others."""
        return self._functions.setdefault(function, len(self._functions)) * self._n_modules

    def of(self, keys: Iterable[int]) -> list[int]:
        """Those of the next rows."""
        counts, found = self._counts, []
        for key in keys:
            counts[key] = n = counts.get(key, 0) + 1
            found.append(n)
        return found


class LiveRow:
    """A row as `save=` functions see it while the model runs, by `row.func` or `row["func"]`.

    It has every column that is known at that moment: not the labels, which need the whole run.
    """

    def __init__(self, tape: Tape, facts: CallFacts, index: int) -> None:
        self._tape, self._facts, self._index = tape, facts, index
        self._cells: dict[str, Any] | None = None

    def __getitem__(self, column: str) -> Any:
        # These two are known without working out the rest.
        if column == "kind":
            return self._tape.kinds.get(self._index, "op")
        if column == "step":
            return self._index
        if self._cells is None:
            self._cells = self._look_up()
        if column not in self._cells:
            what = COLUMNS.get(column)
            reason = "is known only after the run" if what else "is no column"
            raise LensKeyError(
                f"{column!r} {reason}; a save= function can use {', '.join(self._cells)}"
            )
        return self._cells[column]

    def __getattr__(self, column: str) -> Any:
        if column.startswith("__"):
            raise AttributeError(column)
        return self[column]

    def _look_up(self) -> dict[str, Any]:
        tape, i = self._tape, self._index
        row = tape.rows[i]
        call = tape.calls[row.call]
        return {
            "step": i,
            "kind": tape.kinds.get(i, "op"),
            "call": row.call,
            "path": tape.paths.get(i, ""),
            "requires_grad": row.requires_grad,
            "inplace": row.inplace,
            **self._facts.of(call),
            **tensor_facts(row.shape, row.stride, row.dtype, row.device),
        }
