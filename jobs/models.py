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
from jobs.states import Intent, JobStatus, RunKind, RunOutcome
from training.config import FormatName

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
        JobStatus: _words(JobStatus),
        Intent: _words(Intent),
        RunKind: _words(RunKind),
        RunOutcome: _words(RunOutcome),
    }


def table_of(model: type[Base]) -> Table:
    """The bare table: statements over it skip the unit of work, for rows that come in numbers."""
    return Base.metadata.tables[model.__tablename__]


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
    """An uploaded file: its bytes are an artifact, its row errors a report kept here."""

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
    format: Mapped[str | None]
    num_rows: Mapped[int | None]
    report: Mapped[Json | None]
    created_at: Mapped[float]
    deleted_at: Mapped[float | None]
    purged_at: Mapped[float | None]
    __table_args__ = (Index("ix_files_project_created", "project_id", "created_at", "id"),)


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
            sqlite_where=text("removed_at IS NULL"),
            postgresql_where=text("removed_at IS NULL"),
        ),
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
    pool: Mapped[str]
    gpus: Mapped[int | None]
    requires: Mapped[str]
    """Comma-joined and sorted, e.g. `cuda`; empty: any worker."""
    priority: Mapped[int]
    limits: Mapped[Json]
    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    lost_runs: Mapped[int] = mapped_column(default=0)
    crash_step: Mapped[int] = mapped_column(default=-1)
    """Step of the newest checkpoint when the last crash was counted."""
    phase: Mapped[str | None]
    progress: Mapped[Json | None]
    trained_tokens: Mapped[int | None]
    error: Mapped[Json | None]
    created_at: Mapped[float]
    queued_at: Mapped[float]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    __table_args__ = (
        Index("ix_jobs_project_created", "project_id", "created_at", "id"),
        Index("ix_jobs_queue", "status", "pool", "priority", "queued_at"),
    )


class JobFile(Base):
    """A file a job reads, pinned by its hash."""

    __tablename__ = "job_files"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    file_id: Mapped[str] = mapped_column(ForeignKey("files.id"), index=True)
    sha256: Mapped[str]
    format: Mapped[FormatName]
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
    __table_args__ = (Index("ix_checkpoints_job_step", "job_id", "step"),)


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
