"""A job changes its status: one place that holds every change to the table of legal moves.

What follows from every change is here too: the events, and the webhooks of an end.
"""

from typing import Any

from sqlalchemy.orm import Session

from jobs.database import now
from jobs.models import Job
from jobs.service import webhooks
from jobs.service.events import Draft, append
from jobs.states import MOVES, TERMINAL, JobStatus
from training.events import Failure, Level


def move(
    session: Session,
    job: Job,
    status: JobStatus,
    message: str,
    *,
    level: Level = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Give a locked job its next status, and say so in its events."""
    assert status in MOVES[job.status], f"{job.status} -> {status}"
    job.status = status
    _forget_pace(job)
    if status in TERMINAL:
        job.intent = None
        webhooks.announce(session, job)
    append(
        session,
        job.id,
        [
            Draft("message", message, level, data, attempt=job.attempt),
            Draft("status", message, data={"status": status}, attempt=job.attempt),
        ],
    )


def fail(session: Session, job: Job, failure: Failure) -> None:
    """End a locked job as failed."""
    error = failure.model_dump()
    job.error = error
    job.finished_at = now(session)
    move(session, job, JobStatus.FAILED, failure.message, level="error", data={"error": error})


def _forget_pace(job: Job) -> None:
    """What was true of one run is not shown of the next: steps, phase, and when it would end."""
    job.progressed_at = None
    if job.status == JobStatus.RUNNING:
        job.progress = None
        return
    job.phase = None
    if job.progress is not None:
        job.progress = {key: told for key, told in job.progress.items() if key != "eta_seconds"}
