"""A job as the body that makes it: to be read, and to be run again with changes."""

from typing import Annotated, Any

from fastapi import APIRouter, Body

from api.auth import Caller
from api.documentation import problems
from api.posts import NewPost
from api.routing import ApiRoute
from api.schemas.jobs import RERUN_EXAMPLES, JobReply
from api.services import Provided
from api.validation import checked
from jobs.requests import JobRequest
from jobs.service import specs

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"], route_class=ApiRoute)

_SPEC = {
    "description": "A body that POST /v1/fine_tuning/jobs takes.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}}},
}


@router.get("/{job_id}/spec", responses={**problems(404), 200: _SPEC})
def retrieve_spec(job_id: str, services: Provided, caller: Caller) -> dict[str, Any]:
    """The job as a whole body, with nothing left to choose; what looks like a secret is hidden."""
    with services.db.reading() as session:
        return specs.spec(session, caller, job_id)


@router.post("/{job_id}/rerun", responses=problems(404, 413, 415, 422))
def rerun_job(
    job_id: str,
    services: Provided,
    caller: Caller,
    post: NewPost,
    body: Annotated[
        dict[str, Any] | None,
        Body(
            description="Changes, laid over the spec object by object; null: back to the default.",
            openapi_examples=RERUN_EXAMPLES,
        ),
    ] = None,
) -> JobReply:
    """Queue a new job after an old one, which may have ended in any way, or not yet."""
    return post.create(
        services,
        caller,
        lambda session: specs.rerun(
            session,
            caller,
            job_id,
            checked(JobRequest, specs.changed_spec(session, caller, job_id, body or {})),
        ),
    )
