"""Ways to have gradients of what is inside a model, and its output with other values there.

`bench_gradients.py` starts this file once for each, as some wrap torch's functions for good. What
others can give is asked for: of each leaf module that returns one tensor, the gradient for it. Ours
is that of every operation.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import torch
from served import answer
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

import lensframe_pd as lf


class Case(NamedTuple):
    """A model, what it is given, and what is made of its output."""

    model: nn.Module
    input: Tensor
    scores: Callable[[Any], Tensor]
    """One number for each stimulus: the loss is their sum."""
    returns_several: bool = True

    def run(self) -> Any:
        return self.model(self.input)

    def loss(self, output: Any) -> Tensor:
        return self.scores(output).sum()


def resnet(name: str, batch: int, side: int) -> Case:
    import torchvision

    model = getattr(torchvision.models, name)()
    return Case(model, torch.randn(batch, 3, side, side), lambda output: output.sum(1), False)


def gpt2(n_tokens: int, **config: int) -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=4, **config))
    tokens = torch.randint(0, 50000, (2, n_tokens))
    return Case(model, tokens, lambda output: output[0].square().mean((1, 2)))


def bert() -> Case:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(num_hidden_layers=4))
    tokens = torch.randint(0, 30000, (2, 16))
    return Case(model, tokens, lambda output: output[0].square().mean((1, 2)))


def vit() -> Case:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(64, 16, 12, 12, 768, 3072)
    nn.init.normal_(model.heads.head.weight)  # zeros give no gradient
    return Case(model, torch.randn(2, 3, 64, 64), lambda output: output.sum(1), False)


CASES: dict[str, Callable[[], Case]] = {
    "ResNet-50, batch 8": lambda: resnet("resnet50", 8, 224),
    "GPT-2, 4 layers": lambda: gpt2(128),
    "ResNet-18, 2 x 64 px": lambda: resnet("resnet18", 2, 64),
    "ViT, 12 layers, 2 x 64 px": vit,
    "BERT, 4 layers, 2 x 16": bert,
    "GPT-2, 4 layers, 2 x 16": lambda: gpt2(16),
}


# ------------------------------------------------------------------ gradients


class Leaf(NamedTuple):
    """A module without children that returned a tensor which autograd follows."""

    path: str
    module: nn.Module
    is_written: bool
    """Whether what it returned was written afterwards, as by an in-place ReLU."""


def leaves_of(case: Case) -> list[Leaf]:
    """In order of their first calls."""
    found: dict[str, tuple[nn.Module, Tensor, int]] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            if isinstance(result, Tensor) and result.requires_grad:
                found.setdefault(path, (module, result, result._version))

        return hook

    leaves = [(k, m) for k, m in case.model.named_modules() if not [*m.children()]]
    with hooked([(module, note(path)) for path, module in leaves]):
        case.run()
    return [Leaf(k, module, out._version != before) for k, (module, out, before) in found.items()]


@contextmanager
def hooked(hooks: list[tuple[nn.Module, Callable[..., None]]]) -> Any:
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def by_edges(case: Case, leaves: list[Leaf]) -> Any:
    """The output of these modules, and the gradients for it."""
    kept, edges = [], []

    def hook(module: nn.Module, args: Any, result: Tensor) -> None:
        kept.append(result)
        edges.append(get_gradient_edge(result))

    with hooked([(leaf.module, hook) for leaf in leaves]):
        output = case.run()
    return torch.autograd.grad(case.loss(output), edges, allow_unused=True)


def first_layer(case: Case, leaves: list[Leaf]) -> Any:
    return by_edges(case, leaves[:1])


def weights(case: Case, leaves: list[Leaf]) -> Any:
    return torch.autograd.grad(case.loss(case.run()), [*case.model.parameters()], allow_unused=True)


def hooks(case: Case, leaves: list[Leaf]) -> Any:
    return by_edges(case, leaves)


def save_none(case: Case, leaves: list[Leaf]) -> Any:
    trace = lf.trace(case.model, case.input, save=None, gradients=True)
    return trace.gradients(case.loss).data_vars


def save_all(case: Case, leaves: list[Leaf]) -> Any:
    trace = lf.trace(case.model, case.input, gradients=True)
    gradients = trace.gradients(case.loss)
    assert len(trace.activations) >= len(gradients)
    return gradients.data_vars


def torchlens(case: Case, leaves: list[Leaf]) -> Any:
    import torchlens as tl

    trace = tl.trace(case.model, case.input, capture=tl.options.CaptureOptions(save_grads=True))
    output = trace.ops[trace.output_layers[0]].out
    trace.log_backward(_of_first(case, output))
    return [op for op in trace.ops if op.has_grad]


def captum(case: Case, leaves: list[Leaf]) -> Any:
    from captum.attr import LayerGradientXActivation

    modules = [leaf.module for leaf in leaves]
    attribution = LayerGradientXActivation(lambda given: case.scores(case.model(given)), modules)
    return attribution.attribute(case.input)


def nnsight(case: Case, leaves: list[Leaf]) -> Any:
    import nnsight as ns

    model = ns.NNsight(case.model)
    # Asked for the gradient of what was written in place, it ends with an OutOfOrderError.
    modules = [model.get(leaf.path) for leaf in leaves if not leaf.is_written]
    with model.trace(case.input):
        kept = ns.save([])
        for module in modules:
            kept.append(module.output)
        loss = case.loss(model.output)
        gradients = ns.save([])
        with loss.backward():
            for value in reversed(kept):
                gradients.append(value.grad)
    return gradients


def _of_first(case: Case, output: Tensor) -> Tensor:
    """The loss, where of a model's output its first tensor is known."""
    return case.loss((output,) if case.returns_several else output)


