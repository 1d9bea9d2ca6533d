"""`kill -9` of anything at any time: the job goes on from its checkpoint, on the same curve.

The training is a fake whose losses depend on every step before.
"""

import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from jobs.settings import worker_name
from tests.worker.deployment import Deployment
from tests.worker.fake_training import losses
from worker.processes import tag_of_worker

pytestmark = pytest.mark.slow
STEPS = 40


def start(fake: Deployment, *, steps: int = STEPS) -> str:
    """A job that has passed its second checkpoint, and has one in the store."""
    job_id = fake.submit(max_steps=steps)
    fake.wait_for_step(job_id, 12)
    fake.wait_until(lambda: fake.checkpoints(job_id), 10)
    return job_id


def check_it_went_on(fake: Deployment, job_id: str, outcomes: list[str]) -> None:
    assert fake.wait_for_end(job_id) == "succeeded"
    assert [run.outcome for run in fake.runs(job_id)] == [*outcomes, "succeeded"]
    assert [loss for _, loss in fake.curve(job_id)] == losses(STEPS)
    steps = [event.data for event in fake.events(job_id, "rewound")]
    assert len(steps) == len(outcomes)
    assert all(data and data["step"] >= 5 for data in steps), "it began anew"
    seqs = [event.seq for event in fake.events(job_id)]
    assert seqs == list(range(1, len(seqs) + 1))
    fake.check_nothing_is_left()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


@pytest.mark.parametrize("mode", ["normal", "families"])
def test_the_worker_is_killed(fake: Deployment, mode: str) -> None:
    fake.set_mode(mode)
    job_id = start(fake)
    kill(fake.workers[0])
    fake.wait_until(lambda: not fake.processes(), 1)
    fake.start_worker()
    check_it_went_on(fake, job_id, ["lost"])


def test_the_worker_is_killed_and_another_host_takes_over(fake: Deployment) -> None:
    """Nobody of the old worker's name comes back: its lease expires."""
    job_id = start(fake)
    old_name = worker_name(fake.settings)
    kill(fake.workers[0])
    (fake.settings.data_dir / "worker.id").unlink()
    fake.start_worker()
    check_it_went_on(fake, job_id, ["lost"])
    assert [run.worker_id == old_name for run in fake.runs(job_id)] == [True, False]


def test_the_reaper_is_killed(fake: Deployment) -> None:
    fake.set_mode("families")
    job_id = start(fake)
    os.kill(fake.process_named("reaper.py"), signal.SIGKILL)
    check_it_went_on(fake, job_id, ["crashed"])


def test_the_training_process_is_killed(fake: Deployment) -> None:
    fake.set_mode("families")
    job_id = start(fake)
    os.kill(fake.process_named("fake_training.py"), signal.SIGKILL)
    check_it_went_on(fake, job_id, ["crashed"])
    failure = fake.runs(job_id)[0].failure
    assert failure is not None
    assert failure["code"] == "signal_9"


def test_everything_is_killed(fake: Deployment) -> None:
    job_id = start(fake)
    for pid in [fake.workers[0].pid, *fake.processes()]:
        os.kill(pid, signal.SIGKILL)
    fake.workers[0].wait()
    fake.start_worker()
    check_it_went_on(fake, job_id, ["lost"])


def test_kills_at_many_moments(fake: Deployment) -> None:
    """A worker killed again and again, also while it stages, saves and uploads."""
    job_id = fake.submit(max_steps=STEPS)
    for delay_seconds in (0.05, 0.2, 0.5, 0.9, 1.3):
        time.sleep(delay_seconds)
        kill(fake.workers[-1])
        fake.start_worker()
        fake.wait_until(lambda: fake.job(job_id).status != "queued", 20)
    assert fake.wait_for_end(job_id) == "succeeded"
    assert [loss for _, loss in fake.curve(job_id)] == losses(STEPS)
    assert fake.processes() == []


