"""Measure the way from POST to `running`, and the worker, on `tunesmith serve` as it is shipped.

    python -m benchmarks.bench_main_job [--jobs 10]

The jobs train a tiny model with random weights: the figures are about the service. A job is
watched by asking for it every 5 ms, and cancelled once it runs; the worker is idle before each.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

_ROOT = Path(__file__).parents[1]
_LOOK_SECONDS = 0.005
_PATIENCE_SECONDS = 120
_ROW = {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}


@contextmanager
def serving(data: Path, **settings: str) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """`tunesmith serve` over an empty data directory, ready; a client of it, and its process."""
    command = [str(Path(sys.executable).with_name("tunesmith")), "serve", "--port", "0"]
    named = {"DATA_DIR": str(data), "WORKER_GPUS": "0", **settings}
    env = os.environ | {f"TUNESMITH_{name}": value for name, value in named.items()}
    with (data / "serve.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        wait_until((data / "server.json").exists)
        url = json.loads((data / "server.json").read_text())["url"]
        key = (data / "admin.key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            yield client, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def seconds_until_running(client: httpx.Client, body: dict[str, Any]) -> float:
    """From just before the POST to the first look that finds the job running."""
    begin = time.perf_counter()
    path = f"/v1/fine_tuning/jobs/{ok(client.post('/v1/fine_tuning/jobs', json=body))['id']}"
    wait_until(lambda: ok(client.get(path))["status"] == "running")
    seconds = time.perf_counter() - begin
    ok(client.post(f"{path}/cancel"))
    wait_until(lambda: all(run["ended_at"] for run in ok(client.get(f"{path}/runs"))["data"]))
    return seconds


def tiny_model(folder: Path) -> Path:
    """A model with random weights, in a new folder."""
    command = [sys.executable, str(_ROOT / "tests" / "tiny_model.py"), str(folder)]
    subprocess.run(command, cwd=_ROOT, check=True)
    return folder


def prepare(client: httpx.Client, model: Path) -> dict[str, Any]:
    """Add a model and a file; the body of a job that uses them."""
    ok(client.post("/v1/models", json={"name": "tiny", "source": str(model)}))
    wait_until(lambda: ok(client.get("/v1/models/tiny"))["status"] == "ready")
    files = {"file": ("rows.jsonl", f"{json.dumps(_ROW)}\n" * 8)}
    file = ok(client.post("/v1/files", files=files, data={"purpose": "fine-tune"}))
    return {"model": "tiny", "training_file": file["id"]}


def ok(reply: httpx.Response) -> dict[str, Any]:
    reply.raise_for_status()
    body: dict[str, Any] = reply.json()
    return body


def wait_until(holds: Callable[[], object], *, look_seconds: float = _LOOK_SECONDS) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("the service did not come so far")
        time.sleep(look_seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as (client, server):
        body = prepare(client, tiny_model(Path(name) / "model"))
        seconds = [seconds_until_running(client, body) for _ in range(arguments.jobs)]
        (worker,) = server.children()
        memory = worker.memory_info().rss
    print("| what | measured | wanted |\n|---|---|---|")
    print(f"| POST to `running`, median | {statistics.median(seconds):.2f} s | < 1 s |")
    print(f"| POST to `running`, worst of {len(seconds)} | {max(seconds):.2f} s | < 1 s |")
    print(f"| memory of the idle worker | {memory / 2**20:.0f} MB | < 150 MB |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
