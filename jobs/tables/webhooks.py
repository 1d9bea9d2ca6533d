"""Who is told how jobs end, and what they are told."""

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base


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
