"""What the first batch tells of all: the variables of the store, and how a run fills them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lensframe_pd.capture.plan import Address, followed, planned
from lensframe_pd.errors import LensKeyError, LensValueError, shown
from lensframe_pd.extract.cast import Array, Cast
from lensframe_pd.extract.columns import Wanted
from lensframe_pd.extract.picked import Facts, Picked, facts_of
from lensframe_pd.extract.reduce import (
    Given,
    Reduced,
    Reduction,
    axis_of,
    described,
    projection,
    renamed,
)
from lensframe_pd.schema import STIMULUS
from lensframe_pd.tables.activations import to_numpy
from lensframe_pd.tape.objects import tensors_in
from lensframe_pd.tape.tape import Tape
from lensframe_pd.traced import Trace

_SHOWN = 8


class Variable(NamedTuple):
    """One variable of the store, and the row whose values it has."""

    name: str
    address: Address
    layer: str
    whole: bool
    """Whether the number of passes of its layer is that of every batch."""
    facts: Facts
    """What the row is in a run to the end."""
    stopped: Facts
    """What it is in a run that ends with the last selected row, which sees less."""
    reduction: Reduction
    wanted: Wanted
    attrs: dict[str, Any]
    dims: tuple[str, ...]
    """Of what is stored."""
    shape: tuple[int, ...]
    """Of what is stored, with 1 along `stimulus`."""
    lengths: Mapping[str, str]
    """Axes that are padded, and the coordinate that has how many there were."""

    @property
    def axis(self) -> int | None:
        """Which axis is `stimulus`."""
        return self.dims.index(STIMULUS) if STIMULUS in self.dims else None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.reduction.cast.stored

    def named(self, here: Facts) -> tuple[str, ...]:
        """The dimensions of a value in another batch, as the first named them.

        Names can come from operations that a run which is stopped does not see.
        """
        pairs = zip(self.facts.dims, here.shape, strict=True)
        return tuple([d if d == STIMULUS else renamed(d, n) for d, n in pairs])

    def said(self) -> dict[str, Any]:
        """All of this that must be the same when another call fills the same store, as JSON."""
        return {
            "module": self.address.module,
            "func": self.address.func,
            "ordinal": self.address.ordinal,
            "pass_num": self.facts.pass_num,
            "traced": self.facts.dtype,
            "dtype": self.reduction.cast.target,
            "pool": described(self.wanted.pool),
            "project": self.wanted.project,
            "chunk": self.wanted.chunk,
            "dims": list(self.dims),
            "shape": list(self.shape),
        }


class Plan(NamedTuple):
    """The variables of a store, and what a run must be to fill it."""

    variables: tuple[Variable, ...]
    fixed: Mapping[str, Array]
    """The values of those that have no stimuli."""
    dynamic: bool
    """Whether the model reads values, so that another batch may go another way."""
    inputs: tuple[tuple[int, ...], ...]
    """Shapes of the inputs, without stimuli."""
    passes: int | None

    def picked(self, inputs: tuple[tuple[int, ...], ...]) -> Picked:
        """What to keep of a batch with such inputs; whether the run may end after the last of it.

        It may not where layers can have passes after that: these must be seen to be refused.
        """
        fixed = self.passes is not None and (
            self.passes == 1 or all([v.facts.n_passes > 1 for v in self.variables])
        )
        steady = not self.dynamic and inputs == self.inputs
        return Picked([v.address for v in self.variables], stop=fixed or steady)


def make_plan(
    trace: Trace,
    wanted: Mapping[str, Wanted],
    chosen: Any,
    batch: Given,
) -> tuple[Plan, dict[str, Reduced]]:
    """The plan, and what is to be stored of the first batch.

    Raises
    ------
    LensValueError
        Nothing is selected; values cannot be had as arrays; a variable has stimuli along two axes;
        a layer has fewer passes than asked for; or rows ask for what cannot be.
    """
    tape = trace.tape
    ragged, passes, seed = chosen.ragged, chosen.passes, chosen.seed or 0
    rows = _selected(trace, passes)
    addresses = followed(tape)
    at = {addresses[row]: row for row in rows}
    whole_facts = facts_of(tape, at)
    last = max(rows)
    short = facts_of(_until(tape, last), at)
    asks = _by_address(wanted, chosen.save, trace, addresses)
    labels, variables, stored = trace._passes.labels(), list[Variable](), dict[str, Reduced]()
    counts = _n_selected(trace, rows)
    attrs = {str(name): dict(v.attrs) for name, v in trace.activations.data_vars.items()}
    for row in rows:
        address, name = addresses[row], labels[row]
        layer = trace._passes.layers[row]
        facts, ask = whole_facts[address], asks.get(addresses[row], Wanted())
        value = tape.values[row]
        assert value is not None
        reduction = _reduction(name, facts, ask, ragged, batch, value, seed)
        found = reduction(value, facts.dims, batch)
        _check_one_stimulus_axis(name, found.dims)
        stored[name] = found
        variables.append(
            Variable(
                name,
                address,
                layer,
                passes is None and counts[layer] == facts.n_passes,
                facts,
                short[address],
                reduction,
                ask,
                attrs[name],
                found.dims,
                _without_stimuli(found),
                dict.fromkeys(found.lengths, ""),
            )
        )
    variables = _with_lengths(variables, stored)
    fixed = {v.name: stored[v.name].array for v in variables if v.axis is None}
    plan = Plan(tuple(variables), fixed, bool(tape.reads), input_shapes(batch.arguments), passes)
    return plan, stored


def _until(tape: Tape, row: int) -> Tape:
    """What the tape would be of a run that ends with a row."""
    return tape.altered(
        rows=tape.rows[: row + 1],
        calls=tape.calls[: tape.rows[row].call + 1],
        kinds={k: kind for k, kind in tape.kinds.items() if k <= row},
    )


def input_shapes(arguments: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Shapes of the inputs of a model, without their first axis: that of the stimuli, mostly."""
    return tuple([tuple(tensor.shape[1:]) for _, tensor in tensors_in(dict(arguments))])


