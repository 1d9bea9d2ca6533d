"""Uploads: a large file in parts, as `client.uploads.upload_file_chunked` sends it."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.concurrency import run_in_threadpool

from api.auth import Caller
from api.documentation import problems
from api.routing import ApiRoute
from api.schemas.uploads import PartReply, UploadReply
from api.services import Provided, Services
from jobs.identity import Identity
from jobs.models import Upload, UploadPart, new_id
from jobs.requests import CompletionRequest, UploadRequest
from jobs.service import uploads
from jobs.service.joining import join
from jobs.service.uploads import Parts

router = APIRouter(prefix="/v1/uploads", tags=["Files"], route_class=ApiRoute)

_UPLOAD: dict[str, Any] = {
    "training data": {
        "value": {
            "filename": "tickets.jsonl",
            "purpose": "fine-tune",
            "bytes": 734003200,
            "mime_type": "application/jsonl",
        }
    }
}
_COMPLETION: dict[str, Any] = {
    "two parts": {
        "value": {"part_ids": ["part_5f2c7a90b1d84e3f6a1c2b3d", "part_0a1b2c3d4e5f60718293a4b5"]}
    }
}
_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "additionalProperties": False,
                    "properties": {"data": {"type": "string", "format": "binary"}},
                },
                "examples": {"part": {"value": {"data": "the next bytes of tickets.jsonl"}}},
            }
        },
    }
}


@router.post("", responses=problems(413, 415))
def create_upload(
    body: Annotated[UploadRequest, Body(openapi_examples=_UPLOAD)],
    services: Provided,
    caller: Caller,
) -> UploadReply:
    """Begin a file that comes in parts; it is to be completed within the hour."""
    with services.db.writing() as session:
        upload = uploads.create(session, caller, body, services.settings)
    return UploadReply.of(upload, upload.status)


@router.post("/{upload_id}/parts", responses=problems(404, 409, 413, 415), openapi_extra=_FORM)
async def create_part(
    upload_id: str, request: Request, services: Provided, caller: Caller
) -> PartReply:
    """Add some bytes, at most 64 MiB; parts may come side by side and in any order."""
    part_id = new_id("part_")
    key = uploads.part_key(upload_id, part_id)

    def admit() -> None:
        with services.db.reading() as session:
            uploads.require_pending(session, caller, upload_id)

    stored = await services.intake.take_part(request, key, admit)

    def keep() -> UploadPart:
        try:
            with services.db.writing() as session:
                return uploads.add_part(session, caller, upload_id, part_id, stored)
        except BaseException:
            services.store.delete(key)
            raise

    return PartReply.of(await run_in_threadpool(keep))


@router.post("/{upload_id}/complete", responses=problems(404, 409, 413, 415))
async def complete_upload(
    upload_id: str,
    body: Annotated[CompletionRequest, Body(openapi_examples=_COMPLETION)],
    services: Provided,
    caller: Caller,
) -> UploadReply:
    """Join the parts in the order given, and check the rows of training data in JSON Lines.

    The same request again is answered as the first time.
    """
    return await services.intake.join(lambda: _complete(services, caller, upload_id, body))


@router.post("/{upload_id}/cancel", responses=problems(404, 409))
def cancel_upload(upload_id: str, services: Provided, caller: Caller) -> UploadReply:
    """End an upload without a file; its parts go."""
    with services.db.writing() as session:
        upload = uploads.cancel(session, caller, upload_id)
    return UploadReply.of(upload, upload.status)


def _complete(
    services: Services, caller: Identity, upload_id: str, body: CompletionRequest
) -> UploadReply:
    with services.db.reading() as session:
        chosen = uploads.choose(session, caller, upload_id, body.part_ids)
    upload = _join(services, caller, chosen, body) if isinstance(chosen, Parts) else chosen
    with services.db.reading() as session:
        return UploadReply.of(upload, upload.status, uploads.result(session, upload))


def _join(services: Services, caller: Identity, parts: Parts, body: CompletionRequest) -> Upload:
    """Join in the store, then in the database; a file that lost the race is taken back."""
    upload_id, kept = parts.upload.id, None
    try:
        file = join(services.store, parts, body.md5, services.settings)
    except FileNotFoundError:
        return _found_over(services, caller, upload_id, body)
    try:
        with services.db.writing() as session:
            upload = uploads.complete(session, caller, upload_id, body.part_ids, file)
        kept = upload.file_id
        if file.container is not None and file.report is None:
            services.bell.ring(services.settings.worker_pool)
        return upload
    finally:
        if kept != file.id:
            services.store.delete(file.artifact_key)


def _found_over(
    services: Services, caller: Identity, upload_id: str, body: CompletionRequest
) -> Upload:
    """The upload ended meanwhile, and its parts went: by the same request, or refused."""
    with services.db.reading() as session:
        chosen = uploads.choose(session, caller, upload_id, body.part_ids)
    if isinstance(chosen, Parts):
        raise FileNotFoundError(f"parts of {upload_id} are missing in the store")
    return chosen
