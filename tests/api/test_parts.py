"""Uploads in parts, as the OpenAI client sends them: one file in the end, or nothing that stays."""

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from jobs.artifacts.local import LocalStore
from jobs.models import File, Upload
from jobs.service import uploads
from tests.api.deployment import ROWS, Client, Deployment, ok, refused

_NUM_ROWS = 120
_CONTENT = ROWS * (_NUM_ROWS // 3)


def _begin(sdk: OpenAI, num_bytes: int, **changes: Any) -> str:
    wanted: dict[str, Any] = {
        "bytes": num_bytes,
        "filename": "rows.jsonl",
        "mime_type": "text/jsonl",
        "purpose": "fine-tune",
    }
    return sdk.uploads.create(**(wanted | changes)).id


def _parts(sdk: OpenAI, upload_id: str, *pieces: bytes) -> list[str]:
    return [sdk.uploads.parts.create(upload_id, data=piece).id for piece in pieces]


def _stored_parts(deployment: Deployment, upload_id: str) -> int:
    return len(list(deployment.store.keys(uploads.prefix(upload_id))))


def _nothing_is_orphaned(deployment: Deployment) -> None:
    known = {file.artifact_key for file in deployment.all(File)}
    assert set(deployment.store.keys("files")) <= known


def test_a_file_in_chunks(sdk: OpenAI, admin: Client, tmp_path: Path) -> None:
    path = tmp_path / "tickets.jsonl"
    path.write_bytes(_CONTENT)
    done = sdk.uploads.upload_file_chunked(
        file=path, mime_type="text/jsonl", purpose="fine-tune", part_size=1000
    )
    assert (done.status, done.bytes, done.object) == ("completed", len(_CONTENT), "upload")
    assert done.expires_at - done.created_at == 3600
    assert done.file is not None
    assert (done.file.filename, done.file.purpose) == ("tickets.jsonl", "fine-tune")
    assert (done.file.status, done.file.bytes) == ("processed", len(_CONTENT))
    assert sdk.files.content(done.file.id).content == _CONTENT
    kept = ok(admin.http.get(f"/files/{done.file.id}"))
    assert kept["num_rows"] == _NUM_ROWS
    assert kept["sha256"] == hashlib.sha256(_CONTENT).hexdigest()
    job = sdk.fine_tuning.jobs.create(model="tiny", training_file=done.file.id)
    assert job.training_file == done.file.id


def test_bytes_in_chunks_by_the_asynchronous_client(deployment: Deployment, admin: Client) -> None:
    async def send() -> str:
        async with AsyncOpenAI(
            base_url=f"{deployment.origin}/v1", api_key=admin.secret, max_retries=0
        ) as client:
            done = await client.uploads.upload_file_chunked(
                file=_CONTENT,
                filename="tickets.jsonl",
                bytes=len(_CONTENT),
                mime_type="text/jsonl",
                purpose="fine-tune",
                part_size=3000,
                md5=hashlib.md5(_CONTENT).hexdigest(),
            )
        assert done.file is not None
        return done.file.id

    file_id = asyncio.run(send())
    assert admin.http.get(f"/files/{file_id}/content").content == _CONTENT


def test_parts_side_by_side_in_the_order_that_is_told(sdk: OpenAI) -> None:
    pieces = [bytes([65 + n]) * (n + 1) for n in range(8)]
    upload_id = _begin(sdk, sum(map(len, pieces)), purpose="user_data")
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda piece: _parts(sdk, upload_id, piece)[0], pieces))
    done = sdk.uploads.complete(upload_id, part_ids=ids[::-1])
    assert done.file is not None
    assert sdk.files.content(done.file.id).content == b"".join(pieces[::-1])


def test_a_part_that_came_twice_is_used_once(sdk: OpenAI) -> None:
    upload_id = _begin(sdk, len(ROWS))
    first, _, last = _parts(sdk, upload_id, ROWS[:10], ROWS[:10], ROWS[10:])
    done = sdk.uploads.complete(upload_id, part_ids=[first, last])
    assert done.file is not None
    assert sdk.files.content(done.file.id).content == ROWS


def test_rows_in_error_are_told_of_the_file(sdk: OpenAI) -> None:
    content = ROWS + b"not json\n"
    upload_id = _begin(sdk, len(content))
    done = sdk.uploads.complete(upload_id, part_ids=_parts(sdk, upload_id, content))
    assert done.file is not None
    assert done.file.status == "error"
    assert "line 4" in (done.file.status_details or "")


