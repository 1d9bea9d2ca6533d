"""Jobs through a real worker process; the training is a fake that keeps to the same contract."""

import hashlib
import io
import itertools
import signal
import time
import zipfile
from pathlib import Path

import pytest
from sqlalchemy import select

from jobs.models import Artifact, File
from tests.servers import RedisServer
from tests.worker.deployment import Deployment
from tests.worker.fake_training import SECRET, losses

pytestmark = pytest.mark.slow
HEADER = "step,train_loss,train_mean_token_accuracy,valid_loss,valid_mean_token_accuracy"


def artifacts(deployment: Deployment, job_id: str) -> dict[str, Artifact]:
    with deployment.database.reading() as session:
        rows = session.scalars(select(Artifact).where(Artifact.job_id == job_id))
        return {row.name: row for row in rows}


def test_a_job_succeeds_and_its_result_is_whole(fake: Deployment) -> None:
    began = time.monotonic()
    job_id = fake.submit(max_steps=20)
    fake.wait_until(lambda: fake.job(job_id).status == "running", 5)
    assert time.monotonic() - began < 1
    assert fake.wait_for_end(job_id) == "succeeded"

    job = fake.job(job_id)
    assert job.error is None
    assert job.trained_tokens == 1234
    assert [loss for _, loss in fake.curve(job_id)] == losses(20)
    seqs = [event.seq for event in fake.events(job_id)]
    assert seqs == list(range(1, len(seqs) + 1))

    stored = artifacts(fake, job_id)
    assert sorted(stored) == [
        "adapter.zip",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/manifest.json",
        "tensorboard.zip",
    ]
    for artifact in stored.values():
        content = fake.content(artifact.key)
        assert hashlib.sha256(content).hexdigest() == artifact.sha256
        assert len(content) == artifact.bytes
    archive = zipfile.ZipFile(io.BytesIO(fake.content(stored["adapter.zip"].key)))
    assert archive.testzip() is None
    assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    for name in archive.namelist():
        assert archive.read(name) == fake.content(stored[f"adapter/{name}"].key)

    kept = [c.step for c in fake.checkpoints(job_id) if c.deleted_at is None]
    assert kept == [10, 15, 20]
    fake.check_nothing_is_left()


def test_what_was_measured_is_a_file_of_the_project(fake: Deployment) -> None:
    job_id = fake.submit(max_steps=10)
    assert fake.wait_for_end(job_id) == "succeeded"
    job = fake.job(job_id)
    assert job.result_file_id is not None
    with fake.database.reading() as session:
        table = session.get_one(File, job.result_file_id)
    assert (table.filename, table.purpose) == ("step_metrics.csv", "fine-tune-results")
    content = fake.content(table.artifact_key)
    assert hashlib.sha256(content).hexdigest() == table.sha256
    header, *rows = content.decode().splitlines()
    assert header == HEADER
    assert rows == [f"{step},{loss},,," for step, loss in fake.curve(job_id)]


def test_no_secret_reaches_the_stored_log(fake: Deployment) -> None:
    job_id = fake.submit(max_steps=20)
    fake.wait_for_end(job_id)
    text = "".join(event.message for event in fake.events(job_id, "log"))
    assert text.count("[redacted]") == 20
    assert text.count("\n") == 20
    assert SECRET not in text


def test_training_knows_no_secrets(deployment: Deployment, tmp_path: Path) -> None:
    deployment.settings = deployment.settings.model_copy(update={"hub_token": "hf_" + "s" * 20})
    deployment.start_worker()
    deployment.add_model(tmp_path / "model")
    deployment.submit(max_steps=100)
    deployment.wait_until(deployment.processes, 10)
    deployment.wait_until(lambda: len(deployment.processes()) >= 2, 10)
    for pid in deployment.processes():
        content = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {entry.partition(b"=")[0].decode() for entry in content if entry}
        assert names <= {
            "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "HOME", "LANG", "LC_ALL", "LC_CTYPE",
            "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "PYTHONUNBUFFERED",
            "TMPDIR", "TOKENIZERS_PARALLELISM", "TUNESMITH_RUN", "TZ",
        }  # fmt: skip
        assert b"CUDA_VISIBLE_DEVICES=" in content


