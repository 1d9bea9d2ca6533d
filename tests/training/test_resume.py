"""A run that was stopped and goes on is the run that never stopped, bit for bit."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.trainer_pt_utils import safe_globals

from tests.training.runs import adapter, curve, events, prepare, train
from training.collation import Batch
from training.events import CheckpointSaved, Event, Message, Metrics, Progress, Rewound
from training.run_directory import RunDirectory, read_manifest, remove_folder, verify
from training.trainer import FineTuner

TWO_EPOCHS: dict[str, Any] = {
    "data": {"eval_split": 0.1},
    "adapter": {"lora_dropout": 0.1, "r": 4},
    "optimization": {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 3,
        "learning_rate": 0.01,
    },
    "checkpoints": {"save_steps": 100},
    "evaluation": {"eval_steps": 8},
    "reporting": {"logging_steps": 5, "report_to": []},
}


Batches = list[tuple[int, str]]
"""Of every batch: the optimiser steps before it, and a hash of all that it holds."""


@contextmanager
def noted() -> Iterator[Batches]:
    """The batches that are trained on, as the model gets them."""
    batches: Batches = []
    compute = FineTuner.compute_loss

    def noting(tuner: FineTuner, model: nn.Module, inputs: Batch, **options: Any) -> Tensor:
        batches.append((tuner.state.global_step, digest(inputs)))
        return compute(tuner, model, inputs, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuner, "compute_loss", noting)
        yield batches


def digest(batch: Batch) -> str:
    found = hashlib.sha256()
    for name, value in sorted(batch.items()):
        held = value.tolist() if isinstance(value, Tensor) else value
        found.update(f"{name}={held};".encode())
    return found.hexdigest()


@pytest.fixture(scope="module")
def reference(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDirectory, Batches]:
    directory = prepare(tmp_path_factory.mktemp("run"), tiny_model, TWO_EPOCHS)
    with noted() as batches:
        assert train(directory).outcome == "succeeded"
    return directory, batches


@pytest.fixture(scope="module")
def uninterrupted(reference: tuple[RunDirectory, Batches]) -> RunDirectory:
    return reference[0]


def same_result(one: RunDirectory, other: RunDirectory) -> bool:
    return same(adapter(one.result), adapter(other.result))


def same_state(one: RunDirectory, other: RunDirectory, step: int) -> bool:
    """Of the optimiser and the schedule, bit for bit."""
    left, right = (
        [torch.load(run.checkpoint(step) / name, weights_only=True) for name in STATE]
        for run in (one, other)
    )
    return same(left, right)


STATE = "optimizer.pt", "scheduler.pt"


def same(left: Any, right: Any) -> bool:
    """Whether two structures hold the same, their tensors bit for bit."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.fixture(autouse=True)
def progress_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.reporting.PROGRESS_SECONDS", 0)


def before(step: int) -> Callable[[Event], bool]:
    """When the step before this one is done, so that the stop is heeded at the end of this one."""
    return lambda event: is_progress(event, "training", step - 1)


def is_progress(event: Event, phase: str, step: int) -> bool:
    return isinstance(event, Progress) and (event.phase, event.step) == (phase, step)


# 36 rows make 12 windows of 3 an epoch: in the first, at its end, in the second, and when an
# evaluation has just begun, which is then made up for.
STOPS = {
    7: before(7),
    12: before(12),
    19: before(19),
    16: before(16),
    8: lambda event: is_progress(event, "evaluating", 8),
}


HARDEST = {19, 12, 8}
"""Beside which the others are for `make test-all`."""


