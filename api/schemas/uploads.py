"""Uploads and their parts in OpenAI's shape."""

from typing import Literal

from api.schemas.common import Identified, seconds
from api.schemas.files import FileReply
from jobs.models import File, Upload, UploadPart
from jobs.states import UploadStatus


class UploadReply(Identified):
    """`file` is there once the upload is completed."""

    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: UploadStatus
    file: FileReply | None

    @classmethod
    def of(cls, upload: Upload, status: UploadStatus, file: File | None = None) -> "UploadReply":
        return cls(
            id=upload.id,
            bytes=upload.bytes,
            created_at=seconds(upload.created_at),
            expires_at=seconds(upload.expires_at),
            filename=upload.filename,
            purpose=upload.purpose,
            status=status,
            file=None if file is None else FileReply.of(file),
        )


class PartReply(Identified):
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str

    @classmethod
    def of(cls, part: UploadPart) -> "PartReply":
        return cls(id=part.id, created_at=seconds(part.created_at), upload_id=part.upload_id)
