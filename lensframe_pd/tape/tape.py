"""What ran: one `Call` per torch function call, one `Row` per tensor it made or wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from lensframe_pd.tape.functions import Function
from lensframe_pd.tape.storage import Bits
from lensframe_pd.tape.switches import Switches

Site = tuple[int, ...]
"""Call site: code id, instruction offset, code id, ... from the innermost frame outward."""

SCRIPT = -1
"""In a site, instead of a code id: the number of the operator within a ScriptModule's call."""


class _Slot:
    """Stands for a tensor in the recorded arguments."""

    def __eq__(self, other: object) -> bool:
        return self is other  # and no code of `other` is asked

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return "<tensor>"


SLOT = _Slot()
ALL_SLOTS = [(SLOT,) * n for n in range(16)]
"""What most arguments are, by their number."""


class Opaque(NamedTuple):
    """An argument that is neither a tensor nor a value: only its description is kept."""

    description: str
    value: Any = None
    """The argument itself, where a run is recorded to be replayed at once."""

    def __repr__(self) -> str:
        return f"Opaque({self.description!r})"  # that of the argument is the user's code


class Array(NamedTuple):
    """A small NumPy array among the arguments, copied."""

    value: np.ndarray[Any, Any]

    def __repr__(self) -> str:
        return f"Array({self.value.dtype}, {self.value.tolist()!r})"  # NumPy's own leaves out


class Context(NamedTuple):
    """The switches a call ran under."""

    grad: bool
    inference: bool
    autocast: tuple[tuple[str, str], ...]
    """Pairs of device type and dtype."""


class Call(NamedTuple):
    """One call of one torch function."""

    function: Function
    args: tuple[Any, ...]
    """The positional arguments, `SLOT` where a tensor was."""
    kwargs: dict[str, Any]
    sources: tuple[int, ...]
    """Where the tensors in the slots came from, in order: a row, or `-1 - k` for `Tape.held[k]`."""
    site: Site
    module: int
    """Index into `Tape.modules`."""
    context: Context
    seconds: float
    generator: Tensor | None = None
    """State of the random generator before the call, if the call drew from it."""


class Row(NamedTuple):
    """One tensor made, or written, by one call."""

    call: int
    slot: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool
    inplace: bool = False


class Held(NamedTuple):
    """A parameter or a buffer of the model."""

    name: str
    is_parameter: bool
    shape: tuple[int, ...]
    dtype: torch.dtype
    numel: int
    nbytes: int
    requires_grad: bool
    tensor: Tensor | None
    """The tensor itself; None where the run made it and nothing is replayed."""


class ModuleCall(NamedTuple):
    """One call of one module; the first entry of `Tape.modules` is the model itself."""

    path: str
    number: int
    parent: int
    type_name: str
    site: Site

    @property
    def key(self) -> str:
        """`enc.0:3`, the third call of `enc.0`."""
        return f"{self.path}:{self.number}"


_FUNCTION = itemgetter(0)  # call.function, of entries without names
_Entry = TypeVar("_Entry", bound=tuple[Any, ...])


