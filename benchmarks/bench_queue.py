"""Measure a deployment with a long queue and a long past, on SQLite and on PostgreSQL.

    python -m benchmarks.bench_queue [--queued 10000] [--ended 100000] [--samples 200]
                                     [--database sqlite|postgresql]

What has a route is asked over HTTP, one request after another on one kept-alive connection; what a
worker does is called as the worker calls it. PostgreSQL is found as the tests find it, and syncs
to disk.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from benchmarks.crowd import Crowd, patterns
from benchmarks.serving import MODEL, Server, blocks_of_rows, percentile, prepare, serving, upload
from jobs.artifacts.registry import open_store
from jobs.database import Database
from jobs.doorbell import Bell
from jobs.rescue import Rescue
from jobs.service import claims
from jobs.service.claims import Offer
from jobs.settings import Settings
from tests.servers import postgres_server

_JOBS = "/v1/fine_tuning/jobs"
_DAY_SECONDS = 86400
_DATABASES = ("sqlite", "postgresql")


def requests(
    server: Server, body: dict[str, object], ended: str, queued: str
) -> dict[str, Callable[[], object]]:
    """What is asked over HTTP, by name."""
    connection = server.connect()

    def ask(method: str, path: str, sent: object = None) -> Callable[[], object]:
        return lambda: server.call(connection, method, path, sent)

    def page(**query: str) -> Callable[[], object]:
        return ask("GET", f"{_JOBS}?{urlencode(query)}")

    return {
        "create": ask("POST", _JOBS, body),
        "get an ended job": ask("GET", f"{_JOBS}/{ended}"),
        "get a queued job, with its position": ask("GET", f"{_JOBS}/{queued}"),
        "page of 20 jobs": page(),
        "page of 100 jobs": page(limit="100"),
        "page of 20, deep cursor": page(after=ended),
        "page of 20, one team of 50": page(**{"metadata[team]": "team-7"}),
        "page of 20, a value of 1 in 1,000": page(**{"metadata[rare]": "yes"}),
        "page of 20, a value nobody has": page(**{"metadata[team]": "none"}),
        "page of 20, two values": page(**{"metadata[team]": "team-1", "metadata[rare]": "yes"}),
        "page of 20 without metadata": page(metadata="null"),
        "events of an ended job": ask("GET", f"{_JOBS}/{ended}/events"),
    }


def steps_of_workers(
    db: Database, settings: Settings, rescue: Rescue
) -> dict[str, Callable[[], object]]:
    """What workers and the sweep do, by name; every claim is a new worker's first."""
    numbers = itertools.count()

    def claim(gpus: int, pool: str = "default") -> claims.Claim | None:
        provides = frozenset({"cuda"} if gpus else ())
        offer = Offer(f"bench-{next(numbers)}", pool, gpus, provides)
        with db.claiming() as session:
            return claims.claim(session, offer, settings)

    def poll() -> None:
        with db.writing() as session:
            claims.register(session, Offer("idle", "empty", 0, frozenset()))
        assert claim(0, "empty") is None

    return {
        "claim by a worker with 8 GPUs": lambda: _made(claim(8)),
        "claim by a worker without a GPU": lambda: _made(claim(0)),
        "a poll that finds nothing": poll,
        "one rescue sweep": rescue.sweep,
    }


def _made(claimed: claims.Claim | None) -> claims.Claim:
    assert claimed is not None
    return claimed


def timed(action: Callable[[], object], samples: int) -> list[float]:
    """Milliseconds of each call, without the first: it may build what lasts."""
    action()
    found = []
    for _ in range(samples):
        begin = time.perf_counter()
        action()
        found.append((time.perf_counter() - begin) * 1000)
    return found


def measure(
    url: str, folder: Path, arguments: argparse.Namespace
) -> Iterator[tuple[str, str, str]]:
    # No lease may end: nobody renews those of the runs that are claimed here.
    settings = Settings(data_dir=folder, database_url=url, lease_seconds=_DAY_SECONDS)
    key = prepare(settings)
    with serving(settings, key) as server:
        file_id = upload(server, list(blocks_of_rows(100_000)))
        body: dict[str, object] = {"model": MODEL, "training_file": file_id, "metadata": {"a": "b"}}
        waiting, ended = patterns(server, settings, body)
    begin = time.perf_counter()
    crowd = Crowd(settings)
    crowd.add(waiting, arguments.queued, ended, arguments.ended)
    print(f"seeded in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    old, queued = crowd.job_ids[arguments.ended // 4], crowd.job_ids[-arguments.queued // 2]
    with serving(settings, key) as server:
        for name, action in requests(server, body, old, queued).items():
            yield _row(name, timed(action, arguments.samples))
    db = Database(settings.resolved_database_url)
    bell = Bell(settings)
    rescue = Rescue(db, settings, bell, open_store(settings))
    for name, action in steps_of_workers(db, settings, rescue).items():
        yield _row(name, timed(action, arguments.samples))
    bell.close()
    db.close()


def _row(name: str, milliseconds: list[float]) -> tuple[str, str, str]:
    middle, slow = statistics.median(milliseconds), percentile(milliseconds, 0.95)
    return name, f"{middle:.1f} ms", f"{slow:.1f} ms"


@contextmanager
def _database(kind: str) -> Iterator[str]:
    """The URL of an empty database; empty: SQLite in the data folder."""
    if kind == "sqlite":
        yield ""
        return
    with postgres_server(durable=True) as url:
        yield url


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--ended", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--database", choices=_DATABASES, action="append")
    arguments = parser.parse_args()
    for kind in arguments.database or _DATABASES:
        print(f"| {kind} | median | p95 (wanted: < 50 ms) |\n|---|---|---|")
        with tempfile.TemporaryDirectory() as folder, _database(kind) as url:
            for name, middle, slow in measure(url, Path(folder), arguments):
                print(f"| {name} | {middle} | {slow} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
