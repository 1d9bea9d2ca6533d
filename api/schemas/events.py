"""Events of a job in OpenAI's shape; `seq` and `attempt` are ours."""

from typing import Any, Literal

from api.schemas.common import Reply, seconds
from jobs.models import Event

_LEVELS = {"warning": "warn"}  # OpenAI's word for it


class EventReply(Reply):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any] | None
    seq: int
    attempt: int

    @classmethod
    def of(cls, event: Event) -> "EventReply":
        return cls(
            id=event.id,
            created_at=seconds(event.created_at),
            level=_LEVELS.get(event.level, event.level),
            message=event.message,
            type=event.type,
            data=event.data,
            seq=event.seq,
            attempt=event.attempt,
        )
