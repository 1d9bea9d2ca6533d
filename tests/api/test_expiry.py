"""Files that go by themselves: hidden the moment their time is over, kept for jobs that run."""

from typing import Any

import openai
import pytest
from openai import OpenAI

from jobs.models import File
from tests.api.deployment import ROWS, Client, Deployment, ok, refused

_EXPIRY: dict[str, Any] = {"anchor": "created_at", "seconds": 3600}


def test_both_ways_of_uploading_take_it(sdk: OpenAI) -> None:
    file = sdk.files.create(file=ROWS, purpose="fine-tune", expires_after=_EXPIRY)
    assert file.expires_at is not None
    assert file.expires_at - file.created_at == 3600
    assert sdk.files.retrieve(file.id).expires_at == file.expires_at
    upload = sdk.uploads.create(
        bytes=len(ROWS),
        filename="a.jsonl",
        mime_type="text/jsonl",
        purpose="fine-tune",
        expires_after=_EXPIRY,
    )
    part = sdk.uploads.parts.create(upload.id, data=ROWS)
    done = sdk.uploads.complete(upload.id, part_ids=[part.id]).file
    assert done is not None
    assert done.expires_at is not None
    assert done.expires_at - done.created_at == 3600
    assert sdk.files.create(file=ROWS, purpose="fine-tune").expires_at is None


def test_an_expired_file_is_hidden_at_once(
    deployment: Deployment, admin: Client, sdk: OpenAI
) -> None:
    file = sdk.files.create(file=ROWS, purpose="fine-tune", expires_after=_EXPIRY)
    kept = sdk.files.create(file=ROWS, purpose="fine-tune", expires_after=_EXPIRY)
    deployment.change(File, file.id, expires_at=2.0)
    assert [each.id for each in sdk.files.list()] == [kept.id]
    for path in ("", "/content", "/report"):
        refused(admin.http.get(f"/files/{file.id}{path}"), 404)
    refused(admin.http.delete(f"/files/{file.id}"), 404)
    with pytest.raises(openai.BadRequestError):
        sdk.fine_tuning.jobs.create(model="tiny", training_file=file.id)
    deployment.sweep()
    assert set(deployment.store.keys("files")) >= {f"files/{kept.id}"}
    assert f"files/{file.id}" not in set(deployment.store.keys("files"))
    after = ok(admin.http.get("/files", params={"after": file.id, "order": "asc"}))
    assert [each["id"] for each in after["data"]] == [kept.id]


def test_an_open_job_keeps_its_file(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    file_id, run = job["training_file"], deployment.begin(admin)
    deployment.change(File, file_id, expires_at=2.0)
    deployment.sweep()
    refused(admin.http.get(f"/files/{file_id}"), 404)
    assert f"files/{file_id}" in set(deployment.store.keys("files"))
    deployment.succeed(run)
    deployment.sweep()
    assert f"files/{file_id}" not in set(deployment.store.keys("files"))
