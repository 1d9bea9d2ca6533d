"""Fetches a base model from the hub, in a process of its own: the only one that has the token.

python -m worker.fetch REPOSITORY REVISION FOLDER

Two runs that need the same model wait for one another; the folder appears whole or not at all.
Only safetensors are taken: the other formats can run code when they are loaded.
"""

import fcntl
import sys
from pathlib import Path

from huggingface_hub import snapshot_download

from training.run_directory import remove_folder

_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*")


def main(repository: str, revision: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _fetch(repository, revision, folder)


def _fetch(repository: str, revision: str, folder: Path) -> None:
    incoming = folder.with_name(f".{folder.name}.incoming")  # kept after a crash: it goes on there
    snapshot_download(
        repository, revision=revision, local_dir=incoming, allow_patterns=list(_PATTERNS)
    )
    remove_folder(incoming / ".cache")  # the hub library's own notes
    incoming.rename(folder)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
