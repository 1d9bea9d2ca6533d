"""The model of the lowest held-out loss: kept, gone on with, and what the result is."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import ROWS, adapter, curve, events, prepare, train, write_rows
from training.best_model import perplexity
from training.config import TrainingConfig
from training.events import CheckpointSaved, Event, Message, Progress
from training.held_out import held_out_misfits
from training.run_directory import RunDirectory, remove_folder

# The held-out rows answer otherwise than those that are trained on: their loss falls, then rises.
HELD_OUT = [
    {
        "messages": [
            {"role": "user", "content": f"What is {number} plus {number % 7}?"},
            {"role": "assistant", "content": f"Blue, green and {number + 50} colours."},
        ]
    }
    for number in range(8)
]
TEXTS = [{"text": "What is one plus one? It is two."}] * 8
OVERFITTING: dict[str, Any] = {
    "adapter": {"r": 4},
    "optimization": {
        "max_steps": 24,
        "learning_rate": 0.05,
        "per_device_train_batch_size": 8,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
    },
    "checkpoints": {"save_steps": 5, "keep": 1, "load_best_model_at_end": True},
    "evaluation": {"eval_steps": 2},
    "reporting": {"logging_steps": 4, "report_to": []},
}


@pytest.fixture(autouse=True)
def progress_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.reporting.PROGRESS_SECONDS", 0)


def overfit(folder: Path, model: Path, **training: Any) -> RunDirectory:
    folder.mkdir(parents=True, exist_ok=True)
    held_out = {
        "path": str(write_rows(folder / "valid.jsonl", HELD_OUT)),
        "format": "messages",
    }
    settings = {**OVERFITTING, **training}
    return prepare(folder, model, settings, rows=ROWS[:8], validation_files=[held_out])


@pytest.fixture(scope="module")
def kept(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    directory = overfit(tmp_path_factory.mktemp("best"), tiny_model)
    assert train(directory).outcome == "succeeded"
    return directory


def best_of(directory: RunDirectory) -> int:
    losses = {step: loss for step, loss in curve(directory, "valid_loss").items() if loss}
    return min(losses, key=lambda step: losses[step])


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_the_result_is_the_model_of_the_lowest_held_out_loss(kept: RunDirectory) -> None:
    best = best_of(kept)
    assert 0 < best < 24, "the case shows nothing"
    assert sorted(p.name for p in kept.checkpoints.iterdir()) == sorted(
        {"checkpoint-24", f"checkpoint-{best}"}
    )
    assert same(adapter(kept.result), adapter(kept.checkpoint(best)))
    assert not same(adapter(kept.result), adapter(kept.checkpoint(24)))
    (told,) = [e for e in events(kept) if isinstance(e, Message) and "best_step" in e.data]
    loss = curve(kept, "valid_loss")[best]
    assert told.data == {"best_step": best, "valid_loss": loss}
    card = (kept.result / "README.md").read_text()
    assert f"{best} steps" in card
    assert f"| valid_loss | {loss:.6g} |" in card


def test_a_new_best_is_saved_when_it_is_found_and_named_from_then_on(kept: RunDirectory) -> None:
    losses = curve(kept, "valid_loss")
    lowest, best_steps = math.inf, []
    for step, loss in losses.items():
        if loss is not None and loss < lowest:
            lowest = loss
            best_steps.append(step)
    saved = [event for event in events(kept) if isinstance(event, CheckpointSaved)]
    assert {event.step for event in saved} == {5, 10, 15, 20, 24} | set(best_steps)
    for event in saved:
        assert event.best_step == max(step for step in best_steps if step <= event.step)


def test_a_model_that_has_not_changed_yet_is_not_the_best(tiny_model: Path, tmp_path: Path) -> None:
    """The first step of a warm-up has a rate of 0; those after it do harm here."""
    other = [{"text": "%%%% @@@@ %%%%"}] * 2
    settings = {
        **OVERFITTING,
        "optimization": {"max_steps": 4, "learning_rate": 0.5, "warmup_steps": 2},
        "evaluation": {"eval_steps": 1},
    }
    held_out = {"path": str(write_rows(tmp_path / "valid.jsonl", other)), "format": "text"}
    directory = prepare(
        tmp_path, tiny_model, settings, rows=TEXTS, format="text", validation_files=[held_out]
    )
    finished = train(directory)
    assert best_of(directory) == 1, "the case shows nothing"
    assert finished.outcome == "succeeded", finished.failure
    assert not directory.checkpoint(1).exists()


def before(step: int) -> Any:
    def done(event: Event) -> bool:
        return isinstance(event, Progress) and (event.phase, event.step) == ("training", step - 1)

    return done


@pytest.mark.parametrize("moved", [False, True])
def test_a_run_that_goes_on_keeps_its_best_or_says_that_it_is_lost(
    kept: RunDirectory, tiny_model: Path, tmp_path: Path, *, moved: bool
) -> None:
    directory = overfit(tmp_path, tiny_model)
    assert train(directory, stop_when=before(17), reason="pause").outcome == "interrupted"
    best = best_of(directory)
    assert best == best_of(kept) < 17
    if moved:
        remove_folder(directory.checkpoint(best))
    assert train(directory).outcome == "succeeded"
    if moved:
        (warning,) = [
            e for e in events(directory) if isinstance(e, Message) and "lost" in e.message
        ]
        assert warning.level == "warning"
        later = {s: v for s, v in curve(directory, "valid_loss").items() if s > 17 and v}
        best = min(later, key=lambda step: later[step])
        assert directory.checkpoint(best).exists()
        assert same(adapter(directory.result), adapter(directory.checkpoint(best)))
    else:
        assert same(adapter(directory.result), adapter(kept.result))


def test_without_the_key_the_result_is_the_last_model(tiny_model: Path, tmp_path: Path) -> None:
    directory = overfit(
        tmp_path, tiny_model, checkpoints={"save_steps": 5, "keep": 1}, evaluation={"eval_steps": 8}
    )
    assert train(directory).outcome == "succeeded"
    assert [p.name for p in directory.checkpoints.iterdir()] == ["checkpoint-24"]
    assert same(adapter(directory.result), adapter(directory.checkpoint(24)))


def test_the_model_is_measured_before_training_and_nothing_follows_from_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    settings = {
        **OVERFITTING,
        "adapter": {"type": "none"},
        "optimization": {"max_steps": 2, "learning_rate": 1.0, "warmup_steps": 0},
        "evaluation": {"eval_steps": 2, "eval_on_start": True, "sample_prompts": ["Hello?"]},
    }
    directory = overfit(tmp_path / "run", tiny_model, **settings)
    assert train(directory).outcome == "succeeded"
    losses = curve(directory, "valid_loss")
    assert list(losses) == [0, 2]
    assert losses[0] == pytest.approx(math.log(400), rel=0.05), "random weights know nothing"
    assert losses[0] is not None
    assert losses[2] is not None
    assert losses[2] > losses[0], "the case shows nothing"
    saved = [event for event in events(directory) if isinstance(event, CheckpointSaved)]
    assert [(event.step, event.best_step) for event in saved] == [(2, 2)]
    assert [event.step for event in events(directory) if event.type == "sample"] == [0, 2]


def test_perplexity_is_of_the_exact_loss(kept: RunDirectory) -> None:
    losses = curve(kept, "valid_loss")
    for step, value in curve(kept, "valid_perplexity").items():
        assert value == math.exp(losses[step] or 0)
    assert perplexity(1e4) == math.inf


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("checkpoints", "load_best_model_at_end", True),
        ("data", "max_eval_rows", 3),
        ("evaluation", "early_stopping_patience", 2),
        ("evaluation", "eval_on_start", True),
        ("evaluation", "sample_prompts", ["Hello?"]),
    ],
)
def test_what_needs_held_out_rows_is_refused_without_them(
    tiny_model: Path, tmp_path: Path, section: str, key: str, value: object
) -> None:
    config = TrainingConfig.model_validate({section: {key: value}})
    (misfit,) = held_out_misfits(config, has_rows=False)
    assert misfit.param == f"training.{section}.{key}"
    assert "eval_split" in misfit.remedy
    assert list(held_out_misfits(config, has_rows=True)) == []
    directory = prepare(tmp_path, tiny_model, {section: {key: value}})
    failure = train(directory).failure
    assert failure is not None
    assert (failure.code, failure.param) == ("invalid_spec", misfit.param)


def test_a_model_in_parts_cannot_be_taken_back() -> None:
    with pytest.raises(ValueError, match="load_best_model_at_end does not go with"):
        TrainingConfig.model_validate(
            {
                "parallelism": {"strategy": "zero3", "num_processes": 2},
                "checkpoints": {"load_best_model_at_end": True},
            }
        )
