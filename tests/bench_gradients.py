"""What gradients and patches cost: time as ratios within one run, and memory, beside others.

Run as `python tests/bench_gradients.py [--quick] [--only PART ...]`. Each contender has a process
of its own with one thread; they are asked in turn, round after round, and the table shows lower
quartiles of CPU seconds. Memory is that of another process, with the allocator as it is by itself.
What is not installed of TorchLens, Captum and nnsight is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
from pathlib import Path
from typing import Any

from gradient_contenders import CASES, GRADIENTS, PATCHES
from served import ALLOCATOR, Served

SCRIPT = Path(__file__).resolve().with_name("gradient_contenders.py")
OTHERS = ("torchlens", "captum", "nnsight")
BASES = ("to the first layer", "to the weights")
WITH_GRADIENTS = ("ResNet-50, batch 8", "GPT-2, 4 layers")


def started(case: str, allocator: dict[str, str] = ALLOCATOR, **request: str) -> Served:
    folder = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    process = Served(SCRIPT, allocator | {"PYTHONPATH": folder, "TQDM_DISABLE": "1"})
    process.ask(case=case, **request)
    return process


def asked(case: str, what: str, contenders: list[str], rounds: int) -> dict[str, list[Any]]:
    """What each answers, in turn; the first round warms up. Who ends in an error is left out."""
    processes = {name: started(case, **{what: "wanted"}) for name in contenders}
    found: dict[str, list[Any]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, process in [*processes.items()]:
            try:
                found[name].append(process.ask(run=name))
            except SystemExit:  # its error was printed
                del processes[name], found[name]
    for process in processes.values():
        process.end()
    return found


def memory(case: str, contender: str) -> float:
    """MiB that one contender adds at most."""
    process = started(case, {}, gradients="wanted")
    found: float = process.ask(run=contender, memory="wanted")
    process.end()
    return found


def lower(values: list[float]) -> float:
    return statistics.quantiles(values, n=4)[0]


def report_gradients(case: str, contenders: list[str], rounds: int) -> None:
    """Print seconds, gradients and memory of each contender for one case."""
    print(f"\n{case}\n{'':20}{'seconds':>9}{'first layer':>13}{'weights':>9}"
          f"{'gradients':>11}{'peak, MiB':>11}")  # fmt: skip
    for contender in contenders[len(BASES) :]:
        # With what it is compared to alone: all at once need tens of gigabytes.
        found = asked(case, "gradients", [*BASES, contender], rounds)
        seconds = {name: lower([run[0] for run in runs[1:]]) for name, runs in found.items()}
        for name in [*BASES, contender] if contender == contenders[len(BASES)] else [contender]:
            if name in found:
                n = found[name][0][1]
                ratios = [seconds[name] / seconds[base] for base in BASES]
                print(f"{name:20}{seconds[name]:>9.3f}{ratios[0]:>12.2f}x{ratios[1]:>8.2f}x"
                      f"{n:>11}{memory(case, name):>11.0f}", flush=True)  # fmt: skip


def report_patches(case: str, contenders: list[str], rounds: int) -> None:
    """Print forwards that patching takes for one case."""
    found = asked(case, "patches", contenders, rounds)
    seconds = {name: lower([run[2] for run in runs[1:]]) for name, runs in found.items()}
    line = f"{case:28}{seconds['forward'] * 1e3:>8.1f}ms"
    for name in [*found][1:]:
        rows, refused, _ = found[name][0]
        forwards = seconds[name] / seconds["forward"]
        line += f"{rows:>9}{refused:>9}{forwards:>10.0f}{forwards / max(rows, 1):>9.2f}"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--only", nargs="+", metavar="PART", help="cases with this in their name")
    options = parser.parse_args()
    cases = [name for name in CASES if any(part in name for part in options.only or [""])]
    rounds = 3 if options.quick else 9
    missing = [name for name in OTHERS if importlib.util.find_spec(name) is None]
    if missing:
        print(f"not installed, so left out: {', '.join(missing)}")
    with_gradients = [name for name in cases if name in WITH_GRADIENTS]
    for case in with_gradients:
        report_gradients(case, [name for name in GRADIENTS if name not in missing], rounds)
    if with_gradients:
        print(
            "\nseconds: forward, loss and gradients. gradients: how many; those of save=None and"
            " save='all' (with all\nactivations) are of every operation, of TorchLens likewise, of"
            " the others of modules; nnsight's not of what\nis written in place. peak: what a run"
            " adds at most to the resident set of its process"
        )
    patched = [name for name in cases if name not in WITH_GRADIENTS]
    if patched:
        contenders = [name for name in PATCHES if name not in missing]
        columns = f"{'rows':>9}{'refused':>9}{'forwards':>10}{'a row':>9}" * len(contenders[1:])
        print("\nzero in one row at a time" + "".join(f"{name:>37}" for name in contenders[1:]))
        print(f"{'':28}{'forward':>10}{columns}")
    for case in patched:
        report_patches(case, contenders, min(rounds, 3))


if __name__ == "__main__":
    main()