def test_the_checksum_is_held(deployment: Deployment, sdk: OpenAI) -> None:
    upload_id = _begin(sdk, len(ROWS))
    ids = _parts(sdk, upload_id, ROWS)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.uploads.complete(upload_id, part_ids=ids, md5="0" * 32)
    assert (caught.value.param, caught.value.code) == ("md5", "md5_mismatch")
    _nothing_is_orphaned(deployment)
    md5 = hashlib.md5(ROWS).hexdigest().upper()
    assert sdk.uploads.complete(upload_id, part_ids=ids, md5=md5).status == "completed"


def test_completed_again_and_at_once(deployment: Deployment, sdk: OpenAI) -> None:
    upload_id = _begin(sdk, len(ROWS))
    ids = _parts(sdk, upload_id, ROWS[:50], ROWS[50:])
    start = threading.Barrier(6)

    def complete(_: int) -> str:
        start.wait()
        done = sdk.uploads.complete(upload_id, part_ids=ids)
        assert done.file is not None
        return done.file.id

    with ThreadPoolExecutor(6) as pool:
        files = set(pool.map(complete, range(6)))
    assert len(files) == 1
    assert [file.id for file in sdk.files.list()] == list(files)
    _nothing_is_orphaned(deployment)
    deployment.sweep()
    assert _stored_parts(deployment, upload_id) == 0
    again = sdk.uploads.complete(upload_id, part_ids=ids)
    assert again.file is not None
    assert {again.file.id} == files
    with pytest.raises(openai.ConflictError) as caught:
        sdk.uploads.complete(upload_id, part_ids=ids[::-1])
    assert caught.value.code == "upload_completed"
    sdk.files.delete(again.file.id)
    assert sdk.uploads.complete(upload_id, part_ids=ids).file is None


