"""What a validation costs: multiples of a plain forward, in all and by check."""

from __future__ import annotations

import json
import os
import subprocess
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))

_VALIDATED = """
import json, sys, torch
from time import perf_counter
sys.path.insert(0, {folder!r})
import bench, lensframe_pd as lf
torch.manual_seed(0)
model, args = bench.MODELS[{model!r}]()
model.eval()
def seconds(run):
    start = perf_counter()
    result = run()
    return perf_counter() - start, result
with torch.no_grad():
    plain = min(seconds(lambda: bench.plain(model, args))[0] for _ in range(8))
    found = []
    for _ in range({rounds}):
        trace = lf.trace(model, args)
        trace.layers, trace.activations
        took, report = seconds(trace.validate)
        assert report["passed"].all()
        checks = {{k[:-8]: v / plain for k, v in report.attrs.items() if k.endswith("_seconds")}}
        found.append([took / plain, checks])
first, best = found[0][0], min(found, key=lambda one: one[0])
print(json.dumps([plain, len(report), first, *best]))
"""


def report_validate(models: list[str], quick: bool) -> None:
    """Of each model in a fresh process; `first` is the first validation of that process."""
    print("\nvalidate, as a multiple of the quickest plain forward (first: of its process)")
    heading = f"{'model':24}{'ops':>5}{'plain':>10}{'first':>8}{'later':>8}"
    for name in models:
        code = _VALIDATED.format(folder=FOLDER, model=name, rounds=2 if quick else 5)
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
        ).stdout
        plain, n, first, later, checks = json.loads(out.strip().splitlines()[-1])
        if heading:
            print(heading + "".join(f"{check:>14}" for check in checks))
            heading = ""
        print(
            f"{name:24}{n:>5}{plain * 1e3:>8.2f}ms{first:>7.1f}x{later:>7.1f}x"
            + "".join(f"{times:>14.2f}" for times in checks.values()),
            flush=True,
        )
