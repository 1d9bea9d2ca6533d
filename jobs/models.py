"""The tables. Times are Unix seconds by the database's clock; ids are opaque and random.

Every row that a user can name belongs to a project, but for the base models of the catalogue.
"""

import secrets
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobs.identity import Role
from jobs.states import ExportStatus, Intent, JobStatus, RunKind, RunOutcome, UploadStatus
from training.data_config import ContainerName, FormatName

Json = dict[str, Any]

_NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def new_id(prefix: str) -> str:
    """A random id of 96 bits, e.g. `ftjob-5f2c…`."""
    return prefix + secrets.token_hex(12)


def _words(words: type[StrEnum]) -> Enum:
    """Kept as the words themselves: a further one needs no change of the database."""
    return Enum(
        words, native_enum=False, length=32, values_callable=lambda all_: [w.value for w in all_]
    )


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=_NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own hook
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
        int: BigInteger,
        Role: String,
        FormatName: String,
        ContainerName: String,
        JobStatus: _words(JobStatus),
        Intent: _words(Intent),
        RunKind: _words(RunKind),
        RunOutcome: _words(RunOutcome),
        UploadStatus: _words(UploadStatus),
        ExportStatus: _words(ExportStatus),
    }


def table_of(model: type[Base]) -> Table:
    """The bare table: statements over it skip the unit of work, for rows that come in numbers."""
    return Base.metadata.tables[model.__tablename__]


def _only(condition: str) -> dict[str, Any]:
    """What makes an index hold only some rows: the few that are ever looked for this way."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class Organization(Base):
    __tablename__ = "organizations"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]


class Project(Base):
    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str]
    created_at: Mapped[float]
    __table_args__ = (Index("uq_projects_name", "organization_id", "name", unique=True),)


class ApiKey(Base):
    """A bearer key; only its hash is kept."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    role: Mapped[Role]
    sha256: Mapped[str] = mapped_column(unique=True)
    last4: Mapped[str]
    created_at: Mapped[float]
    revoked_at: Mapped[float | None]


class File(Base):
    """An uploaded file: its bytes are an artifact, its row errors a report kept here.

    `attempts` are the runs that have begun to check it, where it is not checked as it arrives.
    """

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    artifact_key: Mapped[str]
    status: Mapped[str]
    status_details: Mapped[str | None]
    container: Mapped[ContainerName | None]
    """None: no training data."""
    format: Mapped[FormatName | None]
    num_rows: Mapped[int | None]
    report: Mapped[Json | None]
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    deleted_at: Mapped[float | None]
    purged_at: Mapped[float | None]
    __table_args__ = (
        Index("ix_files_project_created", "project_id", "created_at", "id"),
        Index("ix_files_to_check", "created_at", **_only("status = 'uploaded'")),
        Index(
            "ix_files_to_hide",
            "expires_at",
            **_only("expires_at IS NOT NULL AND deleted_at IS NULL"),
        ),
        Index(
            "ix_files_to_purge",
            "deleted_at",
            **_only("deleted_at IS NOT NULL AND purged_at IS NULL"),
        ),
    )


class Upload(Base):
    """A file that comes in parts, each of them an artifact until the whole is put together."""

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    mime_type: Mapped[str]
    file_expires_seconds: Mapped[int | None]
    status: Mapped[UploadStatus]
    file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id"))
    created_at: Mapped[float]
    expires_at: Mapped[float]
    purged_at: Mapped[float | None]
    """When the bytes of its parts were removed."""
    __table_args__ = (Index("ix_uploads_to_purge", "expires_at", **_only("purged_at IS NULL")),)


class UploadPart(Base):
    """Some bytes of an upload; their order is told when it is completed."""

    __tablename__ = "upload_parts"
    id: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    artifact_key: Mapped[str]
    bytes: Mapped[int]
    position: Mapped[int | None]
    """Its place in the file of a completed upload; None: it was not made part of it."""
    created_at: Mapped[float]


class Model(Base):
    """A base model of the catalogue (no project), or an adapter or model made here (with one)."""

    __tablename__ = "models"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    """Unique among the models that were not removed."""
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"), index=True)
    job_id: Mapped[str | None] = mapped_column(index=True)
    source: Mapped[str | None]
    revision: Mapped[str | None]
    status: Mapped[str]
    facts: Mapped[Json | None]
    error: Mapped[Json | None]
    attempts: Mapped[int] = mapped_column(default=0)
    owned_by: Mapped[str]
    created_at: Mapped[float]
    removed_at: Mapped[float | None]
    __table_args__ = (
        Index(
            "uq_models_name",
            "name",
            unique=True,
            **_only("removed_at IS NULL"),
        ),
        Index("ix_models_status", "status", "created_at"),
    )


