"""Gradients of models of the zoo, row by row, beside two that know nothing of the tracer.

Run as `python tests/zoo/differentiated.py [name part ...]`, by default on the sample. The first
oracle is a forward hook on each module: the gradient of the tensor that it receives, by module
call. The second adds a leaf of zeros at each operation of a run of its own, in place where the
operation writes; what a leaf would change (a write whose result autograd keeps, a view) has its
edge taken there instead.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode, redispatch_function

import lensframe_pd as lf
from lensframe_pd.tape.functions import Action, describe
from lensframe_pd.tape.objects import tensors_in
from lensframe_pd.tape.rebuilt import with_others
from zoo.made import Made, run
from zoo.sampled import compare_each


def loss_of(output: Any) -> Tensor:
    """The sum of squares of all that the model returned and autograd follows."""
    parts = [t for _, t in tensors_in(output) if t.requires_grad]
    return sum((t.abs().float().square().sum() for t in parts), torch.zeros(()))


# ------------------------------------------------------------------ what a module returned


class Received:
    """What a forward hook on each module receives, by module call: `enc.0:3`."""

    def __init__(self, model: nn.Module) -> None:
        self.edges: dict[str, GradientEdge | None] = {}
        self._counts: Counter[str] = Counter()
        self._handles = [
            module.register_forward_hook(self._hook(name))
            for name, module in model.named_modules()
            if name and not isinstance(module, torch.jit.ScriptModule)
        ]

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            self._counts[name] += 1
            if isinstance(result, Tensor):
                edge = get_gradient_edge(result) if result.requires_grad else None
                self.edges[f"{name}:{self._counts[name]}"] = edge

        return hook

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def by_hooks(made: Made) -> dict[str, Tensor | None]:
    received = Received(made.model)
    try:
        loss = loss_of(run(made))
    finally:
        received.close()
    return differentiated(loss, received.edges)


def differentiated(loss: Tensor, at: dict[Any, Any]) -> dict[Any, Tensor | None]:
    known = {key: edge for key, edge in at.items() if edge is not None}
    found = torch.autograd.grad(loss, [*known.values()], allow_unused=True) if known else ()
    return dict(zip(known, found, strict=True))


# ------------------------------------------------------------------ a leaf at each operation


class Leaves(TorchFunctionMode):
    """Adds zeros that require grad to what each operation gives."""

    def __init__(self, add: bool) -> None:
        super().__init__()
        self.add = add
        self.writes = False
        self.found: dict[tuple[str, int, int], Tensor | GradientEdge] = {}
        self.how: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._opening: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        function = describe(func)
        if function.action is Action.OPEN and func is not self._opening:
            before, self._opening = self._opening, func
            try:
                with self:
                    return redispatch_function(func, types, args, kwargs)
            finally:
                self._opening = before
        given = {id(t) for _, t in tensors_in((args, kwargs))}
        versions = {id(t): _version(t) for _, t in tensors_in((args, kwargs))}
        result = func(*args, **kwargs)
        if function.action in (Action.SKIP, Action.READ):
            return result
        made = [t for _, t in tensors_in(result)]
        changed = [t for _, t in tensors_in((args, kwargs)) if _version(t) != versions.get(id(t))]
        made = [*{id(t): t for t in (*made, *changed)}.values()]
        if not made:
            return result
        self.writes |= bool(changed)
        n = self.counts[function.target]
        self.counts[function.target] += 1
        instead = {}
        for slot, tensor in enumerate(made):
            key = function.target, n, slot
            written = any(t is tensor for t in changed)
            # Of several tensors one may be made of another within the call (an LSTM cell's).
            as_edge = id(tensor) in given or len(made) > 1
            new = self._mark(key, tensor, written, as_edge)
            if new is not None:
                instead[id(tensor)] = new
        return with_others(result, instead) if instead else result

    def _mark(self, key: Any, tensor: Tensor, written: bool, as_edge: bool) -> Tensor | None:
        if not (torch.is_grad_enabled() and tensor.requires_grad) or not self.add:
            return None
        functorch = torch._C._functorch
        if functorch.is_functorch_wrapped_tensor(tensor) or type(tensor) is not Tensor:
            return None
        leaf = torch.zeros(tensor.shape, dtype=tensor.dtype, requires_grad=True)
        if written and tensor._is_view():
            self.found[key] = leaf
            self.how["leaf in place"] += 1
            tensor.add_(leaf)
            return None
        if written or as_edge or tensor._is_view():
            self.found[key] = get_gradient_edge(tensor)
            self.how["edge"] += 1
            return None
        self.found[key] = leaf
        self.how["leaf"] += 1
        return tensor + leaf


def _version(tensor: Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:
        return -1


def by_leaves(made: Made) -> tuple[dict[Any, Tensor | None], Leaves]:
    with Leaves(add=True) as leaves:
        output = run(made)
    return differentiated(loss_of(output), leaves.found), leaves


# ------------------------------------------------------------------ compared


def compared(name: str, make: Any) -> dict[str, Any]:
    """How many rows of one model have which gradient."""
    found: dict[str, Any] = {"name": name}
    made = make()
    torch.manual_seed(0)
    trace = lf.trace(made.call, made.args, made.kwargs, gradients=True)
    if not loss_of(trace.output).requires_grad:
        return {**found, "error": "nothing it returns requires grad"}
    gradients = trace.gradients(loss_of)
    layers = trace.layers
    found["rows"] = len(layers)
    found["gradients"] = len(gradients.data_vars)
    without = Counter(dict(gradients.attrs["without"]).values())
    found["without"] = dict(without)
    expected = by_hooks(make())
    by_call = {c: op for op, calls in layers["returned_by"].items() for c in calls}
    found |= _counted("hooks", gradients, [(by_call.get(k), g) for k, g in expected.items()])
    try:
        expected, leaves = by_leaves(make())
    except RuntimeError as error:
        found["leaves_error"] = str(error)[:100]
        return found
    rows = defaultdict(list)
    for _, group in layers[layers["kind"] == "op"].groupby("call", sort=True):
        rows[group["target"].iloc[0]].append([*group.index])
    pairs = []
    for (target, n, slot), gradient in expected.items():
        if len(rows[target]) != leaves.counts[target]:
            found["unpaired"] = found.get("unpaired", 0) + 1
            continue
        ops = rows[target][n]
        pairs.append((ops[slot] if slot < len(ops) else None, gradient))
    found |= _counted("leaves", gradients, pairs)
    found["how"] = dict(leaves.how)
    return found


def _counted(oracle: str, gradients: Any, pairs: list[tuple[str | None, Any]]) -> dict[str, Any]:
    same, different, absent = 0, [], Counter()
    without = dict(gradients.attrs["without"])
    for op, gradient in pairs:
        if gradient is None:
            continue
        if op is None or op not in gradients:
            absent[without.get(op, f"no row {op}")] += 1
            continue
        got = torch.from_numpy(gradients[op].values.copy())
        want = gradient.detach()
        want = want.float() if want.dtype is torch.bfloat16 else want
        if torch.equal(got.nan_to_num(7), want.nan_to_num(7)):
            same += 1
        else:
            apart = (got - want).abs().max() / want.abs().max()
            different.append(f"{op} {apart:.1e}")
    return {
        f"{oracle}_same": same,
        f"{oracle}_absent": dict(absent),
        f"{oracle}_different": different,
    }


if __name__ == "__main__":
    compare_each(compared)
