"""What a job's owner wants of it after it was made: pause, resume, stop and keep, cancel.

Each verb is answered at once. A job that is running keeps running until its run has ended: what is
wanted of it stands as its intent, and the last intent written wins. Clients repeat a request whose
reply was lost, so a verb that finds its work done changes nothing.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import Conflict
from jobs.identity import Identity
from jobs.models import Checkpoint, Job
from jobs.repository import Lock, job_of
from jobs.service.events import Draft, append
from jobs.service.moves import move
from jobs.service.validation import waits_for_files
from jobs.states import TERMINAL, Intent, JobStatus

_ASKED = {
    Intent.PAUSE: "A pause was requested: the job saves a checkpoint and holds",
    Intent.STOP: "A stop was requested: the job ends with what is trained so far",
}
_WITHDRAWN = {
    Intent.PAUSE: "The request to pause was withdrawn",
    Intent.STOP: "The request to stop was withdrawn",
}
_ENDED = {
    JobStatus.SUCCEEDED: "has succeeded",
    JobStatus.FAILED: "has failed",
    JobStatus.CANCELLED: "was cancelled",
}


def pause(session: Session, identity: Identity, job_id: str) -> Job:
    """Hold a job: now if it waits, once its run has saved and left if it runs.

    Raises:
        NotFound: The project has no such job.
        Conflict: It has ended.
    """
    job = _open_job(session, identity, job_id)
    if job.status == JobStatus.RUNNING:
        _ask(session, job, Intent.PAUSE)
    elif job.status != JobStatus.PAUSED:
        job.intent = None
        move(session, job, JobStatus.PAUSED, "The job is paused")
    return job


def resume(session: Session, identity: Identity, job_id: str) -> Job:
    """Queue a paused job again, behind those that wait; withdraw what is wanted of any other.

    Raises:
        NotFound: The project has no such job.
        Conflict: It has ended.
    """
    job = _open_job(session, identity, job_id)
    if job.status == JobStatus.PAUSED:
        _queue_again(session, job)
    elif job.intent is not None:
        _say(session, job, _WITHDRAWN[job.intent])
        job.intent = None
    return job


def stop(session: Session, identity: Identity, job_id: str) -> Job:
    """End a job with the result of what is trained; one that waits needs a last run for it.

    Raises:
        NotFound: The project has no such job.
        Conflict: It has ended, or waits and has no checkpoint.
    """
    job = _open_job(session, identity, job_id)
    if job.intent == Intent.STOP:
        return job
    if job.status != JobStatus.RUNNING and not _has_checkpoint(session, job):
        raise Conflict("nothing is trained yet; cancel the job instead", code="nothing_trained")
    if job.status == JobStatus.PAUSED:
        _queue_again(session, job)
    _ask(session, job, Intent.STOP)
    return job


def cancel(session: Session, identity: Identity, job_id: str) -> Job:
    """End a job now. Its run, if it has one, keeps its slots until its processes are gone.

    Raises:
        NotFound: The project has no such job.
        Conflict: It has succeeded or failed already.
    """
    job = job_of(session, identity, job_id, lock=Lock.CHANGE)
    if job.status == JobStatus.CANCELLED:
        return job
    _refuse_ended(job)
    move(session, job, JobStatus.CANCELLED, "The job was cancelled")
    job.finished_at = now(session)
    return job


def _open_job(session: Session, identity: Identity, job_id: str) -> Job:
    job = job_of(session, identity, job_id, lock=Lock.CHANGE)
    _refuse_ended(job)
    return job


def _refuse_ended(job: Job) -> None:
    if job.status in TERMINAL:
        raise Conflict(f"the job {_ENDED[job.status]} already", code="job_finished")


def _ask(session: Session, job: Job, intent: Intent) -> None:
    if job.intent != intent:
        job.intent = intent
        _say(session, job, _ASKED[intent])


def _queue_again(session: Session, job: Job) -> None:
    waits = waits_for_files(session, job)
    status = JobStatus.VALIDATING_FILES if waits else JobStatus.QUEUED
    move(session, job, status, "The job is resumed")
    job.queued_at = now(session)


def _say(session: Session, job: Job, message: str) -> None:
    append(session, job.id, [Draft("message", message, attempt=job.attempt)])


def _has_checkpoint(session: Session, job: Job) -> bool:
    stored = select(Checkpoint.id).where(
        Checkpoint.job_id == job.id, Checkpoint.deleted_at.is_(None)
    )
    return session.scalar(stored.limit(1)) is not None
