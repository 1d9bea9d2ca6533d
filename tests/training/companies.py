"""Runs of two processes on this machine's CPU, as a worker would start, stop and lose them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.training.runs import events, prepare
from training.events import CheckpointSaved, Event, Finished, Metrics
from training.run_directory import RunDirectory, StopReason

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 300
STEPS = 12
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number} plus {number % 7}?" * (1 + number % 3)},
            {"role": "assistant", "content": f"It is {number + number % 7}." * (1 + number % 5)},
        ]
    }
    for number in range(41)
]
"""Four of them are held out; 37 make windows of 12, and a last one of a single row."""


def settings(strategy: str, **training: Mapping[str, Any]) -> dict[str, Any]:
    """Twelve steps; by two processes of three rows each, or by one of six: the same rows a step."""
    together = strategy != "none"
    optimization = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 3 if together else 6,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.005,
    }
    base: dict[str, Any] = {
        "data": {"eval_split": 0.1},
        "model": {"dtype": "float32"},
        "optimization": optimization,
        "parallelism": {"strategy": strategy, "num_processes": 2 if together else 1},
        "checkpoints": {"save_steps": 100},
        "evaluation": {"eval_steps": 4},
        "reporting": {"logging_steps": 1, "report_to": []},
    }
    for section, values in training.items():
        base[section] = {**base.get(section, {}), **values}
    return base


def made(folder: Path, model: Path, training: Mapping[str, Any]) -> RunDirectory:
    return prepare(folder, model, training, rows=ROWS)


class Company:
    """The processes of a run, from their start on; what they say is in `output.log`."""

    def __init__(self, directory: RunDirectory) -> None:
        spec = directory.read_spec()
        is_fsdp = spec.training.parallelism.strategy == "fsdp"
        module = "tests.training.fsdp_on_cpu" if is_fsdp else "training"
        self._directory = directory
        with directory.log_file.open("ab") as log:
            self._launcher = subprocess.Popen(
                [sys.executable, "-P", "-m", module, "run", str(directory.path)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def wait_for(self, step: int) -> None:
        """Return when a step has been told of since the start."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not any(isinstance(e, Metrics) and e.step >= step for e in self._news()):
            assert self._launcher.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def stop(self, reason: StopReason) -> None:
        """As a worker does: a word on disk, and a TERM unless training is to find it by itself."""
        self._directory.write_stop_reason(reason)
        if reason != "stop":
            self._launcher.send_signal(signal.SIGTERM)

    def kill(self, rank: int) -> None:
        """`kill -9` of one of the processes."""
        os.kill(self._pid(rank), signal.SIGKILL)

    def end(self) -> int:
        """The exit code of the whole, negative for a signal; nothing of it is left."""
        pids = [*self._ranks(), self._launcher.pid]
        code = self._launcher.wait(DEADLINE_SECONDS)
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()], self.log()
        return code

    def log(self) -> str:
        return self._directory.log_file.read_text()[-8000:]

    def abandon(self) -> None:
        for pid in [*self._ranks(), self._launcher.pid]:
            if self._launcher.poll() is None:
                os.kill(pid, signal.SIGKILL)
        self._launcher.wait()

    def _news(self) -> list[Event]:
        """Events of this start: the last one that was resumed, and all after it."""
        if not self._directory.events_file.exists():
            return []
        told = events(self._directory)
        ends = [place for place, event in enumerate(told) if isinstance(event, Finished)]
        rewinds = [place for place, event in enumerate(told) if event.type == "rewound"]
        return told[max([-1, *ends, *rewinds]) + 1 :]

    def _pid(self, rank: int) -> int:
        return next(pid for pid in self._ranks() if f"RANK={rank}".encode() in _environment(pid))

    def _ranks(self) -> list[int]:
        pid = self._launcher.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(child) for child in children.read_text().split()] if children.exists() else []


@contextmanager
def company(directory: RunDirectory) -> Iterator[Company]:
    started = Company(directory)
    try:
        yield started
    finally:
        started.abandon()


def run_to_end(directory: RunDirectory) -> Finished:
    """Start it, wait, and return its last word."""
    with company(directory) as started:
        started.end()
        return last_word(directory, started.log())


def last_word(directory: RunDirectory, log: str) -> Finished:
    last = events(directory)[-1]
    assert isinstance(last, Finished), log
    return last


def saved_steps(directory: RunDirectory) -> list[int]:
    return [event.step for event in events(directory) if isinstance(event, CheckpointSaved)]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except FileNotFoundError:
        return []
