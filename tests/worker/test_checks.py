"""Files that the API does not read, checked by a worker's own process."""

import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from sqlalchemy import select

from jobs.models import Event, Run
from jobs.states import RunKind, RunOutcome
from tests.training.container_files import WRITERS, as_bytes
from tests.worker.deployment import Deployment

PAIRS = [{"prompt": f"{n}+1?", "completion": f" {n + 1}."} for n in range(32)]
TEXTS = [{"text": f"Text {n}."} for n in range(5)]
LATER = [name for name in WRITERS if name != "jsonl"]


def runs(deployment: Deployment, file_id: str) -> list[Run]:
    with deployment.database.reading() as session:
        query = select(Run).where(Run.file_id == file_id).order_by(Run.attempt)
        return list(session.scalars(query))


@pytest.mark.slow
def test_every_container_is_checked(deployment: Deployment, tmp_path: Path) -> None:
    deployment.start_worker("worker")
    made = {name: deployment.upload_as(name, as_bytes(name, TEXTS, tmp_path)) for name in LATER}
    for container, file_id in made.items():
        file = deployment.checked(file_id)
        assert (file.status, file.status_details) == ("processed", None)
        assert (file.container, file.format, file.num_rows) == (container, "text", 5)
        (run,) = runs(deployment, file_id)
        assert (run.kind, run.outcome, run.slot) == (RunKind.CHECK, RunOutcome.SUCCEEDED, "light")
    deployment.check_nothing_is_left()
    with deployment.database.reading() as session:
        streams = set(session.scalars(select(Event.stream_id)))
    assert streams == set(made.values())


def test_bad_rows_are_kept_as_a_report(deployment: Deployment, tmp_path: Path) -> None:
    deployment.start_worker("worker")
    rows = [*PAIRS, {"prompt": "a", "completion": " "}]
    file = deployment.checked(deployment.upload_as("csv", as_bytes("csv", rows, tmp_path)))
    assert file.status_details == "line 34: completion is empty, so there is nothing to learn"
    assert file.report is not None
    assert (file.status, file.num_rows, file.report["num_errors"]) == ("error", 32, 1)
    said = [event.message for event in deployment.events(file.id, "log")]
    assert "32 good rows of format prompt_completion, 1 refused" in said[0]


def test_what_would_fill_the_memory_ends_in_a_sentence(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, check_memory_bytes=450_000_000)
    try:
        deployment.start_worker("worker")
        bomb = tmp_path / "bomb.parquet"
        table = pa.table({"text": ["a" * (200 << 20)]})
        parquet.write_table(table, bomb, compression="zstd", use_dictionary=False)
        file = deployment.checked(deployment.upload_as("parquet", bomb.read_bytes()))
        assert (file.status, file.report) == ("error", None)
        assert file.status_details is not None
        assert file.status_details.startswith("reading the file takes more than 450000000 bytes")
        (run,) = runs(deployment, file.id)
        assert (run.outcome, run.failure and run.failure["code"]) == ("failed", "file_unreadable")
    finally:
        deployment.close()


def test_a_file_that_has_changed_in_the_store_is_in_error(
    deployment: Deployment, tmp_path: Path
) -> None:
    file_id = deployment.upload_as("csv", as_bytes("csv", PAIRS, tmp_path))
    path = deployment.store.local_path(deployment.file(file_id).artifact_key)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(b"prompt,completion\nother,rows\n")
    deployment.start_worker("worker")
    file = deployment.checked(file_id)
    assert file.status == "error"
    assert file.status_details is not None
    assert "missing or has changed" in file.status_details


@pytest.mark.slow
def test_a_check_whose_worker_dies_is_done_again(deployment: Deployment, tmp_path: Path) -> None:
    lines = b"".join(b"text number %d\n" % n for n in range(3_000_000))
    file_id = deployment.upload_as("txt", lines)
    worker = deployment.start_worker("worker")
    deployment.wait_until(deployment.processes, 30)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    deployment.wait_until(lambda: not deployment.processes(), 30)
    assert deployment.file(file_id).status == "uploaded"
    deployment.start_worker("worker")
    file = deployment.checked(file_id, 180)
    assert (file.status, file.num_rows) == ("processed", 3_000_000)
    assert [run.outcome for run in runs(deployment, file_id)] == ["lost", "succeeded"]


@pytest.mark.slow
def test_a_check_that_is_killed_each_time_is_given_up(
    deployment: Deployment, tmp_path: Path
) -> None:
    lines = b"".join(b"text number %d\n" % n for n in range(3_000_000))
    file_id = deployment.upload_as("txt", lines)
    deployment.start_worker("worker")
    for attempt in (1, 2, 3):
        deployment.wait_until(lambda n=attempt: len(runs(deployment, file_id)) == n, 60)
        deployment.wait_until(lambda: _checking(deployment), 30)
        os.kill(_checking(deployment)[0], signal.SIGSEGV)
    file = deployment.checked(file_id, 60)
    assert file.status == "error"
    assert file.status_details is not None
    assert "killed by signal 11" in file.status_details
    assert [run.outcome for run in runs(deployment, file_id)] == ["crashed"] * 3


def _checking(deployment: Deployment) -> list[int]:
    """The processes that check, not those that watch over them."""
    found = []
    for pid in deployment.processes():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[1:5] == [b"-P", b"-m", b"training", b"check"]:
            found.append(pid)
    return found


@pytest.mark.slow
def test_jobs_made_at_once_train_on_such_files(real: Deployment, tmp_path: Path) -> None:
    training = {
        "model": {"dtype": "float32"},
        "data": {"max_length": 64},
        "adapter": {"r": 4},
        "optimization": {"max_steps": 2},
        "reporting": {"report_to": []},
    }
    jobs = [
        real.submit_body(
            {
                "model": "tiny",
                "training_file": real.upload_as("parquet", as_bytes("parquet", PAIRS, tmp_path)),
                "validation_file": real.upload_as("csv", as_bytes("csv", PAIRS, tmp_path)),
                "training": training,
            }
        ),
        real.submit_body(
            {
                "model": "tiny",
                "training_file": real.upload_as("txt", as_bytes("txt", TEXTS, tmp_path)),
                "training": training,
            }
        ),
    ]
    for job_id, num_rows in zip(jobs, (64, 5), strict=True):
        assert real.wait_for_end(job_id, 180) == "succeeded", real.job(job_id).error
        told = [event.message for event in real.events(job_id, "message")]
        assert any(f"{num_rows} rows read" in message for message in told)
        moves = [event.data and event.data["status"] for event in real.events(job_id, "status")]
        assert moves == ["validating_files", "queued", "running", "succeeded"]
