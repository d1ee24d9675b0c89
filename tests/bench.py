"""What tracing costs: time as ratios within one run, memory and start-up in fresh processes.

Run as `python tests/bench.py [--quick] [--only PART ...] [--against FOLDER]`. Every contender of a
model is timed in turn, round after round, so that a noisy machine hits all of them alike; the table
shows medians. With `--against`, another checkout of this package is timed beside this one instead.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from typing import Any

import torch
from before_and_after import report_ratios
from bench_extract import report_extract
from bench_validate import report_validate
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import lensframe_pd as lf

FOLDER = os.path.dirname(os.path.abspath(__file__))


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


class PythonLSTM(nn.Module):
    """A cell in a loop of Python."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(64, 128)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 128), x.new_zeros(len(x), 128)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state[0]


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
    "LSTM in Python": lambda: (PythonLSTM(), torch.randn(8, 50, 64)),
    "GPT-2, 4 layers": gpt2,
    "resnet18, batch 1": lambda: vision("resnet18", 1),
    "vit_b_16, batch 1": lambda: vision("vit_b_16", 1),
    "resnet50, batch 8": lambda: vision("resnet50", 8),
}
LARGE = ("resnet50, batch 8", "vit_b_16, batch 1", "GPT-2, 4 layers")  # memory is measured of these


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


class Empty(TorchFunctionMode):
    """The least a tracer built on function modes can do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def empty_mode(model: nn.Module, args: Any) -> Any:
    with Empty():
        return plain(model, args)


def trace_alone(model: nn.Module, args: Any) -> Any:
    """The run without a table."""
    return lf.trace(model, args, save=None)


def trace_nothing(model: nn.Module, args: Any) -> Any:
    return lf.trace(model, args, save=None).layers


def trace_all(model: nn.Module, args: Any) -> Any:
    return tuple(lf.trace(model, args))


#: None in a checkout that knows of no earlier traces.
ALIKE: Any = (
    importlib.import_module("lensframe_pd.tape.alike")
    if importlib.util.find_spec("lensframe_pd.tape.alike")
    else None
)


def trace_first(model: nn.Module, args: Any) -> Any:
    """As of a model that was not traced before: no tape is like an earlier one."""
    if ALIKE is None:
        return trace_all(model, args)
    most, ALIKE._MOST_ROWS = ALIKE._MOST_ROWS, 0
    try:
        return trace_all(model, args)
    finally:
        ALIKE._MOST_ROWS = most


def torchlens_all(model: nn.Module, args: Any) -> Any:
    import torchlens

    run = getattr(torchlens, "log_forward_pass", None) or torchlens.trace
    inputs = ((), args) if isinstance(args, dict) else (args,)
    return run(model, *inputs)


@lru_cache(maxsize=1)
def _wrapped(model: nn.Module) -> Any:
    import nnsight

    return nnsight.NNsight(model)


def nnsight_cache(model: nn.Module, args: Any) -> Any:
    """The output of every module."""
    given = ((), args) if isinstance(args, dict) else ((args,), {})
    with _wrapped(model).trace(*given[0], **given[1]) as tracer:
        cache = tracer.cache()
    return cache


def torch_profile(model: nn.Module, args: Any) -> Any:
    """The time and shapes of every operator, and no value."""
    with torch.profiler.profile(record_shapes=True) as profiler:
        plain(model, args)
    return profiler.events()


#: Of each in a process of its own, as some change torch's functions or the model: what it is called
#: in the table, and what must be installed.
ALONE = {
    "torchlens_all": ("TorchLens", "torchlens"),
    "nnsight_cache": ("nnsight", "nnsight"),
    "torch_profile": ("profiler", "torch"),
}

CONTENDERS: dict[str, Callable[[nn.Module, Any], Any]] = {
    "plain": plain,
    "leaf hooks": leaf_hooks,
    "empty mode": empty_mode,
    "run alone": trace_alone,
    "save=None": trace_nothing,
    "trace": trace_all,
    "first trace": trace_first,
}


def seconds_of(
    run: Callable[[nn.Module, Any], Any],
    model: nn.Module,
    args: Any,
    clock: Callable[[], float] = perf_counter,
) -> float:
    # Twice, timing the second: a contender that holds little makes the allocator give memory back
    # to the system, which the next one would pay for page by page.
    run(model, args)
    start = clock()
    result = run(model, args)
    seconds = clock() - start
    del result
    return seconds


def times(model: nn.Module, args: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round; a first round warms up and is left out."""
    found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    with torch.no_grad():
        for i in range(rounds + 1):
            for name, run in CONTENDERS.items():
                seconds = seconds_of(run, model, args)
                if i:
                    found[name].append(seconds)
    return found


def rounds_of(name: str, quick: bool) -> int:
    small = "loop" in name or name == "LSTM"
    if small:
        return 21 if quick else 101
    return 5 if quick else 11


def over_empty(found: dict[str, list[float]], contender: str) -> str:
    """(contender - plain) / (empty mode - plain), or "-" where noise hides the empty mode's cost.

    Differences are taken within a round, as the machine is the same for both only there.
    """
    costs = {
        name: [t - plain for t, plain in zip(found[name], found["plain"], strict=True)]
        for name in ("empty mode", contender)
    }
    low, empty, _ = statistics.quantiles(costs["empty mode"], n=4)
    return f"{statistics.median(costs[contender]) / empty:.1f}x" if low > 0 else "-"


