"""Pause, resume and stop through a real worker process; the training is a fake."""

import os
import signal
from pathlib import Path

import pytest

from jobs.models import Job
from jobs.settings import Settings
from jobs.states import JobStatus
from tests.worker.deployment import Deployment
from tests.worker.fake_training import losses
from tests.worker.test_jobs import artifacts
from training.run_directory import RunDirectory
from worker.launchers.local import LocalLauncher
from worker.stopping import StopLadder


def wait_for_pause(deployment: Deployment, job_id: str) -> Job:
    deployment.wait_until(lambda: deployment.job(job_id).status == JobStatus.PAUSED, 20)
    return deployment.job(job_id)


@pytest.mark.slow
def test_a_paused_job_holds_nothing_and_goes_on_exactly(fake: Deployment) -> None:
    job_id = fake.submit(max_steps=60, save_steps=1000)
    fake.wait_for_step(job_id, 5)
    asked = fake.pause(job_id)
    assert (asked.status, asked.intent) == (JobStatus.RUNNING, "pause")
    paused = wait_for_pause(fake, job_id)
    assert paused.intent is None
    (run,) = fake.runs(job_id)
    assert run.outcome == "interrupted"
    assert run.slots_freed_at is not None
    assert run.ended_at is not None
    fake.check_nothing_is_left()
    (checkpoint,) = fake.checkpoints(job_id)
    assert 5 <= checkpoint.step < 60

    assert fake.wait_for_end(fake.submit(max_steps=3)) == "succeeded"  # the slot is free
    assert fake.job(job_id).status == "paused"

    assert fake.resume(job_id).status == "queued"
    assert fake.wait_for_end(job_id) == "succeeded"
    assert [run.outcome for run in fake.runs(job_id)] == ["interrupted", "succeeded"]
    assert [loss for _, loss in fake.curve(job_id)] == losses(60)
    assert (fake.job(job_id).lost_runs, fake.job(job_id).crashes) == (0, 0)


@pytest.mark.slow
def test_a_stopped_job_succeeds_with_fewer_steps(fake: Deployment) -> None:
    job_id = fake.submit(max_steps=10_000, save_steps=1000)
    fake.wait_for_step(job_id, 5)
    assert fake.stop(job_id).intent == "stop"
    assert fake.wait_for_end(job_id, 20) == "succeeded"
    done = len(fake.curve(job_id))
    assert 5 <= done < 200
    assert [run.outcome for run in fake.runs(job_id)] == ["succeeded"]
    assert fake.job(job_id).intent is None
    assert "adapter.zip" in artifacts(fake, job_id)
    fake.check_nothing_is_left()


@pytest.mark.slow
def test_a_paused_job_that_is_stopped_exports_what_it_has(fake: Deployment) -> None:
    job_id = fake.submit(max_steps=10_000, save_steps=1000)
    fake.wait_for_step(job_id, 5)
    fake.pause(job_id)
    wait_for_pause(fake, job_id)
    done = len(fake.curve(job_id))
    assert (fake.stop(job_id).status, fake.job(job_id).intent) == ("queued", "stop")
    assert fake.wait_for_end(job_id, 20) == "succeeded"
    assert [run.outcome for run in fake.runs(job_id)] == ["interrupted", "succeeded"]
    assert len(fake.curve(job_id)) <= done + 3  # a fake may be quicker than the word
    assert "adapter.zip" in artifacts(fake, job_id)


@pytest.mark.slow
def test_a_stop_outlives_the_worker(fake: Deployment) -> None:
    """It was asked of a run that could not heed it, and is heeded by the next one."""
    fake.set_mode("silent")
    job_id = fake.submit(max_steps=10_000)
    fake.wait_until(lambda: fake.job(job_id).status == "running", 10)
    fake.stop(job_id)
    os.kill(fake.workers[0].pid, signal.SIGKILL)
    fake.set_mode("normal")
    fake.start_worker()
    assert fake.wait_for_end(job_id, 30) == "succeeded"
    assert [run.outcome for run in fake.runs(job_id)] == ["lost", "succeeded"]
    assert 1 <= len(fake.curve(job_id)) < 100


@pytest.mark.slow
def test_a_pause_outlives_the_worker(fake: Deployment) -> None:
    fake.set_mode("stubborn")
    job_id = fake.submit(max_steps=10_000)
    fake.wait_until(lambda: fake.checkpoints(job_id), 30)
    fake.pause(job_id)
    os.kill(fake.workers[0].pid, signal.SIGKILL)
    fake.set_mode("normal")
    fake.start_worker()
    wait_for_pause(fake, job_id)
    assert [run.outcome for run in fake.runs(job_id)] == ["lost"]
    assert fake.processes() == []
    fake.stop(job_id)
    assert fake.wait_for_end(job_id, 30) == "succeeded"


@pytest.mark.slow
def test_cancel_is_stronger_than_what_was_asked_before(fake: Deployment) -> None:
    fake.set_mode("stubborn")
    for ask in (fake.pause, fake.stop):
        job_id = fake.submit(max_steps=10_000)
        fake.wait_for_step(job_id, 3)
        ask(job_id)
        fake.cancel(job_id)
        assert fake.wait_for_end(job_id, 20) == "cancelled"
        assert [run.outcome for run in fake.runs(job_id)] == ["cancelled"]
        assert artifacts(fake, job_id) == {}
        fake.check_nothing_is_left()


def test_the_word_is_written_taken_back_and_overruled(tmp_path: Path) -> None:
    directory, settings = RunDirectory(tmp_path), Settings(data_dir=tmp_path)
    handle = LocalLauncher().start(["sleep", "100"], {"PATH": os.environ["PATH"]}, tmp_path)
    try:
        ladder = StopLadder(handle, directory, settings)
        ladder.keep(wanted=True)
        assert directory.is_to_keep()
        assert ladder.reason is None
        ladder = StopLadder(handle, directory, settings)  # of the next command
        ladder.keep(wanted=False)
        assert not directory.stop_file.exists()
        ladder.keep(wanted=True)
        assert handle.poll() is None
        ladder.want("pause")
        ladder.keep(wanted=False)
        assert directory.read_stop_reason() == "pause"
        report = handle.wait(timeout_seconds=10)
        assert report is not None
        assert report.signal == signal.SIGTERM
    finally:
        handle.signal("KILL")
        handle.wait(timeout_seconds=10)
