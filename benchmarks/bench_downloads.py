"""Measure the download of an adapter over loopback, whole and cut in the middle.

    python -m benchmarks.bench_downloads [--bytes 1000000000] [--cuts 5]

The client takes bytes off a socket and drops them, so that the server is measured and not the
client; the download that is cut is hashed, and resumed by `Range` and `If-Range`.
"""

import argparse
import hashlib
import os
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.serving import MODEL, Server, blocks_of_rows, prepare, serving, upload
from jobs.artifacts.base import Stored
from jobs.artifacts.registry import open_store
from jobs.database import Database
from jobs.service import claims, endings
from jobs.service.endings import Ending, StoredArtifact
from jobs.service.records import Fence
from jobs.settings import Settings
from jobs.states import RunOutcome

_JOBS = "/v1/fine_tuning/jobs"
_BLOCK_BYTES = 1 << 20
_RUNS = 5


def adapter(server: Server, settings: Settings, num_bytes: int) -> tuple[str, Stored]:
    """The path of a job's adapter of this size, and what was stored."""
    file_id = upload(server, list(blocks_of_rows(100_000)))
    body = {"model": MODEL, "training_file": file_id}
    job_id = server.reply(server.connect(), "POST", _JOBS, body)["id"]
    store = open_store(settings)
    with store.create(f"jobs/{job_id}/attempt-1/adapter.zip") as writer:
        for _ in range(num_bytes // _BLOCK_BYTES):
            writer.write(os.urandom(_BLOCK_BYTES))
        stored = writer.commit()
    db = Database(settings.resolved_database_url)
    with db.claiming() as session:
        offer = claims.Offer("bench", settings.worker_pool, 0, frozenset())
        claimed = claims.claim(session, offer, settings)
    assert claimed is not None
    artifact = StoredArtifact("adapter.zip", stored.key, stored.bytes, stored.sha256)
    with db.writing() as session:
        fence = Fence(claimed.run_id, claimed.lease_token)
        endings.finish(
            session, fence, Ending(RunOutcome.SUCCEEDED, artifacts=(artifact,)), settings
        )
    db.close()
    return f"{_JOBS}/{job_id}/adapter", stored


def download(
    server: Server,
    path: str,
    keep: Callable[[memoryview], object] = len,
    *,
    headers: tuple[str, ...] = (),
    most: int | None = None,
) -> tuple[int, str]:
    """Take the body, or hang up once `most` bytes of it have come; status and ETag."""
    lines = (f"GET {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {server.key}")
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall("\r\n".join((*lines, *headers, "", "")).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        told = head.decode().lower()
        left = int(_header(told, "content-length")) if most is None else most
        while left:
            count = connection.recv_into(buffer, min(left, len(buffer)))
            assert count, "the server has hung up"
            keep(buffer[:count])
            left -= count
    return int(told.split()[1]), _header(told, "etag")


def _header(head: str, name: str) -> str:
    found = re.search(rf"\r\n{name}: (.*)\r\n", head)
    assert found is not None, head
    return found[1]


def measure_speed(server: Server, path: str, stored: Stored) -> Iterator[tuple[str, str, str]]:
    rates, busy = [], []
    for _ in range(_RUNS):
        begin, cpu = time.perf_counter(), server.cpu_seconds()
        download(server, path)
        rates.append(stored.bytes / 1e6 / (time.perf_counter() - begin))
        busy.append(server.cpu_seconds() - cpu)
    name = f"download of {stored.bytes / 1e6:.0f} MB, median of {_RUNS}"
    yield name, f"{statistics.median(rates):.0f} MB/s", ">= 500 MB/s"
    yield "the server's CPU for it", f"{statistics.median(busy):.2f} s", ""


def measure_resuming(
    server: Server, path: str, stored: Stored, cuts: int
) -> Iterator[tuple[str, str, str]]:
    digest = hashlib.sha256()
    part = stored.bytes // (cuts + 1)
    _, etag = download(server, path, digest.update, most=part)
    for cut in range(1, cuts + 1):
        begin = part * cut
        headers = (f"Range: bytes={begin}-", f"If-Range: {etag}")
        most = part if cut < cuts else None
        status, _ = download(server, path, digest.update, headers=headers, most=most)
        assert status == 206
    same = "the same" if digest.hexdigest() == stored.sha256 else "ANOTHER"
    yield f"cut {cuts} times and resumed: sha256", same, "the same"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bytes", type=int, default=10**9)
    parser.add_argument("--cuts", type=int, default=5)
    arguments = parser.parse_args()
    print("| what | measured | wanted |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        with serving(settings, prepare(settings)) as server:
            path, stored = adapter(server, settings, arguments.bytes)
            before = server.rss_bytes()
            for step in (
                measure_speed(server, path, stored),
                measure_resuming(server, path, stored, arguments.cuts),
            ):
                for name, value, wanted in step:
                    print(f"| {name} | {value} | {wanted} |", flush=True)
            growth = (server.rss_bytes() - before) / 2**20
            print(f"| memory grows by | {growth:.0f} MB | |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
