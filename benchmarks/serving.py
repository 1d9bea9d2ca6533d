"""What the benchmarks share: a real server process, clients that offer load, and percentiles.

Load is offered at a fixed rate: a request that had to wait for its client counts from the moment
it was due.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from jobs.database import Database
from jobs.requests import ModelRequest
from jobs.schema import upgrade
from jobs.service import catalogue, claims, keys
from jobs.service.endings import Ending, finish
from jobs.service.records import Fence
from jobs.settings import Settings
from jobs.states import RunOutcome
from training.facts import ModelFacts

MODEL = "bench"
_ROOT = Path(__file__).parents[1]
_BLOCK_ROWS = 2000
_ANSWER = "It depends on the size of the tank and on how warm the water is. " * 7
_BOUNDARY = "b0undary"


@dataclass
class Server:
    """A server process, and how to talk to it."""

    process: subprocess.Popen[bytes]
    port: int
    key: str
    start_seconds: float

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def call(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: object = None
    ) -> bytes:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {content[:300]!r}")
        return content

    def reply(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: object = None
    ) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.call(connection, method, path, body))


@dataclass
class Load:
    """Requests offered at a fixed rate by some clients, and how long each took in seconds."""

    request: Callable[[http.client.HTTPConnection], object]
    server: Server
    clients: int
    rate: float
    seconds: list[float] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run_for(self, duration_seconds: float) -> None:
        timer = threading.Timer(duration_seconds, self.stopped.set)
        timer.start()
        self.run()

    def run(self) -> None:
        begin = time.perf_counter() + 0.1
        threads = [
            threading.Thread(target=self._client, args=(begin, number))
            for number in range(self.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, begin: float, number: int) -> None:
        connection = self.server.connect()
        interval = self.clients / self.rate
        due = begin + interval * number / self.clients
        while not self.stopped.is_set():
            time.sleep(max(0.0, due - time.perf_counter()))
            self.request(connection)
            self.seconds.append(time.perf_counter() - due)
            due += interval
        connection.close()

    def percentile(self, share: float) -> float:
        return percentile(self.seconds, share)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all are below, e.g. 0.99 of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@contextmanager
def serving(settings: Settings, key: str) -> Iterator[Server]:
    """A server process over a prepared database, ready to answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "TUNESMITH_DATA_DIR": str(settings.data_dir),
        "TUNESMITH_DATABASE_URL": settings.database_url,
    }
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "api.server", "--port", str(port)],
        env=os.environ | environment,
        cwd=_ROOT,
    )
    try:
        while not _answers(port):
            time.sleep(0.01)
        yield Server(process, port, key, time.perf_counter() - begin)
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False


def prepare(settings: Settings) -> str:
    """The schema, a base model whose facts are known, and the first key, which is returned."""
    upgrade(settings.resolved_database_url)
    db = Database(settings.resolved_database_url)
    with db.writing() as session:
        key = keys.bootstrap(session, settings)
    assert key is not None
    with db.writing() as session:
        identity = keys.authenticate(session, key)
        catalogue.add(session, identity, ModelRequest(name=MODEL, source="/srv/models/bench"))
    offer = claims.Offer("bench", settings.worker_pool, 0, frozenset())
    with db.claiming() as session:
        claims.register(session, offer)
        claimed = claims.claim(session, offer, settings)
    assert claimed is not None
    with db.writing() as session:
        ending = Ending(RunOutcome.SUCCEEDED, facts=_facts())
        finish(session, Fence(claimed.run_id, claimed.lease_token), ending, settings)
    db.close()
    return key


def _facts() -> ModelFacts:
    return ModelFacts(
        architecture="LlamaForCausalLM",
        model_type="llama",
        num_parameters=1000,
        context_length=2048,
        vocab_size=400,
        linear_modules=("q_proj", "v_proj"),
        module_names=("embed_tokens", "q_proj", "v_proj"),
        tie_word_embeddings=True,
        has_chat_template=True,
        bytes=4000,
        sha256="0" * 64,
    )


def blocks_of_rows(num_bytes: int) -> Iterator[bytes]:
    """Blocks of whole rows of more than 500 bytes, `num_bytes` or a little more in all."""
    rows = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"Question {n}: how long does it take?"},
                    {"role": "assistant", "content": f"Answer {n}. {_ANSWER}"},
                ]
            }
        )
        for n in range(_BLOCK_ROWS)
    ]
    block = "".join(f"{row}\n" for row in rows).encode()
    for _ in range(-(-num_bytes // len(block))):
        yield block


def upload(server: Server, blocks: list[bytes]) -> str:
    """Send a form with one file; the id of the file."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="d.jsonl"\r\n\r\n'
    ).encode()
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
    connection = server.connect()
    connection.putrequest("POST", "/v1/files")
    connection.putheader("Authorization", f"Bearer {server.key}")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={_BOUNDARY}")
    length = len(head) + sum(map(len, blocks)) + len(tail)
    connection.putheader("Content-Length", str(length))
    connection.endheaders(head)
    for block in blocks:
        connection.send(block)
    connection.send(tail)
    reply = json.loads(connection.getresponse().read())
    assert reply["status"] == "processed", reply
    return str(reply["id"])


class Peak:
    """The largest memory of a server while it is watched."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.num_bytes = 0
        self.stopped = threading.Event()

    def watch(self) -> None:
        while not self.stopped.wait(0.05):
            self.num_bytes = max(self.num_bytes, self._server.rss_bytes())