_ALONE = """
import sys, statistics, torch
from time import perf_counter
sys.path.insert(0, {folder!r})
import bench
torch.manual_seed(0)
model, args = bench.MODELS[{model!r}]()
model.eval()
times = []
with torch.no_grad():
    for _ in range({rounds} + 1):
        start = perf_counter()
        result = bench.{run}(model, args)
        times.append(perf_counter() - start)
        del result
print(statistics.median(times[1:]))
"""


def alone(run: str, model: str, rounds: int) -> float | None:
    """The median seconds of a contender in a process of its own; None where it ends in an error."""
    code = _ALONE.format(folder=FOLDER, run=run, model=model, rounds=rounds)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"  {ALONE[run][0]}: {done.stderr.strip().splitlines()[-1][:120]}")
        return None
    return float(done.stdout.strip().splitlines()[-1])


def report_time(models: list[str], quick: bool) -> None:
    there = {run: name for run, (name, needs) in ALONE.items() if importlib.util.find_spec(needs)}
    for name in [name for run, (name, _) in ALONE.items() if run not in there]:
        print(f"{name} is not installed; its columns are empty")
    print(
        f"{'model':24}{'ops':>5}{'plain':>10}{'hooks':>7}{'empty':>7}{'run':>7}{'None':>7}{'trace':>7}"
        f"{'first':>7}{'profiler':>10}{'nnsight':>9}{'TorchL.':>9}{'trace/hooks':>13}{'run/empty':>11}{'None/empty':>12}{'trace/empty':>13}"
        f"{'first/empty':>13}"
        f"{'None us/op':>12}{'trace us/op':>13}{'TorchL. us/op':>15}"
    )
    for name in models:
        torch.manual_seed(0)
        model, args = MODELS[name]()
        model.eval()
        with torch.no_grad():
            n = len(lf.trace(model, args, save=None).layers)
        found = times(model, args, rounds_of(name, quick))
        seconds = {contender: statistics.median(values) for contender, values in found.items()}
        for run, other in there.items():
            median = alone(run, name, 1 if quick and run == "torchlens_all" else 5)
            if median is not None:
                seconds[other] = median
        base = seconds["plain"]
        ratio = {k: f"{v / base:.2f}x" for k, v in seconds.items()}
        per_op = {k: f"{(v - base) / n * 1e6:.1f}" for k, v in seconds.items()}
        print(
            f"{name:24}{n:>5}{base * 1e3:>8.2f}ms{ratio['leaf hooks']:>7}{ratio['empty mode']:>7}"
            f"{ratio['run alone']:>7}{ratio['save=None']:>7}{ratio['trace']:>7}"
            f"{ratio['first trace']:>7}"
            f"{ratio.get('profiler', '-'):>10}"
            f"{ratio.get('nnsight', '-'):>9}{ratio.get('TorchLens', '-'):>9}"
            f"{seconds['trace'] / seconds['leaf hooks']:>12.2f}x"
            f"{over_empty(found, 'run alone'):>11}{over_empty(found, 'save=None'):>12}"
            f"{over_empty(found, 'trace'):>13}{over_empty(found, 'first trace'):>13}"
            f"{per_op['save=None']:>12}{per_op['trace']:>13}{per_op.get('TorchLens', '-'):>15}",
            flush=True,
        )
    print(
        "run: with save=None and no table asked for; None: with its frame; trace: with all values\n"
        "first: of a model that was not traced before; else most of what its tables say is known\n"
        "empty: a function mode that only calls the function; run/empty, ... trace/empty: what each"
        " adds to plain, as a\nmultiple of what that mode adds (- where that is lost in the noise);"
        " profiler: torch's, with shapes, without\nvalues; nnsight: a cache of what modules return"
    )


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


def report_memory(models: list[str]) -> None:
    print("\npeak memory, MiB (resident set of a fresh process)")
    print(f"{'model':26}{'plain':>9}{'None':>9}{'trace':>9}{'saved':>9}  within bounds")
    for name in models:
        peaks, saved = {}, 0.0
        for mode in ("plain", "none", "all"):
            code = _MEMORY.format(folder=FOLDER, model=name, mode=mode)
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


def _commit() -> str:
    """What is measured: the commit of this checkout, and whether more was changed since."""
    command = ["git", "-C", FOLDER, "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: this is no git checkout"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="models with this in their name, or `extract`"
    )
    parser.add_argument("--against", metavar="FOLDER", help="another checkout, to be compared with")
    options = parser.parse_args()
    parts = options.only or [""]
    models = [name for name in MODELS if any(part in name for part in parts)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, no_grad, CPU")
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"commit {_commit()}")
    if options.against:
        report_ratios(options.against, {name: rounds_of(name, options.quick) for name in models})
        return
    if models:
        report_time(models, options.quick)
        report_validate(models, options.quick)
    large = [name for name in LARGE if name in models]
    if large:
        report_memory(large)
    if not options.only or "extract" in options.only:
        report_extract(options.quick)
    if not options.only:
        report_start()


if __name__ == "__main__":
    main()