class Job(Base):
    """What the user asked for, and where it stands."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_by: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    status: Mapped[JobStatus]
    intent: Mapped[Intent | None]
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    model: Mapped[str]
    model_sha256: Mapped[str]
    fine_tuned_model: Mapped[str] = mapped_column(unique=True)
    suffix: Mapped[str | None]
    seed: Mapped[int]
    training: Mapped[Json]
    hyperparameters: Mapped[Json]
    user_metadata: Mapped[Json | None]
    integrations: Mapped[list[Any] | None]
    rerun_of: Mapped[str | None]
    start_job_id: Mapped[str | None]
    """Training goes on from the result of this job, or from one of its checkpoints."""
    start_checkpoint_id: Mapped[str | None]
    pool: Mapped[str]
    gpus: Mapped[int | None]
    requires: Mapped[str]
    """Comma-joined and sorted, e.g. `cuda`; empty: any worker."""
    priority: Mapped[int]
    limits: Mapped[Json]
    max_pending_seconds: Mapped[int | None]
    """Of its limits, where an index can be of the jobs that have it."""
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    lost_runs: Mapped[int] = mapped_column(default=0)
    crash_step: Mapped[int] = mapped_column(default=-1)
    """Step of the newest checkpoint when the last crash was counted."""
    phase: Mapped[str | None]
    progress: Mapped[Json | None]
    progressed_at: Mapped[float | None]
    trained_tokens: Mapped[int | None]
    result_file_id: Mapped[str | None]
    error: Mapped[Json | None]
    created_at: Mapped[float]
    queued_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    __table_args__ = (
        Index("ix_jobs_project_created", "project_id", "created_at", "id"),
        # All that a claim compares: no row is read but that of the job it takes.
        Index(
            "ix_jobs_queue",
            *("status", "pool", "priority", "queued_at", "id", "created_by", "requires", "gpus"),
        ),
        Index(
            "ix_jobs_impatient", "status", "queued_at", **_only("max_pending_seconds IS NOT NULL")
        ),
        Index(
            "ix_jobs_without_metadata",
            *("project_id", "created_at", "id"),
            **_only("user_metadata IS NULL"),
        ),
        Index(
            "ix_jobs_start_checkpoint",
            "start_checkpoint_id",
            **_only("start_checkpoint_id IS NOT NULL"),
        ),
    )


class JobMetadata(Base):
    """One pair of a job's metadata, where a list that is filtered by it looks."""

    __tablename__ = "job_metadata"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    project_id: Mapped[str]
    created_at: Mapped[float]
    """The job's, as the project is."""
    __table_args__ = (
        Index("ix_job_metadata_pair", "project_id", "key", "value", "created_at", "job_id"),
    )


class Creation(Base):
    """A post that made a job, or was answered with one that an earlier post had made."""

    __tablename__ = "creations"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    idempotency_key: Mapped[str | None]
    body_sha256: Mapped[str]
    retry_count: Mapped[int]
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[float] = mapped_column(index=True)
    replied_at: Mapped[float | None]
    """When the reply had been sent whole."""
    __table_args__ = (
        UniqueConstraint("job_id", "retry_count", name="uq_creations_job_id_retry_count"),
        UniqueConstraint("project_id", "idempotency_key", name="uq_creations_idempotency_key"),
        Index("ix_creations_body", "api_key_id", "body_sha256"),
    )


class JobFile(Base):
    """A file a job reads, pinned by its hash."""

    __tablename__ = "job_files"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id"), index=True)
    sha256: Mapped[str]
    format: Mapped[FormatName | None]
    """None: the file is still to be checked."""
    weight: Mapped[float]


