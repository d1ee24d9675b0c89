"""The store of an extraction: made whole at once, empty, by whoever is first; then filled."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from lensframe_pd.errors import (
    LensFileError,
    LensRuntimeError,
    LensTypeError,
    LensValueError,
    needs,
)
from lensframe_pd.extract.cast import Array
from lensframe_pd.extract.plan import Plan, Variable
from lensframe_pd.files.atomic import first_folder
from lensframe_pd.files.blocks import (
    BLOCK,
    BLOCKS,
    LEDGER,
    VERSION,
    N,
    is_blocks,
    place_of,
)
from lensframe_pd.files.frames import frame_bytes
from lensframe_pd.files.places import OF_FILES, place_to_write
from lensframe_pd.files.stores import GROUP, NAME, as_it_is, as_stored, put_layers
from lensframe_pd.quantities import quantity
from lensframe_pd.schema import STIMULUS

OVERFLOWS, CASTS = "overflows", "casts"
LENGTH = np.dtype("int32")


class Layout(NamedTuple):
    """How the values of a plan lie in a store."""

    plan: Plan
    n: int
    batch: int
    """Stimuli in a batch, as chunks count them."""
    ids: Mapping[str, Any]
    """Coordinates along `stimulus`: `(dim, values)`; the ids may be yet to come."""
    late_ids: bool
    compress: Any
    attrs: Mapping[str, Any]

    @property
    def block(self) -> int:
        """Stimuli in a block: whole chunks of each variable."""
        return self.batch * math.lcm(*[v.wanted.chunk for v in self.plan.variables])

    @property
    def n_blocks(self) -> int:
        return -(-self.n // self.block)

    def shape(self, v: Variable) -> tuple[int, ...]:
        return tuple([self.n if k == v.axis else size for k, size in enumerate(v.shape)])

    def chunk(self, v: Variable) -> tuple[int, ...]:
        """Stimuli along their axis, all along the others; an axis of 0 counts as 1."""
        along = min(self.n, v.wanted.chunk * self.batch)
        return tuple([along if k == v.axis else max(1, n) for k, n in enumerate(v.shape)])

    @property
    def coordinates(self) -> list[str]:
        """Those that are filled with the blocks: lengths along padded axes."""
        return [*dict.fromkeys(name for v in self.plan.variables for name in v.lengths.values())]

    @property
    def casts(self) -> list[str]:
        """Variables whose values may overflow, which is counted."""
        return [v.name for v in self.plan.variables if v.reduction.cast.may_overflow]


def codecs(compress: Any) -> list[Any]:
    """`compress=` as zarr's codecs, a checksum last.

    Raises
    ------
    LensValueError
        It is no codec.
    """
    from zarr.abc.codec import BytesBytesCodec
    from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

    named: dict[str, Any] = {
        "zstd": lambda: ZstdCodec(level=1),
        "gzip": GzipCodec,
        "blosc": BloscCodec,
    }
    if compress is None or compress is False:
        return [Crc32cCodec()]
    if isinstance(compress, str) and compress in named:
        return [named[compress](), Crc32cCodec()]
    given = compress if isinstance(compress, (list, tuple)) else [compress]
    if all([isinstance(codec, BytesBytesCodec) for codec in given]):
        return [*given, Crc32cCodec()]
    raise LensValueError(
        f"compress={compress!r} is no compression; give None, {', '.join(map(repr, named))} or "
        "codecs of zarr.codecs"
    )


def target_of(to: Any) -> Any:
    """`to=` as what zarr takes: a Path for what is in a folder, else as it is.

    Raises
    ------
    LensValueError
        There is no folder to make it in, or what is there is no store of this kind.
    """
    needs("zarr", "zarr stores")
    needs("dask", "zarr stores that are filled")
    from zarr.abc.store import Store
    from zarr.storage import StorePath

    if not isinstance(to, (str, os.PathLike, Store, StorePath)):
        raise LensTypeError(
            f"to= got a {type(to).__name__}; give the path of a folder, or a store of zarr's"
        )
    place = place_of(to)
    if isinstance(to, (str, os.PathLike)) and not isinstance(place, Path):
        _check_url(str(place))
    if not isinstance(place, Path):
        return to
    if place.suffix.lower() in OF_FILES and not is_blocks(place):
        raise LensValueError(
            f"lf.extract makes a store of zarr's, no {place.suffix} file: give to= such a path as "
            f"{str(place.with_suffix('.zarr'))!r}"
        )
    if place.exists() and not is_blocks(place) and not _is_empty(place):
        raise LensValueError(
            f"{place} is there and is no store that lf.extract made; give another path, or remove "
            "it yourself"
        )
    # a link is written through: a folder cannot be put in its place
    found = place.resolve() if place.exists() else place_to_write(place, folder=True)
    return found if isinstance(to, (str, os.PathLike)) else to


def _check_url(url: str) -> None:
    needs("fsspec", "stores by URL")
    from fsspec.core import url_to_fs

    try:
        url_to_fs(url)
    except ImportError as error:
        raise LensRuntimeError(f"to={url!r} needs a package that is not there: {error}") from error
    except ValueError as error:
        raise LensValueError(f"to={url!r} is no place that fsspec knows: {error}") from None


def _is_empty(place: Path) -> bool:
    return place.is_dir() and not any(place.iterdir())


def make(to: Any, layout: Layout, layers: pd.DataFrame, said: Mapping[str, Any]) -> None:
    """Make the store, unless somebody else has meanwhile.

    Parameters
    ----------
    to
        As of `target_of`.
    layers
        The frame of the first batch, to be kept with it.
    said
        What is to be compared by the next call, as JSON.
    """
    place = place_of(to)
    if isinstance(place, Path):
        with first_folder(place) as folder:
            _make_in(folder, layout, layers, said)
        return
    _copy_into(to, layout, layers, said)


def _make_in(store: Any, layout: Layout, layers: pd.DataFrame, said: Mapping[str, Any]) -> None:
    import zarr

    template = as_stored(_template(layout), narrow=False)
    with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        template.to_zarr(
            store,
            zarr_format=3,
            consolidated=False,
            compute=False,
            encoding=_encoding(template, layout),
            mode="w",
        )
        root = zarr.open_group(store, mode="r+", zarr_format=3)
        root.attrs.update({BLOCKS: VERSION})
        group = root.create_group(GROUP)
        group.attrs.update({N: layout.n, BLOCK: layout.block, CASTS: layout.casts, **said})
        group.create_array(
            LEDGER, shape=(layout.n_blocks,), chunks=(1,), dtype="int64", fill_value=0,
            compressors=None,
        )  # fmt: skip
        if layout.casts:
            group.create_array(
                OVERFLOWS,
                shape=(layout.n, len(layout.casts)),
                chunks=(min(layout.n, layout.block), len(layout.casts)),
                dtype="int64",
                fill_value=0,
                compressors=codecs(None),
            )
        put_layers(group, frame_bytes(layers, ""))
        for v in layout.plan.variables:
            if v.reduction.matrix is not None:
                _put_matrix(group, v)
        zarr.consolidate_metadata(store, zarr_format=3)


def _put(group: Any, name: str, values: Array) -> None:
    made = group.create_array(
        name, shape=values.shape, chunks=tuple(max(1, n) for n in values.shape), dtype=values.dtype,
        compressors=codecs("zstd"),
    )  # fmt: skip
    made[...] = values


def _put_matrix(group: Any, v: Variable) -> None:
    """The projection: with its seed and version it could be made again, and versions change."""
    import sklearn

    matrix = v.reduction.matrix
    part = group.require_group("project").create_group(v.name.replace(":", "-"))
    shape = list(matrix.shape)
    part.attrs.update({NAME: v.name, "shape": shape, "scikit_learn": sklearn.__version__})
    for name in ("data", "indices", "indptr"):
        _put(part, name, getattr(matrix, name))


def _template(layout: Layout) -> xr.Dataset:
    import dask.array as da

    variables: dict[str, Any] = {}
    for v in layout.plan.variables:
        if v.axis is None:
            variables[v.name] = (v.dims, layout.plan.fixed[v.name], v.attrs)
        else:
            # One piece, as nothing of it is computed: dask would make a task of each chunk.
            empty = da.zeros(layout.shape(v), dtype=v.dtype, chunks=-1)
            variables[v.name] = (v.dims, empty, v.attrs)
    lengths = {name: (STIMULUS, np.zeros(layout.n, LENGTH)) for name in layout.coordinates}
    return xr.Dataset(variables, {**layout.ids, **lengths}, dict(layout.attrs))


def _encoding(template: xr.Dataset, layout: Layout) -> dict[Any, Any]:
    encoding: dict[Any, dict[str, Any]] = {name: {} for name in template.variables}
    encoding.update(as_it_is(template))
    planned = {v.name: v for v in layout.plan.variables}
    filled = {*layout.coordinates} | ({STIMULUS} if layout.late_ids else set())
    for name, variable in template.variables.items():
        real = variable.attrs[NAME]
        if real in planned:
            encoding[name] = encoding[name] | {
                "chunks": layout.chunk(planned[real]),
                "compressors": codecs(layout.compress),
            }
        elif real in filled:
            chunk = {"chunks": (min(layout.n, layout.block),)}
            exact = {} if variable.dtype == object else {"compressors": codecs(None)}
            encoding[name] = encoding[name] | chunk | exact
        else:
            encoding[name] = encoding[name] | {"chunks": variable.shape}
    return encoding


def made_sizes(layout: Layout, layers: pd.DataFrame, said: Mapping[str, Any]) -> list[int]:
    """The bytes of each file that `make` makes."""
    _, made = _in_memory(layout, layers, said)
    return [len(content) for content in made.values()]


def _in_memory(
    layout: Layout, layers: pd.DataFrame, said: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    import zarr

    made: dict[str, Any] = {}
    source = zarr.storage.MemoryStore(made)
    _make_in(source, layout, layers, said)
    return source, made


def _copy_into(to: Any, layout: Layout, layers: pd.DataFrame, said: Mapping[str, Any]) -> None:
    """Into a store that is no folder: what makes it one of ours comes last."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    source, made = _in_memory(layout, layers, said)
    target = zarr.open_group(to, mode="a", zarr_format=3).store_path

    async def copy() -> None:
        for key in sorted(made, key=lambda key: key == "zarr.json"):
            value = await source.get(key, default_buffer_prototype())
            assert value is not None
            await (target / key).set(value)

    sync(copy())


def check_room(to: Any, needed: int) -> None:
    """Raise where the file system says that it has not so much room.

    Raises
    ------
    LensFileError
        Saying how much is needed and how much is there.
    """
    place = place_of(to)
    if not isinstance(place, Path):
        return
    try:
        free = shutil.disk_usage(place if place.exists() else place.parent).free
    except OSError:
        return
    if free < needed:
        raise LensFileError(
            f"{place} needs {quantity(needed, 'B')} more, and there is {quantity(free, 'B')} free; "
            "give rows fewer, a smaller dtype, pool or project, or another place"
        )


def spoken(value: Any) -> Any:
    """As JSON gives it back, so that it can be compared with what was stored."""
    return json.loads(json.dumps(value, default=str))
