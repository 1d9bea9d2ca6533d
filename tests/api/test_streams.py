"""Following a job: every event once and in order, from wherever a client comes back."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.deployment import Client, Deployment, refused, server_sent
from training.events import Metrics, Progress


def _stream(client: Client, job_id: str, after: int | None = None) -> list[dict[str, Any]]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    reply = client.http.get(f"/fine_tuning/jobs/{job_id}/stream", headers=headers)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-store"
    return server_sent(reply.text)


def _numbers(events: list[dict[str, Any]]) -> list[int]:
    return [int(event["id"]) for event in events if "id" in event]


def test_from_every_cut_without_gap_or_repeat(deployment: Deployment, admin: Client) -> None:
    job = deployment.succeeded(admin)
    whole = _stream(admin, job["id"])
    numbers = _numbers(whole)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 10
    assert {"message", "metrics", "checkpoint", "status", "log"} <= {e["event"] for e in whole}
    assert [e["event"] for e in whole].count("end") == 1
    assert whole[-1]["event"] == "end"
    assert whole[-1]["data"] == admin.job(job["id"])
    assert "id" not in whole[-1]
    for cut in (0, *numbers):
        rest = _stream(admin, job["id"], cut)
        assert _numbers(rest) == numbers[cut:]
        assert rest[-1]["event"] == "end"
    stored = [e for e in whole if "id" in e]
    assert all(e["data"]["seq"] == int(e["id"]) for e in stored)
    assert all(e["data"]["type"] == e["event"] for e in stored)


def test_more_events_than_a_page(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    run = deployment.begin(admin)
    for first in range(0, 250, 50):
        deployment.say(run, *(Metrics(step=first + n, metrics={}) for n in range(50)))
    deployment.succeed(run)
    numbers = _numbers(_stream(admin, job["id"]))
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 250
    assert _numbers(_stream(admin, job["id"], 120)) == numbers[120:]


def _lines(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    """The events of a live stream, as they come."""
    with client.http.stream("GET", f"/fine_tuning/jobs/{job_id}/stream") as reply:
        event: dict[str, Any] = {}
        for line in reply.iter_lines():
            name, _, value = line.partition(": ")
            if name in {"id", "event"}:
                event[name] = value
            elif name == "data":
                yield event | {"data": json.loads(value)}
                event = {}


def test_a_live_job_with_progress_until_its_end(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    run = deployment.begin(admin)
    live = _lines(admin, job["id"])
    seen = [next(live)]
    while seen[-1]["event"] != "progress":
        seen.append(next(live))
    deployment.say(run, Progress(phase="training", step=3), Metrics(step=3, metrics={}))
    while "id" in seen[-1] or seen[-1]["data"]["phase"] != "training":
        seen.append(next(live))
    assert seen[-1]["data"]["progress"]["step"] == 3
    assert seen[-1]["data"]["status"] == "running"
    deployment.succeed(run)
    seen += live
    assert seen[-1]["event"] == "end"
    assert seen[-1]["data"]["status"] == "succeeded"
    assert _numbers(seen) == list(range(1, len(_numbers(seen)) + 1))


def test_many_listeners_hear_the_same(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    run = deployment.begin(admin)
    heard: dict[int, list[int]] = {}

    def listen(number: int) -> None:
        url = f"{deployment.origin}/v1/fine_tuning/jobs/{job['id']}/stream"
        headers = {"Authorization": f"Bearer {admin.secret}"}
        heard[number] = _numbers(server_sent(httpx.get(url, headers=headers, timeout=30).text))

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for step in range(1, 40):
        deployment.say(run, Metrics(step=step, metrics={}))
    deployment.succeed(run)
    for thread in threads:
        thread.join()
    numbers = _numbers(_stream(admin, job["id"]))
    assert heard == dict.fromkeys(range(8), numbers)


def test_a_cancelled_job_ends_its_streams(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    live = _lines(admin, job["id"])
    next(live)
    assert admin.http.post(f"/fine_tuning/jobs/{job['id']}/cancel").status_code == 200
    assert list(live)[-1]["data"]["status"] == "cancelled"


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "9" * 30, ""])
def test_a_position_that_is_none(deployment: Deployment, admin: Client, number: str) -> None:
    job = admin.submit()
    headers = {"Last-Event-ID": number}
    path = f"/fine_tuning/jobs/{job['id']}/stream"
    error = refused(admin.http.get(path, headers=headers), 400)
    assert error["param"] == "last-event-id"


def test_the_log(deployment: Deployment, admin: Client) -> None:
    job = deployment.succeeded(admin)
    for follow in ("true", "false"):
        path = f"/fine_tuning/jobs/{job['id']}/logs"
        reply = admin.http.get(path, params={"follow": follow})
        assert reply.text == "loading\nbye\n"
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_followed_log_grows(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    run = deployment.begin(admin)
    path = f"/fine_tuning/jobs/{job['id']}/logs"
    deployment.log(run, "one\n")
    assert admin.http.get(path).text == "one\n"
    with admin.http.stream("GET", path, params={"follow": "true"}) as reply:
        lines = reply.iter_lines()
        assert next(lines) == "one"
        deployment.log(run, "two\n")
        assert next(lines) == "two"
        deployment.succeed(run)
        assert list(lines) == []


def test_pages_of_events(deployment: Deployment, admin: Client) -> None:
    job = deployment.succeeded(admin)
    path = f"/fine_tuning/jobs/{job['id']}/events"
    whole = admin.http.get(path, params={"limit": 100}).json()
    assert whole["has_more"] is False
    seqs = [event["seq"] for event in whole["data"]]
    assert seqs == sorted(seqs, reverse=True)
    assert {event["type"] for event in whole["data"]} == {"message", "metrics"}
    paged: list[Any] = []
    while True:
        params = {"limit": 1} | ({"after": paged[-1]["id"]} if paged else {})
        page = admin.http.get(path, params=params).json()
        paged += page["data"]
        if not page["has_more"]:
            break
    assert paged == whole["data"]
    chosen = admin.http.get(path, params={"type": ["checkpoint", "log"]}).json()["data"]
    assert {event["type"] for event in chosen} == {"checkpoint", "log"}
    error = refused(admin.http.get(path, params={"type": "gossip"}), 400)
    assert "metrics" in error["message"]
