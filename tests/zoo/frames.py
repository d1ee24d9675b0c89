"""Frames of many models as one table, for each reader and with no option.

`python tests/zoo --frames FOLDER ...` keeps the frame of every model it traces;
`python tests/zoo/frames.py FOLDER` reads all that are there together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter

import pandas as pd

MOST_BYTES = 60_000
"""A model's frame on average."""

folder: Path | None = None
"""Where `keep` keeps frames; set before workers are forked."""


def keep(name: str, layers: pd.DataFrame) -> None:
    """Write a model's frame, if that was asked for."""
    import lensframe_pd as lf

    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name.replace('/', '--')}.parquet"
        lf.write(layers.assign(model=name), path)


def together(folder: Path) -> dict[str, float]:
    """Rows that each reader finds, seconds of a grouping in DuckDB, bytes a model."""
    import duckdb
    import polars
    import pyarrow.dataset

    files = sorted(folder.glob("*.parquet"))
    pattern = f"{folder}/*.parquet"
    found: dict[str, float] = {
        "models": len(files),
        "bytes_per_model": sum(f.stat().st_size for f in files) / len(files),
        "rows_duckdb": len(duckdb.sql(f"select * from '{pattern}'").df()),
        "rows_polars": len(polars.read_parquet(pattern)),
        "rows_pandas": len(pd.read_parquet(folder)),
        "rows_pyarrow": pyarrow.dataset.dataset(folder).to_table().num_rows,
    }
    start = perf_counter()
    query = f"select func, count(*), sum(n_params) from '{pattern}' group by func"
    found["n_funcs"] = len(duckdb.sql(query).fetchall())
    found["seconds_of_group_by"] = perf_counter() - start
    return found


if __name__ == "__main__":
    figures = together(Path(sys.argv[1]))
    print(pd.Series(figures).to_string())
    rows = {figures[name] for name in figures if name.startswith("rows_")}
    small = figures["bytes_per_model"] <= MOST_BYTES and figures["seconds_of_group_by"] < 1
    sys.exit(not (small and len(rows) == 1))
