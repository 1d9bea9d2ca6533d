"""A real training of a tiny model, with nothing but the client: from the file to the next job."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sdk.service import Service
from tests.sdk.work import upload, wait_for
from tests.worker.deployment import ROOT

TRAINING = {
    "model": {"dtype": "float32"},
    "adapter": {"r": 4},
    "optimization": {"max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 5e-3},
    "checkpoints": {"save_steps": 3},
    "evaluation": {"eval_steps": 3},
    "reporting": {"logging_steps": 1},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server whose worker trains."""
    folder = tmp_path_factory.mktemp("trainer")
    maker = [sys.executable, "tests/tiny_model.py", str(folder / "model")]
    subprocess.run(maker, cwd=ROOT, check=True)
    made = Service(folder)
    try:
        made.start_worker("worker")
        made.add_model(folder / "model", seconds=120)
        yield made
    finally:
        made.close()


def test_two_trainings_one_after_the_other(openai: Any, trainer: Service) -> None:
    with openai.OpenAI(api_key=trainer.team().secret, base_url=trainer.url) as client:
        first = _train(client, "tiny")
        rows = client.files.content(first.result_files[0]).text.splitlines()
        assert rows[0].startswith("step,train_loss,train_mean_token_accuracy,valid_loss")
        assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4", "5", "6"]
        assert [bool(row.split(",")[3]) for row in rows[1:]] == [False, False, True] * 2
        second = _train(client, first.fine_tuned_model)
        assert _losses(client, first)[0] > _losses(client, first)[-1] > _losses(client, second)[-1]
        client.models.delete(second.fine_tuned_model)


def _train(client: Any, model: str) -> Any:
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=upload(client).id,
        validation_file=upload(client).id,
        suffix="numbers",
        seed=1,
        extra_body={"training": TRAINING},
    )
    done = wait_for(client, job.id, "succeeded", seconds=180)
    assert done.trained_tokens > 0
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(done.id))
    assert [each.step_number for each in checkpoints] == [6, 3]
    assert all(each.metrics.valid_loss > 0 for each in checkpoints)
    return done


def _losses(client: Any, job: Any) -> list[float]:
    """By step."""
    events = [e for e in client.fine_tuning.jobs.list_events(job.id) if e.type == "metrics"]
    measured = [e.data for e in reversed(events) if "train_loss" in e.data]
    return [data["train_loss"] for data in measured]
