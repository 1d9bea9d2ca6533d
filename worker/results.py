"""What a successful run leaves: its files one by one, and together as one archive."""

import logging
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jobs.artifacts.base import ArtifactStore, Stored
from jobs.service.endings import StoredArtifact
from training.events import Failure
from training.run_directory import MANIFEST, RunDirectory, read_manifest
from worker.transfers import Check, Mismatch, upload, upload_expected

T = TypeVar("T")

RESULT_INVALID = Failure(
    code="result_invalid",
    message="the result does not match its manifest",
    fault="infrastructure",
    remedy="look at the disk of the worker: what was written there has changed",
)
_UPLOAD_TRIES = 5
_UPLOAD_PAUSE_SECONDS = 3.0
_log = logging.getLogger(__name__)

_FIXED_DATE = (1980, 1, 1, 0, 0, 0)
_CHUNK_BYTES = 1 << 20


def upload_result(
    store: ArtifactStore, directory: RunDirectory, prefix: str, check: Check
) -> tuple[StoredArtifact, ...]:
    """Store the files of `result/` and their archive, and an archive of each tracker's.

    Args:
        store: Where to.
        directory: A run directory whose result was verified.
        prefix: What the keys begin with; only this attempt's.
        check: Called between chunks.

    Raises:
        Mismatch: A file is not what the manifest says.
    """
    artifacts = [*_members(store, directory.result, prefix, check)]
    artifacts.append(_archive(store, directory, directory.result, "adapter.zip", prefix, check))
    for folder in (directory.tensorboard, directory.wandb, directory.mlflow):
        if _files(folder):
            name = f"{folder.name}.zip"
            artifacts.append(_archive(store, directory, folder, name, prefix, check))
    return tuple(artifacts)


def patiently(run_id: str, upload: Callable[[], T]) -> T:
    """Upload something; a store that is away is given some time to come back."""
    for attempt in range(1, _UPLOAD_TRIES):
        try:
            return upload()
        except (OSError, Mismatch) as error:
            _log.warning("result of %s, try %d: %s", run_id, attempt, error)
            time.sleep(_UPLOAD_PAUSE_SECONDS * attempt)
    return upload()


def write_archive(folder: Path, target: Path) -> None:
    """One ZIP of a folder's files, not compressed; the same files make the same bytes."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path in _files(folder):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _FIXED_DATE)
            info.external_attr = 0o644 << 16
            info.file_size = path.stat().st_size  # lets zipfile choose ZIP64 by itself
            with path.open("rb") as source, archive.open(info, "w") as member:
                while chunk := source.read(_CHUNK_BYTES):
                    member.write(chunk)


def _members(
    store: ArtifactStore, folder: Path, prefix: str, check: Check
) -> Iterator[StoredArtifact]:
    for entry in read_manifest(folder).files:
        name = f"adapter/{entry.path}"
        stored = upload_expected(
            store, folder / entry.path, f"{prefix}/{name}", entry.sha256, check
        )
        yield _artifact(name, stored)
    name = f"adapter/{MANIFEST}"
    yield _artifact(name, upload(store, folder / MANIFEST, f"{prefix}/{name}", check))


def _archive(
    store: ArtifactStore,
    directory: RunDirectory,
    folder: Path,
    name: str,
    prefix: str,
    check: Check,
) -> StoredArtifact:
    local = directory.path / name
    write_archive(folder, local)
    try:
        return _artifact(name, upload(store, local, f"{prefix}/{name}", check))
    finally:
        local.unlink()


def _artifact(name: str, stored: Stored) -> StoredArtifact:
    return StoredArtifact(name, stored.key, stored.bytes, stored.sha256)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