class Worker(Base):
    """A host that has offered its slots."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(primary_key=True)
    pool: Mapped[str]
    gpus: Mapped[int]
    provides: Mapped[str]
    seen_at: Mapped[float]


class Run(Base):
    """One attempt on one host: the lease, the slots it holds, and how it ended."""

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[RunKind]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    model_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"), index=True)
    export_id: Mapped[str | None]
    file_id: Mapped[str | None]
    attempt: Mapped[int]
    worker_id: Mapped[str]
    lease_token: Mapped[str]
    lease_expires_at: Mapped[float]
    slot: Mapped[str]
    gpu_indices: Mapped[list[Any]]
    slots_freed_at: Mapped[float | None]
    relayed_bytes: Mapped[int] = mapped_column(default=0)
    log_bytes: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[float]
    ended_at: Mapped[float | None]
    outcome: Mapped[RunOutcome | None]
    failure: Mapped[Json | None]
    cleaned_at: Mapped[float | None]
    """When stored files that no row names were removed."""
    __table_args__ = (
        UniqueConstraint("job_id", "attempt", name="uq_runs_job_id_attempt"),
        Index("ix_runs_open", "ended_at", "worker_id"),
        Index("ix_runs_to_clean", "ended_at", **_only("cleaned_at IS NULL AND job_id IS NOT NULL")),
        Index(
            "ix_runs_of_exports_to_clean",
            "ended_at",
            **_only("cleaned_at IS NULL AND export_id IS NOT NULL"),
        ),
    )


class Checkpoint(Base):
    """A stored checkpoint; it exists once this row names its manifest."""

    __tablename__ = "checkpoints"
    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    step: Mapped[int]
    key_prefix: Mapped[str]
    manifest: Mapped[Json]
    metrics: Mapped[Json]
    created_at: Mapped[float]
    deleted_at: Mapped[float | None]
    purged_at: Mapped[float | None]
    __table_args__ = (
        Index("ix_checkpoints_job_step", "job_id", "step"),
        Index(
            "ix_checkpoints_to_purge",
            "deleted_at",
            **_only("deleted_at IS NOT NULL AND purged_at IS NULL"),
        ),
    )


class Export(Base):
    """A job's result, or one of its checkpoints, in another form: made by a run, then stored."""

    __tablename__ = "exports"
    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_by: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"))
    """None: the job's result."""
    options: Mapped[Json]
    status: Mapped[ExportStatus]
    pool: Mapped[str]
    requires: Mapped[str]
    """As of a job."""
    slot: Mapped[str]
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    lost_runs: Mapped[int] = mapped_column(default=0)
    phase: Mapped[str | None]
    error: Mapped[Json | None]
    artifact_key: Mapped[str | None]
    filename: Mapped[str | None]
    bytes: Mapped[int | None]
    sha256: Mapped[str | None]
    pushed: Mapped[Json | None]
    """Where on the hub it is, and at which commit."""
    created_at: Mapped[float]
    queued_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    deleted_at: Mapped[float | None]
    purged_at: Mapped[float | None]
    __table_args__ = (
        Index("ix_exports_job_created", "job_id", "created_at", "id"),
        Index("ix_exports_queue", "status", "pool", "queued_at", "id"),
        Index("ix_exports_checkpoint", "checkpoint_id", **_only("checkpoint_id IS NOT NULL")),
        Index(
            "ix_exports_to_purge",
            "deleted_at",
            **_only("deleted_at IS NOT NULL AND purged_at IS NULL"),
        ),
    )


class CheckpointPermission(Base):
    """Another project may use a checkpoint as a model."""

    __tablename__ = "checkpoint_permissions"
    id: Mapped[str] = mapped_column(primary_key=True)
    checkpoint_name: Mapped[str] = mapped_column(index=True)
    """As it is named to users; also that of a job's whole result."""
    owner_project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    created_at: Mapped[float]
    __table_args__ = (
        UniqueConstraint(
            "checkpoint_name", "project_id", name="uq_checkpoint_permissions_name_project"
        ),
    )


class WebhookEndpoint(Base):
    """An address that is told how jobs of the project end; its secrets sign what is sent."""

    __tablename__ = "webhook_endpoints"
    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[Any]]
    secret: Mapped[str]
    old_secret: Mapped[str | None]
    old_secret_expires_at: Mapped[float | None]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    deleted_at: Mapped[float | None]


class WebhookDelivery(Base):
    """One event on its way to one endpoint, tried until it is taken or given up."""

    __tablename__ = "webhook_deliveries"
    id: Mapped[str] = mapped_column(primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id"), index=True)
    event_id: Mapped[str]
    event_type: Mapped[str]
    object_id: Mapped[str]
    """What the event is about, e.g. the job."""
    created_at: Mapped[float]
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[float | None] = mapped_column(index=True)
    """None: delivered, or given up."""
    delivered_at: Mapped[float | None]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]


class Artifact(Base):
    """A stored result of a job: the adapter's archive, or one file of it."""

    __tablename__ = "artifacts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    created_at: Mapped[float]


class EventCounter(Base):
    """The last number given out in a stream: locked until commit, so no reader can skip one."""

    __tablename__ = "event_counters"
    stream_id: Mapped[str] = mapped_column(primary_key=True)
    last_seq: Mapped[int]


class Event(Base):
    """A message, metrics or a chunk of the log, in one gap-free sequence per job (or model)."""

    __tablename__ = "events"
    stream_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    attempt: Mapped[int]
    step: Mapped[int | None]
    superseded: Mapped[bool] = mapped_column(default=False)
    """A later attempt was rewound to before this step."""
    type: Mapped[str]
    level: Mapped[str]
    message: Mapped[str]
    data: Mapped[Json | None]
    created_at: Mapped[float]
    __table_args__ = (Index("ix_events_stream_type", "stream_id", "type", "seq"),)
