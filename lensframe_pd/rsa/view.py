"""`activations.lens[key]`: one op, layer or module as one array with plain dimension names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload

import xarray as xr

from lensframe_pd.errors import LensKeyError, LensValueError, warn
from lensframe_pd.labels import (
    asked_names,
    calls_of,
    main_path,
    module_asked,
    split_call,
    unknown_rows,
)
from lensframe_pd.rsa.joined import PASS, as_one, has_tokens, sequences, with_centres, with_tokens
from lensframe_pd.schema import MODULE_ALIASES


@overload
def select(dataset: xr.Dataset, key: str) -> xr.DataArray: ...
@overload
def select(dataset: xr.Dataset, key: Any) -> Any: ...
def select(dataset: xr.Dataset, key: Any) -> Any:
    """One op, layer or module as one array with plain dimension names; several as a Dataset.

    Parameters
    ----------
    dataset
        The activations of a trace, or any selection of their variables.
    key
        An op label (`"relu_3"`, `"linear_1:2"`), a layer (`"linear_1"`), or the path of a module
        (`"layer1.0"`): what a forward hook on it receives, `"layer1.0:2"` of its second call; of a
        module that is held in several places any of its paths. A label goes before a layer, and a
        layer before a module of the same name. Several in a list, or rows of `layers`.

    Returns
    -------
    xarray.DataArray
        Dimensions without their extents: `(stimulus, channel, y, x)`. A layer or module that ran
        more than once has its passes, or calls, along a first dimension `pass_num`. Passes of which
        each read the cache that the one before wrote, as when text is generated, go one behind
        the other along `token`, whose coordinate counts from the first token of the prompt. Of
        several keys a Dataset, a variable for each, whose dimensions keep their extents.

        Axes over space and time (`z`, `y`, `x`) have coordinates where it is known where in the
        input an entry looks: the centre of what it sees, in entries of the input. They end where
        an entry has to do with all positions, as after attention.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has this name; near misses are suggested.
    LensValueError
        A module that returns several tensors, passes of unequal shapes, or tokens of beams that
        changed places (see `tokens`): no one array. The error names the labels to choose from. Or
        several layers that ran unequally often.

    Warns
    -----
    LensWarning
        `key` is an operation and the path of a module that returned something else.

    Examples
    --------
    >>> import torch, lensframe_pd as lf
    >>> _, activations = lf.trace(torch.nn.Conv2d(3, 8, 3).eval(), torch.ones(2, 3, 6, 6))
    >>> activations.lens["conv2d_1"].sizes
    Frozen({'stimulus': 2, 'channel': 8, 'y': 4, 'x': 4})
    """
    if isinstance(key, str):
        named = resolved(dataset, key)
        return with_centres(as_array(key, named), named.variables[0].dims)
    return _side_by_side(dataset, list(dict.fromkeys(asked_names(key, "activations.lens[...]"))))


def _side_by_side(dataset: xr.Dataset, keys: Sequence[str]) -> xr.Dataset:
    """What each key stands for as one Dataset.

    Raises
    ------
    LensKeyError
        Naming every key that is not there.
    LensValueError
        Passes that are not the same of all keys that have some: there xarray would fill with NaN.
    """
    found, unknown = {}, []
    for key in keys:
        try:
            found[key] = resolved(dataset, key)
        except LensKeyError as error:
            unknown.append(str(error))
    if unknown:
        raise LensKeyError("\n".join(unknown))
    arrays = {key: as_array(key, named, tidy=False) for key, named in found.items()}
    passes = {key: a.sizes[PASS] for key, a in arrays.items() if PASS in a.dims}
    if len({tuple(arrays[key][PASS].values) for key in passes}) > 1:
        times = ", ".join(f"{key!r} {n}" for key, n in passes.items())
        raise LensValueError(
            f"these have unequally many passes, which share no axis: {times}; ask for them one by "
            "one, or for labels with a pass, as 'linear_1:2'"
        )
    return xr.Dataset(arrays, attrs=dataset.attrs)


Executions = dict[int, list[xr.DataArray]]
"""Number of a pass or of a module call, to what it made or returned."""


class Named(NamedTuple):
    """What a name stands for: an `op`, a `layer` or a `module`, and its executions."""

    kind: str
    runs: Executions

    @property
    def variables(self) -> list[xr.DataArray]:
        """All of its variables, as they are in the Dataset."""
        return [array for arrays in self.runs.values() for array in arrays]

    @property
    def continue_one_another(self) -> bool:
        """Whether it ran several times, and is one array along the tokens of all."""
        known = len(self.runs) > 1 and all(map(has_tokens, self.variables))
        return known and len(sequences(self.variables)) == 1


def resolved(dataset: xr.Dataset, key: str) -> Named:
    """What `key` means: an op label first, then a layer, then a module; or `module=` a module.

    Raises
    ------
    LensKeyError
        Nothing in the dataset has this name.

    Warns
    -----
    LensWarning
        As `select`.
    """
    path = module_asked(key)
    calls = _module(dataset, key if path is None else path)
    if path is not None and calls:
        return Named("module", calls)
    if key in dataset.data_vars:
        found = Named("op", {1: [dataset[key]]})
    else:
        found = Named("layer", _layer(dataset, key))
    if found.runs:
        _warn_of_module(key, found.variables, calls)
        return found
    if not calls:
        calls = _one_call(dataset, key if path is None else path)
    if not calls:
        raise unknown_rows([key], _known(dataset), "op, layer or module")
    return Named("module", calls)


def as_array(key: str, named: Named, tidy: bool = True) -> xr.DataArray:
    """What a name stands for as one array, see `select`; not `tidy`: extents stay in the names."""
    several = [array for arrays in named.runs.values() if len(arrays) > 1 for array in arrays]
    if several:
        raise LensValueError(
            f"module {key!r} returns several tensors in one call, which are no one array; "
            f"ask for one of {', '.join(_few_names(several))}"
        )
    arrays = {number: named.runs[number][0] for number in sorted(named.runs)}
    if named.kind == "op" or (named.kind == "module" and list(arrays) == [1]):
        one = next(iter(arrays.values()))
        return with_tokens(one) if tidy else one
    return as_one(key, arrays, tidy)


def _few_names(arrays: Sequence[xr.DataArray]) -> list[str]:
    """The layers of arrays, which have all their passes, where there are fewer of them."""
    ops = [str(array.name) for array in arrays]
    layers = list(dict.fromkeys(str(array.attrs.get("layer", array.name)) for array in arrays))
    return layers if len(layers) < len(ops) else ops


def _layer(dataset: xr.Dataset, key: str) -> Executions:
    names = {
        int(variable.attrs[PASS]): [name]
        for name, variable in variables(dataset)
        if variable.attrs.get("layer") == key
    }
    return _arrays(dataset, names)


def _module(dataset: xr.Dataset, key: str) -> Executions:
    names: dict[int, list[str]] = {}
    main = main_path(key, _aliases(dataset))
    for name, variable in variables(dataset):
        for path, number in _returned_by(variable):
            if path in (key, main):
                names.setdefault(number, []).append(name)
    return _arrays(dataset, names)


def _one_call(dataset: xr.Dataset, key: str) -> Executions:
    """What one call of a module returned, of `"layer1.0:2"`."""
    path, number = split_call(key)
    found = _module(dataset, path) if number else {}
    return {1: found[number]} if number in found else {}


def variables(dataset: xr.Dataset) -> Iterable[tuple[str, xr.Variable]]:
    """The data less its coordinates; `data_vars` looks at all others to give each one of them."""
    coords = {*dataset.coords}
    return ((str(k), v) for k, v in dataset.variables.items() if k not in coords)


def _arrays(dataset: xr.Dataset, names: dict[int, list[str]]) -> Executions:
    wanted = [*dict.fromkeys(name for found in names.values() for name in found)]
    arrays = _one_by_one(dataset[wanted], wanted)
    return {number: [arrays[name] for name in found] for number, found in names.items()}


def _one_by_one(dataset: xr.Dataset, names: list[str]) -> dict[str, xr.DataArray]:
    """Each of the variables, all that there are, with its coordinates.

    A Dataset looks through all of its variables for each that it gives: halves have fewer.
    """
    if len(names) <= _FEW:
        return {name: dataset[name] for name in names}
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    return {k: v for half in halves for k, v in _one_by_one(dataset[half], half).items()}


_FEW = 16


def _aliases(dataset: xr.Dataset) -> dict[str, str]:
    aliases: dict[str, str] = json.loads(dataset.attrs.get(MODULE_ALIASES, "{}"))
    return aliases


def _warn_of_module(key: str, meant: Sequence[xr.DataArray], calls: Executions) -> None:
    """Say so where `key` is also the path of a module that returned something else."""
    names = {array.name for array in meant}
    other = [a.name for arrays in calls.values() for a in arrays if a.name not in names]
    if other:
        warn(
            f"{key!r} is read as the operation; the module of that path returned "
            f"{', '.join(map(str, other))}: ask for it as 'module={key}'"
        )


def _returned_by(variable: xr.Variable) -> Iterable[tuple[str, int]]:
    for call in calls_of(variable.attrs.get("returned_by")):
        path, number = split_call(call)
        if number:
            yield path, number


def _known(dataset: xr.Dataset) -> Iterable[str]:
    yield from _aliases(dataset)
    for name, variable in variables(dataset):
        yield name
        yield str(variable.attrs.get("layer", name))
        yield from (path for path, _ in _returned_by(variable))
