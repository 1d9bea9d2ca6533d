"""Prepared data sets, kept under a fingerprint of all that shaped them, so that none is made twice.

    <fingerprint>/           a data file as documents, its counts.json and a manifest.json
    .<fingerprint>.….tmp/    one that a process is making, or left behind when it died

Several processes may use one folder. What does not match its manifest is made anew; beyond a
limit, what was not used for the longest time goes. A process that reads what another one deletes
reads on: it has the files open.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from training.data_counts import DataCounts
from training.documents import Documents, DocumentWriter, read_documents
from training.run_directory import MANIFEST, verify, write_manifest

_COUNTS = "counts.json"
_ABANDONED_SECONDS = 24 * 3600

Make = Callable[[DocumentWriter], DataCounts]


@dataclass(frozen=True)
class Prepared:
    """A data file as documents.

    Attributes:
        counts: What became of its rows.
        was_found: Another run, or an earlier attempt, had made it.
        seconds: What it took, by the clock.
    """

    fingerprint: str
    documents: Documents
    counts: DataCounts
    was_found: bool
    seconds: float


@dataclass(frozen=True)
class Shelf:
    """A folder of prepared data sets.

    Attributes:
        max_bytes: When one is added, older ones go until all take no more; None: none goes.
    """

    folder: Path
    max_bytes: int | None = None

    def obtain(self, fingerprint: str, make: Make) -> Prepared:
        """The data set of that fingerprint; it is made if it is not there whole."""
        began = time.monotonic()
        found = self._find(fingerprint)
        if was_found := found is not None:
            documents, counts = found
        else:
            documents, counts = self._make(fingerprint, make)
        return Prepared(fingerprint, documents, counts, was_found, time.monotonic() - began)

    def _find(self, fingerprint: str) -> tuple[Documents, DataCounts] | None:
        target = self.folder / fingerprint
        if not verify(target):
            return None
        try:
            os.utime(target / MANIFEST)
            return _read(target)
        except OSError:
            return None  # another process has just deleted it

    def _make(self, fingerprint: str, make: Make) -> tuple[Documents, DataCounts]:
        target = self.folder / fingerprint
        with self._temporary(fingerprint) as temporary:
            with DocumentWriter(temporary) as writer:
                counts = make(writer)
            (temporary / _COUNTS).write_text(counts.model_dump_json())
            write_manifest(temporary)
            made = _read(temporary)
            _remove(target)  # damaged, or just made by another process as well
            try:
                temporary.rename(target)
            except OSError:
                return made  # another process was faster; ours lives on until it is closed
        self._prune(keep=target)
        return made

    @contextmanager
    def _temporary(self, fingerprint: str) -> Iterator[Path]:
        temporary = self.folder / f".{fingerprint}.{secrets.token_hex(4)}.tmp"
        temporary.mkdir(parents=True)
        try:
            yield temporary
        finally:
            _remove(temporary)

    def _prune(self, keep: Path) -> None:
        """Delete what was used the longest time ago, and what dead processes left."""
        for folder in self.folder.glob(".*.tmp"):
            if time.time() - _newest(folder) > _ABANDONED_SECONDS:
                _remove(folder)
        if self.max_bytes is None:
            return
        manifests = (path / MANIFEST for path in self.folder.iterdir() if path != keep)
        used = [(path.stat().st_mtime, path.parent) for path in manifests if path.exists()]
        total = _size(keep)
        for _, folder in sorted(used, reverse=True):
            total += _size(folder)
            if total > self.max_bytes:
                _remove(folder)


def _read(folder: Path) -> tuple[Documents, DataCounts]:
    counts = DataCounts.model_validate_json((folder / _COUNTS).read_bytes())
    return read_documents(folder), counts


def _remove(folder: Path) -> None:
    """Delete a folder, which another process may be deleting as well."""
    shutil.rmtree(folder, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(stat.st_size for stat in _stats(folder))


def _newest(folder: Path) -> float:
    return max((stat.st_mtime for stat in _stats(folder)), default=0.0)


def _stats(folder: Path) -> Iterator[os.stat_result]:
    """Of a folder and every file in it, as far as they are still there."""
    for path in (folder, *folder.glob("*")):
        with suppress(FileNotFoundError):
            yield path.stat()
