"""What a job's owner sees of it after it was made."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.errors import NotFound
from jobs.identity import Identity
from jobs.lists import checkpoints_page, jobs_page
from jobs.models import Artifact, Checkpoint, Event, Job, JobFile, Run
from jobs.pages import Page
from jobs.repository import files_of_jobs, job_of
from jobs.states import JobStatus
from training.config import TrainingConfig

Tracker = Literal["tensorboard", "wandb", "mlflow"]


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


def runs(session: Session, identity: Identity, job_id: str) -> list[Run]:
    """The job's runs, newest first; raises NotFound."""
    job = job_of(session, identity, job_id)
    query = select(Run).where(Run.job_id == job.id)
    return list(session.scalars(query.order_by(Run.attempt.desc())))


def resumed_steps(session: Session, identity: Identity, job_id: str) -> dict[int, int]:
    """The steps from which attempts went on, by attempt; raises NotFound."""
    job = job_of(session, identity, job_id)
    query = select(Event.attempt, Event.data).where(
        Event.stream_id == job.id, Event.type == "rewound"
    )
    return {attempt: data["step"] for attempt, data in session.execute(query) if data}


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


def tracker_files(session: Session, identity: Identity, job_id: str, tracker: Tracker) -> Artifact:
    """The archive of what a job has written for a tracker of metrics.

    Raises:
        NotFound: The project has no such job, or the job no such files (yet).
    """
    job = job_of(session, identity, job_id)
    found = session.get(Artifact, (job.id, f"{tracker}.zip"))
    if found is None:
        raise NotFound(
            f"tracker: {_why_no_files(job, tracker)}", param="tracker", code="artifact_not_found"
        )
    return found


def _why_no_files(job: Job, tracker: Tracker) -> str:
    reporting = TrainingConfig.kept(job.training).reporting
    integrations = [each["type"] for each in job.integrations or ()]
    if tracker not in (*reporting.report_to, *integrations):
        key = "training.reporting.report_to" if tracker == "tensorboard" else "integrations"
        return f"the job does not write for {tracker}, which its `{key}` does not name"
    if job.status != JobStatus.SUCCEEDED:
        return (
            f"what is written for {tracker} can be fetched when the job has succeeded; it is "
            f"{job.status.value}"
        )
    return (
        f"the job has left no files for {tracker}: its events say where the metrics went "
        f"(GET /v1/fine_tuning/jobs/{job.id}/events)"
    )


def artifacts_named(session: Session, job_ids: Sequence[str], name: str) -> dict[str, Artifact]:
    """The result of this name of those jobs that have one, by job."""
    if not job_ids:
        return {}
    query = select(Artifact).where(Artifact.job_id.in_(job_ids), Artifact.name == name)
    return {artifact.job_id: artifact for artifact in session.scalars(query)}


def files_of(session: Session, job_ids: Sequence[str]) -> dict[str, list[JobFile]]:
    """The files that each of these jobs reads, by role and position."""
    found: dict[str, list[JobFile]] = {job_id: [] for job_id in job_ids}
    for file in files_of_jobs(session, job_ids):
        found[file.job_id].append(file)
    return found


def estimated_finish(session: Session, job: Job) -> float | None:
    """When a job that trains will be done, at the pace it was last measured; else None.

    None as well while it is asked to pause or stop: it will not go on to its end then.
    """
    left: float | None = (job.progress or {}).get("eta_seconds")
    trains = job.status == JobStatus.RUNNING and job.phase == "training" and job.intent is None
    if not trains or left is None or job.progressed_at is None:
        return None
    return max(now(session), job.progressed_at + left)
