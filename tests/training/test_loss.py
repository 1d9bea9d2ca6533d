"""The loss is a mean per trained token, however rows are batched, accumulated, padded or packed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM, PreTrainedModel

from tests.training.runs import FLOAT32, curve, prepare, train
from training.collation import PackedCollator, PaddedCollator
from training.config import TrainingConfig
from training.encoding import Document
from training.failures import RunError
from training.loss import count_targets, token_totals
from training.model import load_model
from training.packing import check_isolation, pack

PAD = 2
PRECISIONS: list[dict[str, Any]] = [
    {"dtype": dtype, "quantization": {"bits": bits} if bits else None}
    for dtype in ("float32", "bfloat16")
    for bits in (None, 4, 8)
]


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


def test_padded_sums_are_those_of_each_document_alone(model: PreTrainedModel) -> None:
    batch = PaddedCollator(PAD)(DOCUMENTS)
    totals = token_totals(model, batch)
    loss, num_targets = alone(model, DOCUMENTS)
    assert totals.num_targets == num_targets == count_targets(batch) == 30
    assert totals.loss_sum.item() == pytest.approx(loss.item(), rel=1e-6)
    assert int(batch["num_tokens"]) == sum(map(len, DOCUMENTS))


def test_the_end_of_sequence_takes_loss_although_it_is_the_padding(model: PreTrainedModel) -> None:
    labels_BT = PaddedCollator(PAD)([DOCUMENTS[0], DOCUMENTS[1]])["labels"]
    assert labels_BT[0, 11] == labels_BT[1, 4] == PAD
    assert (labels_BT[1, 5:] == -100).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("length", [31, 48])
def test_packed_sums_are_those_of_each_document_alone(
    model: PreTrainedModel, length: int, *, training: bool, checkpointing: bool
) -> None:
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train(training)
    blocks = pack(DOCUMENTS, length)
    batch = PackedCollator(PAD, flatten=False)(blocks)
    assert "attention_mask" not in batch
    totals = token_totals(model, batch)
    loss, num_targets = alone(model, DOCUMENTS)
    assert totals.num_targets == num_targets
    assert totals.loss_sum.item() == pytest.approx(loss.item(), rel=1e-6)
    assert int(batch["num_tokens"]) == sum(map(len, DOCUMENTS))


def test_flattened_blocks_have_no_padding_and_the_same_sums(model: PreTrainedModel) -> None:
    batch = PackedCollator(PAD, flatten=True)(pack(DOCUMENTS, 40))
    assert batch["input_ids"].shape == (1, sum(map(len, DOCUMENTS)))
    assert int((batch["position_ids"] == 0).sum()) == len(DOCUMENTS)
    loss, _ = alone(model, DOCUMENTS)
    assert token_totals(model, batch).loss_sum.item() == pytest.approx(loss.item(), rel=1e-6)


def test_best_fit_fills_blocks_and_loses_nothing() -> None:
    rng = np.random.default_rng(3)
    documents = [document(int(n), 1) for n in rng.integers(2, 100, 400)]
    blocks = pack(documents, 128)
    assert sorted(map(id, documents)) == sorted(id(each) for block in blocks for each in block)
    filled = [sum(map(len, block)) for block in blocks]
    assert max(filled) <= 128
    assert sum(filled) / (128 * len(blocks)) > 0.98


def test_the_model_keeps_documents_apart_in_every_precision(tiny_model: Path) -> None:
    for settings in PRECISIONS:
        config = TrainingConfig.model_validate({"model": settings})
        check_isolation(load_model(tiny_model, config), 400)


def recurrent() -> PreTrainedModel:
    """Its state runs on through a block, whatever the positions say."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return MambaForCausalLM(MambaConfig(vocab_size=400, **sizes, **ends))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_is_refused_where_documents_would_see_each_other(dtype: torch.dtype) -> None:
    with pytest.raises(RunError, match="cannot keep packed documents apart") as caught:
        check_isolation(recurrent().to(dtype), 400)
    assert caught.value.failure.param == "training.data.packing"


def test_a_batch_without_a_target_is_a_zero_in_the_graph(model: PreTrainedModel) -> None:
    silent = Document(DOCUMENTS[0].input_ids, np.zeros(12, dtype=np.bool_))
    totals = token_totals(model, PaddedCollator(PAD)([silent]))
    assert (totals.loss_sum.item(), totals.num_targets) == (0.0, 0)
    totals.loss_sum.backward()


UNEVEN = [
    {"prompt": "count", "completion": " ".join(str(n) for n in range(length))}
    for length in (1, 30, 2, 9, 1, 17, 25, 3, 12, 5)
]


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_a_step_is_the_same_however_its_rows_are_divided(
    tiny_model: Path, tmp_path: Path, adapter: str
) -> None:
    """Ten rows of very different lengths, eight a step: the second step's window is short."""
    curves = []
    for batch_size, accumulation in ((8, 1), (2, 4), (1, 8)):
        settings = {
            **FLOAT32,
            "adapter": {"type": adapter},
            "optimization": {
                "per_device_train_batch_size": batch_size,
                "gradient_accumulation_steps": accumulation,
                "max_steps": 4,
                "learning_rate": 0.05,
                "optim": "sgd",
                "max_grad_norm": 1e9,
                "warmup_steps": 0,
            },
            "reporting": {"logging_steps": 1, "report_to": []},
        }
        directory = prepare(
            tmp_path / str(batch_size),
            tiny_model,
            settings,
            rows=UNEVEN,
            format="prompt_completion",
        )
        assert train(directory).outcome == "succeeded"
        curves.append((curve(directory), curve(directory, "grad_norm")))
    for losses, norms in curves[1:]:
        assert losses == pytest.approx(curves[0][0], rel=1e-6)
        assert norms == pytest.approx(curves[0][1], rel=1e-4)


def test_a_packed_step_is_the_padded_step(tiny_model: Path, tmp_path: Path) -> None:
    curves = []
    for packing in (False, True):
        settings = {
            **FLOAT32,
            "data": {"packing": packing, "max_length": 256},
            "optimization": {
                "per_device_train_batch_size": 10,
                "max_steps": 3,
                "learning_rate": 0.05,
                "warmup_steps": 0,
            },
            "reporting": {"logging_steps": 1, "report_to": []},
        }
        directory = prepare(
            tmp_path / str(packing), tiny_model, settings, rows=UNEVEN, format="prompt_completion"
        )
        assert train(directory).outcome == "succeeded"
        curves.append(curve(directory))
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
