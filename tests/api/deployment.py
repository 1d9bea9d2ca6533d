"""A server on a socket, its database beside it, and projects that know nothing of each other.

Jobs are worked on by the verbs a worker calls, so a test decides what happens and when.
"""

import hashlib
import io
import itertools
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from api.server import Server
from jobs.database import Database
from jobs.doorbell import Bell
from jobs.identity import Identity, Role
from jobs.models import Organization, Project, new_id
from jobs.rescue import Rescue
from jobs.schema import upgrade
from jobs.service import keys, records
from jobs.service.claims import Claim
from jobs.service.endings import Ending, StoredArtifact
from jobs.settings import Settings
from jobs.states import RunOutcome
from tests.jobs.world import World, fence_of, offer
from tests.servers import free_port
from training.events import CheckpointSaved, Event, Message, Metrics
from training.run_directory import FileEntry, Manifest

ROWS = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n' * 3
ADAPTER = {
    "adapter_config.json": b'{"r": 8}',
    "adapter_model.safetensors": bytes(range(256)) * 4,
}
RESULTS = b"step,train_loss,train_mean_token_accuracy,valid_loss,valid_mean_token_accuracy\n"
TENSORBOARD = b"a ZIP of event files"
_CHECKPOINT = ADAPTER | {"optimizer.pt": b"pickle", "trainer_state.json": b"{}"}
_NUMBERS = itertools.count()
_PATIENCE_SECONDS = 20


@dataclass
class Client:
    """A key of a project, and an HTTP client that sends it."""

    identity: Identity
    secret: str
    http: httpx.Client
    pool: str
    """Where the project's jobs wait: its own, so that a test claims no other test's job."""

    def upload(
        self, content: bytes = ROWS, *, purpose: str = "fine-tune", name: str = "rows.jsonl"
    ) -> dict[str, Any]:
        reply = self.http.post("/files", files={"file": (name, content)}, data={"purpose": purpose})
        return ok(reply)

    def submit(self, **body: Any) -> dict[str, Any]:
        """A queued job, over a new file unless one is named."""
        if not {"training_file", "training_files"} & body.keys():
            body["training_file"] = self.upload()["id"]
        request = {"model": "tiny", "resources": {"pool": self.pool}} | body
        return ok(self.http.post("/fine_tuning/jobs", json=request))

    def job(self, job_id: str) -> dict[str, Any]:
        return ok(self.http.get(f"/fine_tuning/jobs/{job_id}"))


