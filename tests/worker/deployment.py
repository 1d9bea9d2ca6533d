"""A whole deployment in one folder: database, artifacts, and worker processes to kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import select

from jobs.artifacts.registry import open_store
from jobs.database import Database
from jobs.doorbell import Bell
from jobs.models import Checkpoint, Event, File, Job, Model, Run
from jobs.requests import JobRequest, ModelRequest
from jobs.schema import upgrade
from jobs.service import catalogue, control, files, keys, submission
from jobs.settings import Settings, worker_name
from jobs.states import TERMINAL, JobStatus
from training.data_config import ContainerName
from training.file_check import FileChecker
from worker.processes import tag_of_worker, tagged

ROOT = Path(__file__).parents[2]
ROW = {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4."}]}
FAST = {
    "heartbeat_seconds": 0.3,
    "lease_seconds": 2,
    "sweep_seconds": 0.3,
    "poll_seconds": 0.5,
    "stop_grace_seconds": 2,
    "drain_seconds": 20,
    "worker_gpus": 0,
    "warm_start": False,
}


class Deployment:
    """What a test needs to play user, operator and adversary."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        self.settings = Settings(data_dir=folder / "data", **{**FAST, **overrides})
        self.settings.data_dir.mkdir(parents=True)
        upgrade(self.settings.resolved_database_url)
        self.database = Database(self.settings.resolved_database_url)
        self.store = open_store(self.settings)
        self.bell = Bell(self.settings)
        self.workers: list[subprocess.Popen[bytes]] = []
        with self.database.writing() as session:
            secret = keys.bootstrap(session, self.settings)
        if secret is not None:
            with self.database.reading() as session:
                self.identity = keys.authenticate(session, secret)
        self.set_mode("normal")

    @classmethod
    def beside(cls, first: "Deployment", folder: Path) -> "Deployment":
        """A second host of the same deployment, with a data folder of its own."""
        return cls(
            folder,
            database_url=first.settings.resolved_database_url,
            artifacts_url=f"file://{first.settings.artifacts_folder}",
        )

    def set_mode(self, mode: str) -> None:
        (self.settings.data_dir / "mode").write_text(mode)

    def start_worker(self, module: str = "tests.worker.fake_worker") -> subprocess.Popen[bytes]:
        values = self.settings.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        env = {f"TUNESMITH_{key.upper()}": str(value) for key, value in values.items()}
        with (self.settings.data_dir / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env={**os.environ, **env, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        return worker

    def add_model(self, folder: Path, name: str = "tiny", seconds: float = 30) -> None:
        folder.mkdir(exist_ok=True)
        with self.database.writing() as session:
            request = ModelRequest(name=name, source=str(folder))
            catalogue.add(session, self.identity, request)
        self.bell.ring("default")
        self.wait_until(lambda: self.model(name).status != "pending", seconds)
        assert self.model(name).status == "ready", self.model(name).error

    def model(self, name: str) -> Model:
        with self.database.reading() as session:
            return catalogue.get(session, self.identity, name)

    def upload(self, rows: list[dict[str, Any]] | None = None) -> str:
        content = "".join(json.dumps(row) + "\n" for row in rows or [ROW] * 8).encode()
        checker = FileChecker()
        checker.feed(content)
        file_id = f"file-{os.urandom(8).hex()}"
        with self.store.create(files.artifact_key(file_id)) as writer:
            writer.write(content)
            stored = writer.commit()
        stored_file = files.StoredFile(
            id=file_id,
            filename="rows.jsonl",
            purpose="fine-tune",
            bytes=stored.bytes,
            sha256=stored.sha256,
            artifact_key=stored.key,
            report=checker.finish(),
        )
        with self.database.writing() as session:
            files.add(session, self.identity, stored_file)
        return file_id

    def upload_as(self, container: ContainerName, content: bytes) -> str:
        """A file that a worker has to check."""
        file_id = f"file-{os.urandom(8).hex()}"
        with self.store.create(files.artifact_key(file_id)) as writer:
            writer.write(content)
            stored = writer.commit()
        stored_file = files.StoredFile(
            id=file_id,
            filename=f"data.{container}",
            purpose="fine-tune",
            bytes=stored.bytes,
            sha256=stored.sha256,
            artifact_key=stored.key,
            container=container,
        )
        with self.database.writing() as session:
            files.add(session, self.identity, stored_file)
        self.bell.ring("default")
        return file_id

    def checked(self, file_id: str, seconds: float = 60) -> File:
        """A file once its check is over."""
        self.wait_until(lambda: self.file(file_id).status != "uploaded", seconds)
        return self.file(file_id)

    def file(self, file_id: str) -> File:
        with self.database.reading() as session:
            return session.get_one(File, file_id)

    def submit(self, max_steps: int, save_steps: int = 5) -> str:
        training = {
            "optimization": {"max_steps": max_steps},
            "checkpoints": {"save_steps": save_steps},
        }
        return self.submit_body(
            {"model": "tiny", "training_file": self.upload(), "training": training}
        )

    def submit_body(self, body: dict[str, Any]) -> str:
        with self.database.writing() as session:
            job = submission.submit(session, self.identity, JobRequest.model_validate(body))
        self.bell.ring(job.pool)
        return job.id

    def content(self, key: str) -> bytes:
        with self.store.open(key) as file:
            return file.read()

    def cancel(self, job_id: str) -> None:
        with self.database.writing() as session:
            control.cancel(session, self.identity, job_id)

    def pause(self, job_id: str) -> Job:
        with self.database.writing() as session:
            return control.pause(session, self.identity, job_id)

    def resume(self, job_id: str) -> Job:
        with self.database.writing() as session:
            job = control.resume(session, self.identity, job_id)
        self.bell.ring(job.pool)
        return job

    def stop(self, job_id: str) -> Job:
        with self.database.writing() as session:
            job = control.stop(session, self.identity, job_id)
        self.bell.ring(job.pool)
        return job

    def job(self, job_id: str) -> Job:
        with self.database.reading() as session:
            return session.get_one(Job, job_id)

    def runs(self, job_id: str) -> list[Run]:
        with self.database.reading() as session:
            query = select(Run).where(Run.job_id == job_id).order_by(Run.attempt)
            return list(session.scalars(query))

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        with self.database.reading() as session:
            return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id)))

    def events(self, job_id: str, type: str | None = None) -> list[Event]:
        with self.database.reading() as session:
            query = select(Event).where(Event.stream_id == job_id).order_by(Event.seq)
            return [e for e in session.scalars(query) if type in {None, e.type}]

    def curve(self, job_id: str) -> list[tuple[int, float]]:
        """Step and loss, the latest attempt's value where a step was done twice."""
        points = {
            event.data["step"]: event.data["train_loss"]
            for event in self.events(job_id, "metrics")
            if event.data and not event.superseded and "train_loss" in event.data
        }
        return sorted(points.items())

    def wait_until(self, true: Callable[[], object], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            said = self.worker_log()[-6000:]
            assert time.monotonic() < deadline, f"waited {seconds} s in vain; the worker:\n{said}"
            time.sleep(0.03)

    def worker_log(self) -> str:
        log = self.settings.data_dir / "worker.log"
        return log.read_text() if log.exists() else ""

    def wait_for_step(self, job_id: str, step: int, seconds: float = 30) -> None:
        self.wait_until(lambda: len(self.curve(job_id)) >= step, seconds)

    def wait_for_end(self, job_id: str, seconds: float = 60) -> JobStatus:
        """Until the job is terminal and its last run closed."""
        self.wait_until(lambda: self.job(job_id).status in TERMINAL, seconds)
        self.wait_until(lambda: all(run.ended_at for run in self.runs(job_id)), 20)
        return self.job(job_id).status

    def processes(self) -> list[int]:
        """The processes of this deployment's runs: reapers, trainings and their families."""
        return sorted(tagged(tag_of_worker(self.settings, worker_name(self.settings))))

    def process_named(self, part: str) -> int:
        """The process of a run whose command line holds `part`."""
        for pid in self.processes():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if any(word.endswith(part) for word in command[:4]):
                return pid
        raise AssertionError(f"no {part} among {self.processes()}")

    def freeze(self, pids: list[int]) -> None:
        """SIGSTOP, and wait for it: until one thread hears of the signal, the others go on."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        self.wait_until(lambda: all(thread_states(pid) == {"T"} for pid in pids), 10)

    def check_nothing_is_left(self) -> None:
        """No process of a run, and no run directory once the worker has cleared up."""
        assert self.processes() == []
        self.wait_until(lambda: not list(self.settings.runs_folder.iterdir()), 5)

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
                worker.wait()
        self.wait_until(lambda: not self.processes(), 10)
        self.bell.close()
        self.database.close()


def thread_states(pid: int) -> set[str]:
    """A letter per state; it stands behind the name in brackets, which may hold anything."""
    files = Path(f"/proc/{pid}/task").glob("*/stat")
    return {file.read_text().rpartition(")")[2].split()[0] for file in files}
