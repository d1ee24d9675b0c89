"""Two checkouts of this package timed against each other, in turn, round after round.

One process cannot hold two versions of a package. So each checkout has a process of its own that
waits for a request, times one contender and answers; `bench.py --against FOLDER` asks them in turn
and is idle while one of them runs. Both do exactly the same, each with its own package, on one
thread. What is compared is time of the processor, in which other work on the machine is not ours.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from itertools import product
from pathlib import Path
from time import process_time
from typing import Any

from served import ALLOCATOR, Served, answer

HERE = Path(__file__).resolve()
TIMED = (
    "plain",
    "save=None",
    "trace",
    "first trace",
)  # plain has nothing of ours: it tells the noise


def report_ratios(folder: str, rounds: dict[str, int]) -> None:
    """Print seconds now over seconds before, per model and contender.

    Parameters
    ----------
    folder
        The other checkout, which has a folder `lensframe_pd`.
    rounds
        How often each model is timed.
    """
    now, before = Checkout(HERE.parents[1]), Checkout(Path(folder).resolve())
    print(f"now    {now.package}\nbefore {before.package}")
    print(f"{'model':26}{'rounds':>7}" + "".join(f"{'now/before, ' + k:>30}" for k in TIMED))
    for name, n in rounds.items():
        for checkout in (now, before):
            checkout.ask(model=name)
        seconds: dict[tuple[Checkout, str], list[float]] = defaultdict(list)
        for i in range(n + 1):
            # Who goes first changes, so that what one leaves to the other cancels out.
            order = (now, before) if i % 2 else (before, now)
            for contender, checkout in product(TIMED, order):
                found = checkout.ask(run=contender)
                if i:  # the first round warms up
                    seconds[checkout, contender].append(found)
        cells = [_ratio(seconds[now, k], seconds[before, k]) for k in TIMED]
        print(f"{name:26}{n:>7}" + "".join(f"{cell:>30}" for cell in cells), flush=True)
    print(
        "now/before: CPU seconds, ratio of the lower quartiles; in brackets, quartiles of the ratio"
        " in a round.\nPlain has nothing of this package in it: its ratio is what chance does"
    )
    now.end()
    before.end()


def _ratio(now: list[float], before: list[float]) -> str:
    quick = [statistics.quantiles(values, n=4)[0] for values in (now, before)]
    by_round = [a / b for a, b in zip(now, before, strict=True)]
    low, _, high = statistics.quantiles(by_round, n=4)
    return f"{quick[0] / quick[1]:.3f} [{low:.2f}, {high:.2f}]"


class Checkout(Served):
    """A process that runs this file with the package of one checkout."""

    def __init__(self, folder: Path) -> None:
        super().__init__(HERE, ALLOCATOR | {"PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"})
        self.package: str = self.ask()
        if not Path(self.package).is_relative_to(folder):
            raise SystemExit(f"{folder} has no lensframe_pd: {self.package} was imported instead")


def serve() -> None:
    """Answer requests: make a model, time a contender; to an empty one, which package is here."""
    import bench
    import torch

    import lensframe_pd

    torch.set_num_threads(1)
    made: tuple[Any, Any] = None, None

    def answers(request: dict[str, str]) -> Any:
        nonlocal made
        if "model" in request:
            torch.manual_seed(0)
            made = bench.MODELS[request["model"]]()
            made[0].eval()
        if "run" not in request:
            return lensframe_pd.__file__
        with torch.no_grad():
            run = bench.CONTENDERS[request["run"]]
            return bench.seconds_of(run, *made, process_time)

    answer(answers)


if __name__ == "__main__":
    serve()