def ok(reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def refused(reply: httpx.Response, status: int) -> dict[str, Any]:
    """The error of a reply, after a look at its shape."""
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert reply.headers["x-request-id"].startswith("req_")
    return error


class Deployment(World):
    """The server in a thread of this process, and the verbs over the same database."""

    def start(self) -> None:
        port = free_port()
        self.server = Server(self.settings, port=port)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        self.origin = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self.server.started:
            assert self._thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join()

    def client(self, project_id: str, pool: str, role: Role = "admin") -> Client:
        """A new key of a project."""
        host = Identity("none", project_id, "any", "admin")
        with self.db.writing() as session:
            _, secret = keys.create(session, host, name="test", role=role)
        with self.db.reading() as session:
            identity = keys.authenticate(session, secret)
        http = httpx.Client(
            base_url=f"{self.origin}/v1",
            headers={"Authorization": f"Bearer {secret}"},
            timeout=30,
            verify=False,  # no TLS here, and loading certificates takes longer than most tests
        )
        return Client(identity, secret, http, pool)

    def project(self) -> Client:
        """An admin's key of a new project of a new organisation."""
        number = next(_NUMBERS)
        organization_id, project_id = new_id("org-"), new_id("proj_")
        with self.db.writing() as session:
            session.add(Organization(id=organization_id, name=f"org-{number}", created_at=1.0))
            session.flush()
            session.add(
                Project(
                    id=project_id, organization_id=organization_id, name="default", created_at=1.0
                )
            )
        return self.client(project_id, f"pool-{number}")

    def sweep(self) -> None:
        """One pass of the sweep; the server's own thread sweeps as well."""
        bell = Bell(self.settings)
        Rescue(self.db, self.settings, bell, self.store).sweep()
        bell.close()

    def begin(self, client: Client, worker: str | None = None) -> Claim:
        """A run of the next job in the client's pool, on a host that no other test keeps busy."""
        claimed = self.claim(offer(worker or new_id("worker-"), pool=client.pool))
        assert claimed is not None
        return claimed

    def say(self, claimed: Claim, *events: Event, position: int | None = None) -> None:
        with self.db.writing() as session:
            records.record(
                session,
                fence_of(claimed),
                events,
                relayed_bytes=position or time.monotonic_ns(),
                settings=self.settings,
            )

    def log(self, claimed: Claim, text: str) -> None:
        with self.db.writing() as session:
            records.record_log(session, fence_of(claimed), text, log_bytes=time.monotonic_ns())

    def checkpoint(self, claimed: Claim, step: int) -> None:
        """Store a checkpoint's files, then make it exist."""
        prefix = f"jobs/{claimed.job_id}/attempt-{claimed.attempt}/checkpoint-{step}"
        entries = []
        for name, content in _CHECKPOINT.items():
            stored = self.put(f"{prefix}/{name}", content)
            entries.append(FileEntry(path=name, bytes=stored.bytes, sha256=stored.sha256))
        with self.db.writing() as session:
            records.record_checkpoint(
                session,
                fence_of(claimed),
                CheckpointSaved(
                    step=step,
                    name=f"checkpoint-{step}",
                    bytes=1,
                    metrics={"train_loss": 1.0 / step},
                ),
                key_prefix=prefix,
                manifest=Manifest(files=tuple(entries), step=step, attempt=claimed.attempt),
            )

    def succeed(self, claimed: Claim) -> None:
        """End a run with an adapter in the store."""
        prefix = f"jobs/{claimed.job_id}/attempt-{claimed.attempt}"
        artifacts = [self.put(f"{prefix}/adapter.zip", adapter_archive(), "adapter.zip")]
        artifacts += [self.put(f"{prefix}/tensorboard.zip", TENSORBOARD, "tensorboard.zip")]
        artifacts += [
            self.put(f"{prefix}/adapter/{name}", content, f"adapter/{name}")
            for name, content in ADAPTER.items()
        ]
        table = self.put(f"{prefix}/step_metrics.csv", RESULTS, "step_metrics.csv")
        ending = Ending(
            RunOutcome.SUCCEEDED, trained_tokens=12, artifacts=tuple(artifacts), results=table
        )
        self.finish(claimed, ending)

    def put(self, key: str, content: bytes, name: str = "") -> StoredArtifact:
        with self.store.create(key) as writer:
            writer.write(content)
            stored = writer.commit()
        assert stored.sha256 == hashlib.sha256(content).hexdigest()
        return StoredArtifact(name, key, stored.bytes, stored.sha256)

    def succeeded(self, client: Client, **body: Any) -> dict[str, Any]:
        """A job with events, two checkpoints and an adapter."""
        job = client.submit(**body)
        claimed = self.begin(client)
        assert claimed.job_id == job["id"]
        for step in (1, 2):
            self.say(claimed, Metrics(step=step, metrics={"train_loss": 1.0 / step}))
            self.checkpoint(claimed, step)
        self.log(claimed, "loading\n")
        self.say(claimed, Message(message="done", data={"n": 1}))
        self.log(claimed, "bye\n")
        self.succeed(claimed)
        return client.job(job["id"])


@contextmanager
def serving(settings: Settings) -> Iterator[Deployment]:
    """A deployment over a new database, with a model, answering."""
    upgrade(settings.resolved_database_url)
    database = Database(settings.resolved_database_url)
    made = Deployment(database, settings)
    made.model()
    made.start()
    yield made
    made.stop()
    database.close()


def adapter_archive() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in ADAPTER.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


def server_sent(text: str) -> list[dict[str, Any]]:
    """The events of a stream: `id`, `event`, and `data` as JSON."""
    found = []
    for block in text.split("\n\n"):
        lines = [
            line for line in block.splitlines() if line and not line.startswith((":", "retry"))
        ]
        if lines:
            event: dict[str, Any] = dict(line.split(": ", 1) for line in lines)
            found.append(event | {"data": json.loads(event["data"])})
    return found
