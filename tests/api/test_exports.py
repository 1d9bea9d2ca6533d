"""Exports over HTTP: asked for, looked at, downloaded whole and in ranges, cancelled, deleted."""

import hashlib
from typing import Any

import pytest

from jobs.models import Worker
from jobs.service import claims
from jobs.service.claims import Claim
from jobs.service.endings import Ending
from jobs.service.export_runs import Made
from jobs.service.exports import HUB
from jobs.states import RunOutcome
from tests.api.deployment import Client, Deployment, ok, refused
from tests.jobs.exporting import PUSHED
from tests.jobs.world import FAILURE, offer
from training.events import Progress

FILE = bytes(range(256)) * 8
SHA256 = hashlib.sha256(FILE).hexdigest()


@pytest.fixture
def path(deployment: Deployment, admin: Client) -> str:
    """Of the exports of a job that has succeeded."""
    return f"/fine_tuning/jobs/{deployment.succeeded(admin)['id']}/exports"


def ask(client: Client, path: str, kind: str = "merged", **body: Any) -> dict[str, Any]:
    return ok(client.http.post(path, json={"kind": kind, **body}))


def finish(deployment: Deployment, claimed: Claim, filename: str = "x-merged.zip") -> None:
    key = f"exports/{claimed.export_id}/attempt-{claimed.attempt}/{filename}"
    stored = deployment.put(key, FILE)
    made = Made(stored.key, filename, stored.bytes, stored.sha256)
    deployment.finish(claimed, Ending(RunOutcome.SUCCEEDED, made=made))


def test_from_the_request_to_the_file(deployment: Deployment, admin: Client, path: str) -> None:
    export = ask(admin, path, dtype="float16")
    url = f"{path}/{export['id']}"
    job_id = path.split("/")[3]
    assert export["object"] == "fine_tuning.job.export"
    assert export["fine_tuning_job_id"] == job_id
    assert export["options"] == {"dtype": "float16", "max_shard_size": "5GB"}
    shown = ("status", "kind", "checkpoint", "step_number", "url", "hub", "error", "finished_at")
    assert [export[key] for key in shown] == ["queued", "merged", *[None] * 6]
    error = refused(admin.http.get(f"{url}/content"), 404)
    assert error["code"] == "artifact_not_found"

    claimed = deployment.begin(admin)
    deployment.say(claimed, Progress(phase="merging"))
    deployment.log(claimed, "a line\n")
    running = ok(admin.http.get(url))
    assert (running["status"], running["phase"], running["attempt"]) == ("running", "merging", 1)
    finish(deployment, claimed)
    done = ok(admin.http.get(url))
    assert (done["status"], done["phase"]) == ("succeeded", None)
    assert (done["bytes"], done["sha256"]) == (len(FILE), SHA256)
    assert done["url"] == f"/v1{url}/content"
    assert ok(admin.http.get(path))["data"] == [done]
    (said,) = ok(admin.http.get(f"{url}/events"))["data"]
    assert (said["type"], said["message"]) == ("log", "a line\n")
    assert ask(admin, path, dtype="float16") == done


def test_the_file_is_sent_whole_in_ranges_and_under_conditions(
    deployment: Deployment, admin: Client, path: str
) -> None:
    export = ask(admin, path, "gguf", outtype="q8_0")
    finish(deployment, deployment.begin(admin), "x-q8_0.gguf")
    url = f"{path}/{export['id']}/content"
    whole = admin.http.get(url)
    assert whole.content == FILE
    assert whole.headers["etag"] == f'"{SHA256}"'
    assert whole.headers["x-checksum-sha256"] == SHA256
    assert whole.headers["content-disposition"].endswith("x-q8_0.gguf")
    assert whole.headers["content-type"] == "application/octet-stream"
    head = admin.http.head(url)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(FILE)))
    part = admin.http.get(url, headers={"Range": "bytes=100-", "If-Range": f'"{SHA256}"'})
    assert (part.status_code, part.content) == (206, FILE[100:])
    assert admin.http.get(url, headers={"If-None-Match": f'"{SHA256}"'}).status_code == 304
    refused(admin.http.get(url, headers={"Range": "bytes=99999-"}), 416)


