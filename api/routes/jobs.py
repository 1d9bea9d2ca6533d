"""Fine-tuning jobs: created, listed, looked at."""

from typing import Annotated

from fastapi import APIRouter, Body, Request

from api.auth import Caller
from api.documentation import problems
from api.job_views import job_replies, job_reply
from api.parameters import METADATA, After, Limit, metadata_filter
from api.posts import NewPost
from api.routing import BRACKETED_QUERY, ApiRoute
from api.schemas.checkpoints import CheckpointReply
from api.schemas.common import CursorListing, Listing
from api.schemas.jobs import CREATE_EXAMPLES, JobReply
from api.schemas.runs import RunReply
from api.services import Provided
from jobs.requests import JobRequest
from jobs.service import jobs, submission

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"], route_class=ApiRoute)

_FILTER = {
    BRACKETED_QUERY: METADATA,
    "parameters": [
        {
            "name": METADATA,
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "`metadata[key]=value`; `metadata=null` for jobs that have none.",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ],
}


@router.post("", responses=problems(413, 415, 422))
def create_job(
    body: Annotated[JobRequest, Body(openapi_examples=CREATE_EXAMPLES)],
    services: Provided,
    caller: Caller,
    post: NewPost,
) -> JobReply:
    """Queue a job; everything that can be known without loading the model is checked first.

    A post that repeats another is answered with that one's job, and `idempotent-replayed: true`.
    """
    return post.create(services, caller, lambda session: submission.submit(session, caller, body))


@router.get("", responses=problems(), openapi_extra=_FILTER)
def list_jobs(
    request: Request,
    services: Provided,
    caller: Caller,
    after: After = None,
    limit: Limit = 20,
) -> Listing[JobReply]:
    """The project's jobs, newest first."""
    metadata = metadata_filter(request)
    with services.db.reading() as session:
        page = jobs.list_jobs(session, caller, after=after, limit=limit, metadata=metadata)
        data = job_replies(session, caller, page.items)
    return Listing(data=data, has_more=page.has_more)


@router.get("/{job_id}", responses=problems(404))
def retrieve_job(job_id: str, services: Provided, caller: Caller) -> JobReply:
    with services.db.reading() as session:
        return job_reply(session, caller, jobs.get(session, caller, job_id))


@router.get("/{job_id}/checkpoints", responses=problems(404))
def list_checkpoints(
    job_id: str,
    services: Provided,
    caller: Caller,
    after: After = None,
    limit: Limit = 10,
) -> CursorListing[CheckpointReply]:
    """The checkpoints that are kept, newest first."""
    with services.db.reading() as session:
        job = jobs.get(session, caller, job_id)
        page = jobs.checkpoints(session, caller, job_id, after=after, limit=limit)
    data = [CheckpointReply.of(checkpoint, job) for checkpoint in page.items]
    return CursorListing.of(data, has_more=page.has_more)


@router.get("/{job_id}/runs", responses=problems(404))
def list_runs(job_id: str, services: Provided, caller: Caller) -> Listing[RunReply]:
    """The job's attempts on hardware, newest first, and how each ended."""
    with services.db.reading() as session:
        steps = jobs.resumed_steps(session, caller, job_id)
        runs = jobs.runs(session, caller, job_id)
    return Listing(data=[RunReply.of(run, steps.get(run.attempt)) for run in runs])
