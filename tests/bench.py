"""What tracing costs: time as ratios within one run, memory and start-up in fresh processes.

Run as `python tests/bench.py [--quick]`. Every contender of a model is timed in turn, round after
round, so that a noisy machine hits all of them alike; the table shows medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import lensframe_pd as lf


class Loop(nn.Module):
    """`n` small operations one after the other, in a loop of three."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.n // 3):
            x = torch.sin(x)
            x = x + 1
            x = x * 0.5
        return x


class LinearLoop(nn.Module):
    """The same with a module in the loop."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.n // 3):
            x = self.fc(x)
            x = x + 1
            x = x * 0.5
        return x


def gpt2() -> tuple[nn.Module, Any]:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(n_layer=4, n_embd=256, n_head=4)
    return GPT2Model(config), {"input_ids": torch.randint(0, 1000, (2, 64))}


def vision(name: str, batch: int) -> tuple[nn.Module, Any]:
    import torchvision

    return getattr(torchvision.models, name)(), torch.randn(batch, 3, 224, 224)


MODELS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "loop of 300 ops": lambda: (Loop(300), torch.randn(2, 8)),
    "loop of 300 ops, linear": lambda: (LinearLoop(300), torch.randn(2, 8)),
    "loop of 3200 ops": lambda: (Loop(3200), torch.randn(2, 8)),
    "LSTM": lambda: (nn.LSTM(64, 128, batch_first=True), torch.randn(8, 50, 64)),
    "GPT-2, 4 layers": gpt2,
    "resnet18, batch 1": lambda: vision("resnet18", 1),
    "vit_b_16, batch 1": lambda: vision("vit_b_16", 1),
    "resnet50, batch 8": lambda: vision("resnet50", 8),
}


def plain(model: nn.Module, args: Any) -> Any:
    if isinstance(args, dict):
        return model(**args)
    return model(args)


def leaf_hooks(model: nn.Module, args: Any) -> Any:
    """What people write by hand: a hook on every leaf module that keeps its output."""
    kept: list[Any] = []
    leaves = [m for m in model.modules() if not list(m.children())]
    handles = [
        m.register_forward_hook(lambda module, inputs, output: kept.append(output)) for m in leaves
    ]
    try:
        plain(model, args)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def trace_nothing(model: nn.Module, args: Any) -> Any:
    return lf.trace(model, args, save=None).layers


def trace_all(model: nn.Module, args: Any) -> Any:
    return tuple(lf.trace(model, args))


def torchlens_all(model: nn.Module, args: Any) -> Any:
    import torchlens

    run = getattr(torchlens, "log_forward_pass", None) or torchlens.trace
    inputs = ((), args) if isinstance(args, dict) else (args,)
    return run(model, *inputs)


CONTENDERS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "plain": plain,
    "leaf hooks": leaf_hooks,
    "save=None": trace_nothing,
    "trace": trace_all,
}


def medians(model: nn.Module, args: Any, rounds: int, lens_rounds: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with torch.no_grad():
        for i in range(rounds + 1):
            for name, run in CONTENDERS.items():
                start = perf_counter()
                result = run(model, args)
                seconds = perf_counter() - start
                del result
                if i:  # the first round warms up
                    times[name].append(seconds)
        for i in range(lens_rounds + 1 if lens_rounds else 0):
            start = perf_counter()
            try:
                torchlens_all(model, args)
            except Exception as error:
                print(f"  TorchLens: {type(error).__name__}: {str(error)[:100]}")
                break
            if i:
                times.setdefault("TorchLens", []).append(perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items() if values}


def has_torchlens() -> bool:
    try:
        import torchlens  # noqa: F401
    except ImportError:
        print("TorchLens is not installed; its column is empty")
        return False
    return True


def report_time(quick: bool) -> None:
    lens = has_torchlens()
    print(f"{'model':26}{'ops':>6}{'plain':>10}{'hooks':>8}{'None':>8}{'trace':>8}{'TorchL.':>9}"
          f"{'None us/op':>12}{'trace us/op':>12}{'TorchL. us/op':>14}")  # fmt: skip
    for name, make in MODELS.items():
        torch.manual_seed(0)
        model, args = make()
        model.eval()
        with torch.no_grad():
            n = len(lf.trace(model, args, save=None).layers)
        small = "loop" in name or name == "LSTM"
        rounds = (5 if quick else 15) if not small else (21 if quick else 101)
        seconds = medians(model, args, rounds, 0 if not lens else (1 if quick else 3))
        base = seconds["plain"]

        def per_op(key: str, seconds: dict[str, float] = seconds, n: int = n) -> str:
            if key not in seconds:
                return "-"
            return f"{(seconds[key] - seconds['plain']) / n * 1e6:.1f}"

        ratio = {k: f"{v / base:.2f}x" for k, v in seconds.items()}
        print(f"{name:26}{n:>6}{base * 1e3:>8.2f}ms{ratio['leaf hooks']:>8}{ratio['save=None']:>8}"
              f"{ratio['trace']:>8}{ratio.get('TorchLens', '-'):>9}{per_op('save=None'):>12}"
              f"{per_op('trace'):>12}{per_op('TorchLens'):>14}")  # fmt: skip
        hooks = seconds["trace"] / seconds["leaf hooks"]
        print(f"{'':26}{'':6}  trace / leaf hooks {hooks:.2f}x", flush=True)


_MEMORY = """
import sys, json, torch
sys.path.insert(0, {folder!r})
import bench, lensframe_pd as lf
def peak():  # getrusage would give the parent's, where a process is started by fork
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
torch.manual_seed(0)
model, args = bench.MODELS[{model!r}]()
model.eval()
with torch.no_grad():
    bench.plain(model, args if not isinstance(args, torch.Tensor) else args[:1])
    before = peak()
    if {mode!r} == "plain":
        result = bench.plain(model, args)
        saved = 0
    else:
        result = lf.trace(model, args, save=None if {mode!r} == "none" else "all")
        layers = result.layers
        saved = sum(v.nbytes for v in result.activations.values()) if {mode!r} == "all" else 0
