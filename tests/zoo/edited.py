"""Models of the zoo under other values, beside forward hooks and a mode written by hand.

Run as `python tests/zoo/edited.py [name part ...]`, by default on the sample. In each model three
modules and three operations are given another value: for a module as a forward hook that returns
it, for an operation as a function mode that hands it over.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, redispatch_function

import lensframe_pd as lf
from lensframe_pd.tape.functions import Action, describe
from lensframe_pd.tape.objects import tensors_in
from lensframe_pd.tape.rebuilt import with_others
from zoo.made import Made, run
from zoo.sampled import compare_each

SITES = 3


def other(tensor: Tensor) -> Tensor:
    """Another value of the same kind."""
    return tensor * 0.5 + 0.25


def same(a: Any, b: Any) -> bool:
    ours = [t for _, t in tensors_in(a)]
    theirs = [t for _, t in tensors_in(b)]
    return len(ours) == len(theirs) and all(
        x.shape == y.shape and torch.equal(_bits(x), _bits(y))
        for x, y in zip(ours, theirs, strict=True)
    )


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.nan_to_num(7) if tensor.is_floating_point() else tensor


def spread(items: list[Any]) -> list[Any]:
    """Three of them, evenly."""
    step = max(1, len(items) // SITES)
    return items[step // 2 :: step][:SITES]


# ------------------------------------------------------------------ modules


def returned(made: Made) -> list[str]:
    """Modules that return one floating tensor, and each time."""
    found: dict[str, bool] = {}

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, result: Any) -> None:
            fits = isinstance(result, Tensor) and result.is_floating_point()
            found[name] = found.get(name, True) and fits

        return note

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in made.model.named_modules()
        if name
    ]
    run(made)
    for handle in handles:
        handle.remove()
    return [name for name, fits in found.items() if fits]


def with_hook(made: Made, path: str) -> Any:
    handle = made.model.get_submodule(path).register_forward_hook(
        lambda module, args, result: other(result)
    )
    try:
        return run(made)
    finally:
        handle.remove()


# ------------------------------------------------------------------ operations


class Instead(TorchFunctionMode):
    """Hands over another value for the n-th call of a function."""

    def __init__(self, target: str, n: int) -> None:
        super().__init__()
        self._wanted = target, n
        self._counts: Counter[str] = Counter()
        self._opening: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = describe(func)
        if function.action is Action.OPEN and func is not self._opening:
            before, self._opening = self._opening, func
            try:
                with self:
                    return redispatch_function(func, types, args, kwargs or {})
            finally:
                self._opening = before
        result = func(*args, **(kwargs or {}))
        made = [t for _, t in tensors_in(result)]  # one may be in a tuple alone, as of `split`
        if len(made) == 1 and function.action in (Action.PLAIN, Action.CAREFUL):
            n = self._counts[function.target]
            self._counts[function.target] += 1
            if (function.target, n) == self._wanted:
                return with_others(result, {id(made[0]): other(made[0])})
        return result


def operations(layers: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Label, function and number of its call, of what gives one new floating tensor."""
    ops = layers[layers["kind"] == "op"]
    single = ops[~ops["call"].duplicated(keep=False)]
    numbers = single.groupby("target", sort=False).cumcount()
    shared = "view reshape getitem transpose permute expand unsqueeze squeeze flatten contiguous to"
    fits = (
        single["dtype"].str.startswith("float")
        & ~single["inplace"]
        & ~single["func"].isin(shared.split())
    )
    chosen = single[fits]
    return [(op, chosen.loc[op, "target"], int(numbers[op])) for op in chosen.index]


# ------------------------------------------------------------------ compared


def compared(name: str, make: Callable[[], Made]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "modules": 0, "operations": 0, "different": []}
    for path in spread(returned(make())):
        expected = with_hook(make(), path)
        made = make()
        torch.manual_seed(0)
        trace = lf.trace(made.call, made.args, made.kwargs, values={path: other})
        found["modules"] += 1
        if not same(trace.output, expected):
            found["different"].append(path)
    made = make()
    torch.manual_seed(0)
    layers = lf.trace(made.call, made.args, made.kwargs, save=None).layers
    for op, target, n in spread(operations(layers)):
        made = make()  # outside of the mode, which would see how it is built
        with Instead(target, n):
            expected = run(made)
        made = make()
        torch.manual_seed(0)
        rows = layers.loc[[op]].assign(value=[other])
        try:
            trace = lf.trace(made.call, made.args, made.kwargs, values=rows)
        except lf.LensError as error:
            found.setdefault("refused", []).append(f"{op}: {error}"[:120])
            continue
        found["operations"] += 1
        if not same(trace.output, expected):
            found["different"].append(op)
        plain = [o for o in trace.layers.index if trace.layers.loc[o, "kind"] != "edit"]
        if plain != [*layers.index]:
            found.setdefault("labels", []).append(op)
    return found


if __name__ == "__main__":
    with torch.no_grad():
        compare_each(compared)
