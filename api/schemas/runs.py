"""Runs of a job: its attempts on hardware."""

from typing import Any, Literal

from api.schemas.common import Reply, optional_seconds, seconds
from jobs.models import Run


class RunReply(Reply):
    id: str
    object: Literal["fine_tuning.job.run"] = "fine_tuning.job.run"
    attempt: int
    worker: str
    started_at: int
    ended_at: int | None
    outcome: str | None
    failure: dict[str, Any] | None

    @classmethod
    def of(cls, run: Run) -> "RunReply":
        return cls(
            id=run.id,
            attempt=run.attempt,
            worker=run.worker_id,
            started_at=seconds(run.started_at),
            ended_at=optional_seconds(run.ended_at),
            outcome=run.outcome,
            failure=run.failure,
        )
