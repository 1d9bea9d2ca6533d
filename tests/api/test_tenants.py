"""Projects know nothing of each other: every route, taken from the OpenAPI document itself."""

from typing import Any

import httpx
import pytest

from api.app import create_app
from jobs.models import new_id
from jobs.service.endings import Ending
from jobs.service.export_runs import Made
from jobs.states import RunOutcome
from tests.api.deployment import ADAPTER, Client, Deployment, ok, refused

_DOCUMENT = create_app().openapi()
_ROUTES = [
    (method.upper(), path) for path, methods in _DOCUMENT["paths"].items() for method in methods
]
_KEYED = [route for route in _ROUTES if route[1].startswith("/v1/")]
_EVENT = "fine_tuning.job.succeeded"
_WITH_ID = [route for route in _KEYED if "{" in route[1]]


def test_only_the_probes_need_no_key() -> None:
    assert {path for _, path in _ROUTES} - {path for _, path in _KEYED} == {"/healthz", "/readyz"}
    assert len(_WITH_ID) >= 15


@pytest.mark.parametrize(("method", "path"), _KEYED)
def test_without_a_key(deployment: Deployment, method: str, path: str) -> None:
    with httpx.Client(base_url=deployment.origin) as client:
        refused(client.request(method, path), 401)
        wrong = {"Authorization": "Bearer sk-tunesmith-wrong"}
        refused(client.request(method, path, headers=wrong, content=b"not json"), 401)


def _owned(deployment: Deployment, owner: Client) -> dict[str, str]:
    job = deployment.succeeded(owner)
    spare = ok(owner.http.post("/api_keys", json={"name": "spare", "role": "member"}))
    body = {"name": "g", "role": "admin", "project": new_id("guests-")}
    guest = ok(owner.http.post("/api_keys", json=body))["project_id"]
    checkpoint = f"{job['fine_tuned_model']}:ckpt-step-2"
    path = f"/fine_tuning/checkpoints/{checkpoint}/permissions"
    permitted = ok(owner.http.post(path, json={"project_ids": [guest]}))
    hook = {"name": "h", "url": "https://hooks.example.com/", "event_types": [_EVENT]}
    endpoint = ok(owner.http.post("/webhook_endpoints", json=hook))
    upload = {"filename": "a", "purpose": "batch", "bytes": 3, "mime_type": "text/plain"}
    return {
        "{upload_id}": ok(owner.http.post("/uploads", json=upload))["id"],
        "{checkpoint}": checkpoint,
        "{permission_id}": permitted["first_id"],
        "{webhook_endpoint_id}": endpoint["id"],
        "{guest}": guest,
        "{job_id}": job["id"],
        "{file_id}": job["training_file"],
        "{model}": job["fine_tuned_model"],
        "{key_id}": spare["id"],
        "{name}": next(iter(ADAPTER)),
        "{tracker}": "tensorboard",
        "{export_id}": _exported(deployment, owner, job["id"]),
        "{checkpoint_id}": ok(owner.http.get(f"/fine_tuning/jobs/{job['id']}/checkpoints"))[
            "first_id"
        ],
    }


def _exported(deployment: Deployment, owner: Client, job_id: str) -> str:
    path = f"/fine_tuning/jobs/{job_id}/exports"
    export = ok(owner.http.post(path, json={"kind": "merged"}))
    claimed = deployment.begin(owner)
    stored = deployment.put(f"exports/{export['id']}/attempt-1/m.zip", b"merged")
    made = Made(stored.key, "m.zip", stored.bytes, stored.sha256)
    deployment.finish(claimed, Ending(RunOutcome.SUCCEEDED, made=made))
    return str(export["id"])


@pytest.mark.parametrize(("method", "path"), _WITH_ID)
def test_ids_of_another_project_do_not_exist(
    deployment: Deployment, admin: Client, stranger: Client, method: str, path: str
) -> None:
    url = path
    owned = _owned(deployment, admin)
    for name, value in owned.items():
        url = url.replace(name, value)
    assert "{" not in url
    url = url.removeprefix("/v1")
    bodies = {
        "permissions": {"project_ids": [owned["{guest}"]]},
        "{webhook_endpoint_id}": {"name": "h"},
        "test": {"event_type": _EVENT},
        "complete": {"part_ids": ["part_none"]},
        "exports": {"kind": "gguf"},
    }
    body = bodies.get(path.rpartition("/")[2]) if method == "POST" else None
    foreign = refused(stranger.http.request(method, url, json=body), 404)
    missing = refused(stranger.http.request(method, _missing(path), json=body), 404)
    assert (foreign["code"], foreign["param"]) == (missing["code"], missing["param"])
    # The job has ended, the upload has no part, and nobody listens at the endpoint.
    ended = ("/pause", "/resume", "/stop", "/cancel", "/parts", "/complete", "/test")
    if not path.endswith(ended):
        assert admin.http.request(method, url, json=body).status_code == 200


