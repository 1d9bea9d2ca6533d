"""Measure the way from a claim to the first optimiser step: a cold start against a warm one.

    python -m benchmarks.bench_warm_start [--jobs 5] [--model FOLDER]

Two services as shipped, one with TUNESMITH_WARM_START off, get the same jobs in turn: a short row,
one step. A claim's time is the database's, a step's what training wrote into its run directory.
The warm one is asked once its process stands by. The model's own load is measured in a process
whose libraries are loaded. Without a model, a tiny one with random weights.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import select

from benchmarks.bench_main_job import ok, prepare, serving, tiny_model, wait_until
from jobs.database import Database
from jobs.models import Run
from training.events import Event, Metrics, Progress, read_events
from training.handover import READY

_LOOK_SECONDS = 0.1
"""Events tell their own times; to look more often takes processor time from what is measured."""
_QUIET_SECONDS = 2
"""Before each job, so that what the one before left to do is not part of it."""
_LOAD = """
import sys, time
from training.libraries import load_ahead
load_ahead()
from pathlib import Path
from training.config import TrainingConfig
from training.model import load_model, load_tokenizer
begin = time.perf_counter()
load_tokenizer(Path(sys.argv[1]))
load_model(Path(sys.argv[1]), TrainingConfig.model_validate({"model": {"dtype": "float32"}}))
print(time.perf_counter() - begin)
"""
_TRAINING = {
    "model": {"dtype": "float32"},
    "data": {"max_length": 64},
    "optimization": {"max_steps": 1, "per_device_train_batch_size": 1},
    "reporting": {"logging_steps": 1},
}


@dataclass(frozen=True)
class Way:
    """Seconds from the claim on."""

    started: float
    loading: float
    training: float
    first_step: float


def run_job(client: httpx.Client, data: Path, body: dict[str, Any]) -> Way:
    """A job from its post to its end; what it wrote is read while it is there."""
    job_id = ok(client.post("/v1/fine_tuning/jobs", json=body))["id"]
    events: list[Event] = []
    wait_until(lambda: _has_stepped(data, events), look_seconds=_LOOK_SECONDS)
    path = f"/v1/fine_tuning/jobs/{job_id}"
    wait_until(lambda: ok(client.get(path))["status"] == "succeeded")
    wait_until(lambda: all(run["ended_at"] for run in ok(client.get(f"{path}/runs"))["data"]))
    database = Database(f"sqlite:///{data / 'tunesmith.db'}")
    with database.reading() as session:
        claimed = session.scalars(select(Run.started_at).where(Run.job_id == job_id)).one()
    database.close()
    phases = {e.phase: e.at for e in reversed(events) if isinstance(e, Progress)}
    step = next(e.at for e in events if isinstance(e, Metrics))
    times = (phases["starting"], phases["loading_model"], phases["training"], step)
    return Way(*(at - claimed for at in times))


def _has_stepped(data: Path, events: list[Event]) -> bool:
    for path in (data / "runs").glob("*/events.jsonl"):
        events[:] = [event for event, _ in read_events(path)]
    return any(isinstance(event, Metrics) for event in events)


def load_seconds(model: Path) -> float:
    command = [sys.executable, "-c", _LOAD, str(model)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.split()[-1])


def wait_for_standby(data: Path) -> int:
    """Until it is ready; its resident memory, in bytes."""
    wait_until(lambda: list((data / "standby").glob(f"*/{READY}")))
    for process in psutil.process_iter(["cmdline"]):
        match process.info["cmdline"] or []:
            case [_, "-P", "-m", "training", "standby", folder] if folder.startswith(str(data)):
                return int(process.memory_info().rss)
    raise ProcessLookupError("no process stands by")


def _median(ways: Iterable[Way], name: str) -> float:
    return statistics.median(getattr(way, name) for way in ways)


def _print(cold: list[Way], warm: list[Way], load: float, memory: int) -> None:
    print("| seconds from the claim to, median | cold | warm | wanted |\n|---|---|---|---|")
    rows = {
        "the process's first word": "started",
        "its data prepared": "loading",
        "training begun": "training",
        "the first step done": "first_step",
    }
    for words, name in rows.items():
        wanted = f"< {1.5 + load:.2f} s" if name == "first_step" else ""
        print(f"| {words} | {_median(cold, name):.2f} | {_median(warm, name):.2f} | {wanted} |")
    slowest = [max(way.first_step for way in ways) for ways in (cold, warm)]
    print(
        f"| the first step done, slowest of {len(cold)} | {slowest[0]:.2f} | {slowest[1]:.2f} | |"
    )
    print(f"\nThe model's own load takes {load:.2f} s; a process that stands by {memory >> 20} MB.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=5)
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        colds, warms = Path(name).resolve() / "cold", Path(name).resolve() / "warm"
        for data in (colds, warms):
            data.mkdir()
        model = (arguments.model or tiny_model(Path(name) / "model")).resolve()
        with (
            serving(colds, WARM_START="false") as (cold_client, _),
            serving(warms, WARM_START_FREE_BYTES="1") as (warm_client, _),
        ):
            bodies = [
                prepare(client, model) | {"training": _TRAINING}
                for client in (cold_client, warm_client)
            ]
            cold, warm = [], []
            for _ in range(arguments.jobs):
                memory = wait_for_standby(warms)
                time.sleep(_QUIET_SECONDS)
                cold.append(run_job(cold_client, colds, bodies[0]))
                time.sleep(_QUIET_SECONDS)
                warm.append(run_job(warm_client, warms, bodies[1]))
        load = statistics.median(load_seconds(model) for _ in range(arguments.jobs))
    _print(cold, warm, load, memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
