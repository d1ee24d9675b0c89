"""A file for libraries that do not survive a full disk: it takes all, and says so at the end."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any


class Steady(io.FileIO):
    """A file that accepts writes after the disk is full, and raises the first error when left.

    HDF5 writes once more while it closes a file, and ends the process where that fails. What is
    written here after an error is lost, which does not matter: the file is given up anyway.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r+" if path.exists() else "w+")
        self.failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.failed is None:
            try:
                left = left[super().write(left) :]  # of a large block the system may take a part
            except OSError as error:
                self.failed = error
        if left:
            self.seek(len(left), io.SEEK_CUR)
        return size

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failed = self.failed or error
            return self.tell() if size is None else size

    def readinto(self, buffer: Any, /) -> int:
        """As many bytes as asked for: beyond what could be written, zeros."""
        view = memoryview(buffer).cast("B")
        got = super().readinto(view) or 0
        if self.failed is not None:
            view[got:] = bytes(len(view) - got)
            return len(view)
        return got

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if self.failed is not None:
            raise self.failed from error
