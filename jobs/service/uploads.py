"""Uploads: a file that comes in parts, side by side and in any order, until they are joined.

A part is stored before its row is made, and the whole file before the upload is completed: each
step is one guarded transaction, so the same request again, or another one at the same time, ends
in one file. What lies below `uploads/` is removed once an upload is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from jobs.artifacts.base import Stored
from jobs.database import now
from jobs.errors import Conflict, InvalidRequest, TooLarge
from jobs.identity import Identity
from jobs.models import File, Upload, UploadPart, new_id
from jobs.repository import Lock, upload_of
from jobs.requests import UploadRequest
from jobs.service import files
from jobs.service.files import StoredFile, plain_filename
from jobs.settings import Settings
from jobs.states import UploadStatus

_MAX_COPIES = 3
"""How often all bytes may arrive: the clients send a part again when its reply was lost, twice."""
_WORDS = {
    UploadStatus.COMPLETED: "is completed already",
    UploadStatus.CANCELLED: "was cancelled",
    UploadStatus.EXPIRED: "has expired",
}


@dataclass(frozen=True)
class Parts:
    """The parts of an upload in the order in which they are joined."""

    upload: Upload
    keys: tuple[str, ...]


def create(
    session: Session, identity: Identity, request: UploadRequest, settings: Settings
) -> Upload:
    """Begin an upload.

    Raises:
        TooLarge: The file would be over the limit of the settings.
        InvalidRequest: Its name cannot be used.
    """
    if request.bytes > settings.max_upload_bytes:
        raise TooLarge(
            f"bytes: {request.bytes} is over {settings.max_upload_bytes}, the most that is "
            "accepted",
            param="bytes",
        )
    at, expiry = now(session), request.expires_after
    upload = Upload(
        id=new_id("upload_"),
        project_id=identity.project_id,
        filename=plain_filename(request.filename, param="filename"),
        purpose=request.purpose,
        bytes=request.bytes,
        mime_type=request.mime_type,
        file_expires_seconds=None if expiry is None else expiry.seconds,
        status=UploadStatus.PENDING,
        created_at=at,
        expires_at=at + settings.upload_seconds,
    )
    session.add(upload)
    return upload


def part_key(upload_id: str, part_id: str) -> str:
    return f"{prefix(upload_id)}{part_id}"


def prefix(upload_id: str) -> str:
    """What the keys of an upload's parts begin with."""
    return f"uploads/{upload_id}/"


def require_pending(
    session: Session, identity: Identity, upload_id: str, *, lock: Lock | None = None
) -> Upload:
    """An upload that takes parts.

    Raises:
        NotFound: There is no such upload in the project.
        Conflict: It is completed, cancelled or expired.
    """
    upload = upload_of(session, identity, upload_id, lock=lock)
    if (status := status_of(session, upload)) != UploadStatus.PENDING:
        raise _over(upload, status)
    return upload


def status_of(session: Session, upload: Upload) -> UploadStatus:
    """Where an upload stands now, whether or not the sweep has seen that its time is over."""
    if upload.status == UploadStatus.PENDING and upload.expires_at <= now(session):
        return UploadStatus.EXPIRED
    return upload.status


def add_part(
    session: Session, identity: Identity, upload_id: str, part_id: str, stored: Stored
) -> UploadPart:
    """Make a stored part exist.

    Raises:
        TooLarge: The parts together are far more than the upload was to have.
        JobsError: As for `require_pending`.
    """
    upload = require_pending(session, identity, upload_id, lock=Lock.CHANGE)
    so_far = session.scalar(
        select(func.sum(UploadPart.bytes)).where(UploadPart.upload_id == upload.id)
    )
    if int(so_far or 0) + stored.bytes > _MAX_COPIES * upload.bytes:
        raise TooLarge(
            f"data: the parts would have more than {_MAX_COPIES} times the {upload.bytes} bytes "
            "that the upload was created for",
            param="data",
        )
    part = UploadPart(
        id=part_id,
        upload_id=upload.id,
        artifact_key=stored.key,
        bytes=stored.bytes,
        created_at=now(session),
    )
    session.add(part)
    return part


