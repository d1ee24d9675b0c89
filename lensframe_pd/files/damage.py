"""What is read is not trusted: damage is an error of ours, and no path leads out of a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lensframe_pd.errors import LensError, LensValueError


@contextmanager
def refused(path: Path | str, kind: str) -> Iterator[None]:
    """Whatever a reader raises about a file becomes one error that names the file."""
    try:
        yield
    except LensError:
        raise
    except FileNotFoundError as error:
        raise LensValueError(f"{path} is missing, or was replaced meanwhile: {error}") from error
    except PermissionError as error:
        raise LensValueError(f"{path} may not be read by you: {error}") from error
    except Exception as error:  # Arrow, HDF5, zarr, JSON and the codecs each have their own
        what = f"{type(error).__name__}: {error}"[:300]
        raise LensValueError(f"{path} is truncated, damaged or no {kind}: {what}") from error


def check_inside(folder: Path) -> None:
    """Raise unless all in `folder` is files and folders of its own.

    Raises
    ------
    LensValueError
        A link that leads out of the folder, a pipe or a device: reading them would open what the
        folder does not hold.
    """
    root = os.path.realpath(folder)
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(at, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                target = os.path.realpath(path)
                if os.path.commonpath([root, target]) != root:
                    raise LensValueError(f"{path} leads out of {folder} and is not followed")
                mode = os.stat(target).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise LensValueError(f"{path} is neither a file nor a folder")


def inside(folder: Path, name: object) -> Path:
    """The entry of a folder by its bare name.

    Raises
    ------
    LensValueError
        The name is a path: it could lead anywhere.
    """
    if type(name) is not str or name in ("", ".", "..") or set(name) & set("/\\:\0"):
        raise LensValueError(f"{folder} is damaged: it names {name!r} where a file of it belongs")
    return folder / name
