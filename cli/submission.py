"""A job file read from disk: its data files are uploaded first, then it is what is POSTed.

`training_file`, `validation_file` and each `training_files[].file` may name a local path,
relative to the job file; what is not a file here is left for the server to judge.
"""

import json
import sys
from pathlib import Path
from typing import Any

from cli.client import Client, Json
from cli.errors import CliError, ServerAwayError
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


def post_job(client: Client, path: str, body: Json, folder: Path) -> Json:
    """The job that the server makes of `body`, whose local data files are uploaded first.

    If it is refused, they are deleted again; not so if the reply is lost, since the job may be
    there.

    Raises:
        CliError: A file has bad rows, or the server refused it or the job.
    """
    uploads = _Uploads(client, folder)
    try:
        return client.post(path, uploads.named_in(body))
    except ServerAwayError:
        raise
    except CliError:
        uploads.take_back()
        raise


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


class _Uploads:
    """The data files that are sent for one job."""

    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self._sent: list[Json] = []

    def named_in(self, body: Json) -> Json:
        """`body` with every local data file uploaded and replaced by its id."""
        uploaded = {key: self._id_of(body[key]) for key in _SINGLE_FILES if key in body}
        entries = body.get("training_files")
        if isinstance(entries, list):
            uploaded["training_files"] = [self._with_id(entry) for entry in entries]
        return {**body, **uploaded}

    def take_back(self) -> None:
        """Delete what was sent; what cannot be deleted is told."""
        for file in self._sent:
            try:
                self._client.delete(f"/files/{file['id']}")
            except CliError as error:
                hint(f"{file['filename']} stays on the server as {file['id']}: {error}")
            else:
                hint(f"Deleted {file['filename']} ({file['id']}) again")

    def _with_id(self, entry: Any) -> Any:  # noqa: ANN401 - the user's JSON
        if not isinstance(entry, dict) or "file" not in entry:
            return entry
        return {**entry, "file": self._id_of(entry["file"])}

    def _id_of(self, value: Any) -> Any:  # noqa: ANN401 - the user's JSON
        if not isinstance(value, str) or not value:
            return value
        path = self._folder / value
        if path.is_file():
            self._sent.append(upload(self._client, path))
            return self._sent[-1]["id"]
        if not value.startswith("file-"):
            raise CliError(f"{value!r} is neither a file id nor a file: {path} does not exist")
        return value
