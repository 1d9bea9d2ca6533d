"""Pause, resume, stop and cancel: what is wanted of a job, answered at once with the job."""

from collections.abc import Callable

from fastapi import APIRouter

from api.auth import Caller
from api.documentation import problems
from api.job_views import job_reply
from api.routing import ApiRoute
from api.schemas.jobs import JobReply
from api.services import Provided, Services
from jobs.identity import Identity
from jobs.models import Job
from jobs.service import control
from jobs.states import JobStatus

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"], route_class=ApiRoute)

_Verb = Callable[..., Job]
"""Of `jobs.service.control`: takes the session, the asker and the job's id."""


@router.post("/{job_id}/pause", responses=problems(404, 409))
def pause_job(job_id: str, services: Provided, caller: Caller) -> JobReply:
    """Hold a job until it is resumed.

    A queued job is `paused` at once. A running one stays `running` with the intent `pause` until
    its checkpoint is saved and its slots are free. A paused job is answered as it is.
    """
    return _reply(control.pause, job_id, services, caller)


@router.post("/{job_id}/resume", responses=problems(404, 409))
def resume_job(job_id: str, services: Provided, caller: Caller) -> JobReply:
    """Queue a paused job again; it goes on from its newest checkpoint.

    On a job that is not paused, a request to pause or to stop is withdrawn.
    """
    return _reply(control.resume, job_id, services, caller)


@router.post("/{job_id}/stop", responses=problems(404, 409))
def stop_job(job_id: str, services: Provided, caller: Caller) -> JobReply:
    """End a job with what is trained so far, adapter included.

    A running job finishes its step, exports and succeeds. One that waits and has a checkpoint is
    queued for a last run that exports it; one without is a conflict.
    """
    return _reply(control.stop, job_id, services, caller)


@router.post("/{job_id}/cancel", responses=problems(404, 409))
def cancel_job(job_id: str, services: Provided, caller: Caller) -> JobReply:
    """End a job now.

    A cancelled job is answered as it is; one that has ended otherwise is a conflict.
    """
    return _reply(control.cancel, job_id, services, caller)


def _reply(verb: _Verb, job_id: str, services: Services, caller: Identity) -> JobReply:
    with services.db.writing() as session:
        job = verb(session, caller, job_id)
    if job.status == JobStatus.QUEUED:  # a claim passed over it while it was locked
        services.bell.ring(job.pool)
    with services.db.reading() as session:  # after the write: others are waiting for its lock
        return job_reply(session, caller, job)
