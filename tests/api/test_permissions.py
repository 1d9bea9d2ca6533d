"""A tuned model or a checkpoint is shared with another project of the organisation, by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.api.deployment import Client, Deployment, ok, refused


@dataclass
class Shared:
    """A tuned model, its checkpoint at step 2, and an admin of a second project."""

    job: dict[str, Any]
    tuned: str
    checkpoint: str
    guest: Client


@pytest.fixture
def shared(deployment: Deployment, admin: Client) -> Iterator[Shared]:
    job = deployment.succeeded(admin)
    key = ok(admin.http.post("/api_keys", json={"name": "g", "role": "admin", "project": "guests"}))
    guest = deployment.client(key["project_id"], f"{admin.pool}-guests")
    tuned = job["fine_tuned_model"]
    with guest.http:
        yield Shared(job, tuned, f"{tuned}:ckpt-step-2", guest)


def url(name: str, permission: str = "") -> str:
    path = f"/fine_tuning/checkpoints/{name}/permissions"
    return f"{path}/{permission}" if permission else path


def permit(client: Client, name: str, *projects: str) -> dict[str, Any]:
    return ok(client.http.post(url(name), json={"project_ids": projects}))


def names(client: Client) -> set[str]:
    return {model["id"] for model in ok(client.http.get("/models"))["data"]}


def test_a_permission_lets_another_project_use_a_model(
    deployment: Deployment, admin: Client, shared: Shared
) -> None:
    guest, file_id = shared.guest, shared.guest.upload()["id"]
    for name in (shared.tuned, shared.checkpoint):
        refused(guest.http.get(f"/models/{name}"), 404)
        body = {"model": name, "training_file": file_id}
        refused(guest.http.post("/fine_tuning/jobs", json=body), 400)
        made = permit(admin, name, guest.identity.project_id)
        (permission,) = made["data"]
        assert permission["id"].startswith("cp_")
        assert permission["object"] == "checkpoint.permission"
        assert permission["project_id"] == guest.identity.project_id
        assert (made["object"], made["has_more"]) == ("list", False)

        model = ok(guest.http.get(f"/models/{name}"))
        assert (model["id"], model["status"], model["job"]) == (name, "ready", None)
        assert model["owned_by"] == ok(admin.http.get(f"/models/{name}"))["owned_by"]
        assert name in names(guest)
        assert guest.submit(model=name)["model"] == name
        refused(guest.http.get(f"/fine_tuning/jobs/{shared.job['id']}"), 404)
        assert refused(guest.http.delete(f"/models/{name}"), 403)["code"] == "not_the_owner"
        refused(guest.http.get(url(name)), 404)

        ok(admin.http.delete(url(name, permission["id"])))
        refused(guest.http.get(f"/models/{name}"), 404)
        assert name not in names(guest)
        refused(guest.http.post("/fine_tuning/jobs", json=body), 400)


def test_only_the_named_thing_is_shared(admin: Client, shared: Shared) -> None:
    permit(admin, shared.checkpoint, shared.guest.identity.project_id)
    assert shared.tuned not in names(shared.guest)
    refused(shared.guest.http.get(f"/models/{shared.tuned}"), 404)
    refused(shared.guest.http.get(f"/models/{shared.tuned}:ckpt-step-1"), 404)
    assert ok(shared.guest.http.get(f"/models/{shared.checkpoint}"))["kind"] == "checkpoint"


def test_pages_of_permissions(deployment: Deployment, admin: Client, shared: Shared) -> None:
    projects = [shared.guest.identity.project_id]
    for number in range(3):
        body = {"name": "x", "role": "admin", "project": f"more-{number}"}
        projects.append(ok(admin.http.post("/api_keys", json=body))["project_id"])
    for project in projects:
        permit(admin, shared.checkpoint, project)
    again = permit(admin, shared.checkpoint, *projects, projects[0])
    assert [p["project_id"] for p in again["data"]] == projects

    def page(**query: Any) -> dict[str, Any]:
        return ok(admin.http.get(url(shared.checkpoint), params=query))

    everything = page()
    assert [p["project_id"] for p in everything["data"]] == projects[::-1]
    assert {p["id"] for p in everything["data"]} == {p["id"] for p in again["data"]}
    ids = [p["id"] for p in everything["data"]]
    assert (everything["first_id"], everything["last_id"]) == (ids[0], ids[-1])
    first = page(limit=3)
    assert ([p["id"] for p in first["data"]], first["has_more"]) == (ids[:3], True)
    rest = page(limit=3, after=ids[2])
    assert ([p["id"] for p in rest["data"]], rest["has_more"]) == (ids[3:], False)
    assert [p["id"] for p in page(order="ascending")["data"]] == ids[::-1]
    only = page(project_id=projects[1])["data"]
    assert [p["project_id"] for p in only] == [projects[1]]
    other = permit(admin, shared.tuned, projects[0])["data"][0]["id"]
    assert refused(admin.http.get(url(shared.checkpoint), params={"after": other}), 400)["param"]
    refused(admin.http.delete(url(shared.checkpoint, other)), 404)
    deleted = ok(admin.http.delete(url(shared.tuned, other)))
    assert deleted == {"id": other, "object": "checkpoint.permission", "deleted": True}
    refused(admin.http.delete(url(shared.tuned, other)), 404)


def test_projects_that_cannot_be_permitted(admin: Client, stranger: Client, shared: Shared) -> None:
    for foreign in ("proj_none", stranger.identity.project_id, admin.identity.project_id):
        body = {"project_ids": [shared.guest.identity.project_id, foreign]}
        error = refused(admin.http.post(url(shared.tuned), json=body), 400)
        assert (error["param"], error["code"]) == ("project_ids.1", "project_not_found")
        assert shared.guest.identity.project_id in error["message"]
        assert stranger.identity.project_id not in error["message"].partition(";")[2]
    assert ok(admin.http.get(url(shared.tuned)))["data"] == []
    refused(admin.http.post(url(shared.tuned), json={"project_ids": []}), 400)


def test_only_admins_of_the_owner_permit(
    admin: Client, member: Client, stranger: Client, shared: Shared
) -> None:
    body = {"project_ids": [shared.guest.identity.project_id]}
    for name in (shared.tuned, shared.checkpoint):
        refused(member.http.post(url(name), json=body), 403)
        refused(member.http.get(url(name)), 403)
        refused(member.http.delete(url(name, "cp_1")), 403)
        refused(stranger.http.post(url(name), json=body), 404)
    for name in ("tiny", "ft:tiny:none::1", f"{shared.tuned}:ckpt-step-9"):
        refused(admin.http.post(url(name), json=body), 404)


def test_a_slash_in_a_name_may_be_escaped(admin: Client, shared: Shared) -> None:
    """httpx sends a path as it is written, as OpenAI's clients do."""
    name = quote(shared.checkpoint, safe="")
    assert "%3A" in name
    permission = permit(admin, name, shared.guest.identity.project_id)["data"][0]["id"]
    assert ok(admin.http.get(url(shared.checkpoint)))["first_id"] == permission
    ok(admin.http.delete(url(name, permission)))