class Log(Generic[_Entry]):
    """What a run writes: plain tuples, which are given their names when somebody reads them.

    A named tuple takes twice as long to make, there is one for each operation, and the run itself
    reads few.
    """

    def __init__(self, kind: type[_Entry], named: Iterable[_Entry] = ()) -> None:
        #: For who writes: the last ones may have no names yet.
        self.entries: list[Any] = [*named]
        self._kind = kind
        self._n_named = len(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def named(self) -> list[_Entry]:
        """The same list, with names."""
        entries, n = self.entries, self._n_named
        if n < len(entries):
            entries[n:] = map(tuple.__new__, repeat(self._kind), entries[n:])
            self._n_named = len(entries)
        return entries


@dataclass
class Tape:
    """Everything one run left behind; `frame` and `activations` read it."""

    call_log: Log[Call] = field(default_factory=partial(Log, Call))
    row_log: Log[Row] = field(default_factory=partial(Log, Row))
    module_log: Log[ModuleCall] = field(default_factory=partial(Log, ModuleCall))
    values: list[Tensor | None] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    """Of modules that are held in several places: each further path to the first."""
    held: list[Held] = field(default_factory=list)
    holding: set[str] = field(default_factory=set)
    """Paths of the modules that hold parameters, themselves or below."""
    kinds: dict[int, str] = field(default_factory=dict)
    """Kind of the rows that are not plain operations."""
    paths: dict[int, str] = field(default_factory=dict)
    """Where an input, output or constant stood."""
    returns: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of a module call and a row that it returned, as the calls ended."""
    reads: dict[int, list[tuple[str, Site, int]]] = field(default_factory=dict)
    """Row to what read it: name, site, module."""
    codes: dict[int, Any] = field(default_factory=dict)
    """Code objects by id, for the sites."""
    caller: str = ""
    """`file.py:line` of the `lf.trace` call."""
    facts: dict[str, Any] = field(default_factory=dict)
    """JSON scalars about the run that nothing depends on; in the tables' `attrs`, for people."""
    seed: int | None = None
    """What torch's generators were seeded with before the run, if they were."""
    unfused: dict[int, None] = field(default_factory=dict)
    """Calls of attention modules that took torch's fused path but for the trace, in order."""
    stopped: bool | str = False
    """Whether the run was ended early: by its last row, or by the end of the module call named."""
    n_stimuli: int = 0
    """How many stimuli went in."""
    starts: dict[int, int | range | np.ndarray[Any, Any]] = field(default_factory=dict)
    """Inputs that are stimuli: the number of the one that a row is, or those along its axis 0."""
    selections: dict[int, dict[int, Tensor]] = field(default_factory=dict)
    """Calls that took entries of tensors to the integers and masks which said what entries, by
    their place among the call's tensors."""
    versions: list[int | None] = field(default_factory=list)
    """Of `held` entries, how often each had been written when the run was over."""
    before: dict[int, Tensor | None] = field(default_factory=dict)
    """Of `held` entries that the run wrote, the value before; None where it was not kept."""
    bits: dict[int, Bits] = field(default_factory=dict)
    """Rows that showed the conjugate or negative of their memory; noted where a run is proven."""
    lost: dict[int, str] = field(default_factory=dict)
    """Rows whose value was kept and had to be let go of, with the reason."""
    switched: dict[int, Switches] = field(default_factory=dict)
    """Calls made under other switches than the run began with; noted where a run is proven."""
    handed: set[int] = field(default_factory=set)
    """Rows whose tensor is an object that was there before, and others may hold."""
    told: set[int] = field(default_factory=set)
    """Rows of whose values the program learned more than calls and reads say: they were printed,
    pickled, asserted, or given to a call that failed."""
    lent: set[int] = field(default_factory=set)
    """Rows whose memory the program had as something else than a tensor, or as one of NumPy's."""
    placed: set[int] = field(default_factory=set)
    """Rows whose layout in memory the program asked for."""
    followed: set[int] = field(default_factory=set)
    """Rows whose state the program asked for: whether autograd follows them, or they are views."""
    guessed: set[int] = field(default_factory=set)
    """Rows that tensors which no call was seen to make were taken for, by their memory alone."""
    blurred: int = 0
    """How many rows there were when the program last learned of a tensor of unknown origin, which
    may have been made of any of them."""
    wrapped: set[int] = field(default_factory=set)
    """Calls inside `torch.vmap` or `torch.func.grad`, whose rows hold the unwrapped value."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Names of axes, and those that the user wants instead."""
    _keys: list[str] = field(default_factory=list, repr=False, compare=False)

    @property
    def calls(self) -> list[Call]:
        return self.call_log.named()

    @property
    def rows(self) -> list[Row]:
        return self.row_log.named()

    @property
    def modules(self) -> list[ModuleCall]:
        return self.module_log.named()

    def call(self, number: int) -> Call:
        """One call, where the others need no names."""
        return Call._make(self.call_log.entries[number])

    def row(self, i: int) -> Row:
        """One row, where the others need no names."""
        return Row._make(self.row_log.entries[i])

    def names(self) -> set[str]:
        """The functions that were called, by name."""
        return {function.name for function in {*map(_FUNCTION, self.call_log.entries)}}

    def altered(self, **others: Any) -> Tape:
        """The same but for these fields, or `calls`, `rows` and `modules`."""
        for name, kind in (("calls", Call), ("rows", Row), ("modules", ModuleCall)):
            if name in others:
                others[f"{name.removesuffix('s')}_log"] = Log(kind, others.pop(name))
        return replace(self, **others)

    def module_keys(self) -> list[str]:
        """`ModuleCall.key` of each module call; of one call always the same text.

        Several columns hold them, and in deep models they are most of a frame's memory.
        """
        entries = self.module_log.entries[len(self._keys) :]
        self._keys += [f"{module[0]}:{module[1]}" for module in entries]
        return self._keys

    def returned(self) -> dict[int, list[int]]:
        """Row to the module calls that returned it."""
        returned: dict[int, list[int]] = {}
        for module, row in self.returns:
            returned.setdefault(row, []).append(module)
        return returned

    def note_holder(self, path: str, top: str) -> None:
        """The module `path`, and those around it out to `top`, hold a parameter."""
        while path not in self.holding:
            self.holding.add(path)
            if path == top:
                break
            path = path.rpartition(".")[0]

    def attrs(self) -> dict[str, Any]:
        """What the `attrs` of both tables tell people about the run."""
        seed = {} if self.seed is None else {"seed": self.seed}
        paths = dict.fromkeys([self.modules[call].path for call in self.unfused])
        unfused = {"unfused": json.dumps([*paths])} if paths else {}
        stopped = {"stopped": True} if self.stopped else {}
        return {**self.facts, **seed, **unfused, **stopped}
