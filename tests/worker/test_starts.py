"""Jobs that go on from what other jobs have tuned, with the real worker and the real training."""

import json
from typing import Any

import pytest
from safetensors.numpy import load

from jobs.models import Artifact
from tests.worker.deployment import Deployment

pytestmark = pytest.mark.slow
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number} plus one?"},
            {"role": "assistant", "content": f"It is {number + 1}."},
        ]
    }
    for number in range(16)
]
NO_STEP = 1e-30  # too small for any weight to change
PATIENCE_SECONDS = 180


def tune(
    real: Deployment,
    model: str,
    *,
    steps: int = 1,
    learning_rate: float = NO_STEP,
    adapter: dict[str, Any] | None = None,
) -> str:
    """A job that has succeeded: every step sees all rows, at one rate."""
    training: dict[str, Any] = {
        "model": {"dtype": "float32"},
        "data": {"max_length": 128},
        "optimization": {
            "max_steps": steps,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "per_device_train_batch_size": len(ROWS),
        },
        "checkpoints": {"save_steps": 2},
        "reporting": {"logging_steps": 1, "report_to": []},
    }
    if adapter is not None:
        training["adapter"] = adapter
    body = {"model": model, "training_file": real.upload(ROWS), "seed": 7, "training": training}
    job_id = real.submit_body(body)
    assert real.wait_for_end(job_id, PATIENCE_SECONDS) == "succeeded", real.job(job_id).error
    return job_id


def result(real: Deployment, job_id: str, name: str) -> bytes:
    with real.database.reading() as session:
        return real.content(session.get_one(Artifact, (job_id, f"adapter/{name}")).key)


def weights(real: Deployment, job_id: str) -> dict[str, bytes]:
    tensors = load(result(real, job_id, "adapter_model.safetensors"))
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def base_of(real: Deployment, job_id: str) -> str:
    config = json.loads(result(real, job_id, "adapter_config.json"))
    return str(config["base_model_name_or_path"])


def test_training_goes_on_from_an_adapter_and_from_a_checkpoint(real: Deployment) -> None:
    longer = tune(real, "tiny", steps=5, learning_rate=0.01, adapter={"r": 4})
    expected = dict(real.curve(longer))
    parent = tune(real, "tiny", steps=4, learning_rate=0.01, adapter={"r": 4})
    tuned = real.job(parent).fine_tuned_model

    child = tune(real, tuned)
    assert weights(real, child) == weights(real, parent)
    assert real.curve(child) == [(1, pytest.approx(expected[5], rel=1e-6))]
    assert expected[5] < expected[1]
    assert base_of(real, child) == "tiny"
    card = result(real, child, "README.md").decode()
    assert f"going on from `{tuned}`" in card
    assert str(real.settings.data_dir) not in card

    early = tune(real, f"{tuned}:ckpt-step-2")
    assert real.curve(early) == [(1, pytest.approx(expected[3], rel=1e-6))]
    assert weights(real, early) != weights(real, parent)


def test_an_adapter_over_a_model_that_was_trained_whole(real: Deployment) -> None:
    whole = tune(real, "tiny", steps=4, learning_rate=0.003, adapter={"type": "none"})
    curve = dict(real.curve(whole))
    tuned = real.job(whole).fine_tuned_model

    first = tune(real, tuned, steps=2, learning_rate=0.01, adapter={"r": 4})
    begun_at = dict(real.curve(first))[1]
    assert begun_at < curve[4]
    assert base_of(real, first) == tuned
    second = tune(real, real.job(first).fine_tuned_model)
    assert weights(real, second) == weights(real, first)
    assert base_of(real, second) == tuned
    assert dict(real.curve(second))[1] < begun_at

    again = tune(real, f"{tuned}:ckpt-step-2", adapter={"type": "none"})
    assert real.curve(again) == [(1, pytest.approx(curve[3], rel=1e-6))]


def test_a_start_whose_bytes_have_changed_is_refused(real: Deployment) -> None:
    parent = tune(real, "tiny", learning_rate=0.01)
    with real.database.reading() as session:
        key = session.get_one(Artifact, (parent, "adapter/adapter_model.safetensors")).key
    path = real.settings.artifacts_folder / key
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    body = {"model": real.job(parent).fine_tuned_model, "training_file": real.upload(ROWS)}
    job_id = real.submit_body(body)
    assert real.wait_for_end(job_id, PATIENCE_SECONDS) == "failed"
    error = real.job(job_id).error
    assert error is not None
    assert (error["code"], error["param"]) == ("input_changed", "model")
    assert real.job(parent).fine_tuned_model in error["message"]
