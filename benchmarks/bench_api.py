"""Measure the API against a real server process: start, memory, creates, a large upload.

    python -m benchmarks.bench_api [--seconds 10] [--upload-bytes 1000000000]

Clients are threads of this process with one kept-alive connection each. Prints one Markdown table.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving import MODEL, Load, Peak, Server, blocks_of_rows, prepare, serving, upload
from jobs.settings import Settings

_CLIENTS = 16
_RATE = 100
_OTHER_RATE = 10
_HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate", "numpy")


def measure_start(server: Server) -> Iterator[tuple[str, str, str]]:
    yield "start to first answer", f"{server.start_seconds:.2f} s", "< 2 s"
    yield "memory after start", f"{server.rss_bytes() / 2**20:.0f} MB", "< 150 MB"
    code = "import sys, api.app; print([m for m in sys.argv[1:] if m in sys.modules])"
    command = [sys.executable, "-c", code, *_HEAVY]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    yield "heavy modules loaded", loaded, "[]"


def measure_creates(server: Server, duration_seconds: float) -> Iterator[tuple[str, str, str]]:
    file_id = upload(server, list(blocks_of_rows(100_000)))
    body = {"model": MODEL, "training_file": file_id}
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
    blocks = list(blocks_of_rows(num_bytes))
    total = sum(map(len, blocks))
    before = server.rss_bytes()
    peak = Peak(server)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10, help="of offered creates")
    parser.add_argument("--upload-bytes", type=int, default=10**9)
    arguments = parser.parse_args()
    print("| what | measured | wanted |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        with serving(settings, prepare(settings)) as server:
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
