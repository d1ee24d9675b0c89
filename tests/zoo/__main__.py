"""Trace and validate the zoo.

Run as `python tests/zoo [name part ...]`. Every result is a line of a .jsonl file as soon as it is
there, so a run that was stopped goes on where it was; at the end all lines become a Parquet file
and a summary.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: workers are forked
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import pandas as pd
from tqdm import tqdm

from zoo import frames
from zoo.models import models
from zoo.workers import examine_all


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    frames.folder = options.frames
    lines = os.path.splitext(options.out)[0] + ".jsonl"
    names = [n for n in models() if not options.parts or any(p in n for p in options.parts)]
    os.makedirs(os.path.dirname(os.path.abspath(lines)), exist_ok=True)
    known = _read(lines)
    left = names if options.again else [name for name in names if name not in known]
    tqdm.monitor_interval = 0  # its thread would be forked
    results = examine_all(left, options.jobs, options.timeout, options.memory_gb * 2**30)
    with open(lines, "a") as file, tqdm(results, total=len(left), smoothing=0) as bar:
        for result in bar:
            bar.set_postfix_str(result["name"][-40:])
            file.write(json.dumps(result) + "\n")
            file.flush()
    known = _read(lines)
    results = pd.DataFrame([known[name] for name in names if name in known])
    if results.empty:
        print("no model has such a name")
        return 1
    table = complete(results)
    table.to_parquet(options.out)
    print(summary(table).to_string())
    bad = failures(table)
    print(f"\n{len(bad)} of {len(table)} with something to look at")
    for name, why in bad.items():
        print(f"{name}: {why}")
    fine = table["exact"].fillna(False) & table["passed"].fillna(False)
    return int(not fine.all())


def complete(results: pd.DataFrame) -> pd.DataFrame:
    """All columns, whichever stages were reached, indexed by name."""
    for column in ("error", "n_rows", "exact", "output", "passed", "overhead_us", "reasons"):
        if column not in results:
            results[column] = None
    for column in ("warnings", "missed"):
        if column not in results:
            results[column] = None
        results[column] = [v if isinstance(v, list) else [] for v in results[column]]
    for column in ("exact", "passed"):
        results[column] = results[column].astype("boolean")
    return results.set_index("name")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One line per source and one for all."""
    parts = {**dict(list(table.groupby("source", sort=False))), "all": table}
    return pd.DataFrame.from_dict({name: _counts(part) for name, part in parts.items()}, "index")


def failures(table: pd.DataFrame) -> pd.Series:
    """Name to what went wrong, of the models where something did."""
    why = pd.Series("", index=table.index)
    for name, row in table.iterrows():
        found = []
        if isinstance(row["error"], str):
            found.append(f"[{row['stage']}] {row['error']}")
        if row["exact"] is not pd.NA and not row["exact"]:
            found.append(f"another output: {row['output']}")
        if row["passed"] is not pd.NA and not row["passed"]:
            found.append(f"not valid: {'; '.join(row['reasons'])}")
        found += [f"warned: {text}" for text in row["warnings"]]
        if row["missed"]:
            found.append(f"{len(row['missed'])} parameters read unseen: {row['missed'][:3]}")
        why[name] = " | ".join(found)
    return why[why != ""]


def _counts(table: pd.DataFrame) -> dict[str, float]:
    traced = table["n_rows"].notna()
    return {
        "models": len(table),
        "traced": int(traced.sum()),
        "bit_exact": int(table["exact"].fillna(False).sum()),
        "validated": int(table["passed"].notna().sum()),
        "valid": int(table["passed"].fillna(False).sum()),
        "ops": int(table["n_rows"].fillna(0).sum()),
        "median_overhead_us": round(float(table.loc[traced, "overhead_us"].median()), 1),
    }


def _read(path: str) -> dict[str, dict]:
    """Results by name, the last of each; a line cut short by a stop is left out."""
    known = {}
    if os.path.exists(path):
        with open(path) as file:
            for line in file:
                try:
                    result = json.loads(line)
                except ValueError:
                    continue
                known[result["name"]] = result
    return known


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/zoo", description=__doc__)
    parser.add_argument("parts", nargs="*", help="examine names holding one of these")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--timeout", type=float, default=300, help="seconds per model")
    parser.add_argument("--memory-gb", type=float, default=8, help="per process")
    parser.add_argument("--out", default="zoo.parquet", help="results; .jsonl beside it")
    parser.add_argument("--frames", type=Path, help="a folder to keep every model's frame in")
    parser.add_argument("--again", action="store_true", help="also those with a result")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
