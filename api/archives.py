"""The adapter in a checkpoint, packed on request into a ZIP that is the same every time."""

import hashlib
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jobs.artifacts.base import ArtifactStore
from jobs.models import Checkpoint
from training.run_directory import Manifest

_CHUNK_BYTES = 1 << 20
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
_STATE_SUFFIXES = (".pt", ".pth", ".bin")
"""Optimizer, scheduler and random state: pickles that only a resume on our own disk reads."""
_STATE_FILES = frozenset({"trainer_state.json"})


@dataclass(frozen=True)
class Archive:
    """An open temporary file, which is gone once closed."""

    file: BinaryIO
    num_bytes: int
    sha256: str


def checkpoint_archive(store: ArtifactStore, checkpoint: Checkpoint, folder: Path) -> Archive:
    """Pack what of a checkpoint can be loaded as an adapter.

    Args:
        store: Holds the checkpoint's files.
        checkpoint: Its manifest names them.
        folder: Where the temporary file may lie.

    Raises:
        FileNotFoundError: The checkpoint's bytes were deleted.
    """
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the reply closes it
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in _adapter_files(Manifest.model_validate(checkpoint.manifest)):
                _add(archive, name, store, f"{checkpoint.key_prefix}/{name}")
        num_bytes = file.seek(0, 2)
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return Archive(file, num_bytes, sha256)


def _adapter_files(manifest: Manifest) -> list[str]:
    names = sorted(entry.path for entry in manifest.files)
    return [n for n in names if not n.endswith(_STATE_SUFFIXES) and n not in _STATE_FILES]


def _add(archive: zipfile.ZipFile, name: str, store: ArtifactStore, key: str) -> None:
    entry = zipfile.ZipInfo(name, _LONG_AGO)
    entry.external_attr = 0o644 << 16
    with store.open(key) as source, archive.open(entry, "w", force_zip64=True) as target:
        while piece := source.read(_CHUNK_BYTES):
            target.write(piece)
