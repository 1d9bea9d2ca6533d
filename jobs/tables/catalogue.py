"""What can be trained, or was trained here, and who else may use it."""

from sqlalchemy import ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base, Json, only


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
            **only("removed_at IS NULL"),
        ),
        Index("ix_models_status", "status", "created_at"),
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
