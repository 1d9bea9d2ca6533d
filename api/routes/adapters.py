"""What a job has made: the adapter as one archive or file by file, also out of a checkpoint.

Beside it what was written for trackers of metrics.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from api.archives import checkpoint_archive
from api.auth import Caller
from api.documentation import bytes_reply, problems
from api.downloads import Download
from api.job_views import ADAPTER_ARCHIVE
from api.routing import ApiRoute
from api.schemas.common import Listing
from api.schemas.jobs import AdapterFileReply
from api.services import Provided, Services
from jobs.identity import Identity
from jobs.models import Artifact
from jobs.service import jobs

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"], route_class=ApiRoute)

_MEMBERS = "adapter/"


@router.head("/{job_id}/adapter", include_in_schema=False)
@router.get(
    "/{job_id}/adapter",
    response_class=Download,
    status_code=200,
    responses={**problems(404, 416), 200: bytes_reply("A ZIP.", "application/zip")},
)
def download_adapter(
    job_id: str,
    request: Request,
    services: Provided,
    caller: Caller,
    checkpoint: Annotated[str | None, Query(description="Of this checkpoint instead.")] = None,
) -> Download:
    """Download the adapter as a ZIP.

    The ETag is its sha256, which is also in `x-checksum-sha256`; `Range` and `If-Range` resume a
    download.
    """
    if checkpoint is None:
        return _artifact(services, caller, job_id, ADAPTER_ARCHIVE, request)
    return _of_checkpoint(services, caller, job_id, checkpoint, request)


@router.head("/{job_id}/checkpoints/{checkpoint_id}/adapter", include_in_schema=False)
@router.get(
    "/{job_id}/checkpoints/{checkpoint_id}/adapter",
    response_class=Download,
    status_code=200,
    responses={**problems(404, 416), 200: bytes_reply("A ZIP.", "application/zip")},
)
def download_checkpoint_adapter(
    job_id: str, checkpoint_id: str, request: Request, services: Provided, caller: Caller
) -> Download:
    """Download the adapter in a checkpoint as a ZIP, as `…/adapter?checkpoint=` does."""
    return _of_checkpoint(services, caller, job_id, checkpoint_id, request)


@router.get("/{job_id}/adapter/files", responses=problems(404))
def list_adapter_files(
    job_id: str, services: Provided, caller: Caller
) -> Listing[AdapterFileReply]:
    """The files of the adapter; empty until the job has succeeded."""
    with services.db.reading() as session:
        found = jobs.artifacts(session, caller, job_id)
    members = [artifact for artifact in found if artifact.name.startswith(_MEMBERS)]
    return Listing(data=[AdapterFileReply.of(artifact) for artifact in members])


@router.head("/{job_id}/adapter/files/{name:path}", include_in_schema=False)
@router.get(
    "/{job_id}/adapter/files/{name:path}",
    response_class=Download,
    status_code=200,
    responses={**problems(404, 416), 200: bytes_reply("The file.")},
)
def download_adapter_file(
    job_id: str, name: str, request: Request, services: Provided, caller: Caller
) -> Download:
    """Download one file of the adapter."""
    return _artifact(services, caller, job_id, f"{_MEMBERS}{name}", request)


@router.head("/{job_id}/trackers/{tracker}", include_in_schema=False)
@router.get(
    "/{job_id}/trackers/{tracker}",
    response_class=Download,
    status_code=200,
    responses={**problems(404, 416), 200: bytes_reply("A ZIP.", "application/zip")},
)
def download_tracker(
    job_id: str,
    tracker: jobs.Tracker,
    request: Request,
    services: Provided,
    caller: Caller,
) -> Download:
    """Download what a job has written for TensorBoard, or for W&B or MLflow without a server."""
    with services.db.reading() as session:
        artifact = jobs.tracker_files(session, caller, job_id, tracker)
    return _sent(services, artifact, artifact.name, request)


def _of_checkpoint(
    services: Services, caller: Identity, job_id: str, checkpoint_id: str, request: Request
) -> Download:
    with services.db.reading() as session:
        found = jobs.checkpoint(session, caller, job_id, checkpoint_id)
    archive = checkpoint_archive(services.store, found, services.settings.data_dir)
    return Download(
        request,
        archive.file,
        num_bytes=archive.num_bytes,
        sha256=archive.sha256,
        filename=f"{job_id}-step-{found.step}.zip",
    )


def _artifact(
    services: Services, caller: Identity, job_id: str, name: str, request: Request
) -> Download:
    with services.db.reading() as session:
        artifact = jobs.artifact(session, caller, job_id, name)
    filename = f"{job_id}.zip" if name == ADAPTER_ARCHIVE else name.rpartition("/")[2]
    return _sent(services, artifact, filename, request)


def _sent(services: Services, artifact: Artifact, filename: str, request: Request) -> Download:
    return Download(
        request,
        services.store.open(artifact.key),
        num_bytes=artifact.bytes,
        sha256=artifact.sha256,
        filename=filename,
    )
