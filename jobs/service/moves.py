"""A job changes its status: one place that holds every change to the table of legal moves."""

from typing import Any

from sqlalchemy.orm import Session

from jobs.models import Job
from jobs.service.events import Draft, append
from jobs.states import MOVES, TERMINAL, JobStatus
from training.events import Level


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
    if status != JobStatus.RUNNING:
        job.phase = None
    if status in TERMINAL:
        job.intent = None
    append(
        session,
        job.id,
        [
            Draft("message", message, level, data, attempt=job.attempt),
            Draft("status", message, data={"status": status}, attempt=job.attempt),
        ],
    )
