"""Artifacts in a folder, on one host or shared by all of them."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from jobs.artifacts.base import Stored

_TEMPORARY = ".incoming"
_TRIES = 100


class LocalWriter:
    """Hashes while it writes to a temporary name on the same file system."""

    def __init__(self, temporary: Path, target: Path, key: str) -> None:
        self._temporary = temporary
        self._target = target
        self._key = key
        self._file = temporary.open("xb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)

    def commit(self) -> Stored:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._appear()
        with suppress(FileNotFoundError):  # deleted already, and the folder with it
            _sync_folder(self._target.parent)
        return Stored(self._key, self._bytes, self._digest.hexdigest())

    def _appear(self) -> None:
        for _ in range(_TRIES):
            with suppress(FileNotFoundError, FileExistsError):  # a deletion removes the folder
                self._target.parent.mkdir(parents=True, exist_ok=True)
                self._temporary.replace(self._target)
                return
        raise FileNotFoundError(self._target.parent)

    def discard(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)


class LocalStore:
    """The `ArtifactStore` over a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / _TEMPORARY
        self._incoming.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def create(self, key: str) -> Iterator[LocalWriter]:
        writer = LocalWriter(self._incoming / secrets.token_hex(12), self._path(key), key)
        try:
            yield writer
        finally:
            writer.discard()

    def open(self, key: str) -> BinaryIO:
        return self._path(key).open("rb")

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        path.unlink(missing_ok=True)
        self._prune(path.parent)

    def keys(self, prefix: str) -> Iterator[str]:
        # os.walk passes over folders that a deletion removes meanwhile.
        for folder, _, names in os.walk(self._path(prefix.rstrip("/"))):
            below = Path(folder).relative_to(self._root)
            yield from ((below / name).as_posix() for name in names)

    def remove_leftovers(self, older_than_seconds: float) -> None:
        oldest = time.time() - older_than_seconds
        for path in self._incoming.iterdir():
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:
                continue  # its writer has just finished

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        assert all(part and part.strip(".") and "\0" not in part for part in parts), key
        return self._root.joinpath(*parts)

    def _prune(self, folder: Path) -> None:
        while folder != self._root:
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or already gone
            folder = folder.parent


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
