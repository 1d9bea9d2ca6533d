"""Measure the API against a real server process: start, memory, creates, a large upload.

    python benchmarks/bench_api.py [--seconds 10] [--upload-bytes 1000000000]

Clients are threads of this process with one kept-alive connection each, and load is offered at a
fixed rate: a request that had to wait for its client counts from the moment it was due. Prints
one Markdown table.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

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

_CLIENTS = 16
_RATE = 100
_OTHER_RATE = 10
_MODEL = "bench"
_HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate", "numpy")
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
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server over a fresh database, ready to answer."""
    settings = Settings(data_dir=folder)
    key = _prepare(settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "api.server", "--port", str(port)],
        env=os.environ | {"TUNESMITH_DATA_DIR": str(folder)},
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


def _prepare(settings: Settings) -> str:
    """The schema, the first key, and a base model whose facts are known."""
    upgrade(settings.resolved_database_url)
    db = Database(settings.resolved_database_url)
    with db.writing() as session:
        key = keys.bootstrap(session, settings)
    assert key is not None
    with db.writing() as session:
        identity = keys.authenticate(session, key)
        catalogue.add(session, identity, ModelRequest(name=_MODEL, source="/srv/models/bench"))
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


def _rows(num_bytes: int) -> Iterator[bytes]:
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
        for n in range(2000)
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


def measure_start(server: Server) -> Iterator[tuple[str, str, str]]:
    yield "start to first answer", f"{server.start_seconds:.2f} s", "< 2 s"
    yield "memory after start", f"{server.rss_bytes() / 2**20:.0f} MB", "< 150 MB"
    code = "import sys, api.app; print([m for m in sys.argv[1:] if m in sys.modules])"
    command = [sys.executable, "-c", code, *_HEAVY]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    yield "heavy modules loaded", loaded, "[]"


def measure_creates(server: Server, duration_seconds: float) -> Iterator[tuple[str, str, str]]:
    file_id = upload(server, list(_rows(100_000)))
    body = {"model": _MODEL, "training_file": file_id}
    load = Load(
        lambda connection: server.call(connection, "POST", "/v1/fine_tuning/jobs", body),
        server,
        clients=_CLIENTS,
        rate=_RATE,
    )
    begin = time.perf_counter()
    load.run_for(duration_seconds)
    rate = len(load.seconds) / (time.perf_counter() - begin)
    yield f"creates a second, {_CLIENTS} clients", f"{rate:.0f}", f"{_RATE} offered"
    yield "create, median", f"{statistics.median(load.seconds) * 1000:.1f} ms", "< 30 ms"
    yield "create, p99", f"{load.percentile(0.99) * 1000:.1f} ms", "< 100 ms"
    yield "create, worst", f"{max(load.seconds) * 1000:.1f} ms", ""
    yield "memory after creates", f"{server.rss_bytes() / 2**20:.0f} MB", ""


def measure_upload(server: Server, num_bytes: int) -> Iterator[tuple[str, str, str]]:
    blocks = list(_rows(num_bytes))
    total = sum(map(len, blocks))
    before = server.rss_bytes()
    peak = _Peak(server)
    other = Load(
        lambda connection: server.call(connection, "GET", "/v1/fine_tuning/jobs?limit=1"),
        server,
        clients=1,
        rate=_OTHER_RATE,
    )
    threads = [threading.Thread(target=peak.watch), threading.Thread(target=other.run)]
    for thread in threads:
        thread.start()
    begin = time.perf_counter()
    upload(server, blocks)
    seconds = time.perf_counter() - begin
    peak.stopped.set()
    other.stopped.set()
    for thread in threads:
        thread.join()
    yield f"upload of {total / 1e6:.0f} MB", f"{total / 1e6 / seconds:.0f} MB/s", ">= 50 MB/s"
    growth = (peak.num_bytes - before) / 2**20
    yield "memory grows meanwhile by", f"{growth:.0f} MB", "<= 64 MB"
    yield "another client, median", f"{statistics.median(other.seconds) * 1000:.0f} ms", ""
    yield "another client, p99", f"{other.percentile(0.99) * 1000:.0f} ms", "< 250 ms"


class _Peak:
    """The largest memory of a server while it is watched."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.num_bytes = 0
        self.stopped = threading.Event()

    def watch(self) -> None:
        while not self.stopped.wait(0.05):
            self.num_bytes = max(self.num_bytes, self._server.rss_bytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of offered creates")
    parser.add_argument("--upload-bytes", type=int, default=10**9)
    arguments = parser.parse_args()
    print("| what | measured | wanted |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        for step in (
            measure_start(server),
            measure_creates(server, arguments.seconds),
            measure_upload(server, arguments.upload_bytes),
        ):
            for name, value, wanted in step:
                print(f"| {name} | {value} | {wanted} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
