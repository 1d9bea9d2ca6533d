"""What users upload."""

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from jobs.states import UploadStatus
from jobs.tables.base import Base, Json, only
from training.data_config import ContainerName, FormatName


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
        Index("ix_files_to_check", "created_at", **only("status = 'uploaded'")),
        Index(
            "ix_files_to_hide",
            "expires_at",
            **only("expires_at IS NOT NULL AND deleted_at IS NULL"),
        ),
        Index(
            "ix_files_to_purge",
            "deleted_at",
            **only("deleted_at IS NOT NULL AND purged_at IS NULL"),
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
    __table_args__ = (Index("ix_uploads_to_purge", "expires_at", **only("purged_at IS NULL")),)


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
