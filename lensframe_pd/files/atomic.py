"""Writing so that a crash leaves the old file or the new, never a part of one.

Everything is written in a working folder beside its place, flushed to disk, and renamed. A file is
replaced by one rename. A folder needs two, the old one aside and the new one in: one writer at a
time does that, under a lock, and `present` finds the old one if a crash came between them. The last
complete write wins. A working folder is locked as long as its writer lives; those of dead writers
are removed by the next write to the same place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lensframe_pd.files import checksums
from lensframe_pd.files.places import MARK, aside_of, check_ours, told

try:
    import fcntl
except ImportError:  # Windows: its own rules keep an open file from being replaced
    fcntl = None  # type: ignore[assignment]

_ALIVE = "alive"
_DAY_S = 86_400


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` if the block ends well."""
    with told(path), _working_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)


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
    with told(path), _working_folder(path) as folder:
        if path.exists():
            check_ours(path)
        new = folder / path.name
        new.mkdir()
        yield new
        if content is not None:
            whole = {**content, "entries": sorted(entry.name for entry in new.iterdir())}
            whole["checksum"] = checksums.of_facts(whole)
            (new / MARK).write_text(json.dumps(whole, indent=1), encoding="utf-8")
        for at, _, files in os.walk(new):
            for name in files:
                _flush(Path(at, name))
        with alone(path):
            _swap(new, path, folder)


@contextmanager
def first_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write in, which becomes `path` if the block ends well.

    Unless somebody else has put something there by then: that stays, and this one is removed.
    """
    with told(path), _working_folder(path) as folder:
        new = folder / path.name
        new.mkdir()
        yield new
        for at, _, files in os.walk(new):
            for name in files:
                _flush(Path(at, name))
        with alone(path):
            try:
                os.rename(new, path)  # refused where there is a folder that is not empty
            except OSError:
                if not path.exists():
                    raise
            else:
                _flush(path.parent)


def _swap(new: Path, path: Path, folder: Path) -> None:
    """Put `new` in the place of `path`, and what was there into the working folder."""
    aside = aside_of(path)
    if path.exists():
        check_ours(path)  # again: another writer may have been here since
        if aside.exists():
            shutil.rmtree(aside)
        os.rename(path, aside)
    try:
        os.rename(new, path)
    except OSError:
        with suppress(OSError):
            os.rename(aside, path)
        raise
    _flush(path.parent)
    if aside.exists():
        os.rename(aside, folder / "old")  # to be removed where nobody waits for it


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other writer of `path`, in whichever process or thread, is in this block meanwhile."""
    if fcntl is None:
        yield
        return
    lock = path.with_name(f".{path.name}.lensframe-lock")
    handle = _locked(lock)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(lock)  # while it is held: who waits for it sees that it is gone
        os.close(handle)


def _locked(lock: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(OSError):  # some network folders know no locks: as good as it gets there
            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        os.close(handle)  # its holder removed it: another file, if any, is the lock now


@contextmanager
def _working_folder(path: Path) -> Iterator[Path]:
    with alone(path):
        _recover(path)
        folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.lensframe-new")
        folder.mkdir()
        alive = os.open(folder / _ALIVE, os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(alive)


def _recover(path: Path) -> None:
    """Put back what a crash left aside, and remove what dead writers left."""
    aside = aside_of(path)
    if aside.exists() and not path.exists():
        os.rename(aside, path)
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.lensframe-new")
    for entry in os.scandir(path.parent):
        if left.fullmatch(entry.name) and _is_dead(entry.path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(entry.path)


def _is_dead(folder: str) -> bool:
    """Whether nobody writes there any more: the lock is free, or a day has passed without one."""
    if fcntl is not None:
        with suppress(FileNotFoundError, NotADirectoryError):
            handle = os.open(os.path.join(folder, _ALIVE), os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
            finally:
                os.close(handle)
            return True
    with suppress(OSError):
        return time.time() - os.stat(folder).st_mtime > _DAY_S
    return False


def _flush(path: Path) -> None:
    """Have a file or folder on disk; a disk that is full may say so only now."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except PermissionError:  # Windows opens no folders, and flushes what is open for writing only
        return
    try:
        os.fsync(handle)
    except OSError:
        if os.name != "nt" and path.is_file():
            raise
    finally:
        os.close(handle)
