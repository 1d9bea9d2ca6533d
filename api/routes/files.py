"""Files: uploaded once, checked while they arrive, read by jobs."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool

from api.auth import Caller
from api.documentation import bytes_reply, problems
from api.downloads import Download
from api.parameters import After
from api.routing import ApiRoute
from api.schemas.common import CursorListing, Deleted
from api.schemas.files import FileReply, FileReportReply
from api.services import Provided, Services
from jobs.errors import Conflict
from jobs.identity import Identity
from jobs.models import File
from jobs.requests import EXPIRY_SECONDS, PURPOSES
from jobs.service import files
from jobs.states import FileStatus

router = APIRouter(prefix="/v1/files", tags=["Files"], route_class=ApiRoute)

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "additionalProperties": False,
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": EXPIRY_SECONDS[0],
                            "maximum": EXPIRY_SECONDS[1],
                        },
                    },
                },
                "examples": {
                    "training data": {
                        "value": {"purpose": "fine-tune", "file": "the bytes of tickets.jsonl"}
                    }
                },
            }
        },
    }
}


@router.post("", responses=problems(413, 415), openapi_extra=_FORM)
async def create_file(request: Request, services: Provided, caller: Caller) -> FileReply:
    """Upload a file.

    JSON Lines are checked as they arrive: `status` is then `processed`, or `error` with the first
    row errors in `status_details`. What else is training data (a JSON array, CSV, text, Parquet or
    Arrow, by name and first bytes) is `uploaded` until a worker has checked it.
    """
    stored = await services.intake.take_file(request)

    def keep() -> File:
        try:
            with services.db.writing() as session:
                return files.add(session, caller, stored)
        except BaseException:
            services.store.delete(stored.artifact_key)
            raise

    file = await run_in_threadpool(keep)
    if file.status == FileStatus.UPLOADED:
        services.bell.ring(services.settings.worker_pool)
    return FileReply.of(file)


@router.get("", responses=problems())
def list_files(
    services: Provided,
    caller: Caller,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> CursorListing[FileReply]:
    with services.db.reading() as session:
        page = files.list_files(
            session,
            caller,
            after=after,
            limit=limit,
            descending=order == "desc",
            purpose=purpose,
        )
    data = [FileReply.of(file) for file in page.items]
    return CursorListing.of(data, has_more=page.has_more)


@router.get("/{file_id}", responses=problems(404))
def retrieve_file(file_id: str, services: Provided, caller: Caller) -> FileReply:
    with services.db.reading() as session:
        return FileReply.of(files.get(session, caller, file_id))


@router.delete("/{file_id}", responses=problems(404))
def delete_file(file_id: str, services: Provided, caller: Caller) -> Deleted:
    """Hide a file at once; its bytes go when no open job needs them."""
    with services.db.writing() as session:
        file = files.delete(session, caller, file_id)
    return Deleted(id=file.id, object="file")


@router.get("/{file_id}/report", responses=problems(404, 409))
def retrieve_report(file_id: str, services: Provided, caller: Caller) -> FileReportReply:
    """Every row error that was kept, with its line, column and the accepted form."""
    with services.db.reading() as session:
        file = files.get(session, caller, file_id)
    if file.report is None:
        raise Conflict(_without_report(file), param="file_id", code="file_not_checked")
    return FileReportReply.of(file, file.report)


def _without_report(file: File) -> str:
    if file.status == FileStatus.UPLOADED:
        return f"file {file.id!r} is still to be checked by a worker; ask again later"
    if file.status == FileStatus.ERROR:
        return f"file {file.id!r} could not be checked: {file.status_details}"
    return f"file {file.id!r} was not checked: only files with purpose 'fine-tune' are"


@router.head("/{file_id}/content", include_in_schema=False)
@router.get(
    "/{file_id}/content",
    response_class=Download,
    status_code=200,
    responses={**problems(404, 416), 200: bytes_reply("The bytes as they were uploaded.")},
)
def retrieve_content(
    file_id: str, request: Request, services: Provided, caller: Caller
) -> Download:
    """Download a file; takes `Range` and `If-None-Match`."""
    file = _file(file_id, services, caller)
    return Download(
        request,
        services.store.open(file.artifact_key),
        num_bytes=file.bytes,
        sha256=file.sha256,
        filename=file.filename,
    )


def _file(file_id: str, services: Services, caller: Identity) -> File:
    with services.db.reading() as session:
        return files.get(session, caller, file_id)
