"""Documents in blocks: nothing lost, nothing over-full, nothing left to chance."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from tests.training.runs import ROWS, events, prepare, train
from training.data_config import DataConfig
from training.events import Message
from training.packing import Blocks, pack

Lengths = NDArray[np.int64]
LONGEST = 2048


def lognormal(mean: int) -> Lengths:
    rng, sigma = np.random.default_rng(0), 0.9
    drawn = np.exp(rng.normal(np.log(mean) - sigma**2 / 2, sigma, 50_000))
    return np.clip(drawn, 8, LONGEST).astype(np.int64)


def bimodal() -> Lengths:
    rng = np.random.default_rng(0)
    short = np.clip(rng.normal(150, 60, 50_000), 8, 1000).astype(np.int64)
    return np.where(rng.random(50_000) < 0.2, rng.integers(1024, LONGEST + 1, 50_000), short)


DISTRIBUTIONS = {"lognormal 565": lognormal(565), "lognormal 107": lognormal(107)}
DISTRIBUTIONS["bimodal"] = bimodal()


def filled(lengths: Lengths, order: Lengths, ends: Lengths) -> Lengths:
    """Tokens in each block."""
    return np.add.reduceat(lengths[order], np.concatenate([[0], ends[:-1]]))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_blocks_are_full_and_soon_made(name: str) -> None:
    lengths = DISTRIBUTIONS[name]
    began = time.process_time()
    order, ends = pack(lengths, LONGEST, seed=1)
    assert time.process_time() - began < 2
    assert np.array_equal(np.sort(order), np.arange(len(lengths)))
    blocks = filled(lengths, order, ends)
    assert blocks.max() <= LONGEST
    assert lengths.sum() / (len(blocks) * LONGEST) >= 0.999


def test_a_seed_gives_the_same_blocks_and_another_one_others() -> None:
    lengths = lognormal(107)[:2000]
    first, again, other = (pack(lengths, LONGEST, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_neither_equal_documents_nor_blocks_stand_in_the_order_of_the_file() -> None:
    order, ends = pack(np.full(64, 16), 32, seed=0)
    assert len(ends) == 32
    assert not np.array_equal(order, np.arange(64))
    lengths = np.repeat([30, 20], 32)
    firsts = lengths[pack(lengths, 32, seed=0)[0]]
    assert list(firsts) != sorted(firsts, reverse=True)


@pytest.mark.parametrize("lengths", [[], [8], [8] * 5, [1, 2, 3, 4, 5, 6, 7, 8]])
def test_few_documents(lengths: list[int]) -> None:
    order, ends = pack(np.array(lengths, dtype=np.int64), 8, seed=0)
    assert sorted(order) == list(range(len(lengths)))
    assert list(ends[-1:]) == [len(lengths)] * bool(lengths)


def test_a_document_that_fits_no_block_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="longer than a block"):
        pack(np.array([9]), 8, seed=0)


def test_blocks_are_documents_by_their_numbers() -> None:
    documents = ["a", "b", "c", "d"]
    blocks = Blocks(documents, np.array([2, 0, 3, 1]), np.array([1, 4]))  # type: ignore[arg-type]
    assert list(blocks) == [["c"], ["a", "d", "b"]]
    assert blocks[-1] == ["a", "d", "b"]
    assert blocks[:1] == [["c"]]
    with pytest.raises(IndexError):
        blocks[2]


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        ({}, 2048),
        ({"block_size": 64}, 2048),
        ({"block_size": 64, "packing": True}, 64),
        ({"block_size": 9000, "packing": True}, 4096),
        ({"block_size": 64, "packing": True, "max_length": 32}, 32),
        ({"block_size": 32, "max_length": 64}, 64),
    ],
)
def test_what_bounds_a_row(data: dict[str, Any], limit: int) -> None:
    assert DataConfig.model_validate(data).limit(context_length=4096) == limit


@pytest.mark.parametrize("longest", ["max_length", "block_size"])
def test_no_row_would_be_long_enough(longest: str) -> None:
    with pytest.raises(ValidationError, match=f"min_length 65 is above {longest} 64"):
        DataConfig.model_validate({"packing": True, "min_length": 65, longest: 64})


def test_blocks_are_no_shorter_than_rows() -> None:
    with pytest.raises(ValidationError, match="no room in blocks of block_size 32"):
        DataConfig(packing=True, max_length=64, block_size=32)


def test_blocks_are_as_long_as_asked(tiny_model: Path, tmp_path: Path) -> None:
    """Rows of 20 tokens at most, in blocks of three times that."""
    data = {"packing": True, "max_length": 40, "block_size": 120}
    optimization = {"max_steps": 1, "per_device_train_batch_size": 1}
    directory = prepare(tmp_path, tiny_model, {"data": data, "optimization": optimization})
    assert train(directory).outcome == "succeeded"
    (told,) = (e.data for e in events(directory) if isinstance(e, Message) and "blocks" in e.data)
    assert len(ROWS) / told["blocks"] > 2
    assert told["share_filled"] > 0.7
