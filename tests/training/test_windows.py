"""One optimiser step is one mean over the trained tokens of its window, however rows are divided.

The optimiser is plain SGD without clipping, so that a change of the weights is a gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.training.runs import FLOAT32, curve, events, prepare, train
from training import run as recipe
from training.collation import Batch, Collator
from training.documents import Document
from training.events import Message
from training.loss import HEADS
from training.model import load_tokenizer

ROWS = [
    {"prompt": "count", "completion": " ".join(str(n) for n in range(length))}
    for length in (1, 30, 2, 9, 1, 17, 25, 3, 12, 5)
]
"""Ten rows of very different lengths: with eight to a step, the second window is short."""


def weights_after(folder: Path, base: Path, **settings: Any) -> dict[str, Tensor]:
    """What a few steps make of the model."""
    optimization = {
        "max_steps": 3,
        "learning_rate": 0.05,
        "optim": "sgd",
        "max_grad_norm": 1e9,
        "warmup_steps": 0,
        "lr_scheduler_type": "constant",
        **settings.pop("optimization", {}),
    }
    directory = prepare(
        folder,
        base,
        {**FLOAT32, **settings, "optimization": optimization},
        rows=ROWS,
        format="prompt_completion",
    )
    assert train(directory).outcome == "succeeded"
    (file,) = directory.result.glob("*model.safetensors")
    tensors: dict[str, Tensor] = load_file(file)
    return tensors


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0, msg=name)


def split(batch_size: int, accumulation: int) -> dict[str, int]:
    return {
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": accumulation,
    }


SPLITS = [(4, 2), (2, 4), (1, 8)]


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_step_is_the_same_however_its_rows_are_divided(
    tiny_model: Path, tmp_path: Path, adapter: str
) -> None:
    settings = {"adapter": {"type": adapter, "lora_dropout": 0.0}}
    whole = weights_after(tmp_path / "8", tiny_model, optimization=split(8, 1), **settings)
    for size, accumulation in SPLITS:
        divided = split(size, accumulation)
        found = weights_after(tmp_path / str(size), tiny_model, optimization=divided, **settings)
        assert_same(found, whole)


@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_the_pace_of_a_step_is_that_of_all_its_rows(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    """Without their padding, by a clock on which every step takes two seconds."""
    monkeypatch.setattr("training.callbacks.time", SimpleNamespace(monotonic=count(0, 2).__next__))
    tokenizer = load_tokenizer(tiny_model)
    lengths = [len(tokenizer(row["prompt"] + row["completion"]).input_ids) + 1 for row in ROWS[:8]]
    for size, accumulation in ((8, 1), (2, 4)):
        settings = {
            "model": attending(attention),
            "optimization": {"max_steps": 2, **split(size, accumulation)},
            "reporting": {"logging_steps": 1, "report_to": []},
        }
        folder = tmp_path / str(size)
        directory = prepare(folder, tiny_model, settings, rows=ROWS[:8], format="prompt_completion")
        assert train(directory).trained_tokens == 2 * sum(lengths)
        paces = curve(directory, "tokens_per_second")
        assert list(paces.values()) == [sum(lengths) / 2] * len(paces)
        assert list(curve(directory, "trained_tokens").values())[-1] == 2 * sum(lengths)


@pytest.mark.parametrize("head", HEADS)
def test_no_head_divides_twice(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    settings = {"adapter": {"lora_dropout": 0.0}}
    expected = weights_after(tmp_path / "1", tiny_model, optimization=split(8, 1), **settings)
    change_engine(monkeypatch, lambda engine: replace(engine, head=head))
    found = weights_after(tmp_path / "2", tiny_model, optimization=split(2, 4), **settings)
    assert_same(found, expected)


@pytest.mark.parametrize("attention", ["auto", "eager"])
def test_a_packed_step_is_the_padded_step(tiny_model: Path, tmp_path: Path, attention: str) -> None:
    """All ten rows are one step: in ten rows behind a mask, or in as few blocks as they fit."""
    settings = {"adapter": {"lora_dropout": 0.0}, "optimization": split(10, 1)}
    padded = weights_after(tmp_path / "padded", tiny_model, model=attending("eager"), **settings)
    packed = weights_after(
        tmp_path / "packed",
        tiny_model,
        model=attending(attention),
        data={"packing": True, "max_length": 256},
        **settings,
    )
    assert_same(packed, padded)


def test_a_packed_run_tells_how_full_its_blocks_are(tiny_model: Path, tmp_path: Path) -> None:
    settings = {
        "data": {"packing": True, "max_length": 64},
        "optimization": {"num_train_epochs": 1, **split(1, 1)},
    }
    rows = [row for row in ROWS for _ in range(2)]
    directory = prepare(tmp_path, tiny_model, settings, rows=rows, format="prompt_completion")
    num_blocks = train(directory).step
    told = [event for event in events(directory) if isinstance(event, Message)]
    (data,) = (event.data for event in told if "rows_read" in event.data)
    (packed,) = (event for event in told if "share_filled" in event.data)
    share = data["tokens"] / (num_blocks * 64)
    assert packed.data == {"blocks": num_blocks, "share_filled": pytest.approx(share)}
    assert packed.message == (
        f"{data['rows_trained']} rows packed into {num_blocks} blocks, {share:.1%} full."
    )
    assert 1 < num_blocks < data["rows_trained"]


def attending(attention: str) -> dict[str, str]:
    return {"dtype": "float32", "attn_implementation": attention}


def test_recomputed_layers_learn_the_same(tiny_model: Path, tmp_path: Path) -> None:
    found = [
        weights_after(
            tmp_path / str(recomputes),
            tiny_model,
            adapter={"lora_dropout": 0.0},
            data={"packing": True, "max_length": 128},
            optimization={"gradient_checkpointing": recomputes, **split(2, 1)},
        )
        for recomputes in (True, False)
    ]
    assert_same(*found)


def change_engine(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    choose = recipe.choose_engine
    monkeypatch.setattr(recipe, "choose_engine", lambda *asked: change(choose(*asked)))


@dataclass(frozen=True)
class Silencing:
    """Takes the targets out of rows of one length."""

    collate: Collator
    length: int

    def __call__(self, rows: Sequence[Document]) -> Batch:
        return self.collate([self._heard(row) for row in rows])

    def _heard(self, row: Document) -> Document:
        if len(row) != self.length:
            return row
        return replace(row, is_target=np.zeros_like(row.is_target))


@pytest.mark.parametrize("longest", [True, False])
def test_a_batch_without_a_target_adds_nothing_to_its_window(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, longest: bool
) -> None:
    """All ten rows are one window, so that the silent batch comes first, last or between."""
    lengths: list[int] = []

    def silence(engine: Any) -> Any:
        return replace(engine, collate=Silencing(engine.collate, lengths[0]))

    def note(engine: Any) -> Any:
        return replace(engine, collate=Noting(engine.collate, lengths))

    settings = {"adapter": {"lora_dropout": 0.0}}
    with monkeypatch.context() as patch:
        change_engine(patch, note)
        weights_after(tmp_path / "first", tiny_model, optimization=split(1, 10), **settings)
    lengths[:] = [max(lengths) if longest else lengths[0]]
    change_engine(monkeypatch, silence)
    whole = weights_after(tmp_path / "10", tiny_model, optimization=split(10, 1), **settings)
    divided = weights_after(tmp_path / "1", tiny_model, optimization=split(1, 10), **settings)
    assert_same(divided, whole)


@dataclass(frozen=True)
class Noting:
    """Notes how long the rows are, in the order in which they come."""

    collate: Collator
    lengths: list[int]

    def __call__(self, rows: Sequence[Document]) -> Batch:
        self.lengths.extend(map(len, rows))
        return self.collate(rows)


def test_a_window_without_any_target_fails_with_the_reason(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_engine(monkeypatch, lambda engine: replace(engine, collate=Mute(engine.collate)))
    directory = prepare(tmp_path / "run", tiny_model, rows=ROWS, format="prompt_completion")
    finished = train(directory)
    assert finished.failure is not None
    assert finished.failure.code == "no_target_tokens"


@dataclass(frozen=True)
class Mute:
    """Takes every target out."""

    collate: Collator

    def __call__(self, rows: Sequence[Document]) -> Batch:
        return self.collate([replace(r, is_target=np.zeros_like(r.is_target)) for r in rows])


def test_told_losses_are_means_over_the_tokens_of_a_step(tiny_model: Path, tmp_path: Path) -> None:
    """Without learning, the mean of an epoch's steps weighed by tokens is that of the data."""
    curves = []
    for name, (size, accumulation) in {"one": (10, 1), "five": (2, 5)}.items():
        settings = {
            **FLOAT32,
            "optimization": {"learning_rate": 1e-12, "max_steps": 1, **split(size, accumulation)},
            "reporting": {"logging_steps": 1, "report_to": []},
        }
        directory = prepare(
            tmp_path / name, tiny_model, settings, rows=ROWS, format="prompt_completion"
        )
        assert train(directory).outcome == "succeeded"
        curves.append((curve(directory), curve(directory, "train_mean_token_accuracy")))
    assert curves[0][0] == pytest.approx(curves[1][0], rel=1e-6)
    assert curves[0][1] == pytest.approx(curves[1][1], rel=1e-6)