def choose(
    session: Session, identity: Identity, upload_id: str, part_ids: Sequence[str]
) -> Parts | Upload:
    """The parts to join, or the upload itself where these were joined already.

    Raises:
        InvalidRequest: A part is not one of the upload, is named twice, or they do not have the
            bytes that the upload was created for.
        JobsError: As for `require_pending`.
    """
    upload = upload_of(session, identity, upload_id)
    if _is_completed_with(session, upload, part_ids):
        return upload
    require_pending(session, identity, upload_id)
    known = {
        part.id: part
        for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == upload_id))
    }
    for index, part_id in enumerate(part_ids):
        if part_id not in known:
            reason = f"{part_id!r} is no part of this upload"
        elif part_id in part_ids[:index]:
            reason = f"{part_id!r} is named twice"
        else:
            continue
        raise InvalidRequest(
            f"part_ids.{index}: {reason}; name each part once, in the order of its bytes",
            param=f"part_ids.{index}",
            code="invalid_part",
        )
    num_bytes = sum(known[part_id].bytes for part_id in part_ids)
    if num_bytes != upload.bytes:
        raise InvalidRequest(
            f"part_ids: the parts have {num_bytes} bytes, and the upload was created for "
            f"{upload.bytes}",
            param="part_ids",
            code="size_mismatch",
        )
    return Parts(upload, tuple(known[part_id].artifact_key for part_id in part_ids))


def complete(
    session: Session,
    identity: Identity,
    upload_id: str,
    part_ids: Sequence[str],
    file: StoredFile,
) -> Upload:
    """Make the joined parts a file; of two at once the first one wins, and both are told of it.

    Returns:
        The upload; its `file_id` is that of `file` unless another request was faster.

    Raises:
        JobsError: As for `require_pending`.
    """
    upload = upload_of(session, identity, upload_id, lock=Lock.CHANGE)
    if _is_completed_with(session, upload, part_ids):
        return upload
    if upload.status != UploadStatus.PENDING:  # joining may take longer than there was time
        raise _over(upload, upload.status)
    files.add(session, identity, file)
    session.flush()
    upload.status, upload.file_id = UploadStatus.COMPLETED, file.id
    for position, part_id in enumerate(part_ids):
        session.get_one(UploadPart, part_id).position = position
    return upload


def result(session: Session, upload: Upload) -> File | None:
    """The file of a completed upload, unless it was deleted."""
    file = session.get(File, upload.file_id)
    return None if file is None or file.deleted_at is not None else file


def cancel(session: Session, identity: Identity, upload_id: str) -> Upload:
    """End an upload without a file; one that was cancelled before stays as it is.

    Raises:
        NotFound: There is no such upload in the project.
        Conflict: It is completed or expired.
    """
    upload = upload_of(session, identity, upload_id, lock=Lock.CHANGE)
    if (status := status_of(session, upload)) in {UploadStatus.COMPLETED, UploadStatus.EXPIRED}:
        raise _over(upload, status)
    upload.status = UploadStatus.CANCELLED
    return upload


def take_finished(session: Session, limit: int) -> list[Upload]:
    """Uploads that are over and whose parts are still stored, for the caller to remove them."""
    at = now(session)
    out_of_time = and_(Upload.status == UploadStatus.PENDING, Upload.expires_at <= at)
    query = select(Upload).where(
        Upload.purged_at.is_(None), or_(Upload.status != UploadStatus.PENDING, out_of_time)
    )
    uploads = list(session.scalars(query.limit(limit).with_for_update(skip_locked=True)))
    for upload in uploads:
        upload.status = status_of(session, upload)
        upload.purged_at = at
    return uploads


def _is_completed_with(session: Session, upload: Upload, part_ids: Sequence[str]) -> bool:
    if upload.status != UploadStatus.COMPLETED:
        return False
    query = select(UploadPart.id).where(
        UploadPart.upload_id == upload.id, UploadPart.position.is_not(None)
    )
    return list(session.scalars(query.order_by(UploadPart.position))) == list(part_ids)


def _over(upload: Upload, status: UploadStatus) -> Conflict:
    return Conflict(
        f"upload {upload.id!r} {_WORDS[status]}; create another one",
        param="upload_id",
        code=f"upload_{status}",
    )
