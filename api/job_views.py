"""A job's reply, gathered from its row and the rows around it in the session of the request."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.schemas.jobs import JobReply
from jobs.identity import Identity
from jobs.models import Job
from jobs.service import jobs, waiting
from jobs.states import JobStatus

ADAPTER_ARCHIVE = "adapter.zip"


def job_reply(session: Session, identity: Identity, job: Job) -> JobReply:
    """The job as its owner sees it now."""
    return job_replies(session, identity, [job])[0]


def job_replies(session: Session, identity: Identity, found: Sequence[Job]) -> list[JobReply]:
    """As `job_reply`, for a page: its rows are asked for together."""
    files = jobs.files_of(session, [job.id for job in found])
    succeeded = [job.id for job in found if job.status == JobStatus.SUCCEEDED]
    adapters = jobs.artifacts_named(session, succeeded, ADAPTER_ARCHIVE)
    places = waiting.places(session, found)
    return [
        JobReply.of(
            job,
            identity,
            files[job.id],
            adapter=adapters.get(job.id),
            place=places.get(job.id),
            estimated_finish=jobs.estimated_finish(session, job),
        )
        for job in found
    ]