@pytest.mark.parametrize(
    "step",
    [pytest.param(step, marks=[] if step in HARDEST else pytest.mark.slow) for step in STOPS],
)
def test_a_paused_run_goes_on_exactly(
    reference: tuple[RunDirectory, Batches], tiny_model: Path, tmp_path: Path, step: int
) -> None:
    uninterrupted, expected = reference
    directory = prepare(tmp_path, tiny_model, TWO_EPOCHS)
    with noted() as batches:
        paused = train(directory, stop_when=STOPS[step], reason="pause")
        assert paused.outcome == "interrupted"
        assert [p.name for p in directory.checkpoints.iterdir()] == [f"checkpoint-{step}"]

        finished = train(directory)

    assert finished.outcome == "succeeded"
    assert batches == expected
    assert same_state(directory, uninterrupted, 24)
    assert finished.trained_tokens == total_tokens(uninterrupted)
    rewound = [event.step for event in events(directory) if isinstance(event, Rewound)]
    assert rewound == [step]
    for metric in ("train_loss", "train_mean_token_accuracy", "valid_loss", "grad_norm"):
        assert curve(directory, metric) == curve(uninterrupted, metric), metric
    assert same_result(directory, uninterrupted)


def test_the_second_epoch_is_the_first_in_another_order(
    reference: tuple[RunDirectory, Batches],
) -> None:
    """Or batches by hash would show nothing about it."""
    hashes = [found for _step, found in reference[1]]
    assert len(set(hashes)) == 36
    first, second = hashes[:36], hashes[36:]
    assert first != second
    assert sorted(first) == sorted(second)


