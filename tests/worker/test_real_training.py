"""The whole way with the real `python -m training` on a tiny model."""

import csv
import json
import os
import signal
from pathlib import Path

import pytest

from jobs.models import File
from tests.worker.deployment import Deployment
from tests.worker.test_jobs import artifacts

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
    "data": {"max_length": 128, "eval_split": 0.1},
    "adapter": {"r": 4},
    "evaluation": {"eval_steps": 8},
    "reporting": {"logging_steps": 1, "report_to": []},
}
STEPS = 24


def submit(real: Deployment, max_steps: int = STEPS, save_steps: int = 4) -> str:
    optimization = {"max_steps": max_steps, "per_device_train_batch_size": 2}
    return real.submit_body(
        {
            "model": "tiny",
            "training_file": real.upload(ROWS),
            "seed": 7,
            "training": {
                **TRAINING,
                "optimization": optimization,
                "checkpoints": {"save_steps": save_steps, "keep": 2},
            },
        }
    )


def results(real: Deployment, job_id: str) -> list[dict[str, str]]:
    """The rows of the job's results file."""
    with real.database.reading() as session:
        table = session.get_one(File, real.job(job_id).result_file_id)
    return list(csv.DictReader(real.content(table.artifact_key).decode().splitlines()))


def test_a_job_is_killed_drained_and_still_has_the_uninterrupted_curve(real: Deployment) -> None:
    plain = submit(real)
    assert real.wait_for_end(plain, 180) == "succeeded", real.job(plain).error
    expected = real.curve(plain)
    assert [step for step, _ in expected] == list(range(1, STEPS + 1))
    measured = results(real, plain)
    assert [(int(row["step"]), float(row["train_loss"])) for row in measured] == expected
    assert all(0 <= float(row["train_mean_token_accuracy"]) <= 1 for row in measured)
    evaluated = [row for row in measured if row["valid_loss"]]
    assert [row["step"] for row in evaluated] == ["8", "16", "24"]
    assert all(0 <= float(row["valid_mean_token_accuracy"]) <= 1 for row in evaluated)

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
    assert results(real, job_id) == measured
    assert real.processes() == []


def test_a_paused_job_goes_on_to_the_uninterrupted_curve(real: Deployment) -> None:
    num_steps = 300  # a quick machine does a hundred in a second
    plain = submit(real, num_steps, save_steps=50)
    assert real.wait_for_end(plain, 180) == "succeeded", real.job(plain).error

    job_id = submit(real, num_steps, save_steps=50)
    real.wait_for_step(job_id, 2, 120)
    real.pause(job_id)
    real.wait_until(lambda: real.job(job_id).status == "paused", 60)
    real.check_nothing_is_left()
    done = len(real.curve(job_id))
    assert 2 <= done < num_steps
    real.resume(job_id)
    assert real.wait_for_end(job_id, 180) == "succeeded", real.job(job_id).error
    assert [run.outcome for run in real.runs(job_id)] == ["interrupted", "succeeded"]
    assert real.curve(job_id) == real.curve(plain)


def test_a_stopped_job_has_an_adapter_of_fewer_steps(real: Deployment) -> None:
    """Stopped while it trains, and stopped while it is paused: then a last run exports."""
    for paused in (False, True):
        job_id = submit(real, max_steps=2000)
        real.wait_for_step(job_id, 2, 120)
        if paused:
            real.pause(job_id)
            real.wait_until(lambda i=job_id: real.job(i).status == "paused", 60)
        real.stop(job_id)
        assert real.wait_for_end(job_id, 180) == "succeeded", real.job(job_id).error
        done = real.curve(job_id)[-1][0]
        assert 2 <= done < 2000
        told = [event.message for event in real.events(job_id, "message")]
        assert f"Stopped on request at step {done} of 2000." in told
        names = artifacts(real, job_id)
        assert {"adapter.zip", "adapter/adapter_model.safetensors"} <= names.keys()
        card = real.content(names["adapter/README.md"].key).decode()
        assert f"{done} steps" in card
        assert len(real.runs(job_id)) == 1 + paused


def test_two_processes_share_a_model_by_what_was_compiled_before(real: Deployment) -> None:
    """DeepSpeed compiles for half a minute, once on a host."""
    losses, built = [], []
    for _ in range(2):
        job_id = real.submit_body(
            {
                "model": "tiny",
                "training_file": real.upload(ROWS),
                "seed": 7,
                "resources": {"gpus": 0},
                "training": {
                    **TRAINING,
                    "model": {"dtype": "bfloat16"},
                    "optimization": {"max_steps": 3, "per_device_train_batch_size": 1},
                    "parallelism": {"strategy": "zero2", "num_processes": 2},
                },
            }
        )
        assert real.wait_for_end(job_id, 400) == "succeeded", real.job(job_id).error
        assert {"adapter.zip"} <= artifacts(real, job_id).keys()
        losses.append([loss for _, loss in real.curve(job_id)])
        libraries = real.settings.extensions_folder.rglob("*.so")
        built.append({path.name: path.stat().st_mtime_ns for path in libraries})
    assert losses[0] == losses[1]
    assert built[0] == built[1] != {}


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
