"""The whole way with the real `python -m training` on a tiny model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.deployment import ROOT, Deployment

pytestmark = pytest.mark.slow
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number} plus one?"},
            {"role": "assistant", "content": f"It is {number + 1}."},
        ]
    }
    for number in range(32)
]
TRAINING = {
    "model": {"dtype": "float32"},
    "data": {"max_length": 128},
    "adapter": {"r": 4},
    "reporting": {"logging_steps": 1, "report_to": []},
}
STEPS = 24


@pytest.fixture
def real(deployment: Deployment, tmp_path: Path) -> Deployment:
    model = tmp_path / "model"
    subprocess.run(
        [sys.executable, "tests/tiny_model.py", str(model)], cwd=ROOT, check=True, timeout=120
    )
    deployment.start_worker("worker")
    deployment.add_model(model, seconds=120)
    return deployment


def submit(real: Deployment) -> str:
    optimization = {"max_steps": STEPS, "per_device_train_batch_size": 2}
    return real.submit_body(
        {
            "model": "tiny",
            "training_file": real.upload(ROWS),
            "seed": 7,
            "training": {
                **TRAINING,
                "optimization": optimization,
                "checkpoints": {"save_steps": 4, "keep": 2},
            },
        }
    )


def test_a_job_is_killed_drained_and_still_has_the_uninterrupted_curve(real: Deployment) -> None:
    plain = submit(real)
    assert real.wait_for_end(plain, 180) == "succeeded", real.job(plain).error
    expected = real.curve(plain)
    assert [step for step, _ in expected] == list(range(1, STEPS + 1))

    job_id = submit(real)
    real.wait_until(lambda: real.checkpoints(job_id), 120)
    os.kill(real.process_named("training"), signal.SIGKILL)
    real.wait_until(lambda: len(real.runs(job_id)) == 2, 20)
    real.wait_until(lambda: len(real.events(job_id, "rewound")) == 1, 120)
    real.workers[0].terminate()
    assert real.workers[0].wait(30) == 0
    real.start_worker("worker")
    assert real.wait_for_end(job_id, 180) == "succeeded", real.job(job_id).error
    assert [run.outcome for run in real.runs(job_id)] == ["crashed", "interrupted", "succeeded"]
    assert real.curve(job_id) == expected
    assert real.processes() == []


def test_a_model_that_changed_since_the_submission_is_refused(
    real: Deployment, tmp_path: Path
) -> None:
    config = tmp_path / "model" / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "temperature": 0.5}))
    job_id = submit(real)
    assert real.wait_for_end(job_id, 120) == "failed"
    error = real.job(job_id).error
    assert error is not None
    assert error["code"] == "model_changed"


def test_a_folder_without_a_model_is_an_error_of_the_catalogue(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.start_worker("worker")
    with pytest.raises(AssertionError, match="config"):
        deployment.add_model(tmp_path / "empty", seconds=60)
    assert deployment.model("tiny").status == "error"