ARRANGEMENTS = {
    "packed": {"data": {"eval_split": 0.1, "packing": True, "max_length": 128}},
    "grouped by length": {
        "optimization": TWO_EPOCHS["optimization"]
        | {
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "train_sampling_strategy": "group_by_length",
        }
    },
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_whatever_makes_the_batches_goes_on_in_the_second_epoch(
    tiny_model: Path, tmp_path: Path, arrangement: str
) -> None:
    settings = TWO_EPOCHS | ARRANGEMENTS[arrangement]
    whole, parts = (prepare(tmp_path / name, tiny_model, settings) for name in ("whole", "parts"))
    with noted() as expected:
        last = train(whole).step
    stop = last - last // 4
    assert stop % (last // 2) > 1, "it stops within the second epoch"
    with noted() as batches:
        assert train(parts, stop_when=before(stop), reason="pause").step == stop
        assert train(parts).outcome == "succeeded"
    assert len({step for step, _ in expected}) == last < len(expected)
    assert batches == expected
    assert same_state(parts, whole, last)
    assert same_result(parts, whole)


def total_tokens(directory: RunDirectory) -> float | int | None:
    return list(curve(directory, "trained_tokens").values())[-1]


def test_the_metrics_of_the_whole_run_are_there(uninterrupted: RunDirectory) -> None:
    assert list(curve(uninterrupted)) == [1, 5, 10, 15, 20, 24]
    assert list(curve(uninterrupted, "valid_loss")) == [8, 16, 24]


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    uninterrupted: RunDirectory, tiny_model: Path, tmp_path: Path
) -> None:
    directory = prepare(tmp_path, tiny_model, {**TWO_EPOCHS, "checkpoints": {"save_steps": 9}})
    assert train(directory, stop_when=before(20), reason="pause").outcome == "interrupted"
    with (directory.checkpoint(20) / "optimizer.pt").open("r+b") as file:
        file.seek(1000)
        file.write(b"garbage")

    assert train(directory).outcome == "succeeded"

    resumed = events(directory)
    place = next(i for i, event in enumerate(resumed) if isinstance(event, Rewound))
    rewound, warning = resumed[place : place + 2]
    assert isinstance(rewound, Rewound)
    assert rewound.step == 18
    assert isinstance(warning, Message)
    assert (warning.level, warning.data) == ("warning", {"checkpoint": "checkpoint-20"})
    assert curve(directory) == curve(uninterrupted)
    assert same_result(directory, uninterrupted)


def test_checkpoints_are_told_when_whole_and_only_the_newest_are_kept(
    tiny_model: Path, tmp_path: Path
) -> None:
    settings = {
        "optimization": {"max_steps": 11},
        "checkpoints": {"save_steps": 3, "keep": 2},
    }
    directory = prepare(tmp_path, tiny_model, settings, attempt=2)
    assert train(directory).outcome == "succeeded"

    saved = [event for event in events(directory) if isinstance(event, CheckpointSaved)]
    assert [event.step for event in saved] == [3, 6, 9, 11]
    assert sorted(p.name for p in directory.checkpoints.iterdir()) == [
        "checkpoint-11",
        "checkpoint-9",
    ]
    for event in saved[-2:]:
        folder = directory.checkpoints / event.name
        assert verify(folder)
        manifest = read_manifest(folder)
        assert (manifest.step, manifest.attempt) == (event.step, 2)
        assert manifest.total_bytes == event.bytes
    assert str(tmp_path) not in (directory.checkpoint(11) / "adapter_config.json").read_text()


def test_a_checkpoint_holds_these_files_and_no_other(uninterrupted: RunDirectory) -> None:
    """Above all no `training_args.bin`, which could run code when it is opened."""
    folder = uninterrupted.checkpoint(24)
    assert {path.name for path in folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors"),
        *("optimizer.pt", "scheduler.pt", "rng_state.pth"),
        *("ledger.json", "trainer_state.json", "manifest.json"),
    }
    with safe_globals():
        for name in (*STATE, "rng_state.pth"):
            torch.load(folder / name, weights_only=True)


def test_a_run_that_was_done_exports_again(tiny_model: Path, tmp_path: Path) -> None:
    directory = prepare(tmp_path, tiny_model, {"optimization": {"max_steps": 3}})
    assert train(directory).outcome == "succeeded"
    first = adapter(directory.result)
    remove_folder(directory.result)

    assert train(directory).outcome == "succeeded"

    assert all(
        torch.equal(first[name], tensor) for name, tensor in adapter(directory.result).items()
    )
    assert [event.step for event in events(directory) if isinstance(event, Metrics)] == [1, 3]


def test_a_checkpoint_of_another_adapter_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    short = {"optimization": {"max_steps": 2}}
    directory = prepare(tmp_path, tiny_model, short)
    assert train(directory).outcome == "succeeded"

    prepare(tmp_path, tiny_model, {**short, "adapter": {"r": 3}})
    finished = train(directory)

    assert finished.failure is not None
    assert finished.failure.code == "checkpoint_mismatch"


def test_full_training_goes_on_exactly(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"adapter": {"type": "none"}, "optimization": {"max_steps": 8}}
    plain = prepare(tmp_path / "plain", tiny_model, settings)
    paused = prepare(tmp_path / "paused", tiny_model, settings)
    assert train(plain).outcome == "succeeded"
    assert train(paused, stop_when=before(5), reason="drain").outcome == "interrupted"

    assert train(paused).outcome == "succeeded"

    assert curve(paused) == curve(plain)
    left, right = (load_file(run.checkpoint(8) / "model.safetensors") for run in (plain, paused))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_checkpoint_between_two_metrics_tells_of_its_own_steps(
    tiny_model: Path, tmp_path: Path
) -> None:
    settings = {
        "optimization": {"max_steps": 6, "per_device_train_batch_size": 2},
        "checkpoints": {"save_steps": 4},
        "reporting": {"logging_steps": 3, "report_to": []},
    }
    directory = prepare(tmp_path, tiny_model, settings)
    assert train(directory).outcome == "succeeded"
    told = events(directory)
    early, late = (e.metrics for e in told if isinstance(e, CheckpointSaved))
    *_, middle, last = (e.metrics for e in told if isinstance(e, Metrics))
    assert late == last, "metrics were due at this very step"
    assert middle["trained_tokens"] < early["trained_tokens"] < last["trained_tokens"]
    assert early["train_loss"] not in {middle["train_loss"], last["train_loss"]}
    assert "learning_rate" not in early
