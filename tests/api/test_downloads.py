"""Downloads: whole, in ranges, under conditions, and provable by their hash."""

import hashlib
import io
import zipfile

import pytest

from jobs.models import Checkpoint
from tests.api.deployment import (
    ADAPTER,
    TENSORBOARD,
    Client,
    Deployment,
    adapter_archive,
    ok,
    refused,
)

_ARCHIVE = adapter_archive()
_SHA256 = hashlib.sha256(_ARCHIVE).hexdigest()
_ETAG = f'"{_SHA256}"'


@pytest.fixture
def adapter(deployment: Deployment, admin: Client) -> str:
    """The path of an adapter."""
    return f"/fine_tuning/jobs/{deployment.succeeded(admin)['id']}/adapter"


def test_whole(admin: Client, adapter: str) -> None:
    reply = admin.http.get(adapter)
    assert reply.content == _ARCHIVE
    assert reply.headers["etag"] == _ETAG
    assert reply.headers["x-checksum-sha256"] == _SHA256
    assert reply.headers["content-length"] == str(len(_ARCHIVE))
    assert reply.headers["content-type"] == "application/zip"
    assert reply.headers["accept-ranges"] == "bytes"
    assert reply.headers["content-disposition"].startswith("attachment; filename*=UTF-8''ftjob-")
    assert "no-store" not in reply.headers["cache-control"]
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == ADAPTER


def test_head_is_get_without_its_body(admin: Client, adapter: str) -> None:
    head, get = admin.http.head(adapter), admin.http.get(adapter)
    assert (head.status_code, head.content) == (200, b"")
    differing = {"x-request-id", "date"}
    assert {k: v for k, v in head.headers.items() if k not in differing} == {
        k: v for k, v in get.headers.items() if k not in differing
    }


_LENGTH = len(_ARCHIVE)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=100-", 100, _LENGTH),
        ("bytes=-7", _LENGTH - 7, _LENGTH),
        (f"bytes=-{_LENGTH * 2}", 0, _LENGTH),
        (f"bytes=5-{_LENGTH * 2}", 5, _LENGTH),
    ],
)
def test_ranges(admin: Client, adapter: str, asked: str, start: int, end: int) -> None:
    reply = admin.http.get(adapter, headers={"Range": asked})
    assert reply.status_code == 206
    assert reply.content == _ARCHIVE[start:end]
    assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/{_LENGTH}"
    assert reply.headers["x-checksum-sha256"] == _SHA256


@pytest.mark.parametrize("asked", [f"bytes={_LENGTH}-", "bytes=-0", f"bytes={10**17}-"])
def test_ranges_outside(admin: Client, adapter: str, asked: str) -> None:
    reply = admin.http.get(adapter, headers={"Range": asked})
    assert refused(reply, 416)["param"] == "range"
    assert reply.headers["content-range"] == f"bytes */{_LENGTH}"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "bytes=x"])
def test_what_is_no_range_is_the_whole(admin: Client, adapter: str, asked: str) -> None:
    reply = admin.http.get(adapter, headers={"Range": asked})
    assert (reply.status_code, reply.content) == (200, _ARCHIVE)


