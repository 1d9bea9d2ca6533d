"""A job's reply, gathered from its row and the rows around it in the session of the request."""

from sqlalchemy.orm import Session

from api.schemas.jobs import JobReply
from jobs.errors import NotFound
from jobs.identity import Identity
from jobs.models import Artifact, Job
from jobs.service import jobs
from jobs.states import JobStatus

ADAPTER_ARCHIVE = "adapter.zip"


def job_reply(session: Session, identity: Identity, job: Job) -> JobReply:
    """The job as its owner sees it now."""
    queued = job.status == JobStatus.QUEUED
    return JobReply.of(
        job,
        identity,
        jobs.files_of(session, job),
        adapter=_adapter(session, identity, job),
        position=jobs.queue_position(session, job) if queued else None,
    )


def _adapter(session: Session, identity: Identity, job: Job) -> Artifact | None:
    if job.status != JobStatus.SUCCEEDED:
        return None
    try:
        return jobs.artifact(session, identity, job.id, ADAPTER_ARCHIVE)
    except NotFound:
        return None
