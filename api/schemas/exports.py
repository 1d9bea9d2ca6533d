"""Exports of a job, after OpenAI's words for what belongs to one."""

from typing import Any, Literal

from api.schemas.common import Identified, Reply, optional_seconds, seconds
from api.schemas.jobs import ErrorOfJob
from jobs.models import Export
from jobs.service.exports import NamedExport
from jobs.states import ExportStatus
from training.export_config import ExportConfig, ExportKind

EXPORT_EXAMPLES: dict[str, Any] = {
    "merged": {
        "summary": "The result as one model",
        "value": {"kind": "merged", "dtype": "bfloat16", "max_shard_size": "5GB"},
    },
    "gguf": {
        "summary": "A checkpoint for llama.cpp",
        "value": {
            "kind": "gguf",
            "outtype": "q8_0",
            "checkpoint": "ftckpt_5f2c7a90b1d84e3f6a1c2b3d",
        },
    },
    "hub": {
        "summary": "The adapter in a private repository",
        "value": {"kind": "hub", "content": "adapter", "repo_id": "acme/tickets"},
    },
}


class PushedReply(Reply):
    repo_id: str
    revision: str
    commit: str
    url: str


class ExportReply(Identified):
    """`url` is where the file can be had, `hub` where what was pushed is."""

    object: Literal["fine_tuning.job.export"] = "fine_tuning.job.export"
    created_at: int
    started_at: int | None
    finished_at: int | None
    fine_tuning_job_id: str
    checkpoint: str | None
    step_number: int | None
    kind: ExportKind
    options: dict[str, Any]
    status: ExportStatus
    phase: str | None
    attempt: int
    error: ErrorOfJob | None
    filename: str | None
    bytes: int | None
    sha256: str | None
    url: str | None
    hub: PushedReply | None

    @classmethod
    def of(cls, named: NamedExport) -> "ExportReply":
        export = named.export
        config = ExportConfig.model_validate(export.options)
        return cls(
            id=export.id,
            created_at=seconds(export.created_at),
            started_at=optional_seconds(export.started_at),
            finished_at=optional_seconds(export.finished_at),
            fine_tuning_job_id=export.job_id,
            checkpoint=export.checkpoint_id,
            step_number=named.step,
            kind=config.kind,
            options=config.options(),
            status=export.status,
            phase=export.phase,
            attempt=export.attempt,
            error=None if export.error is None else ErrorOfJob.model_validate(export.error),
            filename=export.filename,
            bytes=export.bytes,
            sha256=export.sha256,
            url=None if export.artifact_key is None else _url(export),
            hub=None if export.pushed is None else PushedReply.model_validate(export.pushed),
        )


def _url(export: Export) -> str:
    return f"/v1/fine_tuning/jobs/{export.job_id}/exports/{export.id}/content"
