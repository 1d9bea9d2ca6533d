"""Fetches a base model from the hub, in a process of its own: the only one that has the token.

python -m worker.fetch REPOSITORY REVISION FOLDER FAILURE_FILE

Two runs that need the same model wait for one another; the folder appears whole or not at all.
Only safetensors are taken: the other formats can run code when they are loaded. What goes wrong is
written to FAILURE_FILE as a `Failure`.
"""

import fcntl
import sys
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from training.events import Failure
from training.failures import shortage
from training.run_directory import remove_folder

_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*")
_REFUSED = frozenset({401, 403})


def main(repository: str, revision: str, folder: Path, failure_file: Path) -> int:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return 0
        try:
            _fetch(repository, revision, folder)
        except Exception as error:  # noqa: BLE001 - a process edge
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            failure_file.write_text(failure_of(error, f"{repository}@{revision}").model_dump_json())
            return 1
    return 0


def failure_of(error: Exception, model: str) -> Failure:
    """What an error of the hub, of the way there, or of this host means."""
    if isinstance(error, GatedRepoError):
        return _gated(model)
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return Failure(
            code="model_missing",
            message=f"the hub has no {model}, or not for the token of this worker",
            fault="infrastructure",
            param="model",
            remedy="add the model again with a name and a commit that the hub has; for a private "
            "one, give the workers a token that may read it (TUNESMITH_HUB_TOKEN)",
        )
    if isinstance(error, HfHubHTTPError) and error.response.status_code in _REFUSED:
        return _gated(model)
    return shortage(error) or Failure(
        code="model_fetch_failed",
        message=f"{model} cannot be fetched: {_first_line(error)}",
        fault="infrastructure",
        param="model",
        remedy="look at the worker's way to the hub (HF_ENDPOINT, HTTPS_PROXY), or put the model "
        "in a folder of the workers and add that",
    )


def _gated(model: str) -> Failure:
    return Failure(
        code="model_gated",
        message=f"the hub does not give {model} to this worker: access to it must be granted",
        fault="infrastructure",
        param="model",
        remedy="accept the model's terms on the hub, and give the workers a token of that account "
        "(TUNESMITH_HUB_TOKEN)",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _fetch(repository: str, revision: str, folder: Path) -> None:
    # Asked first: without an answer the download below would settle for what is there already.
    siblings = HfApi().model_info(repository, revision=revision).siblings or ()
    incoming = folder.with_name(f".{folder.name}.incoming")  # kept after a crash: it goes on there
    snapshot_download(
        repository, revision=revision, local_dir=incoming, allow_patterns=list(_PATTERNS)
    )
    for name in (sibling.rfilename for sibling in siblings):
        if any(fnmatch(name, pattern) for pattern in _PATTERNS) and not (incoming / name).is_file():
            raise OSError(f"{name} did not come")
    remove_folder(incoming / ".cache")  # the hub library's own notes
    incoming.rename(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
