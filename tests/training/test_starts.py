"""Going on from an adapter: it begins where the other run ended, and says so in what it leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from tests.training.runs import ROWS, adapter, curve, events, prepare, train
from training.config import TrainingConfig
from training.events import Message
from training.run_directory import RunDirectory
from training.run_spec import RunSpec, StartSource

STEPS = 3
NO_STEP = 1e-30  # too small for any weight to change


def training(learning_rate: float, max_steps: int, **adapter_keys: Any) -> dict[str, Any]:
    """Every step sees all rows, at one rate: its loss depends on the weights before it alone."""
    return {
        "adapter": {"r": 4, "lora_alpha": 8} | adapter_keys,
        "optimization": {
            "max_steps": max_steps,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "per_device_train_batch_size": len(ROWS),
        },
        "reporting": {"logging_steps": 1, "report_to": []},
    }


@pytest.fixture(scope="module")
def parent(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = prepare(tmp_path_factory.mktemp("parent"), tiny_model, training(0.01, STEPS))
    assert train(directory).outcome == "succeeded"
    return directory


def going_on(folder: Path, model: Path, parent: RunDirectory, **keys: Any) -> RunDirectory:
    start = {"path": str(parent.result), "name": "ft:tiny:o::1"}
    return prepare(folder, model, training(NO_STEP, 1, **keys), start=start, seed=8)


def test_training_goes_on_where_the_other_ended(
    tiny_model: Path, parent: RunDirectory, tmp_path: Path
) -> None:
    longer = prepare(tmp_path / "longer", tiny_model, training(0.01, STEPS + 1))
    train(longer)
    expected = curve(longer)
    assert [expected[step] for step in range(1, STEPS + 1)] == list(curve(parent).values())

    child = going_on(tmp_path / "child", tiny_model, parent)
    assert train(child).outcome == "succeeded"
    (first_loss,) = curve(child).values()
    assert first_loss == pytest.approx(expected[STEPS + 1], rel=1e-6)
    assert first_loss < expected[STEPS] < expected[1]


def test_it_begins_with_the_very_weights(
    tiny_model: Path, parent: RunDirectory, tmp_path: Path
) -> None:
    child = going_on(tmp_path, tiny_model, parent)
    train(child)
    before, after = adapter(parent.result), adapter(child.result)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    (told,) = [e for e in events(child) if isinstance(e, Message) and "start" in e.data]
    assert told.message == "Training goes on from ft:tiny:o::1."
    config = json.loads((child.result / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    card = (child.result / "README.md").read_text()
    assert "LoRA fine-tuning of `tiny`, going on from `ft:tiny:o::1`, 1 steps" in card
    assert str(parent.path) not in card


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_another_rank_or_scale_is_refused(
    tiny_model: Path, parent: RunDirectory, tmp_path: Path, key: str
) -> None:
    finished = train(going_on(tmp_path, tiny_model, parent, **{key: 16}))
    assert finished.failure is not None
    assert (finished.failure.code, finished.failure.param) == (
        "invalid_spec",
        f"training.adapter.{key}",
    )


def test_an_adapter_of_other_layers_is_refused(
    tiny_model: Path, parent: RunDirectory, tmp_path: Path
) -> None:
    finished = train(going_on(tmp_path, tiny_model, parent, target_modules=["q_proj"]))
    assert finished.failure is not None
    assert finished.failure.code == "checkpoint_mismatch"


def test_full_fine_tuning_does_not_go_on_from_an_adapter() -> None:
    with pytest.raises(ValidationError, match=r"set training\.adapter\.type"):
        RunSpec(
            training=TrainingConfig.model_validate({"adapter": {"type": "none"}}),
            model_path="m",
            base_model="tiny",
            training_files=[{"path": "p", "format": "messages"}],
            start=StartSource(path="s", name="n"),
        )