def test_one_slot_runs_jobs_one_after_another(fake: Deployment) -> None:
    ids = [fake.submit(max_steps=5) for _ in range(3)]
    for job_id in ids:
        assert fake.wait_for_end(job_id) == "succeeded"
    runs = sorted((run for i in ids for run in fake.runs(i)), key=lambda run: run.started_at)
    for earlier, later in itertools.pairwise(runs):
        assert earlier.slots_freed_at is not None
        assert later.started_at >= earlier.slots_freed_at


@pytest.mark.parametrize("mode", ["normal", "stubborn", "families", "silent"])
def test_cancel_leaves_no_process(fake: Deployment, mode: str) -> None:
    fake.set_mode(mode)
    job_id = fake.submit(max_steps=10_000)
    if mode == "silent":
        fake.wait_until(lambda: len(fake.processes()) >= 2, 10)
    else:
        fake.wait_for_step(job_id, 3)
    fake.cancel(job_id)
    cancelled_at = time.monotonic()
    assert fake.job(job_id).status == "cancelled"
    assert fake.wait_for_end(job_id) == "cancelled"
    assert time.monotonic() - cancelled_at < (2 if mode == "normal" else 6)
    assert fake.processes() == []
    assert [run.outcome for run in fake.runs(job_id)] == ["cancelled"]
    fake.set_mode("normal")
    assert fake.wait_for_end(fake.submit(max_steps=3)) == "succeeded"


def test_what_training_says_of_its_failure_is_the_jobs_error(fake: Deployment) -> None:
    fake.set_mode("fail")
    job_id = fake.submit(max_steps=20)
    assert fake.wait_for_end(job_id) == "failed"
    error = fake.job(job_id).error
    assert error is not None
    assert (error["code"], error["fault"]) == ("nan_loss", "spec")
    assert len(fake.runs(job_id)) == 1


def test_a_poisoned_job_is_given_up_and_others_pass(fake: Deployment) -> None:
    fake.set_mode("abort")
    poisoned = fake.submit(max_steps=20)
    assert fake.wait_for_end(poisoned) == "failed"
    error = fake.job(poisoned).error
    assert error is not None
    assert error["code"] == f"signal_{int(signal.SIGABRT)}"
    assert [run.outcome for run in fake.runs(poisoned)] == ["crashed"] * 3
    fake.set_mode("normal")
    assert fake.wait_for_end(fake.submit(max_steps=3)) == "succeeded"


def test_a_file_that_changed_in_the_store_fails_the_job(fake: Deployment) -> None:
    fake.set_mode("silent")  # holds the slot
    first, job_id = fake.submit(max_steps=5), fake.submit(max_steps=5)
    fake.wait_until(lambda: fake.processes(), 10)
    for key in list(fake.store.keys("files/")):
        path = fake.store.local_path(key)
        assert path is not None
        path.write_bytes(b"{}")
    fake.cancel(first)
    assert fake.wait_for_end(job_id) == "failed"
    error = fake.job(job_id).error
    assert error is not None
    assert error["code"] == "input_changed"


def test_a_training_that_falls_silent_is_ended(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, phase_timeout_seconds=2, max_crashes=1)
    try:
        deployment.start_worker()
        deployment.add_model(tmp_path / "model")
        deployment.set_mode("silent")
        job_id = deployment.submit(max_steps=5)
        assert deployment.wait_for_end(job_id) == "failed"
        error = deployment.job(job_id).error
        assert error is not None
        assert error["code"] == "hung"
        assert deployment.processes() == []
    finally:
        deployment.close()


@pytest.mark.redis
def test_redis_may_come_and_go(tmp_path: Path, redis: RedisServer) -> None:
    """Bells through Redis; without it jobs still start, train and end, only a little later."""
    deployment = Deployment(tmp_path, broker_url=redis.url)
    try:
        deployment.start_worker()
        deployment.add_model(tmp_path / "model")
        deployment.wait_until(lambda: "ready." in deployment.worker_log(), 10)
        running = deployment.submit(max_steps=40)
        deployment.wait_for_step(running, 3)
        redis.kill()
        waiting = deployment.submit(max_steps=5)
        assert deployment.wait_for_end(running) == "succeeded"
        assert deployment.wait_for_end(waiting) == "succeeded"
        assert [run.outcome for run in deployment.runs(running)] == ["succeeded"]
        redis.start()
        assert deployment.wait_for_end(deployment.submit(max_steps=5)) == "succeeded"
        began = time.monotonic()
        deployment.workers[0].terminate()
        assert deployment.workers[0].wait(20) == 0
        assert time.monotonic() - began < 10
    finally:
        deployment.close()
