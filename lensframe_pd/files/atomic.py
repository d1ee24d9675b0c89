"""Writing so that a crash leaves the old file or the new, never a part of one.

Everything is written beside its place under another name, flushed to disk, and renamed. A file is
replaced by one rename. A folder needs two, the old one aside and the new one in; `present` finds
the old one if a crash came between them, and the next write tidies up. What a crash leaves half
written is named `.{name}.*.lensframe-new`, is never read, and may be removed.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lensframe_pd.errors import LensValueError

MARK = "lensframe.json"
"""The file by which a folder is known as one of ours, besides zarr's own."""


def present(path: Path) -> Path:
    """Where the content of `path` is: there, or aside if a write was cut off between renames."""
    aside = _aside(path)
    return aside if not path.exists() and aside.exists() else path


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` if the block ends well."""
    temporary = _temporary(path)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def new_folder(path: Path, content: dict[str, Any] | None = None) -> Iterator[Path]:
    """An empty folder to write in, which becomes `path` if the block ends well.

    Parameters
    ----------
    path
        The folder; one that this library wrote is replaced.
    content
        What the folder says of itself in `lensframe.json`, written when the block has ended.
        None for zarr, which has a place of its own for that.

    Raises
    ------
    LensValueError
        `path` is a file, or holds what this library did not write: it is not replaced.
    """
    aside = _aside(path)
    if path.exists():
        _check_ours(path)
        if aside.exists():
            shutil.rmtree(aside)
    elif aside.exists():
        os.rename(aside, path)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        if content is not None:
            entries = sorted(entry.name for entry in temporary.iterdir())
            text = json.dumps({**content, "entries": entries}, indent=1)
            (temporary / MARK).write_text(text, encoding="utf-8")
        for folder, _, files in os.walk(temporary):
            for name in files:
                _flush(Path(folder, name))
        if path.exists():
            os.rename(path, aside)
        os.rename(temporary, path)
        _flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def _check_ours(path: Path) -> None:
    """Raise unless `path` is an empty folder, or one of ours with nothing else in it."""
    found = {entry.name for entry in path.iterdir()} if path.is_dir() else {"a file"}
    ours: set[str] = set()
    with suppress(OSError, ValueError, KeyError, TypeError):
        ours = {MARK, *json.loads((path / MARK).read_text(encoding="utf-8"))["entries"]}
    with suppress(OSError):
        if '"lensframe"' in (path / "zarr.json").read_text(encoding="utf-8"):
            ours |= {"zarr.json", *(n for n in found if (path / n / "zarr.json").is_file())}
    if found - ours:
        raise LensValueError(
            f"{path} exists and is not replaced, as it holds what lensframe_pd did not write "
            f"({', '.join(sorted(found - ours)[:5])}); give another path, or remove it yourself"
        )


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.lensframe-old")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.lensframe-new")


def _flush(path: Path) -> None:
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    with suppress(OSError):  # Windows opens no folders, and flushes what is open for writing only
        handle = os.open(path, flags)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
