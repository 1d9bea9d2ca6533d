"""A result folder on its way to a hub repository; the one part of training that uses the network.

The token comes in the environment of the process and leaves it at once, so that nothing started
or written later has it. What is there afterwards is compared with what was sent.
"""

import os
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile

from training.events import Failure
from training.export_config import ExportConfig
from training.export_spec import Pushed
from training.failures import RunError, failure_of, shortage
from training.run_directory import MANIFEST, read_manifest

TOKEN = "HF_TOKEN"  # noqa: S105 - the name of a variable
_STALE_WEIGHTS = ["*.safetensors", "*.safetensors.index.json", "adapter_config.json"]
"""Of an earlier push: what loads a repository must not find two models in it."""


def publish(folder: Path, export: ExportConfig, name: str) -> Pushed:
    """Push a finished folder; pushed again, it changes nothing.

    Args:
        folder: Holds a manifest; that stays here.
        export: Of kind `hub`.
        name: What was trained is called.

    Raises:
        RunError: There is no token, or the repository does not hold what was sent.
        Exception: Whatever the hub's library raises; see `failure_of_push`.
    """
    token = os.environ.pop(TOKEN, "")
    if not token:
        raise RunError(
            "hub_refused",
            "There is no token to push to the hub with.",
            fault="infrastructure",
            remedy=f"Start the process with {TOKEN}; it has to be allowed to write.",
        )
    assert export.repo_id is not None
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    api.create_repo(export.repo_id, private=export.private, exist_ok=True)
    if export.revision != "main":
        api.create_branch(export.repo_id, branch=export.revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=export.repo_id,
        folder_path=folder,
        revision=export.revision,
        commit_message=f"{name} ({export.content})",
        ignore_patterns=[MANIFEST],
        delete_patterns=_STALE_WEIGHTS if export.content != "gguf" else None,
    )
    _require_arrived(api, export.repo_id, commit, folder)
    return Pushed(
        repo_id=export.repo_id,
        revision=export.revision,
        commit=commit.oid,
        url=str(commit.commit_url),
    )


def failure_of_push(error: Exception, repo_id: str) -> Failure:
    """What an error of the hub, or of the way there, means; `hub_push_failed` may pass."""
    if isinstance(error, RunError):
        return failure_of(error)
    if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
        return Failure(
            code="hub_refused",
            message=f"The hub does not take {repo_id} from this token: {_first_line(error)}",
            fault="infrastructure",
            param="repo_id",
            remedy="Name a repository that the workers' token may write to, or let it.",
        )
    return shortage(error) or Failure(
        code="hub_push_failed",
        message=f"{repo_id} cannot be pushed: {_first_line(error)}",
        fault="infrastructure",
        param="repo_id",
        remedy="Look at the worker's way to the hub (HF_ENDPOINT, HTTPS_PROXY).",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _require_arrived(api: HfApi, repo_id: str, commit: CommitInfo, folder: Path) -> None:
    """Every file is there, with its size, and with its hash where the hub tells one."""
    tree = api.list_repo_tree(repo_id, revision=commit.oid, recursive=True)
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    for entry in read_manifest(folder).files:
        found = there.get(entry.path)
        if (
            found is None
            or found.size != entry.bytes
            or (found.lfs is not None and found.lfs.sha256 != entry.sha256)
        ):
            raise RunError(
                "broken_result",
                f"The repository does not hold {entry.path} as it was sent.",
                fault="infrastructure",
                remedy="Look at the repository's files and at the hub's state, and push again.",
            )