def test_a_checkpoint_under_its_name_as_a_model(
    deployment: Deployment, admin: Client, shared: Shared
) -> None:
    model = ok(admin.http.get(f"/models/{shared.checkpoint}"))
    assert (model["kind"], model["job"]) == ("checkpoint", shared.job["id"])
    assert shared.checkpoint not in names(admin)
    body = ok(admin.http.delete(f"/models/{shared.checkpoint}"))
    assert body == {"id": shared.checkpoint, "object": "model", "deleted": True}
    refused(admin.http.get(f"/models/{shared.checkpoint}"), 404)
    kept = ok(admin.http.get(f"/fine_tuning/jobs/{shared.job['id']}/checkpoints"))["data"]
    assert [c["step_number"] for c in kept] == [1]


def test_a_checkpoint_of_an_open_job_stays(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    claimed = deployment.begin(admin)
    deployment.checkpoint(claimed, 1)
    (stored,) = ok(admin.http.get(f"/fine_tuning/jobs/{job['id']}/checkpoints"))["data"]
    name = stored["fine_tuned_model_checkpoint"]
    assert refused(admin.http.delete(f"/models/{name}"), 409)["code"] == "model_in_use"
    ok(admin.http.post(f"/fine_tuning/jobs/{job['id']}/cancel"))
    ok(admin.http.delete(f"/models/{name}"))


def test_a_second_project(deployment: Deployment, admin: Client) -> None:
    body = {"name": "theirs", "role": "admin", "project": "second"}
    key = ok(admin.http.post("/api_keys", json=body))
    assert key["project_id"] != admin.identity.project_id
    assert refused(admin.http.post("/api_keys", json=body), 400)["code"] == "project_exists"
    error = refused(admin.http.post("/api_keys", json={"name": "x", "project": "third"}), 400)
    assert (error["param"], error["code"]) == ("role", "project_without_admin")
    with httpx.Client(
        base_url=f"{deployment.origin}/v1", headers={"Authorization": f"Bearer {key['secret']}"}
    ) as second:
        assert [k["id"] for k in ok(second.get("/api_keys"))["data"]] == [key["id"]]
        own = ok(second.post("/api_keys", json={"name": "more", "project": "second"}))
        assert own["project_id"] == key["project_id"]
    assert key["id"] not in {k["id"] for k in ok(admin.http.get("/api_keys"))["data"]}
