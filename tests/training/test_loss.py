"""The loss is a mean per trained token, however rows are batched, accumulated, padded or packed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from training.collation import FlatCollator, PackedCollator, PaddedCollator
from training.documents import Document
from training.loss import HEADS
from training.packing import Block, Blocks, pack

PAD = 2


@pytest.fixture
def model(tiny_model: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_model)
    return model


def document(length: int, num_targets: int) -> Document:
    """Made-up tokens, the last of which take loss; the very last is the padding token itself."""
    rng = np.random.default_rng(length * 100 + num_targets)
    input_ids = rng.integers(3, 390, length).astype(np.int32)
    input_ids[-1] = PAD
    is_target = np.zeros(length, dtype=np.bool_)
    is_target[length - num_targets :] = True
    is_target[0] = False
    return Document(input_ids, is_target)


DOCUMENTS = [document(n, t) for n, t in ((12, 3), (5, 5), (30, 20), (9, 1), (1, 1), (17, 2))]


def packed(documents: Sequence[Document], length: int) -> list[Block]:
    return list(Blocks(documents, *pack(np.array([*map(len, documents)]), length, seed=0)))


def alone(model: nn.Module, documents: Sequence[Document]) -> tuple[Tensor, int]:
    """Loss and targets from whole logits of one document at a time, as a textbook has it."""
    loss, num_targets = torch.zeros(()), 0
    for each in documents:
        ids_1T = torch.tensor(each.input_ids, dtype=torch.long)[None]
        logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0]
        for place in range(1, len(each)):
            if each.is_target[place]:
                loss = loss - logits_TV[place - 1].log_softmax(0)[ids_1T[0, place]]
                num_targets += 1
    return loss, num_targets


@pytest.mark.parametrize("head", HEADS)
def test_padded_sums_are_those_of_each_document_alone(model: PreTrainedModel, head: str) -> None:
    batch = PaddedCollator(PAD)(DOCUMENTS)
    totals = HEADS[head](model, batch)
    loss, num_targets = alone(model, DOCUMENTS)
    assert len(batch["targets"]) == num_targets == 30
    assert totals.loss_sum.item() == pytest.approx(loss.item(), rel=1e-6)
    assert int(batch["num_tokens"]) == sum(map(len, DOCUMENTS))


def test_the_end_of_sequence_takes_loss_although_it_is_the_padding(model: PreTrainedModel) -> None:
    batch = PaddedCollator(PAD)([DOCUMENTS[0], DOCUMENTS[1]])
    assert batch["input_ids"].shape == (2, 12)
    assert (batch["targets"] == PAD).sum() == 2
    assert {10, 15} <= set(batch["places"].tolist())
    assert batch["places"].max() == 15


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("length", [31, 48])
def test_packed_sums_are_those_of_each_document_alone(
    model: PreTrainedModel, length: int, *, training: bool, checkpointing: bool
) -> None:
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train(training)
    blocks = packed(DOCUMENTS, length)
    batch = PackedCollator(PAD)(blocks)
    assert "attention_mask" not in batch
    totals = HEADS["streamed"](model, batch)
    loss, num_targets = alone(model, DOCUMENTS)
    assert len(batch["targets"]) == num_targets
    assert totals.loss_sum.item() == pytest.approx(loss.item(), rel=1e-6)
    assert int(batch["num_tokens"]) == sum(map(len, DOCUMENTS))


def test_flattened_blocks_have_no_padding_and_the_same_sums(model: PreTrainedModel) -> None:
    batch = FlatCollator()(packed(DOCUMENTS, 40))
    assert batch["input_ids"].shape == (1, sum(map(len, DOCUMENTS)))
    assert int((batch["position_ids"] == 0).sum()) == len(DOCUMENTS)
    loss, _ = alone(model, DOCUMENTS)
    loss_sum = HEADS["streamed"](model, batch).loss_sum
    assert loss_sum.item() == pytest.approx(loss.item(), rel=1e-6)


def test_best_fit_fills_blocks_and_loses_nothing() -> None:
    rng = np.random.default_rng(3)
    documents = [document(int(n), 1) for n in rng.integers(2, 100, 400)]
    blocks = packed(documents, 128)
    assert sorted(map(id, documents)) == sorted(id(each) for block in blocks for each in block)
    filled = [sum(map(len, block)) for block in blocks]
    assert max(filled) <= 128
    assert sum(filled) / (128 * len(blocks)) > 0.98


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_without_a_target_is_a_zero_in_the_graph(model: PreTrainedModel, head: str) -> None:
    silent = Document(DOCUMENTS[0].input_ids, np.zeros(12, dtype=np.bool_))
    totals = HEADS[head](model, PaddedCollator(PAD)([silent]))
    assert (totals.loss_sum.item(), totals.num_correct.item()) == (0.0, 0)
    totals.loss_sum.backward()
