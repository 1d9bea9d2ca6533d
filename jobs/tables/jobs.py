"""What users ask for."""

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from jobs.states import Intent, JobStatus
from jobs.tables.base import Base, Json, only
from training.data_config import FormatName


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
            "ix_jobs_impatient", "status", "queued_at", **only("max_pending_seconds IS NOT NULL")
        ),
        Index(
            "ix_jobs_without_metadata",
            *("project_id", "created_at", "id"),
            **only("user_metadata IS NULL"),
        ),
        Index(
            "ix_jobs_start_checkpoint",
            "start_checkpoint_id",
            **only("start_checkpoint_id IS NOT NULL"),
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
