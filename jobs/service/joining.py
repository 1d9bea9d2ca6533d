"""The parts of an upload become one file: written, hashed and checked in one pass."""

import hashlib

from jobs.artifacts.base import ArtifactStore
from jobs.errors import InvalidRequest
from jobs.models import new_id
from jobs.service.files import CHECKED_PURPOSE, StoredFile, artifact_key
from jobs.service.uploads import Parts
from jobs.settings import Settings
from training.binary_probe import HEAD_BYTES
from training.containers import container_of
from training.file_check import FileChecker, NotText, OverLimit

_BLOCK_BYTES = 1 << 20


def join(store: ArtifactStore, parts: Parts, md5: str | None, settings: Settings) -> StoredFile:
    """Store the file that the parts make; memory stays flat.

    Raises:
        InvalidRequest: It is not what `md5` says, or no text where that is wanted.
        FileNotFoundError: A part is gone: the upload is over.
    """
    upload = parts.upload
    checker = FileChecker(
        max_line_bytes=settings.max_line_bytes, max_errors=settings.max_row_errors
    )
    container = (
        container_of(upload.filename, _head(store, parts))
        if upload.purpose == CHECKED_PURPOSE
        else None
    )
    is_checked = container == "jsonl"
    digest = hashlib.md5(usedforsecurity=False)
    file_id = new_id("file-")
    with store.create(artifact_key(file_id)) as writer:
        try:
            for key in parts.keys:
                with store.open(key) as part:
                    while block := part.read(_BLOCK_BYTES):
                        writer.write(block)
                        digest.update(block)
                        if is_checked:
                            checker.feed(block)
            report = checker.finish() if is_checked else None
        except (NotText, OverLimit) as refusal:
            raise InvalidRequest(
                f"part_ids: {refusal}", param="part_ids", code="invalid_file"
            ) from refusal
        _require_md5(md5, digest.hexdigest())
        stored = writer.commit()
    return StoredFile(
        id=file_id,
        filename=upload.filename,
        purpose=upload.purpose,
        bytes=stored.bytes,
        sha256=stored.sha256,
        artifact_key=stored.key,
        report=report,
        container=container,
        expires_after_seconds=upload.file_expires_seconds,
    )


def _head(store: ArtifactStore, parts: Parts) -> bytes:
    """The first bytes of the whole, of as many parts as they take."""
    head = b""
    for key in parts.keys:
        if len(head) < HEAD_BYTES:
            with store.open(key) as part:
                head += part.read(HEAD_BYTES - len(head))
    return head


def _require_md5(expected: str | None, found: str) -> None:
    if expected is not None and expected.lower() != found:
        raise InvalidRequest(
            f"md5: the parts in this order have {found}, not {expected}",
            param="md5",
            code="md5_mismatch",
        )
