"""Files between a run directory and the artifact store, hashed on the way."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from jobs.artifacts.base import ArtifactStore, Stored

_CHUNK_BYTES = 1 << 20

Check = Callable[[], None]
"""Called between chunks; raises to break a transfer off."""


class Mismatch(Exception):  # noqa: N818 - what was found
    """A file is not what its recorded hash says."""


def download(store: ArtifactStore, key: str, target: Path, sha256: str, check: Check) -> None:
    """Copy an artifact to `target`.

    Raises:
        FileNotFoundError: The store has no such artifact.
        Mismatch: Its content is not what was pinned; nothing is left at `target`.
    """
    digest = hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with store.open(key) as source, target.open("wb") as copy:
        while chunk := source.read(_CHUNK_BYTES):
            check()
            digest.update(chunk)
            copy.write(chunk)
    if digest.hexdigest() != sha256:
        target.unlink()
        raise Mismatch(f"{key} has changed: sha256 {digest.hexdigest()}, not {sha256}")


def upload(store: ArtifactStore, source: Path, key: str, check: Check) -> Stored:
    """Copy a file into the store."""
    with store.create(key) as writer, source.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            check()
            writer.write(chunk)
        return writer.commit()


def upload_expected(
    store: ArtifactStore, source: Path, key: str, sha256: str, check: Check
) -> Stored:
    """Copy a file whose hash is known into the store.

    Raises:
        Mismatch: What was read is not what the manifest says; it is not kept.
    """
    stored = upload(store, source, key, check)
    if stored.sha256 != sha256:
        store.delete(key)
        raise Mismatch(f"{source.name} has changed since its manifest was written")
    return stored
