"""The order of rows: every row once an epoch, the same again for a seed, and as was asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tests.training.runs import adapter, curve, events, prepare, train
from training.config import TrainingConfig
from training.data_config import DataConfig
from training.events import CheckpointSaved, Event
from training.sampling import SAMPLERS, EpochOrder, EpochShuffle, LengthGroups


def lengths(count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.random.default_rng(2).integers(8, 1000, count)


ORDERS = {
    "random": lambda count: EpochShuffle(count, 3),
    "group_by_length": lambda count: LengthGroups(lengths(count), 3, 8),
    "sequential": EpochOrder,
}


def test_every_strategy_has_its_order() -> None:
    assert ORDERS.keys() == SAMPLERS.keys()


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 100, 4003])
def test_every_row_comes_once_and_a_seed_gives_the_same(name: str, count: int) -> None:
    order, again = ORDERS[name](count), ORDERS[name](count)
    assert len(order) == count
    for epoch in (0, 1, 5):
        order.set_epoch(epoch)
        again.set_epoch(epoch)
        assert sorted(order) == list(range(count))
        assert list(order) == list(order) == list(again)


@pytest.mark.parametrize("name", ["random", "group_by_length"])
def test_every_epoch_and_every_seed_has_an_order_of_its_own(name: str) -> None:
    order = ORDERS[name](400)
    first = list(order)
    order.set_epoch(1)
    assert list(order) != first
    other = EpochShuffle(400, 4) if name == "random" else LengthGroups(lengths(400), 4, 8)
    assert list(other) != first


def test_sequential_is_the_order_of_the_files() -> None:
    assert list(EpochOrder(5)) == [0, 1, 2, 3, 4]


def padded_share(order: EpochOrder, of: np.ndarray[Any, np.dtype[np.int64]]) -> float:
    """What of all batches of 8 is no padding."""
    rows = of[list(order)]
    batches = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    return float(rows.sum()) / sum(int(batch.max()) * len(batch) for batch in batches)


def test_rows_of_a_length_come_together_and_leave_little_padding() -> None:
    drawn = np.random.default_rng(1).lognormal(5.9, 0.9, 4000)
    of = np.clip(drawn, 8, 2048).astype(np.int64)
    assert padded_share(EpochShuffle(len(of), 3), of) < 0.5
    assert padded_share(LengthGroups(of, 3, 8), of) > 0.93


def test_the_steps_are_not_sorted_and_the_longest_comes_first() -> None:
    of = lengths(4003)
    rows = of[list(LengthGroups(of, 3, 16))]
    assert rows[:16].max() == of[: len(of)].max() or of.max() in rows[-3:]
    means = rows[: 250 * 16].reshape(250, 16).mean(axis=1)
    neighbours = np.corrcoef(means[:-1], means[1:])[0, 1]
    assert abs(neighbours) < 0.2


@pytest.mark.parametrize("strategy", ["group_by_length", "sequential"])
def test_blocks_are_always_shuffled(strategy: str) -> None:
    body = {
        "data": {"packing": True},
        "optimization": {"train_sampling_strategy": strategy},
    }
    with pytest.raises(ValidationError, match=r"rows that are not packed: set data\.packing"):
        TrainingConfig.model_validate(body)
    TrainingConfig.model_validate({**body, "data": DataConfig().model_dump()})


def test_a_run_by_length_goes_on_where_it_stopped(tmp_path: Path, tiny_model: Path) -> None:
    settings = {
        "optimization": {
            "train_sampling_strategy": "group_by_length",
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "max_steps": 12,
        },
        "checkpoints": {"save_steps": 9},
        "reporting": {"logging_steps": 1, "report_to": []},
    }
    whole = prepare(tmp_path / "whole", tiny_model, settings)
    assert train(whole).outcome == "succeeded"
    parts = prepare(tmp_path / "parts", tiny_model, settings)

    def is_saved(event: Event) -> bool:
        return isinstance(event, CheckpointSaved) and event.step == 9

    assert train(parts, stop_when=is_saved).outcome == "interrupted"
    assert train(parts).outcome == "succeeded"
    assert curve(parts) == curve(whole)
    assert any(isinstance(event, CheckpointSaved) for event in events(parts))
    one, other = adapter(whole.result), adapter(parts.result)
    assert all((one[name] == other[name]).all() for name in one)