def test_a_resumed_download_is_whole_only_if_nothing_changed(admin: Client, adapter: str) -> None:
    same = admin.http.get(adapter, headers={"Range": "bytes=9-", "If-Range": _ETAG})
    assert (same.status_code, same.content) == (206, _ARCHIVE[9:])
    other = admin.http.get(adapter, headers={"Range": "bytes=9-", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, _ARCHIVE)


@pytest.mark.parametrize("tags", [_ETAG, f'W/{_ETAG}, "x"'])
def test_what_the_client_has_is_not_sent_again(admin: Client, adapter: str, tags: str) -> None:
    reply = admin.http.get(adapter, headers={"If-None-Match": tags})
    assert (reply.status_code, reply.content) == (304, b"")
    assert reply.headers["etag"] == _ETAG


def test_files_of_the_adapter(admin: Client, adapter: str) -> None:
    for entry in ok(admin.http.get(f"{adapter}/files"))["data"]:
        reply = admin.http.get(f"{adapter}/files/{entry['name']}")
        assert hashlib.sha256(reply.content).hexdigest() == entry["sha256"]
        assert reply.headers["x-checksum-sha256"] == entry["sha256"]
    for name in ("none.json", "../adapter.zip", "..%2fadapter.zip", ""):
        assert admin.http.get(f"{adapter}/files/{name}").status_code in {400, 404}


def test_no_adapter_before_its_time(admin: Client) -> None:
    job = admin.submit()
    path = f"/fine_tuning/jobs/{job['id']}/adapter"
    error = refused(admin.http.get(path), 404)
    assert error["code"] == "artifact_not_found"
    assert "queued" in error["message"]
    assert ok(admin.http.get(f"{path}/files"))["data"] == []


def test_an_adapter_out_of_a_checkpoint(
    deployment: Deployment, admin: Client, adapter: str
) -> None:
    checkpoints = ok(admin.http.get(adapter.replace("/adapter", "/checkpoints")))["data"]
    params = {"checkpoint": checkpoints[-1]["id"]}
    first, again = (admin.http.get(adapter, params=params) for _ in range(2))
    assert first.content == again.content
    assert first.headers["x-checksum-sha256"] == hashlib.sha256(first.content).hexdigest()
    assert "step-1.zip" in first.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(first.content)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == ADAPTER
    part = admin.http.get(adapter, params=params, headers={"Range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, first.content[4:10])
    refused(admin.http.get(adapter, params={"checkpoint": "ftckpt_none"}), 404)
    deployment.change(Checkpoint, checkpoints[-1]["id"], deleted_at=1.0)
    refused(admin.http.get(adapter, params=params), 404)


def test_names_that_need_quoting(admin: Client) -> None:
    file = admin.upload(name="d\u00e4 'n'; a.jsonl")
    reply = admin.http.get(f"/files/{file['id']}/content")
    disposition = "attachment; filename*=UTF-8''d%C3%A4%20%27n%27%3B%20a.jsonl"
    assert reply.headers["content-disposition"] == disposition
    assert file["filename"] == "d\u00e4 'n'; a.jsonl"


def test_what_was_written_for_trackers(deployment: Deployment, admin: Client) -> None:
    job = f"/fine_tuning/jobs/{deployment.succeeded(admin)['id']}"
    reply = admin.http.get(f"{job}/trackers/tensorboard")
    assert reply.content == TENSORBOARD
    assert reply.headers["content-disposition"].endswith("tensorboard.zip")
    error = refused(admin.http.get(f"{job}/trackers/wandb"), 404)
    assert (error["code"], error["param"]) == ("artifact_not_found", "tracker")
    assert "`integrations` does not name" in error["message"]
    assert refused(admin.http.get(f"{job}/trackers/adapter"), 400)["param"] == "tracker"


def test_why_there_is_nothing_of_a_tracker(deployment: Deployment, admin: Client) -> None:
    wandb = {"type": "wandb", "wandb": {"project": "p"}}
    ended = deployment.succeeded(admin, integrations=[wandb])["id"]
    waiting = admin.submit(integrations=[wandb])["id"]
    silent = admin.submit(training={"report_to": []})["id"]
    for job, tracker, words in (
        (silent, "tensorboard", "`training.reporting.report_to` does not name"),
        (ended, "wandb", "has left no files for wandb: its events say where"),
        (waiting, "wandb", "when the job has succeeded; it is queued"),
        (waiting, "tensorboard", "when the job has succeeded; it is queued"),
        (waiting, "mlflow", "`integrations` does not name"),
    ):
        reply = admin.http.get(f"/fine_tuning/jobs/{job}/trackers/{tracker}")
        assert words in refused(reply, 404)["message"]
