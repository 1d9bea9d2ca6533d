"""Experts are kept in balance where a model's own settings ask for it, and only there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, JetMoeConfig, JetMoeForCausalLM, PreTrainedModel

from tests.training.adapting import make_mixtral, with_tokenizer
from tests.training.runs import prepare, train
from tests.training.test_loss import DOCUMENTS, PAD, packed
from training.collation import PackedCollator, PaddedCollator
from training.loss import HEADS


@pytest.fixture(scope="module")
def experts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_mixtral(tmp_path_factory.mktemp("experts"))
    return with_tokenizer(folder, tiny_model)


def balanced(folder: Path, **settings: Any) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_router_logits=True, router_aux_loss_coef=5.0, **settings
    )
    return model.train()


def gates(model: PreTrainedModel) -> list[Tensor]:
    found = [
        each.grad.clone()
        for name, each in model.named_parameters()
        if ".gate." in name and each.grad is not None
    ]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("head", HEADS)
def test_the_router_learns_what_it_does_in_transformers(experts: Path, head: str) -> None:
    model = balanced(experts)
    batch = PaddedCollator(PAD)(DOCUMENTS)
    labels_BT = torch.full_like(batch["input_ids"], -100)
    labels_BT.view(-1)[batch["places"] + 1] = batch["targets"]
    theirs = model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels_BT)
    theirs.loss.backward()
    expected = gates(model)
    model.zero_grad()
    totals = HEADS[head](model, batch)
    assert totals.balance is not None
    assert totals.balance.item() == pytest.approx(5 * theirs.aux_loss.item(), rel=1e-6)
    (totals.loss_sum / len(batch["targets"]) + totals.balance).backward()
    for found, each in zip(gates(model), expected, strict=True):
        torch.testing.assert_close(found, each, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_are_balanced_too(experts: Path, attention: str) -> None:
    model = balanced(experts, attn_implementation=attention)
    totals = HEADS["streamed"](model, PackedCollator(PAD)(packed(DOCUMENTS, 31)))
    assert totals.balance is not None
    assert totals.balance.item() > 0


def test_another_architecture_names_the_weight_otherwise() -> None:
    config = JetMoeConfig(
        vocab_size=400,
        hidden_size=64,
        num_hidden_layers=1,
        num_key_value_heads=2,
        kv_channels=16,
        intermediate_size=32,
        num_local_experts=4,
        output_router_logits=True,
        aux_loss_coef=0.5,
    )
    totals = HEADS["whole"](JetMoeForCausalLM(config), PaddedCollator(PAD)(DOCUMENTS))
    assert totals.balance is not None


def test_a_model_that_does_not_ask_has_none(experts: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(experts, dtype=torch.float32)
    assert HEADS["streamed"](model, PaddedCollator(PAD)(DOCUMENTS)).balance is None


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_run_keeps_the_balance(experts: Path, tmp_path: Path, accumulation: int) -> None:
    weights = {}
    for weight in (0.0, 50.0):
        base = tmp_path / f"base-{weight}"
        base.mkdir()
        for path in experts.iterdir():
            (base / path.name).write_bytes(path.read_bytes())
        config = json.loads((base / "config.json").read_text())
        config |= {"output_router_logits": True, "router_aux_loss_coef": weight}
        (base / "config.json").write_text(json.dumps(config))
        optimization = {
            "max_steps": 2,
            "optim": "sgd",
            "learning_rate": 0.1,
            "per_device_train_batch_size": 8 // accumulation,
            "gradient_accumulation_steps": accumulation,
        }
        settings = {"adapter": {"type": "none"}, "optimization": optimization}
        directory = prepare(tmp_path / str(weight), base, settings)
        assert train(directory).outcome == "succeeded"
        weights[weight] = load_file(directory.result / "model.safetensors")
    name = next(name for name in weights[0.0] if name.endswith("0.block_sparse_moe.gate.weight"))
    moved = weights[50.0][name] - weights[0.0][name]
    assert moved.abs().max() > 1e-4