def test_what_an_older_worker_left_is_killed_before_its_job_goes_on(fake: Deployment) -> None:
    """A process that outlived its worker (its reaper was killed, too) may still hold the GPU."""
    job_id = start(fake)
    for pid in [fake.process_named("reaper.py"), fake.workers[0].pid]:
        os.kill(pid, signal.SIGSTOP)
    tag = tag_of_worker(fake.settings, worker_name(fake.settings)) + "run-of-old"
    survivor = subprocess.Popen(
        ["sleep", "1000"], env={"TUNESMITH_RUN": tag}, start_new_session=True
    )
    stranger = subprocess.Popen(["sleep", "1000"], env={"TUNESMITH_RUN": "other/worker/run"})
    kill(fake.workers[0])
    fake.start_worker()
    assert survivor.wait(20) == -signal.SIGKILL
    check_it_went_on(fake, job_id, ["lost"])
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_saves_and_hands_back(fake: Deployment, number: int) -> None:
    job_id = start(fake)
    fake.workers[0].send_signal(number)
    assert fake.workers[0].wait(15) == 0
    assert fake.job(job_id).status == "queued"
    assert fake.processes() == []
    at = fake.curve(job_id)[-1][0]
    fake.start_worker()
    check_it_went_on(fake, job_id, ["interrupted"])
    rewound = fake.events(job_id, "rewound")[0].data
    assert rewound is not None
    assert rewound["step"] >= at, "the drain did not save"
    assert fake.job(job_id).crashes == 0


def test_a_second_term_ends_all_patience(fake: Deployment) -> None:
    fake.set_mode("stubborn")
    job_id = start(fake, steps=100)
    fake.workers[0].terminate()
    time.sleep(2)
    assert fake.workers[0].poll() is None
    fake.workers[0].terminate()
    assert fake.workers[0].wait(10) == 0
    assert fake.processes() == []
    fake.set_mode("normal")
    fake.start_worker()
    assert fake.wait_for_end(job_id) == "succeeded"
    assert [run.outcome for run in fake.runs(job_id)] == ["interrupted", "succeeded"]


def test_a_drained_worker_takes_no_new_job(fake: Deployment) -> None:
    fake.set_mode("stubborn")
    start(fake, steps=100)
    fake.workers[0].terminate()
    time.sleep(1)
    waiting = fake.submit(max_steps=5)
    time.sleep(1)
    fake.workers[0].terminate()
    fake.workers[0].wait(10)
    assert fake.job(waiting).status == "queued"
    assert fake.runs(waiting) == []


def test_a_second_worker_on_the_same_folder_does_not_start(fake: Deployment) -> None:
    second = fake.start_worker()
    assert second.wait(30) != 0
    said = (fake.settings.data_dir / "worker.log").read_text()
    assert "another worker is running" in said
    assert "Traceback" not in said
    assert fake.workers[0].poll() is None


def test_training_goes_on_while_the_database_is_locked(fake: Deployment) -> None:
    """Longer than the lease: events wait on disk, and nobody else can claim meanwhile."""
    job_id = start(fake)
    lock = sqlite3.connect(fake.settings.data_dir / "tunesmith.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    time.sleep(fake.settings.lease_seconds + 1.5)
    lock.execute("ROLLBACK")
    lock.close()
    assert fake.wait_for_end(job_id) == "succeeded"
    assert [run.outcome for run in fake.runs(job_id)] == ["succeeded"]
    assert [loss for _, loss in fake.curve(job_id)] == losses(STEPS)


def test_a_worker_killed_while_the_database_is_locked(fake: Deployment) -> None:
    job_id = start(fake)
    lock = sqlite3.connect(fake.settings.data_dir / "tunesmith.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    kill(fake.workers[0])
    fake.wait_until(lambda: not fake.processes(), 1)
    fake.start_worker()
    time.sleep(2)
    lock.execute("ROLLBACK")
    lock.close()
    check_it_went_on(fake, job_id, ["lost"])


def test_a_paused_worker_that_wakes_after_its_lease_writes_nothing(
    fake: Deployment, tmp_path: Path
) -> None:
    """SIGSTOP of the worker and its training; another worker takes the job; then both wake."""
    job_id = start(fake)
    old = fake.workers[0]
    paused = [old.pid, *fake.processes()]
    with fake.database.writing() as session:
        session.connection()  # so that it does not stand still in a write of its own
        fake.freeze(paused)
    first_name = worker_name(fake.settings)
    other = Deployment.beside(fake, tmp_path / "other")
    other.start_worker()
    fake.wait_until(lambda: len(fake.runs(job_id)) == 2, 20)
    for pid in paused:
        os.kill(pid, signal.SIGCONT)
    check_it_went_on(fake, job_id, ["lost"])
    assert fake.runs(job_id)[1].worker_id != first_name
    other.close()


def test_cancel_while_its_worker_is_dead(fake: Deployment) -> None:
    job_id = start(fake)
    kill(fake.workers[0])
    fake.cancel(job_id)
    fake.start_worker()
    assert fake.wait_for_end(job_id) == "cancelled"
    assert len(fake.runs(job_id)) == 1
