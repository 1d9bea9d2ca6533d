"""The limits a job was given: one that has waited or run for too long is failed.

A running job fails at once; its run sees that the job has ended and stops its processes.
"""

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.models import Job, Run
from jobs.service.moves import fail
from jobs.states import JobStatus
from training.events import Failure

_BATCH = 100


def any_overdue(session: Session) -> bool:
    """Whether `fail_overdue` would find one: a long queue is looked through without a lock."""
    found = (session.scalar(query.with_only_columns(Job.id).limit(1)) for query in _over(session))
    return any(job_id is not None for job_id in found)


def fail_overdue(session: Session) -> list[str]:
    """Fail every job that is over a limit of its own; the ids of those."""
    waited, ran = _over(session)
    overdue = [
        *((job, _waited(job)) for job in session.scalars(_locked(waited))),
        *((job, _ran(job)) for job in session.scalars(_locked(ran))),
    ]
    for job, failure in overdue:
        fail(session, job, failure)
    return [job.id for job, _ in overdue]


def _over(session: Session) -> tuple[Select[Job], Select[Job]]:
    """Jobs that have waited for too long, and jobs that have run for too long."""
    at = now(session)
    runtime = Job.limits["max_runtime_seconds"].as_float()
    used = (
        select(func.sum(func.coalesce(Run.ended_at, at) - Run.started_at))
        .where(Run.job_id == Job.id)
        .scalar_subquery()
    )
    since = at - Job.max_pending_seconds
    just_ended = select(Run.id).where(Run.job_id == Job.id, Run.ended_at >= since).exists()
    waited = select(Job).where(
        Job.status.in_((JobStatus.QUEUED, JobStatus.VALIDATING_FILES)),
        Job.max_pending_seconds.is_not(None),
        Job.queued_at < since,
        ~just_ended,
    )
    return waited, select(Job).where(Job.status == JobStatus.RUNNING, used > runtime)


def _locked(query: Select[Job]) -> Select[Job]:
    """A batch in the order in which everyone locks several jobs."""
    return query.order_by(Job.id).limit(_BATCH).with_for_update()


def _waited(job: Job) -> Failure:
    return Failure(
        code="max_pending_exceeded",
        message=f"the job waited longer than {job.limits['max_pending_seconds']} seconds",
        param="limits.max_pending_seconds",
        fault="resources",
        remedy="raise the limit, or add a worker to the pool",
    )


def _ran(job: Job) -> Failure:
    return Failure(
        code="max_runtime_exceeded",
        message=f"the job ran longer than {job.limits['max_runtime_seconds']} seconds",
        param="limits.max_runtime_seconds",
        fault="spec",
        remedy="raise the limit, or ask for fewer steps",
    )
