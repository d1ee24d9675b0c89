"""`lf.extract`: a data set to a store, resumable, on many machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import xarray as xr

from lensframe_pd.errors import LensValueError
from lensframe_pd.extract.parts import checked_part, extraction_of, run_on
from lensframe_pd.extract.report import warn_of_overflows
from lensframe_pd.extract.store import codecs, target_of
from lensframe_pd.files.blocks import read_blocks
from lensframe_pd.signposts import explains_keywords

_ELSEWHERE = {
    **dict.fromkeys(("path", "out", "out_path", "output_dir"), "where the store goes is to="),
    **dict.fromkeys(("layers", "layer", "modules", "names"), "what to store is save="),
    **dict.fromkeys(("stimuli", "ids", "labels"), "the ids of what is shown are stimulus="),
    "device": "it runs where the model and its batches are: model.to(device), and args=lambda "
    "batch: batch.to(device)",
    **dict.fromkeys(
        ("dtype", "pool", "project", "chunk"), "it is a column of the rows in save=: rows.assign("
        "dtype='float16')",
    ),
}  # fmt: skip


def _of_a_batch(name: str) -> str:
    return (
        "if it is one of the model, give all by name with each batch: args=lambda batch: "
        f"{{'x': batch, {name!r}: ...}}"
    )


@explains_keywords(_ELSEWHERE, _of_a_batch)
def extract(
    model: Callable[..., Any],
    data: Any,
    *,
    to: Any,
    save: Any = "all",
    stimulus: Any = None,
    args: Callable[[Any], Any] | None = None,
    batch_size: int | None = None,
    n: int | None = None,
    num_workers: int = 0,
    seed: int | None = None,
    ragged: Mapping[str, int] | None = None,
    passes: int | None = None,
    values: Any = None,
    compress: Any = None,
    sync: bool = False,
    plan: bool = False,
    part: tuple[int, int] | None = None,
    client: Any = None,
) -> xr.Dataset | pd.DataFrame:
    """Run a model over a data set, and write selected activations to a zarr store.

    Killed at any moment and called again, it goes on: what the store's ledger has is not computed
    again. The first batch is traced and makes the plan; later ones keep the selected values only,
    end after the last of them, and are compared with the plan.

    Parameters
    ----------
    model
        As for `lf.trace`.
    data
        Single stimuli: a torch Dataset, or with `batch_size` any sequence or iterable, a tensor,
        array or frame (along axis 0), or a mapping of them. Stimuli are stacked as torch's
        DataLoader does; those of unlike sizes come as a list. Or batches: a DataLoader, or any
        iterable without `batch_size`.
    to
        Where: a folder, or any other store of zarr's.
    save
        What to keep, as for `lf.trace`. Rows of a frame may have columns besides:

        - `dtype`: what to store the values as, where it is not the traced type. Numbers that
          become infinite are counted, and named at the end. bfloat16 is stored as float32.
        - `pool`: as of `activations.lens.features`; a mapping for each row goes in as a list. A
          mask is that of each batch: the name of the model's argument that is one
          (`{"token": "attention_mask"}`), or a function of what the model is called with.
        - `project`: to how many features, by scikit-learn's sparse random projection; it cannot be
          undone. Its matrix is kept in the store.
        - `chunk`: batches in a chunk of the store, 1 by default.
    stimulus
        Ids or a table of all stimuli, as for `lf.trace`; or a function of a batch that gives its
        ids. Without, stimuli are numbered, and the order must be that of the data.
    args
        A function of a batch that gives what `lf.trace` takes: `lambda batch: batch[0]` of pairs of
        images and labels. None: the batch itself.
    batch_size
        Stimuli in a batch; of a Dataset 32 by default.
    n
        How many stimuli there are, where nothing else says it.
    num_workers
        Processes that load stimuli.
    seed
        Each batch runs under `seed` + its number. Needed where selected values depend on random
        numbers.
    ragged
        Axes whose extent varies, to the most there may be: `{"token": 512}`. They are padded (NaN;
        of integers 0), and a coordinate `n_token` says how many there were in the batch.
    passes
        How many passes of each selected layer to store, where batches differ in it; a layer that
        has fewer is refused.
    values
        Other values for tensors, as for `lf.trace`: an ablated network over a data set. Numbers and
        functions are for every batch; arrays have a coordinate `stimulus` with all ids.
    compress
        None: only a checksum (crc32c). `"zstd"`, or codecs of zarr's.
    sync
        Have each block on the disk before it is counted, against a loss of power.
    plan
        Only say what would be stored: nothing is written, and one batch is run.
    part
        `(i, n)`: only the i-th of n shares, from 0. Any number of processes fill one store.
    client
        A `dask.distributed.Client` whose workers do it. `model` and `data` may be functions
        without arguments that make them there. A part whose worker is lost runs again.

    Returns
    -------
    xarray.Dataset
        As `lf.read(to)` gives it: lazy. `attrs["missing_stimuli"]` is how many are not there yet.
    pandas.DataFrame
        With `plan`, per variable: `shape` of a stimulus, `dims`, `dtype`, `bytes` (as written;
        before compression), `chunk` and `files`. In the attrs are their sums, `bytes` and `files`,
        and those of the whole store, `store_bytes` and `store_files`: with its metadata, ids,
        layers and ledger. Exact, but for the bytes of `compress`, and of ids that are texts and
        come with the batches.

    Raises
    ------
    LensTypeError, LensValueError, LensKeyError
        What cannot be: before the first forward, where that can be known. A batch that is not as
        planned: what was written stays.
    LensFileError
        Too little room, or the system refuses to write.

    Warns
    -----
    LensWarning
        Of numbers that became infinite, by variable and id; of a store that comes out again only
        but for rounding.

    Notes
    -----
    Compared with a store that is there: weights and buffers, classes, versions of torch and of this
    library, grad mode and autocast, rows, ids, batches, values; and its first batch is computed
    again. Data that changed later on under the same ids is not noticed. The result is equal to the
    bit to that of an unbroken run with the same batches, number of threads and device.

    Examples
    --------
    >>> import tempfile, torch, lensframe_pd as lf
    >>> model, folder = torch.nn.Linear(3, 2).eval(), tempfile.mkdtemp()
    >>> found = lf.extract(
    ...     model, torch.ones(10, 3), to=f"{folder}/acts.zarr", save="linear_1", batch_size=4
    ... )
    >>> found["linear_1"].sizes
    Frozen({'stimulus': 10, 'feature_2': 2})
    """
    target, share = target_of(to), checked_part(part)
    codecs(compress)
    options = {
        "save": save, "stimulus": stimulus, "args": args, "batch_size": batch_size, "n": n,
        "num_workers": num_workers, "seed": seed, "ragged": ragged, "passes": passes,
        "values": values, "compress": compress, "sync": sync,
    }  # fmt: skip
    if client is not None:
        if plan or part is not None:
            raise LensValueError("client= makes parts itself, and runs; leave out part= and plan=")
        run_on(client, model, data, options, target)
    else:
        extraction = extraction_of(model, data, options, once=plan)
        if plan:
            table: pd.DataFrame = extraction.table(target)
            return table
        extraction.fill(target, share, sync)
    warn_of_overflows(target)
    return read_blocks(target)


__test__ = {"extract": extract}  # whose examples doctest would not look for below a decorator
