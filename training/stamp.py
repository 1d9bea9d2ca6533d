"""Which code a training process would run if it were started now. Light, and asked every second."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_VERSION = ".dist-info"  # the end of a folder's name that holds a package's name and version


def installed_stamp() -> str:
    """A hash of sizes and times of our own modules, and of the versions of all packages."""
    return hashlib.sha256("\n".join((*_modules(), *_versions())).encode()).hexdigest()


def _modules() -> Iterator[str]:
    for path in sorted(Path(__file__).parent.glob("*.py")):
        with suppress(FileNotFoundError):  # being replaced right now
            status = path.stat()
            yield f"{path.name} {status.st_size} {status.st_mtime_ns}"


def _versions() -> Iterator[str]:
    for folder in map(Path, sys.path):
        if folder.is_dir():
            with os.scandir(folder) as entries:
                yield from sorted(e.name for e in entries if e.name.endswith(_VERSION))