def test_parts_that_do_not_make_the_file(deployment: Deployment, sdk: OpenAI) -> None:
    upload_id, other = _begin(sdk, len(ROWS)), _begin(sdk, len(ROWS))
    first, last = _parts(sdk, upload_id, ROWS[:50], ROWS[50:])
    (foreign,) = _parts(sdk, other, ROWS)
    for ids, param, code in (
        ([first, "part_none"], "part_ids.1", "invalid_part"),
        ([foreign], "part_ids.0", "invalid_part"),
        ([first, first], "part_ids.1", "invalid_part"),
        ([first], "part_ids", "size_mismatch"),
        ([], "part_ids", "invalid_value"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.uploads.complete(upload_id, part_ids=ids)
        assert (caught.value.param, caught.value.code) == (param, code)
    _nothing_is_orphaned(deployment)
    assert sdk.uploads.complete(upload_id, part_ids=[first, last]).status == "completed"


def test_what_is_no_text_is_no_training_file(deployment: Deployment, sdk: OpenAI) -> None:
    content = b"PK\x03\x04" + bytes(300)
    upload_id = _begin(sdk, len(content))
    ids = _parts(sdk, upload_id, content)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.uploads.complete(upload_id, part_ids=ids)
    assert caught.value.code == "invalid_file"
    _nothing_is_orphaned(deployment)


def test_a_cancelled_upload(deployment: Deployment, admin: Client, sdk: OpenAI) -> None:
    upload_id = _begin(sdk, len(ROWS))
    ids = _parts(sdk, upload_id, ROWS)
    assert sdk.uploads.cancel(upload_id).status == "cancelled"
    assert sdk.uploads.cancel(upload_id).status == "cancelled"
    part = admin.http.post(f"/uploads/{upload_id}/parts", files={"data": ROWS})
    whole = admin.http.post(f"/uploads/{upload_id}/complete", json={"part_ids": ids})
    for reply in (part, whole):
        assert refused(reply, 409)["code"] == "upload_cancelled"
        assert reply.headers["x-should-retry"] == "false"
    deployment.sweep()
    assert _stored_parts(deployment, upload_id) == 0


def test_a_completed_upload_is_not_cancelled(sdk: OpenAI) -> None:
    upload_id = _begin(sdk, len(ROWS))
    sdk.uploads.complete(upload_id, part_ids=_parts(sdk, upload_id, ROWS))
    with pytest.raises(openai.ConflictError):
        sdk.uploads.cancel(upload_id)


def test_an_upload_expires(deployment: Deployment, sdk: OpenAI) -> None:
    upload_id = _begin(sdk, len(ROWS))
    ids = _parts(sdk, upload_id, ROWS)
    deployment.sweep()
    assert _stored_parts(deployment, upload_id) == 1
    deployment.change(Upload, upload_id, expires_at=1.0)
    for step in (
        lambda: sdk.uploads.complete(upload_id, part_ids=ids),
        lambda: sdk.uploads.parts.create(upload_id, data=ROWS),
        lambda: sdk.uploads.cancel(upload_id),
    ):
        with pytest.raises(openai.ConflictError) as caught:
            step()
        assert caught.value.code == "upload_expired"
    deployment.sweep()
    assert _stored_parts(deployment, upload_id) == 0
    (upload,) = (each for each in deployment.all(Upload) if each.id == upload_id)
    assert upload.status == "expired"


def test_an_upload_that_ends_while_it_is_joined(
    deployment: Deployment, sdk: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload_id = _begin(sdk, len(ROWS))
    ids = _parts(sdk, upload_id, ROWS)
    open_part = LocalStore.open

    def end_first(store: LocalStore, key: str) -> BinaryIO:
        sdk.uploads.cancel(upload_id)
        deployment.sweep()
        return open_part(store, key)

    monkeypatch.setattr(LocalStore, "open", end_first)
    with pytest.raises(openai.ConflictError) as caught:
        sdk.uploads.complete(upload_id, part_ids=ids)
    assert caught.value.code == "upload_cancelled"
    _nothing_is_orphaned(deployment)


def test_limits(deployment: Deployment, admin: Client, sdk: OpenAI) -> None:
    settings = deployment.settings
    body = {"filename": "a", "mime_type": "text/plain", "purpose": "user_data"}
    over = admin.http.post("/uploads", json=body | {"bytes": settings.max_upload_bytes + 1})
    assert refused(over, 413)["param"] == "bytes"
    upload_id = _begin(sdk, 10)
    for size in (settings.max_part_bytes + 1, settings.max_part_bytes + (1 << 17)):
        part = admin.http.post(f"/uploads/{upload_id}/parts", files={"data": bytes(size)})
        assert refused(part, 413)["param"] == "data"
    _parts(sdk, upload_id, *([bytes(10)] * 3))
    refused(admin.http.post(f"/uploads/{upload_id}/parts", files={"data": b"x"}), 413)
    assert _stored_parts(deployment, upload_id) == 3


_BODIES: list[tuple[dict[str, Any], str]] = [
    ({"bytes": 0}, "bytes"),
    ({"bytes": "10"}, "bytes"),
    ({"filename": ""}, "filename"),
    ({"purpose": "fine-tune-results"}, "purpose"),
    ({"mime_type": ""}, "mime_type"),
    ({"expires_after": {"anchor": "created_at", "seconds": 60}}, "expires_after.seconds"),
    ({"expires_after": {"anchor": "last_used", "seconds": 3600}}, "expires_after.anchor"),
    ({"parts": 3}, "parts"),
]


@pytest.mark.parametrize(("changes", "param"), _BODIES)
def test_bodies_that_are_refused(admin: Client, changes: dict[str, Any], param: str) -> None:
    body = {"bytes": 9, "filename": "a", "mime_type": "text/plain", "purpose": "batch"}
    assert refused(admin.http.post("/uploads", json=body | changes), 400)["param"] == param


def test_forms_that_are_no_part(deployment: Deployment, admin: Client, sdk: OpenAI) -> None:
    upload_id = _begin(sdk, 10)
    path = f"/uploads/{upload_id}/parts"
    for form, param in (
        ({"file": ("a", b"x")}, "file"),
        ({"data": (None, b"x")}, "data"),
        ({"data": ("a", b"x"), "purpose": (None, b"fine-tune")}, "purpose"),
    ):
        assert refused(admin.http.post(path, files=form), 400)["param"] == param
    assert refused(admin.http.post(path, content=b"x"), 415)
    empty = {"content-type": "multipart/form-data; boundary=b"}
    reply = admin.http.post(path, content=b"--b--\r\n", headers=empty)
    assert refused(reply, 400)["param"] in {"data", None}
    assert _stored_parts(deployment, upload_id) == 0


def test_another_projects_upload_does_not_exist(sdk: OpenAI, stranger: Client) -> None:
    upload_id = _begin(sdk, len(ROWS))
    ids = _parts(sdk, upload_id, ROWS)
    for reply in (
        stranger.http.post(f"/uploads/{upload_id}/parts", files={"data": ROWS}),
        stranger.http.post(f"/uploads/{upload_id}/complete", json={"part_ids": ids}),
        stranger.http.post(f"/uploads/{upload_id}/cancel"),
    ):
        assert refused(reply, 404)["code"] == "upload_not_found"
