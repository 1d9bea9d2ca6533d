"""Posts that come twice over a real socket: with a key, and because a reply was lost."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select, text, update

from jobs.models import Creation, Job
from tests.api.deployment import Client, Deployment, ok, refused

KEY = "idempotency-key"
COUNT = "x-stainless-retry-count"
REPLAYED = "idempotent-replayed"
_PATIENCE_SECONDS = 20


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Posts:
    """One body of a project, posted in many ways."""

    def __init__(self, deployment: Deployment, client: Client) -> None:
        self.deployment = deployment
        self.client = client
        file = client.upload()["id"]
        self.body = {"model": "tiny", "training_file": file, "resources": {"pool": client.pool}}

    def post(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return self.client.http.post(
            "/fine_tuning/jobs", json=self.body | body, headers=headers or {}
        )

    def repeat(self, count: int = 1) -> tuple[str, bool]:
        """The job a repetition is answered with, and whether it is said to be a replay."""
        reply = self.post({COUNT: str(count)})
        return ok(reply)["id"], reply.headers.get(REPLAYED) == "true"

    @contextmanager
    def raw(self, count: int = 0) -> Iterator[socket.socket]:
        """A connection on which the whole request was sent."""
        origin = urlsplit(self.deployment.origin)
        body = json.dumps(self.body).encode()
        head = (
            "POST /v1/fine_tuning/jobs HTTP/1.1",
            f"Host: {origin.netloc}",
            f"Authorization: Bearer {self.client.secret}",
            f"{COUNT}: {count}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "",
            "",
        )
        with socket.create_connection((origin.hostname, origin.port)) as connection:
            connection.sendall("\r\n".join(head).encode() + body)
            yield connection

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Every write of the server waits."""
        with self.deployment.db.writing() as session:
            session.execute(text("SELECT 1"))
            yield

    def abandon(self) -> None:
        """A post whose client is gone before the job is made."""
        with self.waiting():
            with self.raw():
                time.sleep(0.2)
            time.sleep(0.2)
            assert self.rows() == []
        until(lambda: len(self.rows()) == 1)

    def rows(self) -> list[Creation]:
        query = select(Creation).join(Job, Job.id == Creation.job_id)
        query = query.where(Creation.project_id == self.client.identity.project_id)
        with self.deployment.db.reading() as session:
            return list(session.scalars(query.order_by(Creation.created_at)))

    def jobs(self) -> list[str]:
        return list(dict.fromkeys(row.job_id for row in self.rows()))

    def let_pass(self, seconds: float) -> None:
        """Move every post and reply of the project into the past."""
        with self.deployment.db.writing() as session:
            session.execute(
                update(Creation)
                .where(Creation.project_id == self.client.identity.project_id)
                .values(
                    created_at=Creation.created_at - seconds,
                    replied_at=Creation.replied_at - seconds,
                )
            )


@pytest.fixture
def posts(deployment: Deployment, admin: Client) -> Posts:
    return Posts(deployment, admin)


def id_in(connection: socket.socket) -> str:
    connection.settimeout(_PATIENCE_SECONDS)
    received = b""
    while b"\r\n\r\n" not in received or b'"ftjob-' not in received:
        chunk = connection.recv(65536)
        assert chunk
        received += chunk
    _, _, body = received.partition(b"\r\n\r\n")
    job_id: str = json.loads(body)["id"]
    return job_id


def test_a_key_makes_one_job(posts: Posts):
    first = posts.post({KEY: "nightly-1"})
    assert REPLAYED not in first.headers
    again = posts.post({KEY: "nightly-1", COUNT: "3"})
    assert again.headers[REPLAYED] == "true"
    assert ok(again) == ok(first)
    error = refused(posts.post({KEY: "nightly-1"}, suffix="other"), 422)
    assert (error["code"], error["param"]) == ("idempotency_key_reused", KEY)
    assert ok(first)["id"] in error["message"]
    assert posts.jobs() == [ok(first)["id"]]


def test_the_order_of_keys_in_a_body_means_nothing(posts: Posts):
    first = ok(posts.post({KEY: "k"}))
    posts.body = dict(reversed(posts.body.items()))
    assert ok(posts.post({KEY: "k"}))["id"] == first["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a b"])
