"""Parts of what a job says: by type, from the end, and the log as a file to keep."""

from typing import Any

import pytest

from jobs.service import events
from tests.api.deployment import Client, Deployment, ok, refused, server_sent
from training.events import Message, Metrics

_CHUNKS = ("one\ntw", "o\n", "three\nfour\nfi", "ve", "\n", "\n", "six\n")
_LOG = "".join(_CHUNKS)


@pytest.fixture
def job_id(deployment: Deployment, admin: Client) -> str:
    """A finished job with metrics, a log and more, in turns."""
    job = admin.submit()
    run = deployment.begin(admin)
    for step, chunk in enumerate(_CHUNKS, 1):
        deployment.say(run, Metrics(step=step, metrics={"train_loss": 1.0 / step}))
        deployment.log(run, chunk)
        deployment.say(run, Message(message=f"said {step}"))
    deployment.succeed(run)
    return str(job["id"])


def _stream(client: Client, job_id: str, after: int | None = None, **asked: Any) -> list[Any]:
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    path = f"/fine_tuning/jobs/{job_id}/stream"
    reply = client.http.get(path, params=asked, headers=headers)
    assert reply.status_code == 200, reply.text
    told = server_sent(reply.text)
    assert [e["event"] for e in told if "id" not in e] == ["progress", "end"]
    return [e["data"] for e in told if "id" in e]


def test_a_stream_of_some_types(admin: Client, job_id: str) -> None:
    whole = _stream(admin, job_id)
    for types in (["metrics"], ["log"], ["metrics", "log", "status"], ["sample"]):
        wanted = [e for e in whole if e["type"] in types]
        assert _stream(admin, job_id, type=types) == wanted
        for cut in (wanted[0]["seq"], wanted[-1]["seq"]) if wanted else (3,):
            later = [e for e in wanted if e["seq"] > cut]
            assert _stream(admin, job_id, cut, type=types) == later


def test_a_live_stream_of_one_type(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    run = deployment.begin(admin)
    path = f"/fine_tuning/jobs/{job['id']}/stream"
    with admin.http.stream("GET", path, params={"type": "metrics", "tail": 0}) as reply:
        lines = reply.iter_lines()
        while not next(lines).startswith("data: "):
            pass
        deployment.log(run, "loading\n")
        deployment.say(run, Message(message="said"), Metrics(step=1, metrics={"train_loss": 1.0}))
        deployment.succeed(run)
        told = server_sent("\n".join(lines))
    assert {e["event"] for e in told} <= {"metrics", "progress", "end"}
    assert [e["data"]["data"]["step"] for e in told if e["event"] == "metrics"] == [1]


@pytest.mark.parametrize("tail", [0, 1, 3, 1000])
@pytest.mark.parametrize("types", [None, ["metrics"], ["metrics", "message"]])
def test_a_stream_from_its_last_events(
    admin: Client, job_id: str, tail: int, types: list[str] | None
) -> None:
    asked = {} if types is None else {"type": types}
    whole = _stream(admin, job_id, **asked)
    assert _stream(admin, job_id, tail=tail, **asked) == whole[max(0, len(whole) - tail) :]
    # Who comes back has its own position, and the tail is that of the first time.
    assert _stream(admin, job_id, whole[0]["seq"], tail=tail, **asked) == whole[1:]


def test_the_last_events_in_one_piece(admin: Client, job_id: str) -> None:
    path = f"/fine_tuning/jobs/{job_id}/events"
    whole = ok(admin.http.get(path, params={"limit": 100}))["data"]
    for tail in (0, 1, 3, 1000):
        page = ok(admin.http.get(path, params={"tail": tail, "limit": 2}))
        assert page["data"] == whole[:tail]
        assert page["has_more"] is False
    metrics = ok(admin.http.get(path, params={"tail": 2, "type": "metrics"}))["data"]
    assert [e["data"]["step"] for e in metrics] == [len(_CHUNKS), len(_CHUNKS) - 1]
    both = {"tail": 2, "after": whole[0]["id"]}
    assert refused(admin.http.get(path, params=both), 400)["param"] == "tail"
    for bad in ({"tail": -1}, {"tail": 1001}, {"type": "noise"}, {"tale": 1}):
        assert refused(admin.http.get(path, params=bad), 400)["param"] in {"tail", "type.0", "tale"}


def test_the_log_is_a_file_to_keep(admin: Client, job_id: str) -> None:
    reply = admin.http.get(f"/fine_tuning/jobs/{job_id}/logs")
    assert reply.text == _LOG
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["content-disposition"] == f'attachment; filename="{job_id}.log"'


@pytest.mark.parametrize("follow", [False, True])
def test_the_last_lines_of_a_log(admin: Client, job_id: str, *, follow: bool) -> None:
    lines = _LOG.splitlines(keepends=True)
    for tail in range(len(lines) + 2):
        asked = {"tail": tail, "follow": follow}
        text = admin.http.get(f"/fine_tuning/jobs/{job_id}/logs", params=asked).text
        assert text == "".join(lines[max(0, len(lines) - tail) :]), tail
    for bad in (-1, 100_001, "all"):
        reply = admin.http.get(f"/fine_tuning/jobs/{job_id}/logs", params={"tail": bad})
        assert refused(reply, 400)["param"] == "tail"


def test_the_last_lines_of_a_log_of_many_chunks(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    run = deployment.begin(admin)
    for number in range(130):
        deployment.log(run, f"{number:03}\n" if number % 3 else f"{number:03}")
    with deployment.db.reading() as session:
        everything = "".join(e.message for e in events.since(session, job["id"], 0, 500, ["log"]))
    path = f"/fine_tuning/jobs/{job['id']}/logs"
    lines = everything.splitlines(keepends=True)
    assert not everything.endswith("\n")
    for tail in (1, 2, 40, 60, 85, 100):
        text = admin.http.get(path, params={"tail": tail}).text
        assert text == "".join(lines[max(0, len(lines) - tail) :]), tail
    deployment.succeed(run)
