"""Results in another form."""

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from jobs.states import ExportStatus
from jobs.tables.base import Base, Json, only


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
        Index("ix_exports_checkpoint", "checkpoint_id", **only("checkpoint_id IS NOT NULL")),
        Index(
            "ix_exports_to_purge",
            "deleted_at",
            **only("deleted_at IS NOT NULL AND purged_at IS NULL"),
        ),
    )
