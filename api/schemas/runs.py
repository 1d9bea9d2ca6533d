"""Runs of a job: its attempts on hardware."""

from typing import Literal

from api.schemas.common import Reply, optional_seconds, seconds
from api.schemas.jobs import ErrorOfJob
from jobs.models import Run


class RunReply(Reply):
    id: str
    object: Literal["fine_tuning.job.run"] = "fine_tuning.job.run"
    attempt: int
    worker: str
    started_at: int
    ended_at: int | None
    outcome: str | None
    failure: ErrorOfJob | None
    resumed_from_step: int | None
    """The step of the checkpoint it went on from; null: it began at the beginning."""

    @classmethod
    def of(cls, run: Run, resumed_from_step: int | None) -> "RunReply":
        return cls(
            id=run.id,
            attempt=run.attempt,
            worker=run.worker_id,
            started_at=seconds(run.started_at),
            ended_at=optional_seconds(run.ended_at),
            outcome=run.outcome,
            failure=None if run.failure is None else ErrorOfJob.model_validate(run.failure),
            resumed_from_step=resumed_from_step,
        )
