"""`client.uploads`: a file in parts."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.work import ROWS, submit


def _create(client: Any, num_bytes: int) -> Any:
    return client.uploads.create(
        bytes=num_bytes, filename="rows.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )


def test_parts_become_a_file_in_the_order_that_is_named(client: Any) -> None:
    upload = _create(client, len(ROWS))
    assert upload.id.startswith("upload_")
    assert (upload.object, upload.status, upload.file) == ("upload", "pending", None)
    assert (upload.bytes, upload.filename, upload.purpose) == (len(ROWS), "rows.jsonl", "fine-tune")
    assert upload.expires_at > upload.created_at
    second = client.uploads.parts.create(upload.id, data=ROWS[100:])
    first = client.uploads.parts.create(upload.id, data=ROWS[:100])
    assert (first.object, first.upload_id) == ("upload.part", upload.id)
    done = client.uploads.complete(
        upload.id, part_ids=[first.id, second.id], md5=hashlib.md5(ROWS).hexdigest()
    )
    assert (done.status, done.file.status, done.file.num_rows) == ("completed", "processed", 12)
    assert client.files.content(done.file.id).read() == ROWS
    assert client.files.retrieve(done.file.id) == done.file
    assert submit(client, training_file=done.file.id).training_file == done.file.id


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the older client's
@pytest.mark.parametrize("source", ["path", "bytes"])
def test_a_file_is_uploaded_in_chunks(client: Any, tmp_path: Path, source: str) -> None:
    path = tmp_path / "tickets.jsonl"
    path.write_bytes(ROWS)
    given: dict[str, Any] = {"file": path}
    if source == "bytes":
        given = {"file": ROWS, "filename": path.name, "bytes": len(ROWS)}
    done = client.uploads.upload_file_chunked(
        **given, mime_type="text/jsonl", purpose="fine-tune", part_size=100
    )
    assert done.status == "completed"
    assert (done.file.filename, done.file.bytes) == ("tickets.jsonl", len(ROWS))
    assert client.files.content(done.file.id).read() == ROWS


def test_a_cancelled_upload_takes_nothing_more(openai: Any, client: Any) -> None:
    upload = _create(client, 5)
    part = client.uploads.parts.create(upload.id, data=b"12345")
    assert client.uploads.cancel(upload.id).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        client.uploads.complete(upload.id, part_ids=[part.id])
    with pytest.raises(openai.ConflictError):
        client.uploads.parts.create(upload.id, data=b"12345")


def test_a_wrong_checksum_is_refused(openai: Any, client: Any) -> None:
    upload = _create(client, 5)
    part = client.uploads.parts.create(upload.id, data=b"12345")
    with pytest.raises(openai.BadRequestError) as caught:
        client.uploads.complete(upload.id, part_ids=[part.id], md5="0" * 32)
    assert caught.value.param == "md5"


def test_a_wrong_size_is_refused(openai: Any, client: Any) -> None:
    upload = _create(client, 6)
    part = client.uploads.parts.create(upload.id, data=b"12345")
    with pytest.raises(openai.BadRequestError):
        client.uploads.complete(upload.id, part_ids=[part.id])
