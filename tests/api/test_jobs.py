"""Lists and state changes of jobs and models, as their owners see them."""

from typing import Any

import pytest

from tests.api.deployment import Client, Deployment, ok, refused


def _ids(reply: dict[str, Any]) -> list[str]:
    return [item["id"] for item in reply["data"]]


def test_pages_of_jobs(admin: Client) -> None:
    file = admin.upload()["id"]
    ids = [admin.submit(training_file=file)["id"] for _ in range(5)][::-1]
    whole = ok(admin.http.get("/fine_tuning/jobs"))
    assert (_ids(whole), whole["object"], whole["has_more"]) == (ids, "list", False)
    first = ok(admin.http.get("/fine_tuning/jobs", params={"limit": 2}))
    assert (_ids(first), first["has_more"]) == (ids[:2], True)
    params: dict[str, str | int] = {"limit": 3, "after": ids[1]}
    rest = ok(admin.http.get("/fine_tuning/jobs", params=params))
    assert (_ids(rest), rest["has_more"]) == (ids[2:], False)
    for after in ("ftjob-none", file, ""):
        refused(admin.http.get("/fine_tuning/jobs", params={"after": after}), 400)


@pytest.mark.parametrize("limit", ["0", "101", "x", "-1", "1e9"])
def test_limits_of_a_page(admin: Client, limit: str) -> None:
    error = refused(admin.http.get("/fine_tuning/jobs", params={"limit": limit}), 400)
    assert error["param"] == "limit"
    assert limit in error["message"]


def test_jobs_by_metadata(admin: Client) -> None:
    file = admin.upload()["id"]
    none = admin.submit(training_file=file)["id"]
    plain = admin.submit(training_file=file, metadata={"team": "a b"})["id"]
    both = admin.submit(training_file=file, metadata={"team": "a b", "x.y": '1"2'})["id"]
    odd = admin.submit(training_file=file, metadata={"": "e", "a[b]": "c", "a][b\n": "d"})["id"]
    for query, expected in (
        ("metadata%5Bteam%5D=a+b", [both, plain]),
        ("metadata[team]=a%20b&metadata[x.y]=1%222", [both]),
        ("metadata[team]=other", []),
        ("metadata[absent]=x", []),
        ("metadata=null", [none]),
        ("metadata[]=e", [odd]),
        ("metadata[a[b]]=c&metadata%5Ba%5D%5Bb%0A%5D=d", [odd]),
        ("metadata[team]=a+b&limit=1", [both]),
    ):
        assert _ids(ok(admin.http.get(f"/fine_tuning/jobs?{query}"))) == expected, query
    bad = (
        "metadata=x",
        "metadata=null&metadata[a]=b",
        "metadata[a]b=c",
        "metadata[]=x&metadata[]=y",
    )
    for query in (*bad, "metadata[a]=b&metadata[a]=c"):
        error = refused(admin.http.get(f"/fine_tuning/jobs?{query}"), 400)
        assert error["param"].startswith("metadata")


def test_pages_of_checkpoints(deployment: Deployment, admin: Client) -> None:
    job = deployment.succeeded(admin)
    path = f"/fine_tuning/jobs/{job['id']}/checkpoints"
    first = ok(admin.http.get(path, params={"limit": 1}))
    assert ([c["step_number"] for c in first["data"]], first["has_more"]) == ([2], True)
    params: dict[str, str | int] = {"limit": 1, "after": first["last_id"]}
    second = ok(admin.http.get(path, params=params))
    assert ([c["step_number"] for c in second["data"]], second["has_more"]) == ([1], False)
    refused(admin.http.get(path, params={"after": "ftckpt_none"}), 400)


def test_cancelled_twice_is_cancelled_once(admin: Client) -> None:
    job = admin.submit()
    path = f"/fine_tuning/jobs/{job['id']}"
    headers = {"content-type": "application/json"}  # as OpenAI's client: with no body
    first, second = (ok(admin.http.post(f"{path}/cancel", headers=headers)) for _ in range(2))
    assert first == second
    assert first["status"] == "cancelled"
    assert first["queue"] is None
    changes = ok(admin.http.get(f"{path}/events", params={"type": "status"}))["data"]
    assert [event["data"]["status"] for event in changes] == ["cancelled", "queued"]


def test_a_running_job_is_cancelled_at_once(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    run = deployment.begin(admin)
    assert ok(admin.http.post(f"/fine_tuning/jobs/{job['id']}/cancel"))["status"] == "cancelled"
    deployment.succeed(run)
    assert admin.job(job["id"])["status"] == "cancelled"
    assert admin.job(job["id"])["fine_tuned_model"] is None


def test_several_weighted_files(admin: Client) -> None:
    files = [{"file": admin.upload()["id"], "weight": weight} for weight in (1.0, 2.5)]
    job = admin.submit(training_files=files, validation_file=files[0]["file"])
    assert job["training_files"] == files
    assert (job["training_file"], job["validation_file"]) == (files[0]["file"], files[0]["file"])


def test_positions_in_the_queue(admin: Client) -> None:
    file = admin.upload()["id"]
    first, second = (admin.submit(training_file=file)["id"] for _ in range(2))
    urgent = admin.submit(training_file=file, priority=5)["id"]
    positions = {i: admin.job(i)["queue"]["position"] for i in (urgent, first, second)}
    assert positions == {urgent: 0, first: 1, second: 2}


def test_a_model_in_use_stays(deployment: Deployment, admin: Client) -> None:
    name = f"org/base-{admin.pool}"
    deployment.model(name)
    job = admin.submit(model=name)
    reply = admin.http.delete(f"/models/{name.replace('/', '%2F')}")
    error = refused(reply, 409)
    assert error["code"] == "model_in_use"
    assert job["id"] in error["message"]
    assert reply.headers["x-should-retry"] == "false"
    ok(admin.http.post(f"/fine_tuning/jobs/{job['id']}/cancel"))
    removed = ok(admin.http.delete(f"/models/{name}"))
    assert removed == {"id": name, "object": "model", "deleted": True}
    refused(admin.http.get(f"/models/{name}"), 404)


def test_a_new_model_waits_to_be_read(deployment: Deployment, admin: Client) -> None:
    name = f"new-{admin.pool}"
    body = {"name": name, "source": "/models/new"}
    made = ok(admin.http.post("/models", json=body))
    assert (made["id"], made["status"], made["kind"]) == (name, "pending", "base")
    assert refused(admin.http.post("/models", json=body), 400)["code"] == "model_exists"
    job = {"model": name, "training_file": admin.upload()["id"]}
    error = refused(admin.http.post("/fine_tuning/jobs", json=job), 400)
    assert error["code"] == "model_not_ready"
    ok(admin.http.delete(f"/models/{name}"))


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"name": "a:b", "source": "/m"}, "name", "1 to 96 letters"),
        ({"name": "a", "source": "org/name"}, None, "revision"),
        ({"name": "a", "source": "/m", "revision": "0" * 40}, None, "folder"),
        ({"name": "a", "source": "org/name", "revision": "main"}, "revision", "a commit"),
    ],
)
def test_models_that_are_refused(
    admin: Client, body: dict[str, str], param: str | None, words: str
) -> None:
    error = refused(admin.http.post("/models", json=body), 400)
    assert error["param"] == param
    assert words in error["message"]
