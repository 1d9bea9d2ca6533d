"""Files in OpenAI's shape, with what the check of their rows has found."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from api.schemas.common import Identified, Reply, optional_seconds, seconds
from jobs.models import File
from training.data_config import ContainerName, FormatName


class FileReply(Identified):
    """`container` (of training data), `format`, `num_rows` and `sha256` are ours."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "file-5f2c7a90b1d84e3f6a1c2b3d",
                    "object": "file",
                    "bytes": 84213,
                    "created_at": 1764043200,
                    "expires_at": None,
                    "filename": "tickets.jsonl",
                    "purpose": "fine-tune",
                    "status": "processed",
                    "status_details": None,
                    "container": "jsonl",
                    "format": "messages",
                    "num_rows": 120,
                    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                }
            ]
        }
    )

    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: str
    status_details: str | None
    container: ContainerName | None
    format: FormatName | None
    num_rows: int | None
    sha256: str

    @classmethod
    def of(cls, file: File) -> "FileReply":
        return cls(
            id=file.id,
            bytes=file.bytes,
            created_at=seconds(file.created_at),
            expires_at=optional_seconds(file.expires_at),
            filename=file.filename,
            purpose=file.purpose,
            status=file.status,
            status_details=file.status_details,
            container=file.container,
            format=file.format,
            num_rows=file.num_rows,
            sha256=file.sha256,
        )


class RowErrorReply(Reply):
    """A refused row: where it is, what is wrong, and what would be accepted.

    `line` is its number among the rows where the container has no lines.
    """

    line: int
    column: int | None
    reason: str
    accepted: str


class FileReportReply(Reply):
    """What the check of a training file has found; `errors` is capped, `num_errors` is not.

    `remarks` counts the good rows in which something is odd, but kept.
    """

    object: Literal["file.report"] = "file.report"
    file: str
    format: FormatName | None
    num_rows: int
    num_errors: int
    errors: list[RowErrorReply]
    extra_columns: dict[str, int]
    remarks: dict[str, int] = Field(default={})
    container: ContainerName = "jsonl"

    @classmethod
    def of(cls, file: File, report: dict[str, Any]) -> "FileReportReply":
        return cls(file=file.id, **report)
