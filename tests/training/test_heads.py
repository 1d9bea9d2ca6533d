"""The head is computed where a token is predicted, and only if the model agrees that it may be."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.training.architectures import ARCHITECTURES, VOCAB_SIZE, tiny
from training import loss as loss_module
from training import reference
from training.collation import FlatCollator, PackedCollator, PaddedCollator
from training.isolation import made_up_documents
from training.loss import HEADS, TokenTotals
from training.reference import Reference

SHAPED = {"cohere", "gemma2", "granite"}
"""Their logits are scaled or capped behind the output layer."""
PADDED = PaddedCollator(0)(made_up_documents(VOCAB_SIZE, 3))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def trained_by(head: str, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Gradients, and what the batch's totals are."""
    model.zero_grad()
    totals = HEADS[head](model, dict(batch))
    totals.loss_sum.backward()
    return {
        "loss_sum": totals.loss_sum.detach(),
        "num_correct": totals.num_correct,
        **gradients(model),
    }


def plainly(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """As a textbook has it: all logits, shifted, and torch's own cross-entropy."""
    model.zero_grad()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    logits_NV = model(**inputs, use_cache=False).logits.flatten(0, 1)[batch["places"]]
    loss_sum = nn.functional.cross_entropy(logits_NV, batch["targets"], reduction="sum")
    loss_sum.backward()
    return {
        "loss_sum": loss_sum.detach(),
        "num_correct": (logits_NV.argmax(1) == batch["targets"]).sum(),
        **gradients(model),
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_leanest_head_that_agrees_is_chosen_and_trains_as_the_plain_one(
    architecture: str,
) -> None:
    model = tiny(architecture)
    chosen = Reference(model, PADDED).leanest_head()
    assert chosen == ("selected" if architecture in SHAPED else "streamed")
    expected, found = plainly(model, PADDED), trained_by(chosen, model, PADDED)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-5, rtol=2e-4, msg=name)


def with_bias(model: PreTrainedModel) -> nn.Module:
    head = model.get_output_embeddings()
    model.set_output_embeddings(nn.Linear(head.in_features, head.out_features, bias=True))
    return model


def with_lora_on_the_head(model: PreTrainedModel) -> nn.Module:
    return adapted(model, target_modules=["q_proj", "lm_head"])


def with_a_trained_head(model: PreTrainedModel) -> nn.Module:
    return adapted(model, target_modules=["q_proj"], modules_to_save=["lm_head"])


def with_a_frozen_head(model: PreTrainedModel) -> nn.Module:
    return adapted(model, target_modules=["q_proj", "down_proj"])


def adapted(model: PreTrainedModel, **options: Any) -> nn.Module:
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **options))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return tuned


KINDS: list[Callable[[PreTrainedModel], nn.Module]] = [
    with_bias,
    with_lora_on_the_head,
    with_a_trained_head,
    with_a_frozen_head,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_whatever_of_the_head_is_trained_has_the_plain_gradients(
    kind: Callable[[PreTrainedModel], nn.Module], head: str
) -> None:
    torch.manual_seed(0)
    model = kind(tiny("llama")).eval()
    expected, found = plainly(model, PADDED), trained_by(head, model, PADDED)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)
    assert Reference(model, PADDED).leanest_head() == "streamed"


@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_the_size_of_a_chunk_changes_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "_CHUNK_BYTES", {True: rows * VOCAB_SIZE * 4})
    model = tiny("llama")
    expected, found = plainly(model, PADDED), trained_by("streamed", model, PADDED)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_a_scaled_loss_scales_its_gradients() -> None:
    model = tiny("llama")
    whole = trained_by("streamed", model, PADDED)
    model.zero_grad()
    (HEADS["streamed"](model, PADDED).loss_sum / 7).backward()
    for name, value in gradients(model).items():
        torch.testing.assert_close(value * 7, whole[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_nothing_is_kept_for_a_backward_pass_that_never_comes(head: str) -> None:
    model = tiny("llama")
    with torch.no_grad():
        totals = HEADS[head](model, PADDED)
    assert not totals.loss_sum.requires_grad
    assert totals.loss_sum.item() == pytest.approx(plainly(model, PADDED)["loss_sum"].item())


def test_the_output_layer_is_left_as_it_was() -> None:
    model = tiny("llama")
    HEADS["streamed"](model, PADDED)
    assert not model.get_output_embeddings()._forward_pre_hooks
    assert model(input_ids=PADDED["input_ids"]).logits.shape[1] == PADDED["input_ids"].shape[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cap_far_above_the_logits_is_a_cap(dtype: torch.dtype) -> None:
    model = tiny("gemma2").to(dtype)
    model.config.final_logit_softcapping = 1000.0
    assert Reference(model, PADDED).leanest_head() == "selected"


class Shifting(nn.Module):
    """Logits that no head but the whole one can make: each depends on the one before it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, logits_to_keep: object = None, **inputs: Any) -> Any:  # noqa: ARG002
        output = self.model(**inputs)
        output.logits = output.logits + 0.5 * output.logits.roll(1, dims=1)
        return output


class Capping(Shifting):
    """Logits that are capped where they lie, so far away that nothing changes much."""

    def forward(self, logits_to_keep: object = None, **inputs: Any) -> Any:  # noqa: ARG002
        output = self.model(**inputs)
        output.logits.copy_((output.logits / 1000).tanh() * 1000)
        return output


def test_a_cap_in_place_is_a_cap() -> None:
    assert Reference(Capping(tiny("llama")), PADDED).leanest_head() == "whole"


def test_logits_that_depend_on_each_other_are_made_whole() -> None:
    assert Reference(Shifting(tiny("llama")), PADDED).leanest_head() == "whole"


def wrong_gradient(model: nn.Module, batch: Mapping[str, Any]) -> TokenTotals:
    totals = HEADS["whole"](model, dict(batch))
    return TokenTotals(totals.loss_sum.detach() + 0 * totals.loss_sum, totals.num_correct)


def test_a_head_whose_gradients_differ_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "HEADS", {"wrong": wrong_gradient, **HEADS})
    assert Reference(tiny("llama"), PADDED).leanest_head() == "streamed"


def test_what_the_loss_does_not_depend_on_is_idle_and_stops_no_head() -> None:
    model = with_a_frozen_head(tiny("llama"))
    model.spare = nn.Parameter(torch.ones(3))
    seen = Reference(model, PADDED)
    assert seen.idle == ("spare",)
    assert seen.leanest_head() == "streamed"


def test_choosing_a_head_leaves_no_gradient_and_the_mode_behind() -> None:
    model = tiny("llama").train()
    Reference(model, PADDED).leanest_head()
    assert model.training
    assert not gradients(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("collate", [FlatCollator(), PackedCollator(0)])
def test_the_loss_is_summed_in_float32(
    dtype: torch.dtype, collate: FlatCollator | PackedCollator
) -> None:
    model = tiny("llama").to(dtype)
    totals = HEADS["streamed"](model, collate([made_up_documents(VOCAB_SIZE, 3)]))
    assert totals.loss_sum.dtype == torch.float32
    totals.loss_sum.backward()
    assert {gradient.dtype for gradient in gradients(model).values()} == {dtype}