after = peak()
print(json.dumps([before / 1024, after / 1024, saved / 2**20]))
"""


def report_memory() -> None:
    import os.path

    folder = os.path.dirname(os.path.abspath(__file__))
    print("\npeak memory, MiB (resident set of a fresh process)")
    print(f"{'model':26}{'plain':>9}{'None':>9}{'trace':>9}{'saved':>9}  within bounds")
    for name in ("resnet50, batch 8", "vit_b_16, batch 1", "GPT-2, 4 layers"):
        peaks, saved = {}, 0.0
        for mode in ("plain", "none", "all"):
            code = _MEMORY.format(folder=folder, model=name, mode=mode)
            out = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            _, peaks[mode], kept = json.loads(out.strip().splitlines()[-1])
            saved = max(saved, kept)
        bound = peaks["plain"] * 1.05 + 20
        fits = (peaks["none"] <= bound, peaks["all"] <= bound + saved)
        print(f"{name:26}{peaks['plain']:>9.0f}{peaks['none']:>9.0f}{peaks['all']:>9.0f}"
              f"{saved:>9.0f}  save=None {fits[0]}, trace {fits[1]}", flush=True)  # fmt: skip


_IMPORT = """
from time import perf_counter
import torch, pandas, xarray
start = perf_counter()
import lensframe_pd as lf
imported = perf_counter() - start
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()).eval()
times = []
for _ in range(5):
    start = perf_counter()
    layers, activations = lf.trace(model, torch.ones(2, 8))
    times.append(perf_counter() - start)
print(imported, times[0] - min(times[1:]))
"""


def report_start() -> None:
    runs = []
    for _ in range(5):
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _IMPORT],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        runs.append([float(x) for x in out.split()])
    imports, firsts = zip(*runs, strict=True)
    print("\nstart-up, medians of 5 processes")
    print(
        f"  import lensframe_pd after torch, pandas and xarray: {statistics.median(imports):.3f} s"
    )
    print(f"  first trace over a later one: {statistics.median(firsts):.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    quick = parser.parse_args().quick
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, no_grad, CPU")
    report_time(quick)
    report_memory()
    report_start()


if __name__ == "__main__":
    main()