GRADIENTS: dict[str, Callable[[Case, list[Leaf]], Any]] = {
    "to the first layer": first_layer,
    "to the weights": weights,
    "hooks": hooks,
    "save=None": save_none,
    "save='all'": save_all,
    "torchlens": torchlens,
    "captum": captum,
    "nnsight": nnsight,
}


# ------------------------------------------------------------------ patches


class Patched(NamedTuple):
    """What patching some rows took."""

    rows: int
    refused: int
    seconds: float


def forward(case: Case) -> Patched:
    start = process_time()
    case.run()
    return Patched(1, 0, process_time() - start)


def patch(case: Case) -> Patched:
    """Zero in each row in turn."""
    trace = lf.trace(case.model, case.input)
    start = process_time()
    found = trace.patch(0, case.loss)
    return Patched(len(found), 0, process_time() - start)


def torchlens_patch(case: Case) -> Patched:
    """Zero in 40 operations, evenly spread: all would take minutes."""
    import torchlens as tl

    trace = tl.trace(
        case.model, case.input, capture=tl.options.CaptureOptions(intervention_ready=True)
    )
    how = tl.options.InterventionOptions(engine="replay", confirm_mutation=True)
    labels = [op for op in trace.op_labels if not op.startswith(("input", "output", "buffer"))]
    n_done = 0
    start = process_time()
    chosen = labels[:: max(1, len(labels) // 40)]
    for label in chosen:
        patched = trace.fork()
        try:
            patched.do(label, tl.zero_ablate(), intervention=how)
        except Exception:
            continue
        _of_first(case, patched.ops[patched.output_layers[0]].out)
        n_done += 1
    return Patched(n_done, len(chosen) - n_done, process_time() - start)


PATCHES: dict[str, Callable[[Case], Patched]] = {
    "forward": forward,
    "patch": patch,
    "torchlens": torchlens_patch,
}


# ------------------------------------------------------------------ served


def resident(field: str) -> float:
    """Of the memory of this process in MiB: what it has (`VmRSS`), or had at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def added(run: Callable[[], Any]) -> float:
    """What a run adds to the memory of this process at most, its result included, in MiB.

    What was freed before is given back first, and what was had at most is forgotten: else a run
    that fits where the model was made, say, adds nothing.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def serve() -> None:
    """Answer which case, and whether gradients or patches are wanted; then names of contenders."""
    torch.set_num_threads(1)
    case: Any = None
    leaves: list[Leaf] | None = None

    def answers(request: dict[str, str]) -> Any:
        nonlocal case, leaves
        if "case" in request:
            torch.manual_seed(0)
            case = CASES[request["case"]]()
            case.model.eval()
            leaves = leaves_of(case) if "gradients" in request else None
            return None
        if leaves is None:
            with torch.no_grad():
                return PATCHES[request["run"]](case)
        contender = GRADIENTS[request["run"]]
        if "memory" in request:
            # Once with one stimulus, so that what is imported and made for good is there before.
            contender(case._replace(input=case.input[:1]), leaves)
            return added(lambda: contender(case, leaves))
        start = process_time()
        found = contender(case, leaves)
        return process_time() - start, sum(g is not None for g in found)

    answer(answers)


if __name__ == "__main__":
    serve()