def _selected(trace: Trace, passes: int | None) -> list[int]:
    """The rows that were kept, less the passes that are not wanted."""
    tape, grouped = trace.tape, trace._passes
    rows = [row for row, value in enumerate(tape.values) if value is not None]
    lost = {**trace._unsaved}
    if lost:
        labels = grouped.labels()
        lines = [f"{labels[row]!r}: {reason}" for row, reason in [*lost.items()][:_SHOWN]]
        raise LensValueError(
            "values that save= selects cannot be stored; leave these rows out\n" + "\n".join(lines)
        )
    if not rows:
        raise LensValueError(
            "save= selects no values, so there is nothing to store; give rows of a trace's layers, "
            "labels or module paths"
        )
    counts = _n_selected(trace, rows)
    if passes is None:
        return rows
    short = {
        grouped.layers[row]: grouped.n_passes[row]
        for row in rows
        if 1 < grouped.n_passes[row] < passes
    }
    if short:
        layer, n = next(iter(short.items()))
        raise LensValueError(
            f"passes={passes}, and {layer!r} has {n} passes in the first batch; give passes={n} or "
            "fewer"
        )
    return [
        row
        for row in rows
        if counts[grouped.layers[row]] < grouped.n_passes[row] or grouped.pass_nums[row] <= passes
    ]


def _n_selected(trace: Trace, rows: list[int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        layer = trace._passes.layers[row]
        counts[layer] = counts.get(layer, 0) + 1
    return counts


def _by_address(
    wanted: Mapping[str, Wanted], save: Any, trace: Trace, addresses: list[Address]
) -> dict[Address, Wanted]:
    """What rows ask for, by their place in the run: their labels may be of a longer one."""
    if not wanted:
        return {}
    try:
        return {address: wanted[op] for address, op in planned(save).items()}
    except (KeyError, LensKeyError):  # only labels came along
        grouped = trace._passes
        found = {}
        for row, op in enumerate(grouped.labels()):
            ask = wanted.get(op) or wanted.get(grouped.layers[row])
            if ask is not None:
                found[addresses[row]] = ask
        return found


def _reduction(
    name: str,
    facts: Facts,
    ask: Wanted,
    ragged: Mapping[str, int],
    batch: Given,
    value: Any,
    seed: int,
) -> Reduction:
    """What becomes of the values of a row; the sizes of a projection are those of the value."""
    here = {axis_of(dim).rstrip("_") for dim in facts.dims}
    pads = {axis: most for axis, most in ragged.items() if axis in here}
    as_is = Reduction(name, Cast(facts.dtype, facts.dtype), ask.pool, None, pads)
    matrix = None
    if ask.pool is None and ask.project is None:
        source = facts.dtype
    else:
        if STIMULUS not in facts.dims:
            raise LensValueError(
                f"{name!r} has no stimulus axis, so there is nothing to pool or project for each "
                "stimulus; leave pool and project missing in its row"
            )
        smaller, dims = as_is.smaller(to_numpy(value), facts.dims, batch)
        source = smaller.dtype.name
        pads = {a: m for a, m in pads.items() if a in {axis_of(d).rstrip("_") for d in dims}}
        if ask.project is not None:
            features = int(np.prod(smaller.shape)) // smaller.shape[dims.index(STIMULUS)]
            matrix, pads = projection(features, ask.project, seed, smaller.dtype), {}
    changed = ask.dtype and ask.dtype != facts.dtype
    target = ask.dtype if changed else source
    cast = Cast(source, target)
    cast.check(name)
    return Reduction(name, cast, ask.pool, matrix, pads)


def _check_one_stimulus_axis(name: str, dims: tuple[str, ...]) -> None:
    several = [d for d in dims if d.startswith(STIMULUS) and d.strip("_") == STIMULUS]
    if len(several) > 1:
        raise LensValueError(
            f"{name!r} is stimulus x stimulus within a batch ({', '.join(dims)}), which a store "
            "of many batches cannot hold; extract what it is made of"
        )


def _without_stimuli(found: Reduced) -> tuple[int, ...]:
    return tuple(
        [1 if d == STIMULUS else n for d, n in zip(found.dims, found.array.shape, strict=True)]
    )


def _with_lengths(variables: list[Variable], stored: Mapping[str, Reduced]) -> list[Variable]:
    """The coordinates that hold how many there were along padded axes: one where all agree."""
    agreed: dict[str, set[int]] = {}
    for v in variables:
        for axis, n in stored[v.name].lengths.items():
            agreed.setdefault(axis, set()).add(n)
    return [
        v._replace(
            lengths={
                axis: f"n_{axis}" if len(agreed[axis]) == 1 else f"n_{axis}_{v.name}"
                for axis in stored[v.name].lengths
            }
        )
        for v in variables
    ]


def check_ragged(ragged: Any, plan: Plan) -> None:
    """Raise where an axis that is to be padded is none of any variable.

    Raises
    ------
    LensValueError
        Naming the axis and those that there are.
    """
    there = {axis_of(d).rstrip("_") for v in plan.variables for d in v.facts.dims} - {STIMULUS}
    unknown = [axis for axis in ragged if axis not in there]
    if unknown:
        raise LensValueError(
            f"ragged= names {shown(unknown)}, which is no axis of the selected rows; there are "
            f"{', '.join(sorted(there))}"
        )
