"""Whether a later batch is as planned, at the selected rows: not its labels, parents or settings,
which shift when something else runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lensframe_pd.extract.picked import Facts, Filled
from lensframe_pd.extract.plan import Plan, Variable
from lensframe_pd.extract.reduce import axis_of
from lensframe_pd.schema import STIMULUS


def departures(plan: Plan, filled: Filled, n: int) -> Iterator[str]:
    """What of a batch is not as planned, a line for each row."""
    for v in plan.variables:
        if v.address in filled.reasons:
            yield f"{v.name!r} has no value: {filled.reasons[v.address]}"
            continue
        here = filled.facts.get(v.address)
        if here is None:
            yield f"{v.name!r} ({v.address}) is not in this batch{_about_passes(v, plan)}"
            continue
        expected = v.stopped if filled.stopped else v.facts
        yield from _differences(v, expected, here, n, plan, filled.stopped)


def _differences(
    v: Variable, expected: Facts, here: Facts, n: int, plan: Plan, stopped: bool
) -> Iterator[str]:
    if here.site != expected.site:
        yield (
            f"{v.name!r} ({v.address}) is made at another place in the program than in the first "
            "batch, so it is another operation; batches of a store go one way: extract each way to "
            "a store of its own"
        )
        return
    if here.dtype != expected.dtype:
        yield f"{v.name!r} is {here.dtype}, and {expected.dtype} in the first batch"
    if here.pass_num != expected.pass_num:
        yield (
            f"{v.name!r} is pass {here.pass_num} of its layer, and pass {expected.pass_num} in the "
            f"first batch{_about_passes(v, plan)}"
        )
    elif _ran_once_of_many(v, here, plan):
        yield (
            f"the layer of {v.name!r} has {here.n_passes} passes, and ran once in the first batch; "
            "give passes=1, or a first batch with as many passes as passes= says"
        )
    elif v.whole and not stopped and here.n_passes != expected.n_passes:
        yield (
            f"the layer of {v.name!r} has {here.n_passes} passes, and {expected.n_passes} in the "
            f"first batch; give passes={min(here.n_passes, expected.n_passes)} to keep so many of "
            "each batch"
        )
    loose = {axis.rstrip("_") for axis in _loose_axes(v)}
    theirs, ours = _told(expected.dims, loose), _told(here.dims, loose)
    if theirs != ours and not _alike_for_one(theirs, ours, n):
        yield (
            f"{v.name!r} has {_shown(here)}, and {_shown(expected)} in the first batch"
            f"{_advice(expected, here)}"
        )
    elif _extents(expected.shape, expected, loose) != _extents(here.shape, expected, loose):
        yield (
            f"{v.name!r} has shape {here.shape}, and {expected.shape} in the first batch"
            f"{_advice(expected, here)}"
        )


def _ran_once_of_many(v: Variable, here: Facts, plan: Plan) -> bool:
    """Whether passes= says several, and this layer was no loop in the first batch but is here."""
    several = plan.passes is not None and plan.passes > 1
    return several and v.facts.n_passes == 1 < here.n_passes


def _about_passes(v: Variable, plan: Plan) -> str:
    if plan.passes is None and v.facts.n_passes > 1:
        return "; give passes= a number that every batch has, such as passes=1"
    if plan.passes is not None and plan.passes > 1:
        return f"; this batch has fewer than passes={plan.passes}: give a smaller number"
    return ""


def _loose_axes(v: Variable) -> set[str]:
    """Axes whose extents may differ: those that are pooled or padded away."""
    loose = {*v.reduction.ragged}
    stored = {axis_of(dim) for dim in v.dims}
    if v.reduction.pool is not None and v.reduction.matrix is None:
        loose |= {axis_of(dim) for dim in v.facts.dims} - stored
    elif isinstance(v.reduction.pool, Mapping):
        loose |= {str(axis) for axis in v.reduction.pool}
        loose |= {"x", "y", "z"} if "space" in loose else set()
    elif v.reduction.pool in ("mean", "max"):
        loose |= {"x", "y", "z", "token", "time"}
    elif v.reduction.pool is not None:
        loose |= {"token"}
    return loose


def _told(dims: tuple[str, ...], loose: set[str]) -> tuple[str, ...]:
    return tuple([axis_of(d) if axis_of(d).rstrip("_") in loose else d for d in dims])


def _alike_for_one(theirs: tuple[str, ...], ours: tuple[str, ...], n: int) -> bool:
    """Of one stimulus alone it cannot be told which axes of extent 1 are the stimuli."""
    if n != 1 or len(theirs) != len(ours):
        return False
    return all(
        a == b or (STIMULUS in (a, b) and (a + b).replace(STIMULUS, "", 1).endswith("_1"))
        for a, b in zip(theirs, ours, strict=True)
    )


def _extents(shape: tuple[int, ...], planned: Facts, loose: set[str]) -> tuple[int, ...]:
    """The extents of a value, but for the axes that may differ and, as planned, the stimuli."""
    return tuple(
        [
            -1 if dim == STIMULUS or axis_of(dim).rstrip("_") in loose else extent
            for dim, extent in zip(planned.dims, shape, strict=True)
        ]
    )


def _shown(facts: Facts) -> str:
    return f"({', '.join(facts.dims)})"


def _advice(expected: Facts, here: Facts) -> str:
    """What to give where only the extent of an axis varies."""
    if STIMULUS not in expected.dims:
        return "; it has no stimulus axis, so it is stored once: leave this row out"
    pairs = [*zip(expected.dims, here.dims, strict=False)]
    if len(expected.dims) != len(here.dims):
        return ""
    moved = {
        axis_of(a).rstrip("_"): max(n, m)
        for (a, b), n, m in zip(pairs, expected.shape, here.shape, strict=True)
        if a != b and axis_of(a) == axis_of(b)
    }
    if not moved or any(a != b and axis_of(a) != axis_of(b) for a, b in pairs):
        return ""
    axis, most = next(iter(moved.items()))
    return (
        f"; say what to do where {axis!r} varies: a column pool that takes it away, as "
        f"rows.assign(pool=[{{{axis!r}: 'mean'}}] * len(rows)) (with a mask: the name of the "
        f"model's argument that is one), or ragged={{{axis!r}: {most}}} to pad it (or as many as "
        "the longest has)"
    )
