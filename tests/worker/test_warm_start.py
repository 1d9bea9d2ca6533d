"""The real worker, with a real process standing by: jobs go to it, and a kill leaves nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.deployment import ROOT, Deployment
from tests.worker.launching import ready_standbys
from tests.worker.test_real_training import STEPS, submit

pytestmark = pytest.mark.slow
LOADING_SECONDS = 120


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path, warm_start=True, warm_start_free_bytes=1)
    try:
        yield made
    finally:
        made.close()


def wait_for_a_standby(warm: Deployment) -> None:
    folder = warm.settings.data_dir / "standby"
    warm.wait_until(lambda: warm.processes() and ready_standbys(folder), LOADING_SECONDS)


def training_of(warm: Deployment) -> int:
    """The process of the run, which was the one that stood by."""
    (pid,) = [
        pid
        for pid in warm.processes()
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:5]
        == [b"-P", b"-m", b"training", b"standby"]
    ]
    return pid


def test_a_job_goes_to_it_and_nothing_survives_a_kill(warm: Deployment, tmp_path: Path) -> None:
    model = tmp_path / "model"
    subprocess.run([sys.executable, "tests/tiny_model.py", str(model)], cwd=ROOT, check=True)
    warm.start_worker("worker")
    warm.add_model(model, seconds=LOADING_SECONDS)
    wait_for_a_standby(warm)
    (waiting,) = [training_of(warm)]

    job_id = submit(warm)
    warm.wait_until(lambda: warm.checkpoints(job_id), 60)
    assert training_of(warm) == waiting
    for pid in [warm.workers[0].pid, *warm.processes()]:
        os.kill(pid, signal.SIGKILL)
    warm.workers[0].wait()
    warm.start_worker("worker")
    assert warm.wait_for_end(job_id, 180) == "succeeded", warm.job(job_id).error
    assert [run.outcome for run in warm.runs(job_id)] == ["lost", "succeeded"]
    assert [step for step, _ in warm.curve(job_id)] == list(range(1, STEPS + 1))

    wait_for_a_standby(warm)
    warm.workers[1].kill()
    warm.workers[1].wait()
    warm.wait_until(lambda: not warm.processes(), 1)

    warm.start_worker("worker")
    wait_for_a_standby(warm)
    assert len(list((warm.settings.data_dir / "standby").iterdir())) == 1
    warm.workers[2].terminate()
    assert warm.workers[2].wait(10) == 0
    assert warm.processes() == []
