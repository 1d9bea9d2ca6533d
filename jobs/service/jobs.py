"""What a job's owner sees of it and does to it after it was made."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import Conflict, NotFound
from jobs.identity import Identity
from jobs.models import Artifact, Checkpoint, Job, JobFile, Run
from jobs.pages import Page
from jobs.repository import Lock, checkpoints_page, files_of_job, job_of, jobs_ahead, jobs_page
from jobs.service.moves import move
from jobs.states import TERMINAL, JobStatus


def get(session: Session, identity: Identity, job_id: str) -> Job:
    """A job of the project; raises NotFound."""
    return job_of(session, identity, job_id)


def list_jobs(
    session: Session,
    identity: Identity,
    *,
    after: str | None = None,
    limit: int = 20,
    metadata: dict[str, str] | None = None,
) -> Page[Job]:
    """The project's jobs, newest first; `metadata` `{}` asks for those without any."""
    return jobs_page(session, identity, after=after, limit=limit, metadata=metadata)


def cancel(session: Session, identity: Identity, job_id: str) -> Job:
    """End a job now. Its run, if it has one, keeps its slots until its processes are gone.

    Raises:
        NotFound: The project has no such job.
        Conflict: It has succeeded or failed already.
    """
    job = job_of(session, identity, job_id, lock=Lock.CHANGE)
    if job.status == JobStatus.CANCELLED:
        return job
    if job.status in TERMINAL:
        raise Conflict(f"the job has already {job.status.value}", code="job_finished")
    move(session, job, JobStatus.CANCELLED, "The job was cancelled")
    job.finished_at = now(session)
    return job


def runs(session: Session, identity: Identity, job_id: str) -> list[Run]:
    """The job's runs, newest first; raises NotFound."""
    job = job_of(session, identity, job_id)
    query = select(Run).where(Run.job_id == job.id)
    return list(session.scalars(query.order_by(Run.attempt.desc())))


def checkpoints(
    session: Session, identity: Identity, job_id: str, *, after: str | None = None, limit: int = 10
) -> Page[Checkpoint]:
    """The job's checkpoints, newest first; raises NotFound."""
    job = job_of(session, identity, job_id)
    return checkpoints_page(session, job, after=after, limit=limit)


def checkpoint(session: Session, identity: Identity, job_id: str, checkpoint_id: str) -> Checkpoint:
    """One checkpoint of a job; raises NotFound."""
    job = job_of(session, identity, job_id)
    found = session.get(Checkpoint, checkpoint_id)
    if found is None or found.job_id != job.id or found.deleted_at is not None:
        raise NotFound(
            f"the job has no checkpoint {checkpoint_id!r}",
            param="checkpoint",
            code="checkpoint_not_found",
        )
    return found


def artifacts(session: Session, identity: Identity, job_id: str) -> list[Artifact]:
    """Every stored result of a job, by name; raises NotFound."""
    job = job_of(session, identity, job_id)
    query = select(Artifact).where(Artifact.job_id == job.id)
    return list(session.scalars(query.order_by(Artifact.name)))


def artifact(session: Session, identity: Identity, job_id: str, name: str) -> Artifact:
    """One stored result of a job.

    Raises:
        NotFound: The project has no such job, or the job no such result (yet).
    """
    job = job_of(session, identity, job_id)
    found = session.get(Artifact, (job.id, name))
    if found is None:
        raise NotFound(
            f"the job has no {name!r}: its status is {job.status.value}",
            param="job_id",
            code="artifact_not_found",
        )
    return found


def files_of(session: Session, job: Job) -> list[JobFile]:
    return files_of_job(session, job.id)


def queue_position(session: Session, job: Job) -> int:
    """How many queued jobs of the pool are ahead of this one."""
    return jobs_ahead(session, job)
