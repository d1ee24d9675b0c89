"""A zarr store on disk whose documents are written when all are complete.

zarr writes the document of an array anew with each thing it learns of it, in another thread each
time, and file systems flush to disk what takes the place of a file: of thousands of small arrays
that takes longer than all else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_DOCUMENT = "zarr.json"
_LARGE = 2**20
"""Bytes: a file of so many is written in a thread, while others are made."""


def gathered(folder: Path) -> Any:
    """A new store of zarr's in an empty folder, which nobody may read before `settle()`.

    For arrays in memory: dask copies the stores it writes to, documents and all.
    """
    from zarr.storage import LocalStore

    class Gathered(LocalStore):
        """Has no documents on disk until it is settled."""

        def __init__(self, root: Path, *, read_only: bool = False) -> None:
            super().__init__(root, read_only=read_only)
            self.documents: dict[str, Any] = {}

        def settle(self) -> None:
            for key, value in self.documents.items():
                put(self.root / key, value)
            self.documents.clear()

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            if key in self.documents and byte_range is None:
                return self.documents[key]
            return await super().get(key, prototype, byte_range)

        async def exists(self, key: str) -> bool:
            return key in self.documents or await super().exists(key)

        async def set(self, key: str, value: Any) -> None:
            if key.rpartition("/")[2] == _DOCUMENT:
                self.documents[key] = value
            elif len(value) < _LARGE:
                put(self.root / key, value)
            else:
                await super().set(key, value)

        async def set_if_not_exists(self, key: str, value: Any) -> None:
            if not await self.exists(key):
                await self.set(key, value)

        async def delete_dir(self, prefix: str) -> None:
            under = f"{prefix}/" if prefix else ""
            for key in [key for key in self.documents if key.startswith(under)]:
                del self.documents[key]
            await super().delete_dir(prefix)

    return Gathered(folder)


def put(path: Path, value: Any) -> None:
    """Write what zarr has in a buffer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value.to_bytes())
