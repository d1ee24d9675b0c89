"""Layers as Parquet, Feather and Arrow files: one schema, so that many models' are one table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lensframe_pd.cells import TEXT
from lensframe_pd.errors import LensTypeError, LensValueError
from lensframe_pd.files import checksums
from lensframe_pd.files.cells import tuples
from lensframe_pd.files.damage import refused
from lensframe_pd.schema import ARROW, CELLS

SUFFIXES = (".parquet", ".feather", ".arrow")
_META = b"lensframe"
_PANDAS = b"pandas"
_ATTRS = b"PANDAS_ATTRS"  # where pandas keeps them, and looks for them
_USUAL = ("str", "object", "int64", "float64", "bool")
_MEASURED = "seconds"
"""What differs from run to run: not compressed, so that the size of a file does not."""
_SEQUENCES = ("texts", "counts", "shapes")


def write_frame(layers: pd.DataFrame, path: Path, kind: str, write: str) -> None:
    """Write layers as a file of this suffix, with the id of the write and a checksum.

    Raises
    ------
    LensTypeError
        A column holds what its Arrow type cannot, or what Arrow has no type for.
    """
    with open(path, "wb") as file:
        _write(layers, file, kind, write)


def frame_bytes(layers: pd.DataFrame, write: str) -> bytes:
    """What a Parquet file of these layers holds."""
    file = io.BytesIO()
    _write(layers, file, ".parquet", write)
    return file.getvalue()


def _write(layers: pd.DataFrame, file: IO[bytes], kind: str, write: str) -> None:
    table = as_table(layers)
    metadata = {_PANDAS: _only_what_is_special(table.schema.metadata[_PANDAS])}
    if layers.attrs:
        metadata[_ATTRS] = json.dumps(layers.attrs).encode()
    table = table.replace_schema_metadata(metadata)
    facts = {"write": write, "checksum": checksums.of_table(table)}
    table = table.replace_schema_metadata({**metadata, _META: json.dumps(facts).encode()})
    if kind == ".parquet":
        # Smaller so than with dictionaries, whose pages each column of a few hundred rows has.
        leaves = [path for path in _leaves(table) if path != _MEASURED]
        level, zstd = dict.fromkeys(leaves, 6), dict.fromkeys(leaves, "zstd")
        pq.write_table(table, file, use_dictionary=False, compression=zstd, compression_level=level)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if kind == ".feather" else None)
        with pa.ipc.new_file(file, table.schema, options=options) as writer:
            writer.write_table(table)


def _leaves(table: pa.Table) -> list[str]:
    """The columns of a Parquet file of this table, as it names those within lists."""
    file = io.BytesIO()
    pq.write_table(table.slice(0, 0), file)
    schema = pq.ParquetFile(file).schema
    return [schema.column(k).path for k in range(len(schema))]


def _only_what_is_special(pandas: bytes) -> bytes:
    """pandas' notes on columns without those that say what the schema says: a third of a file."""
    notes = json.loads(pandas)
    notes["columns"] = [
        note
        for note in notes["columns"]
        if note["name"] not in CELLS
        or note["name"] in notes["index_columns"]
        or note["numpy_type"] not in _USUAL
    ]
    return json.dumps(notes).encode()


def as_table(layers: pd.DataFrame) -> pa.Table:
    """The frame as an Arrow table with the types of `schema.CELLS`, the reader's order kept."""
    bad: list[str] = []
    try:
        table = pa.Table.from_pandas(layers)
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise LensTypeError(f"these layers do not fit a table of Arrow: {error}") from error
    for i, field in enumerate(table.schema):
        kind = CELLS.get(field.name, "")
        if not kind or field.type == ARROW[kind]:
            continue
        try:
            cells = table.column(i).cast(ARROW[kind])
        except pa.ArrowException as error:
            bad.append(f"column {field.name!r} holds {field.type}, not {ARROW[kind]}: {error}")
        else:
            table = table.set_column(i, pa.field(field.name, ARROW[kind]), cells)
    if bad:
        raise LensTypeError(
            "columns of layers have one type in every file; give what is yours a name of its own\n"
            + "\n".join(bad)
        )
    return table


def read_frame(path: Path, kind: str, write: str | None = None) -> pd.DataFrame:
    """The layers in a file, sequence cells as tuples; `write` is the id it must have."""
    with refused(path, "file of a table"):
        return frame_in(path.read_bytes(), path, kind, write)


def frame_in(raw: bytes, path: Path, kind: str, write: str | None = None) -> pd.DataFrame:
    """The layers in the bytes of a file; `path` is where these are from, for messages."""
    with refused(path, "file of a table"):
        frame = _read(path, raw, kind, write)
    if "op" in frame.columns:
        frame = frame.set_index("op")
    if frame.index.name != "op" and not {"layer", "func", "parents"} & set(frame.columns):
        raise LensValueError(
            f"{path} is a table without layers: it has no index `op`, and columns "
            f"{', '.join(map(str, frame.columns[:6]))}; read it with pandas"
        )
    for column in frame.columns:
        if CELLS.get(column) == "text":
            frame[column] = frame[column].astype(TEXT)
    if frame.index.name == "op":
        frame.index = frame.index.astype(TEXT)
    return frame


def _read(path: Path, raw: bytes, kind: str, write: str | None) -> pd.DataFrame:
    if kind == ".parquet":
        table = pq.ParquetFile(pa.BufferReader(raw)).read()
        reader: Any = pd.read_parquet
    else:
        table = pa.ipc.open_file(pa.BufferReader(raw)).read_all()
        reader = pd.read_feather
    table.validate(full=True)
    meta = table.schema.metadata or {}
    facts = json.loads(meta.get(_META, b"{}"))  # a file of pandas' own has none
    if write is not None and facts.get("write") != write:
        raise LensValueError(f"{path} is of another write than the rest of its folder")
    if facts and facts["checksum"] != checksums.of_table(table, without=_META):
        raise LensValueError(f"{path} is damaged: its cells are not those that were written")
    frame = _as_frame(table, raw, reader)
    frame.attrs = json.loads(meta.get(_ATTRS, b"{}"))
    return frame


def _as_frame(table: pa.Table, raw: bytes, reader: Any) -> pd.DataFrame:
    """What pandas makes of the file, but for the sequences, which it would give as arrays."""
    notes = json.loads((table.schema.metadata or {}).get(_PANDAS, b"{}"))
    indices = [n for n in notes.get("index_columns", []) if isinstance(n, str)]
    columns = [n for n in table.column_names if n not in indices]
    sequences = [n for n in columns if CELLS.get(n) in _SEQUENCES]
    others = [n for n in table.column_names if n not in sequences]
    frame: pd.DataFrame = reader(io.BytesIO(raw), columns=others)
    for name in sequences:
        cells = pd.Series(tuples(table[name]), frame.index, dtype=object)
        frame.insert(columns.index(name), name, cells)
    return frame
