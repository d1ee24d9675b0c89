"""Where to write and read: through links, aside after a crash, never over what is not ours."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lensframe_pd.errors import LensFileError, LensTypeError, LensValueError

#: What a folder is not called: whoever does means one file.
OF_FILES = frozenset(
    ".nc .h5 .hdf5 .npy .npz .pt .pth .pkl .csv .parquet .feather .arrow .arrows".split()
)

MARK = "lensframe.json"
"""The file by which a folder is known as one of ours, besides zarr's own."""
Stamp = tuple[int, ...]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def place_to_write(path: str | os.PathLike[str], folder: bool) -> Path:
    """The path to write at: what a link points to, so that the link stays one.

    Raises
    ------
    LensTypeError
        It is no path.
    LensValueError
        The path has no name of its own (`""`, `"."`), is in no folder, or is a folder where a file
        is to be written, or the other way round.
    """
    check_path(path)
    given = os.fsdecode(path)
    place = Path(given)
    if not given or place.name in ("", "..") or "\0" in given:
        raise LensValueError(f"{given!r} names no file or folder to write; give it a name")
    with told(place):
        if place.is_symlink():
            place = Path(os.path.realpath(place))
        if place.is_symlink():
            raise LensValueError(f"{given} is a link that leads back to itself")
        if not place.parent.is_dir() and place.parts[0].startswith("~"):
            raise LensFileError(f"there is no folder {place.parent}{of_home(place)}")
        if not place.parent.is_dir():
            raise LensFileError(
                f"there is no folder {place.parent} to write {place.name} in; make it first: "
                f"pathlib.Path({str(place.parent)!r}).mkdir(parents=True)"
            )
        if folder:
            _check_folder(place)
        elif place.exists() and not place.is_file():
            raise LensValueError(f"{place} is not replaced, as it is no file; give another path")
    return place


def of_home(path: Path) -> str:
    """What to say of a path that a shell would have expanded; '' of any other."""
    if not path.parts or not path.parts[0].startswith("~"):
        return ""
    return f"; ~ is not expanded: give pathlib.Path({str(path)!r}).expanduser()"


def check_path(path: Any) -> None:
    """Raise unless it is a path; an open file is none."""
    if not isinstance(path, (str, os.PathLike)):
        raise LensTypeError(f"{path!r} is no path to write to; give a str or a pathlib.Path")


def present(path: Path) -> Path:
    """Where the content of `path` is: there, or aside if a write was cut off between renames."""
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    aside = aside_of(path)
    for _ in range(10):  # between the two looks another write may have put its own in place
        if path.exists():
            return path
        if aside.exists():
            return aside
    return path


def stamp(path: Path) -> Stamp | None:
    """What tells a file or folder from the next one of its name; None where there is none."""
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_dev, found.st_ino, found.st_mtime_ns
    return None


def aside_of(path: Path) -> Path:
    """Where a folder is while its successor takes its place."""
    return path.with_name(f".{path.name}.lensframe-old")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What the system says against a write becomes an error that names the target."""
    try:
        yield
    except OSError as error:
        if isinstance(error, LensFileError) and error.__cause__ is None:
            raise  # it says all
        cause = error.__cause__ if isinstance(error, LensFileError) else error  # of a part
        raise LensFileError(
            f"{path} was not written; what was there before is as it was: {_why(cause)}"
        ) from cause


def _why(error: BaseException | None) -> str:
    number = getattr(error, "errno", None)
    if number in _FULL:
        return f"the disk, or your share of it, is full ({error})"
    if number in _FORBIDDEN:
        return f"you may not write there ({error})"
    return str(error)


def _check_folder(place: Path) -> None:
    if not place.exists():
        return
    check_ours(place)
    with suppress(FileNotFoundError):  # a working directory can be gone
        if Path.cwd().is_relative_to(place.resolve()):
            raise LensValueError(
                f"{place} is the folder you are in, and would be replaced under your feet; write "
                "from outside, or give another path"
            )


def check_ours(path: Path) -> None:
    """Raise unless `path` is an empty folder, or one of ours with nothing else in it."""
    found = {entry.name for entry in path.iterdir()} if path.is_dir() else {"a file"}
    ours: set[str] = set()
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        ours = {MARK, *json.loads((path / MARK).read_text(encoding="utf-8"))["entries"]}
    with suppress(OSError, ValueError):
        if '"lensframe' in (path / "zarr.json").read_text(encoding="utf-8"):
            ours |= {"zarr.json", *(n for n in found if (path / n / "zarr.json").is_file())}
    if found - ours:
        raise LensValueError(
            f"{path} exists and is not replaced, as it holds what lensframe_pd did not write "
            f"({', '.join(sorted(found - ours)[:5])}); give another path, or remove it yourself"
        )
