"""While the database is away or locked: 503 in the usual shape, and all is well afterwards."""

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy.engine import make_url

from jobs.database import Database
from jobs.schema import upgrade
from tests.api.deployment import ROWS, Client, Deployment, ok, refused
from tests.jobs.world import settings_in
from tests.servers import new_postgres_database

_BUSY_SECONDS = 0.5


@contextmanager
def served(folder: Path, url: str = "") -> Iterator[tuple[Deployment, Client]]:
    settings = settings_in(folder, database_url=url)
    upgrade(settings.resolved_database_url)
    database = Database(settings.resolved_database_url)
    made = Deployment(database, settings)
    made.model()
    made.start()
    client = made.project()
    yield made, client
    client.http.close()
    made.stop()
    database.close()


@pytest.fixture
def on_postgres(postgres_url: str, tmp_path: Path) -> Iterator[tuple[Deployment, Client]]:
    with served(tmp_path, new_postgres_database(postgres_url)) as made:
        yield made


@pytest.fixture
def on_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Deployment, Client]]:
    monkeypatch.setattr("jobs.database._BUSY_TIMEOUT_SECONDS", _BUSY_SECONDS)
    with served(tmp_path) as made:
        yield made


@contextmanager
def refusing_connections(url: str) -> Iterator[None]:
    """A server that ends all connections to a database and takes no new ones, as if restarting."""
    parsed = make_url(url)
    name, host = parsed.database, parsed.query["host"]
    with closing(
        psycopg.connect(f"host={host} user=postgres dbname=template1", autocommit=True)
    ) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        try:
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@contextmanager
def locked(deployment: Deployment) -> Iterator[None]:
    """Another process's transaction that does not end."""
    path = make_url(deployment.settings.resolved_database_url).database
    assert path is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


_OF_A_LOCK = {"database_unavailable", "overloaded"}


def check_unavailable(reply: httpx.Response, *codes: str) -> None:
    error = refused(reply, 503)
    assert (error["type"], error["param"]) == ("server_error", None)
    assert error["code"] in (codes or ("database_unavailable",))
    assert reply.headers["retry-after"] == "1"
    assert "psycopg" not in reply.text
    assert "sqlite" not in reply.text


@pytest.mark.postgres
def test_a_database_that_is_away(on_postgres: tuple[Deployment, Client]) -> None:
    deployment, client = on_postgres
    file = client.upload()
    job = client.submit(training_file=file["id"])
    body = {"model": "tiny", "training_file": file["id"]}
    time.sleep(0.6)  # until the key is looked up again
    with refusing_connections(deployment.settings.resolved_database_url):
        for path in ("/files", f"/files/{file['id']}", "/models", f"/fine_tuning/jobs/{job['id']}"):
            check_unavailable(client.http.get(path))
        check_unavailable(client.http.get(f"/fine_tuning/jobs/{job['id']}/stream"))
        check_unavailable(client.http.post("/fine_tuning/jobs", json=body))
        upload = {"files": {"file": ("rows.jsonl", ROWS)}, "data": {"purpose": "fine-tune"}}
        check_unavailable(client.http.post("/files", **upload))
        ready = httpx.get(f"{deployment.origin}/readyz")
        check_unavailable(ready, "not_ready")
        assert "the database does not answer" in ready.text
        assert httpx.get(f"{deployment.origin}/healthz").status_code == 200
    assert ok(httpx.get(f"{deployment.origin}/readyz")) == {"status": "ready"}
    assert client.job(job["id"])["status"] == "queued"
    assert ok(client.http.post("/fine_tuning/jobs", json=body))["status"] == "queued"


def test_a_database_that_accepts_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.database._CONNECT_TIMEOUT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hang_up = threading.Timer(10, silent.shutdown, [socket.SHUT_RDWR])
        hang_up.start()
        database = Database(f"postgresql+psycopg://me@127.0.0.1:{port}/db")
        assert not database.answers()
        assert hang_up.is_alive()
        hang_up.cancel()
        database.close()


@pytest.mark.postgres
def test_connections_that_died_unseen_cost_no_request(
    on_postgres: tuple[Deployment, Client],
) -> None:
    deployment, client = on_postgres
    job = client.submit()
    with refusing_connections(deployment.settings.resolved_database_url):
        pass
    assert client.job(job["id"])["status"] == "queued"


def test_a_database_that_stays_locked(on_sqlite: tuple[Deployment, Client]) -> None:
    deployment, client = on_sqlite
    job = client.submit()
    body = {"model": "tiny", "training_file": job["training_file"]}
    with locked(deployment):
        # The server's own writers wait as well; who queues behind one is told of that.
        for path, posted in (("", body), (f"/{job['id']}/cancel", None)):
            reply = client.http.post(f"/fine_tuning/jobs{path}", json=posted)
            check_unavailable(reply, *_OF_A_LOCK)
        assert client.job(job["id"])["status"] == "queued"
        for path in ("/healthz", "/readyz"):
            assert httpx.get(deployment.origin + path).status_code == 200
    assert ok(client.http.post("/fine_tuning/jobs", json=body))["status"] == "queued"
    assert ok(client.http.post(f"/fine_tuning/jobs/{job['id']}/cancel"))["status"] == "cancelled"


def test_writers_do_not_wait_for_each_other_s_waiting(
    on_sqlite: tuple[Deployment, Client],
) -> None:
    """Eight that come while the database is locked are all answered within two timeouts."""
    deployment, client = on_sqlite
    body = {"model": "tiny", "training_file": client.upload()["id"]}
    with locked(deployment), ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        replies = list(
            pool.map(lambda _: client.http.post("/fine_tuning/jobs", json=body), range(8))
        )
        assert time.monotonic() - began < 5 * _BUSY_SECONDS
    assert {reply.status_code for reply in replies} == {503}
    assert {reply.json()["error"]["code"] for reply in replies} <= _OF_A_LOCK
    assert ok(client.http.post("/fine_tuning/jobs", json=body))["status"] == "queued"


def test_a_store_that_takes_no_files(on_sqlite: tuple[Deployment, Client]) -> None:
    deployment, _ = on_sqlite
    folder = deployment.settings.artifacts_folder
    away = folder.rename(folder.with_name("away"))
    folder.touch()  # a file where the folder was: even root cannot write below it
    ready = httpx.get(f"{deployment.origin}/readyz")
    check_unavailable(ready, "not_ready")
    assert "the artifact store takes no files" in ready.text
    folder.unlink()
    away.rename(folder)
    assert ok(httpx.get(f"{deployment.origin}/readyz")) == {"status": "ready"}
