"""What happened, in the order in which it is told."""

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base, Json


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