def test_an_unusable_key_is_refused_by_name(posts: Posts, key: str):
    error = refused(posts.post({KEY: key}), 400)
    assert error["param"] == KEY
    assert posts.jobs() == []


def test_two_hundred_posts_at_once_with_one_key(posts: Posts):
    gate = threading.Barrier(50)

    def post_some(_: int) -> set[str]:
        gate.wait()
        return {ok(posts.post({KEY: "many"}))["id"] for _ in range(4)}

    with ThreadPoolExecutor(50) as pool:
        answered = set().union(*pool.map(post_some, range(50)))
    assert answered == set(posts.jobs())
    assert len(answered) == 1


@pytest.mark.parametrize("count", ["", "x", "-1", "1e1", "9" * 40])
def test_a_count_that_is_none_is_a_fresh_post(posts: Posts, count: str):
    ok(posts.post())
    reply = posts.post({COUNT: count})
    assert REPLAYED not in reply.headers
    assert len(posts.jobs()) == 2


def test_a_reply_that_nobody_read(posts: Posts):
    """It was sent whole, as far as a server can tell: the client closed without reading it."""
    with posts.raw():
        until(lambda: [row.replied_at for row in posts.rows()] not in ([], [None]))
    (job_id,) = posts.jobs()
    assert posts.repeat() == (job_id, True)
    assert posts.jobs() == [job_id]


def test_a_reply_that_was_sent_is_forgotten_soon(posts: Posts):
    first = ok(posts.post())["id"]
    until(lambda: posts.rows()[0].replied_at is not None)
    posts.let_pass(28)
    assert posts.repeat() == (first, True)
    until(lambda: posts.rows()[-1].replied_at is not None)
    posts.let_pass(31)
    again, is_replay = posts.repeat(2)
    assert again != first
    assert not is_replay


def test_a_reply_that_could_not_be_sent(posts: Posts):
    """The client is gone before the job is made; its repetition comes as late as it may."""
    posts.abandon()
    (job_id,) = posts.jobs()
    time.sleep(0.5)
    assert posts.rows()[0].replied_at is None
    posts.let_pass(640)
    assert posts.repeat() == (job_id, True)
    until(lambda: posts.rows()[-1].replied_at is not None)
    posts.let_pass(31)
    assert posts.repeat(2)[0] != job_id


def test_the_lost_reply_of_two(posts: Posts):
    """Two fresh posts; one reply was lost. Its repetition is not taken for the other's."""
    posts.abandon()
    (lost,) = posts.jobs()
    answered = ok(posts.post())["id"]
    assert posts.repeat() == (lost, True)
    assert posts.jobs() == [lost, answered]


def test_a_repetition_never_overtakes_its_post(posts: Posts):
    """All wait for the database; which of them gets it first is the system's choice."""
    with ExitStack() as stack:
        connections = []
        with posts.waiting():
            for count in range(4):
                connections.append(stack.enter_context(posts.raw(count)))
                time.sleep(0.1)
            assert posts.rows() == []
        (job_id,) = {id_in(connection) for connection in connections}
    assert posts.jobs() == [job_id]


def test_a_repetition_without_its_post_makes_a_job(posts: Posts):
    job_id, is_replay = posts.repeat(2)
    assert not is_replay
    assert posts.repeat(3) == (job_id, True)


def test_a_rerun_comes_through_the_same_door(posts: Posts):
    jobs = [ok(posts.post())["id"] for _ in range(2)]
    paths = [f"/fine_tuning/jobs/{job_id}/rerun" for job_id in jobs]
    http = posts.client.http
    first = ok(http.post(paths[0], json={"seed": 3}))
    assert ok(http.post(paths[0], json={"seed": 3}, headers={COUNT: "1"}))["id"] == first["id"]
    assert ok(http.post(paths[1], json={"seed": 3}, headers={COUNT: "1"}))["id"] != first["id"]
    bare = http.post(paths[0], headers={KEY: "r"})
    for nothing in (b"", b"{}", b"null"):
        headers = {KEY: "r", "content-type": "application/json"}
        again = http.post(paths[0], headers=headers, content=nothing)
        assert ok(again)["id"] == ok(bare)["id"]
    refused(http.post(paths[1], headers={KEY: "r"}), 422)