def test_a_checkpoint_of_a_running_job(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    training = deployment.begin(admin)
    deployment.checkpoint(training, 4)
    path = f"/fine_tuning/jobs/{job['id']}"
    error = refused(admin.http.post(f"{path}/exports", json={"kind": "merged"}), 409)
    assert (error["code"], error["param"]) == ("no_result", "checkpoint")
    (checkpoint,) = ok(admin.http.get(f"{path}/checkpoints"))["data"]
    export = ask(admin, f"{path}/exports", checkpoint=checkpoint["id"])
    assert (export["checkpoint"], export["step_number"]) == (checkpoint["id"], 4)
    body = {"kind": "merged", "checkpoint": "ftckpt_none"}
    assert refused(admin.http.post(f"{path}/exports", json=body), 404)["param"] == "checkpoint"


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({}, "kind", "kind is required"),
        ({"kind": "onnx"}, "kind", "'adapter', 'merged', 'gguf' or 'hub'"),
        ({"kind": "gguf", "outtype": "q4_0"}, "outtype", "'q8_0', but is"),
        ({"kind": "gguf", "dtype": "float16"}, "dtype", 'dtype: is no option of "gguf"'),
        ({"kind": "adapter", "dtype": "float16"}, "dtype", 'is no option of "adapter"'),
        ({"kind": "merged", "max_shard_size": "5"}, "max_shard_size", "5"),
        ({"kind": "hub"}, "repo_id", 'give it, e.g. "acme/tickets"'),
        ({"kind": "hub", "repo_id": "../x"}, "repo_id", "../x"),
        ({"kind": "hub", "repo_id": "https://evil/x"}, "repo_id", "evil"),
        ({"kind": "merged", "token": "hf_x"}, "token", "unknown key; the accepted keys here are"),
    ],
)
def test_what_is_refused(
    admin: Client, path: str, body: dict[str, Any], param: str | None, said: str
) -> None:
    error = refused(admin.http.post(path, json=body), 400)
    assert error["param"] == param
    assert said in error["message"]
    assert ok(admin.http.get(path))["data"] == []


def test_a_failed_export_says_why(deployment: Deployment, admin: Client, path: str) -> None:
    export = ask(admin, path)
    claimed = deployment.begin(admin)
    deployment.finish(claimed, Ending(RunOutcome.FAILED, FAILURE))
    failed = ok(admin.http.get(f"{path}/{export['id']}"))
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "bad"
    assert failed["error"]["remedy"] == "mend it"
    assert ask(admin, path)["id"] != export["id"]


def test_cancel_and_delete(deployment: Deployment, admin: Client, path: str) -> None:
    export = ask(admin, path)
    url = f"{path}/{export['id']}"
    error = refused(admin.http.delete(url), 409)
    assert error["code"] == "export_not_finished"
    for _ in range(2):
        assert ok(admin.http.post(f"{url}/cancel"))["status"] == "cancelled"
    deleted = {"id": export["id"], "object": "fine_tuning.job.export.deleted", "deleted": True}
    assert ok(admin.http.delete(url)) == deleted
    for method in ("GET", "DELETE"):
        assert refused(admin.http.request(method, url), 404)["code"] == "export_not_found"
    assert ok(admin.http.get(path))["data"] == []
    done = ask(admin, path)
    finish(deployment, deployment.begin(admin))
    reply = admin.http.post(f"{path}/{done['id']}/cancel")
    assert refused(reply, 409)["code"] == "export_finished"
    assert reply.headers["x-should-retry"] == "false"


def test_a_push(deployment: Deployment, admin: Client, member: Client, path: str) -> None:
    body = {"kind": "hub", "repo_id": "acme/x"}
    refused(member.http.post(path, json=body), 403)
    with deployment.db.writing() as session:
        claims.register(session, offer("pusher", pool=admin.pool, provides=HUB))
    export = ask(admin, path, **body)
    assert export["options"] == {
        "content": "adapter", "repo_id": "acme/x", "private": True, "revision": "main",
    }  # fmt: skip
    claimed = deployment.claim(offer("pusher", pool=admin.pool, provides=HUB))
    assert claimed is not None
    deployment.finish(claimed, Ending(RunOutcome.SUCCEEDED, made=Made(pushed=PUSHED)))
    done = ok(admin.http.get(f"{path}/{export['id']}"))
    assert (done["status"], done["url"], done["hub"]) == ("succeeded", None, PUSHED.model_dump())
    error = refused(admin.http.get(f"{path}/{export['id']}/content"), 404)
    assert PUSHED.url in error["message"]
    deployment.change(Worker, "pusher", provides="")
    refused(admin.http.post(path, json={**body, "revision": "next"}), 409)


def test_a_checkpoints_own_adapter(deployment: Deployment, admin: Client) -> None:
    path = f"/fine_tuning/jobs/{deployment.succeeded(admin)['id']}"
    (newest, _) = ok(admin.http.get(f"{path}/checkpoints"))["data"]
    url = f"{path}/checkpoints/{newest['id']}/adapter"
    asked_before = admin.http.get(f"{path}/adapter", params={"checkpoint": newest["id"]})
    assert admin.http.get(url).content == asked_before.content
    assert admin.http.head(url).headers["etag"] == asked_before.headers["etag"]
    refused(admin.http.get(f"{path}/checkpoints/ftckpt_none/adapter"), 404)