def _missing(path: str) -> str:
    known = path.replace("{tracker}", "tensorboard")  # one of a few words, not an id
    return known.removeprefix("/v1").replace("{", "").replace("}", "")


def test_lists_hold_only_the_projects_own(
    deployment: Deployment, admin: Client, stranger: Client
) -> None:
    job = deployment.succeeded(admin)
    for path in ("/files", "/fine_tuning/jobs"):
        assert ok(stranger.http.get(path))["data"] == []
    assert [m["id"] for m in ok(stranger.http.get("/models"))["data"]] == ["tiny"]
    assert job["fine_tuned_model"] in {m["id"] for m in ok(admin.http.get("/models"))["data"]}
    assert len(ok(stranger.http.get("/api_keys"))["data"]) == 1


def test_foreign_ids_as_values(deployment: Deployment, admin: Client, stranger: Client) -> None:
    job = deployment.succeeded(admin)
    own = deployment.succeeded(stranger)
    path = f"/fine_tuning/jobs/{job['id']}"
    (checkpoint, *_) = ok(admin.http.get(f"{path}/checkpoints"))["data"]
    (event, *_) = ok(admin.http.get(f"{path}/events"))["data"]
    theirs = f"/fine_tuning/jobs/{own['id']}"
    for url, after in (
        ("/files", job["training_file"]),
        ("/fine_tuning/jobs", job["id"]),
        (f"{theirs}/events", event["id"]),
        (f"{theirs}/checkpoints", checkpoint["id"]),
    ):
        assert refused(stranger.http.get(url, params={"after": after}), 400)["param"] == "after"
    reply = stranger.http.get(f"{theirs}/adapter", params={"checkpoint": checkpoint["id"]})
    refused(reply, 404)
    for key in ("training_file", "validation_file"):
        body = {"model": "tiny", "training_file": own["training_file"]}
        body[key] = job["training_file"]
        error = refused(stranger.http.post("/fine_tuning/jobs", json=body), 400)
        assert (error["param"], error["code"]) == (key, "file_not_found")
    body = {"model": job["fine_tuned_model"], "training_file": own["training_file"]}
    error = refused(stranger.http.post("/fine_tuning/jobs", json=body), 400)
    assert error["code"] == "model_not_found"


_ADMINS_ONLY: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "/api_keys", None),
    ("POST", "/api_keys", {"name": "x", "role": "admin"}),
    ("DELETE", "/api_keys/key_none", None),
    ("POST", "/models", {"name": "mine", "source": "/models/mine"}),
    ("DELETE", "/models/tiny", None),
]


@pytest.mark.parametrize(("method", "path", "body"), _ADMINS_ONLY)
def test_members_are_no_admins(
    member: Client, method: str, path: str, body: dict[str, Any] | None
) -> None:
    refused(member.http.request(method, path, json=body), 403)


def test_members_work(deployment: Deployment, member: Client) -> None:
    assert deployment.succeeded(member)["status"] == "succeeded"


def test_a_key_is_shown_once_and_dies_at_once(deployment: Deployment, admin: Client) -> None:
    made = ok(admin.http.post("/api_keys", json={"name": "nightly"}))
    assert (made["role"], made["last4"]) == ("member", made["secret"][-4:])
    listed = ok(admin.http.get("/api_keys"))["data"]
    assert made["id"] in {key["id"] for key in listed}
    assert all("secret" not in key for key in listed)
    headers = {"Authorization": f"Bearer {made['secret']}"}
    url = f"{deployment.origin}/v1/files"
    assert httpx.get(url, headers=headers).status_code == 200
    ok(admin.http.delete(f"/api_keys/{made['id']}"))
    refused(httpx.get(url, headers=headers), 401)


def test_the_last_admin_key_stays(admin: Client) -> None:
    refused(admin.http.delete(f"/api_keys/{admin.identity.key_id}"), 409)
    assert admin.http.get("/api_keys").status_code == 200
