"""A job file read from disk: its data files are uploaded first, then it is what is POSTed.

`training_file`, `validation_file` and each `training_files[].file` may name a local path,
relative to the job file; what is not a file here is left for the server to judge.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cli.client import Client, Json
from cli.errors import CliError
from cli.progress import transfer
from cli.render import hint, size

_SINGLE_FILES = ("training_file", "validation_file")


def read_job_file(path: Path) -> Json:
    """The body in `path`, or on standard input for `-`.

    Raises:
        CliError: It is not there, or not a JSON object.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
        body = json.loads(text)
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CliError(f"{path} is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise CliError(f"{path} must hold one JSON object, as POST /v1/fine_tuning/jobs takes it")
    return body


def with_uploads(client: Client, body: Json, folder: Path) -> Json:
    """`body` with every local data file uploaded and replaced by its id.

    Raises:
        CliError: A file has bad rows, or the server refused it.
    """
    uploaded = {key: _id_of(client, body[key], folder) for key in _SINGLE_FILES if key in body}
    entries = body.get("training_files")
    if isinstance(entries, list):
        uploaded["training_files"] = [_with_id(client, entry, folder) for entry in entries]
    return {**body, **uploaded}


def upload(client: Client, path: Path, purpose: str = "fine-tune") -> Json:
    """Send one file, showing how far it is.

    Raises:
        CliError: It cannot be read, was refused, or has bad rows.
    """
    total = path.stat().st_size if path.is_file() else 0
    with transfer(f"uploading {path.name}", total) as bar:
        file = client.upload(path, purpose, bar.add)
    if file["status"] == "error":
        raise CliError(
            f"{path}: {file['status_details']}\n(all of it: GET /v1/files/{file['id']}/report)"
        )
    rows = f", {file['num_rows']} rows" if file.get("num_rows") is not None else ""
    if file["status"] == "uploaded":
        rows = ", a worker checks it next"
    hint(f"Uploaded {path.name} ({size(file['bytes'])}{rows}) as {file['id']}")
    return file


def _with_id(client: Client, entry: Any, folder: Path) -> Any:  # noqa: ANN401 - the user's JSON
    if not isinstance(entry, dict) or "file" not in entry:
        return entry
    return {**entry, "file": _id_of(client, entry["file"], folder)}


def _id_of(client: Client, value: Any, folder: Path) -> Any:  # noqa: ANN401 - the user's JSON
    if not isinstance(value, str) or not value:
        return value
    path = folder / value
    if path.is_file():
        return upload(client, path)["id"]
    if not value.startswith("file-"):
        raise CliError(f"{value!r} is neither a file id nor a file: {path} does not exist")
    return value
