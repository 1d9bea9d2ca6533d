"""How far many jobs are, in two queries: what a process asks for all the jobs it streams.

No identity here: whoever follows a job was shown it before.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.models import Job
from jobs.service.events import last_seqs
from jobs.states import JobStatus


@dataclass(frozen=True)
class Look:
    """Where a job stands, and the number of its last event."""

    status: JobStatus
    phase: str | None
    progress: dict[str, Any] | None
    last_seq: int


def look(session: Session, job_ids: Iterable[str]) -> dict[str, Look]:
    """A look at each of these jobs that exists.

    The status is read before the numbers: a job seen in a final status has its last event
    counted, whatever the isolation of the transaction.
    """
    wanted = list(job_ids)
    jobs = session.execute(
        select(Job.id, Job.status, Job.phase, Job.progress).where(Job.id.in_(wanted))
    ).all()
    seqs = last_seqs(session, wanted)
    return {
        job_id: Look(status, phase, progress, seqs.get(job_id, 0))
        for job_id, status, phase, progress in jobs
    }
