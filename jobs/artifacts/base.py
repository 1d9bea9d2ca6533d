"""What the service asks of a place that keeps files: four verbs over opaque keys.

A key is `/`-joined plain names. What is written under a key appears whole or not at all, and is
never changed afterwards.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True)
class Stored:
    """A file that is safely in the store."""

    key: str
    bytes: int
    sha256: str


class ArtifactWriter(Protocol):
    """A file on its way in."""

    def write(self, data: bytes) -> None: ...

    def commit(self) -> Stored:
        """Make it appear under its key."""
        ...


class ArtifactStore(Protocol):
    """Where files are kept."""

    def create(self, key: str) -> AbstractContextManager[ArtifactWriter]:
        """Begin a file; leaving the block without `commit` leaves nothing behind."""
        ...

    def open(self, key: str) -> BinaryIO:
        """Read a file from its start, seekable; raises FileNotFoundError."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The file's path where the store is a folder of this host."""
        ...

    def delete(self, key: str) -> None:
        """Remove a file; one that is not there is fine."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys below a `/`-ended prefix."""
        ...

    def remove_leftovers(self, older_than_seconds: float) -> None:
        """Remove what writers that died have left behind."""
        ...
