"""What workers do, and what of it is kept."""

from typing import Any

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from jobs.states import RunKind, RunOutcome
from jobs.tables.base import Base, Json, only


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
        Index("ix_runs_to_clean", "ended_at", **only("cleaned_at IS NULL AND job_id IS NOT NULL")),
        Index(
            "ix_runs_of_exports_to_clean",
            "ended_at",
            **only("cleaned_at IS NULL AND export_id IS NOT NULL"),
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
            **only("deleted_at IS NOT NULL AND purged_at IS NULL"),
        ),
    )


class Artifact(Base):
    """A stored result of a job: the adapter's archive, or one file of it."""

    __tablename__ = "artifacts"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    created_at: Mapped[float]
