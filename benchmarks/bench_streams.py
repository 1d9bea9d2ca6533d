"""Measure the event stream: many watchers of one job on one API process.

    python -m benchmarks.bench_streams [--watchers 1000] [--seconds 20]

The watchers are sockets of one process of their own, which keeps what comes and reads it only at
the end: a client that parses as it listens would measure itself. The lag of an event is the time
from just before its transaction to its arrival, once for every watcher. Events are written as a
worker writes them, first one a second and then in bursts, while jobs are created by others.
"""

import argparse
import json
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving import (
    MODEL,
    Load,
    Peak,
    Server,
    blocks_of_rows,
    percentile,
    prepare,
    serving,
    upload,
)
from jobs.database import Database
from jobs.service import claims, records
from jobs.service.records import Fence
from jobs.settings import Settings
from training.events import Message

_JOBS = "/v1/fine_tuning/jobs"
_POOL = "watched"
_CREATORS = 4
_CREATES_A_SECOND = 10
_BURST_EVENTS = 50
_BURST_SECONDS = 5
_CONNECTING_AT_ONCE = 50
_READ_BYTES = 1 << 18
_PATIENCE_SECONDS = 120
_EVENT = re.compile(rb"id: (\d+)\nevent: \w+\ndata: (.*)\n")


@dataclass
class _Watcher:
    """One connection, and what came on it and when."""

    connection: socket.socket
    received: list[tuple[float, bytes]] = field(default_factory=list)

    def heard(self) -> Iterator[tuple[int, str, float]]:
        """Number of every event, the load it belongs to, and its lag in seconds."""
        text, ends, arrivals = bytearray(), [], []
        for arrival, data in self.received:
            text += data
            ends.append(len(text))
            arrivals.append(arrival)
        chunk = 0
        for found in _EVENT.finditer(text):
            while ends[chunk] < found.end():
                chunk += 1
            said = json.loads(found[2])["data"] or {}
            lag = arrivals[chunk] - said.get("sent", 0.0)
            yield int(found[1]), said.get("load", ""), lag


def be_watchers(arguments: argparse.Namespace) -> None:
    """Be all the watchers: say on stdout when they listen, and stop at the end of stdin."""
    chooser = selectors.DefaultSelector()
    request = (
        f"GET {arguments.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {arguments.key}\r\n\r\n"
    ).encode()
    watchers: list[_Watcher] = []
    while len(watchers) < arguments.watchers:
        for _ in range(min(_CONNECTING_AT_ONCE, arguments.watchers - len(watchers))):
            connection = socket.create_connection(("127.0.0.1", arguments.port))
            connection.sendall(request)
            watchers.append(_Watcher(connection))
            chooser.register(connection, selectors.EVENT_READ, watchers[-1])
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not all(watcher.received for watcher in watchers):
            assert time.monotonic() < deadline, "not every stream has begun"
            _receive(chooser)
    print("listening", flush=True)
    chooser.register(sys.stdin, selectors.EVENT_READ, None)
    while not _receive(chooser):
        pass
    for watcher in watchers:
        print(json.dumps(list(watcher.heard())))


def _receive(chooser: selectors.BaseSelector) -> bool:
    """Take what has come; whether stdin has ended."""
    for ready, _ in chooser.select(1):
        watcher = ready.data
        if watcher is None:
            return True
        data = watcher.connection.recv(_READ_BYTES)
        assert data, "a stream has ended"
        watcher.received.append((time.time(), data))
    return False


