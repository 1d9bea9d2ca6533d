"""Exports: a job's result, or one of its checkpoints, as a merged model, a GGUF file, or a push."""

from typing import Annotated

from fastapi import APIRouter, Body, Request

from api.auth import Caller
from api.documentation import bytes_reply, problems
from api.downloads import Download
from api.parameters import After, CutOfEvents, Limit
from api.routing import ApiRoute
from api.schemas.common import CursorListing, Deleted, Listing
from api.schemas.events import EventReply
from api.schemas.exports import EXPORT_EXAMPLES, ExportReply
from api.services import Provided
from jobs.requests import ExportRequest
from jobs.service import exports
from jobs.states import ExportStatus

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Exports"], route_class=ApiRoute)

_EXPORTS = "/{job_id}/exports"
_EXPORT = f"{_EXPORTS}/{{export_id}}"


@router.post(_EXPORTS, responses=problems(404, 409, 413, 415))
def create_export(
    job_id: str,
    body: Annotated[ExportRequest, Body(openapi_examples=EXPORT_EXAMPLES)],
    services: Provided,
    caller: Caller,
) -> ExportReply:
    """Queue an export; one that is equal to this, and was not deleted, is the answer.

    A job that still runs has no result yet, but its checkpoints can be exported. A push to a hub
    needs an admin's key, and a worker that was given a token.
    """
    with services.db.writing() as session:
        found = exports.request(session, caller, job_id, body, services.settings)
    if found.export.status == ExportStatus.QUEUED:
        services.bell.ring(found.export.pool)
    return ExportReply.of(found)


@router.get(_EXPORTS, responses=problems(404))
def list_exports(
    job_id: str, services: Provided, caller: Caller, after: After = None, limit: Limit = 20
) -> CursorListing[ExportReply]:
    """The job's exports, newest first."""
    with services.db.reading() as session:
        page = exports.list_exports(session, caller, job_id, after=after, limit=limit)
    return CursorListing.of([ExportReply.of(e) for e in page.items], has_more=page.has_more)


@router.get(_EXPORT, responses=problems(404))
def retrieve_export(job_id: str, export_id: str, services: Provided, caller: Caller) -> ExportReply:
    with services.db.reading() as session:
        return ExportReply.of(exports.get(session, caller, job_id, export_id))


@router.get(f"{_EXPORT}/events", responses=problems(404))
def list_export_events(
    job_id: str, export_id: str, services: Provided, caller: Caller, cut: CutOfEvents
) -> Listing[EventReply]:
    """What the export said, its log included, newest first."""
    count = cut.limit if cut.tail is None else cut.tail
    with services.db.reading() as session:
        page = exports.events(session, caller, job_id, export_id, after=cut.after, limit=count)
    data = [EventReply.of(event) for event in page.items]
    return Listing(data=data, has_more=page.has_more and cut.tail is None)


@router.post(f"{_EXPORT}/cancel", responses=problems(404, 409))
def cancel_export(job_id: str, export_id: str, services: Provided, caller: Caller) -> ExportReply:
    """End an export now.

    A cancelled one is answered as it is; one that has ended otherwise is a conflict. What was
    pushed already stays on the hub.
    """
    with services.db.writing() as session:
        return ExportReply.of(exports.cancel(session, caller, job_id, export_id))


@router.delete(_EXPORT, responses=problems(404, 409))
def delete_export(job_id: str, export_id: str, services: Provided, caller: Caller) -> Deleted:
    """Remove an export and its file; what was pushed stays on the hub."""
    with services.db.writing() as session:
        exports.delete(session, caller, job_id, export_id)
    return Deleted(id=export_id, object="fine_tuning.job.export.deleted")


@router.head(f"{_EXPORT}/content", include_in_schema=False)
@router.get(
    f"{_EXPORT}/content",
    response_class=Download,
    status_code=200,
    responses={**problems(404, 416), 200: bytes_reply("A ZIP, or the GGUF file.")},
)
def download_export(
    job_id: str, export_id: str, request: Request, services: Provided, caller: Caller
) -> Download:
    """Download the file: a ZIP of the folder, or the GGUF file itself.

    The ETag is its sha256, which is also in `x-checksum-sha256`; `Range` and `If-Range` resume a
    download.
    """
    with services.db.reading() as session:
        file = exports.content(session, caller, job_id, export_id)
    return Download(
        request,
        services.store.open(file.key),
        num_bytes=file.bytes,
        sha256=file.sha256,
        filename=file.filename,
    )
