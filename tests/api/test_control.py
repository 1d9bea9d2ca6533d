"""Pause, resume and stop over HTTP: what is answered at once, and what follows."""

import httpx
import pytest

from jobs.states import RunOutcome
from tests.api.deployment import Client, Deployment, ok, refused

SDK_HEADERS = {"content-type": "application/json"}  # as OpenAI's client: with no body


def ask(client: Client, job_id: str, verb: str) -> httpx.Response:
    return client.http.post(f"/fine_tuning/jobs/{job_id}/{verb}", headers=SDK_HEADERS)


def statuses(client: Client, job_id: str) -> list[str]:
    params = {"type": "status"}
    page = ok(client.http.get(f"/fine_tuning/jobs/{job_id}/events", params=params))
    return [event["data"]["status"] for event in reversed(page["data"])]


def test_a_queued_job_is_paused_at_once_and_queued_again(admin: Client) -> None:
    first, second = admin.submit()["id"], admin.submit()["id"]
    paused = ok(ask(admin, first, "pause"))
    assert (paused["status"], paused["intent"], paused["queue"]) == ("paused", None, None)
    assert admin.job(second)["queue"]["position"] == 0
    resumed = ok(ask(admin, first, "resume"))
    assert (resumed["status"], resumed["queue"]["position"]) == ("queued", 1)
    assert statuses(admin, first) == ["queued", "paused", "queued"]


def test_a_running_job_is_paused_once_its_run_has_ended(
    deployment: Deployment, admin: Client
) -> None:
    job = admin.submit()["id"]
    run = deployment.begin(admin)
    answered = ok(ask(admin, job, "pause"))
    assert (answered["status"], answered["intent"]) == ("running", "pause")
    assert ok(ask(admin, job, "pause")) == answered
    deployment.finish(run, RunOutcome.INTERRUPTED)
    assert (admin.job(job)["status"], admin.job(job)["intent"]) == ("paused", None)
    assert ok(ask(admin, job, "resume"))["status"] == "queued"
    assert statuses(admin, job) == ["queued", "running", "paused", "queued"]


def test_resume_withdraws_what_has_not_happened(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()["id"]
    run = deployment.begin(admin)
    for verb in ("pause", "stop"):
        ok(ask(admin, job, verb))
        answered = ok(ask(admin, job, "resume"))
        assert (answered["status"], answered["intent"]) == ("running", None)
    deployment.finish(run, RunOutcome.INTERRUPTED)
    assert admin.job(job)["status"] == "queued"


def test_a_stopped_job_succeeds_with_what_it_has(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()["id"]
    run = deployment.begin(admin)
    answered = ok(ask(admin, job, "stop"))
    assert (answered["status"], answered["intent"]) == ("running", "stop")
    deployment.succeed(run)
    ended = admin.job(job)
    assert (ended["status"], ended["intent"]) == ("succeeded", None)
    assert ended["adapter"] is not None


def test_a_paused_job_is_stopped_by_a_last_run(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()["id"]
    run = deployment.begin(admin)
    deployment.checkpoint(run, 4)
    ok(ask(admin, job, "pause"))
    deployment.finish(run, RunOutcome.INTERRUPTED)
    stopped = ok(ask(admin, job, "stop"))
    assert (stopped["status"], stopped["intent"]) == ("queued", "stop")
    deployment.succeed(deployment.begin(admin))
    assert admin.job(job)["status"] == "succeeded"


@pytest.mark.parametrize("verb", ["pause", "resume", "stop"])
def test_a_conflict_is_not_worth_a_retry(deployment: Deployment, admin: Client, verb: str) -> None:
    job = deployment.succeeded(admin)["id"]
    reply = ask(admin, job, verb)
    error = refused(reply, 409)
    assert error["code"] == "job_finished"
    assert error["message"] == "the job has succeeded already"
    assert reply.headers["x-should-retry"] == "false"


def test_nothing_trained_is_nothing_to_keep(admin: Client) -> None:
    job = admin.submit()["id"]
    reply = ask(admin, job, "stop")
    error = refused(reply, 409)
    assert error["code"] == "nothing_trained"
    assert "cancel" in error["message"]
    assert reply.headers["x-should-retry"] == "false"
    assert admin.job(job)["status"] == "queued"