class Audience:
    """The process of the watchers."""

    def __init__(self, server: Server, path: str, count: int) -> None:
        options = {"watchers": count, "port": server.port, "path": path, "key": server.key}
        command = [sys.executable, "-m", "benchmarks.bench_streams", "--be-watchers"]
        command += [f"--{name}={value}" for name, value in options.items()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listening\n", "the watchers do not listen"

    def end(self) -> list[list[tuple[int, str, float]]]:
        """What each of them has heard: number, load and lag of every event."""
        heard, _ = self._process.communicate()
        return [json.loads(line) for line in heard.splitlines()]


@dataclass
class Writer:
    """A run of the watched job, which says things as a worker does."""

    db: Database
    settings: Settings
    claimed: claims.Claim
    calls: int = 0

    def say(self, load: str, count: int) -> None:
        """One transaction of messages, each of which tells when it was sent."""
        self.calls += 1
        fence = Fence(self.claimed.run_id, self.claimed.lease_token)
        data = {"load": load, "sent": time.time()}
        messages = [Message(message="Step", data=data) for _ in range(count)]
        with self.db.writing() as session:
            records.record(
                session, fence, messages, relayed_bytes=self.calls, settings=self.settings
            )

    def say_regularly(self, load: str, count: int, *, every: float, seconds: float) -> None:
        due = time.monotonic()
        for _ in range(round(seconds / every)):
            time.sleep(max(0.0, due - time.monotonic()))
            self.say(load, count)
            due += every
        time.sleep(1)


def begin(server: Server, db: Database, settings: Settings, body: dict[str, object]) -> Writer:
    """A running job in a pool of its own."""
    pooled = body | {"resources": {"pool": _POOL}}
    server.call(server.connect(), "POST", _JOBS, pooled)
    with db.claiming() as session:
        claimed = claims.claim(session, claims.Offer("bench", _POOL, 0, frozenset()), settings)
    assert claimed is not None
    return Writer(db, settings, claimed)


def measure(
    server: Server, writer: Writer, creates: Load, arguments: argparse.Namespace
) -> Iterator[tuple[str, str, str]]:
    before = server.rss_bytes()
    peak = Peak(server)
    began = time.monotonic()
    path = f"{_JOBS}/{writer.claimed.job_id}/stream"
    audience = Audience(server, path, arguments.watchers)
    yield f"{arguments.watchers} watchers connect in", f"{time.monotonic() - began:.1f} s", ""
    threads = [threading.Thread(target=peak.watch), threading.Thread(target=creates.run)]
    for thread in threads:
        thread.start()
    began, cpu = time.monotonic(), server.cpu_seconds()
    writer.say_regularly("steady", 1, every=1, seconds=arguments.seconds)
    busy = (server.cpu_seconds() - cpu) / (time.monotonic() - began)
    writer.say_regularly("burst", _BURST_EVENTS, every=_BURST_SECONDS, seconds=arguments.seconds)
    peak.stopped.set()
    creates.stopped.set()
    for thread in threads:
        thread.join()
    heard = audience.end()
    _require_all(heard, arguments.watchers)
    yield from _lags(heard, "steady", "one event a second", "< 250 ms")
    burst = f"{_BURST_EVENTS} events at once every {_BURST_SECONDS} s"
    yield from _lags(heard, "burst", burst, "")
    yield "the server's CPU at one event a second", f"{busy * 100:.0f} %", ""
    yield "memory grows by", f"{(peak.num_bytes - before) / 2**20:.0f} MB", "< 100 MB"
    name = f"create meanwhile, {_CREATES_A_SECOND} a second"
    yield f"{name}, median", f"{statistics.median(creates.seconds) * 1000:.0f} ms", ""
    yield f"{name}, p95", f"{creates.percentile(0.95) * 1000:.0f} ms", "< 100 ms"


def _require_all(heard: list[list[tuple[int, str, float]]], watchers: int) -> None:
    """Every watcher has heard every event, once and in order."""
    assert len(heard) == watchers
    numbers = list(range(1, max(len(events) for events in heard) + 1))
    assert all([number for number, _, _ in events] == numbers for events in heard)


def _lags(
    heard: list[list[tuple[int, str, float]]], load: str, name: str, wanted: str
) -> Iterator[tuple[str, str, str]]:
    lags = [lag for events in heard for _, kind, lag in events if kind == load]
    yield f"lag, {name}, median", f"{statistics.median(lags) * 1000:.0f} ms", ""
    yield f"lag, {name}, p99", f"{percentile(lags, 0.99) * 1000:.0f} ms", wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--watchers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20, help="of each of the two loads")
    parser.add_argument("--be-watchers", action="store_true", help="for this program's own use")
    for name in ("port", "path", "key"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.be_watchers:
        be_watchers(arguments)
        return 0
    print("| what | measured | wanted |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        with serving(settings, prepare(settings)) as server:
            db = Database(settings.resolved_database_url)
            file_id = upload(server, list(blocks_of_rows(100_000)))
            body: dict[str, object] = {"model": MODEL, "training_file": file_id}
            creates = Load(
                lambda connection: server.call(connection, "POST", _JOBS, body),
                server,
                clients=_CREATORS,
                rate=_CREATES_A_SECOND,
            )
            writer = begin(server, db, settings, body)
            for name, value, wanted in measure(server, writer, creates, arguments):
                print(f"| {name} | {value} | {wanted} |", flush=True)
            db.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
