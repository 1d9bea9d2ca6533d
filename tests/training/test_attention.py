"""Attention of each document by itself is the masked attention, with the mask left out."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import training.model as loading
from tests.training.architectures import VOCAB_SIZE, tiny
from training.attention import BY_DOCUMENT, Segments, can_attend_by_document, mask_by_document
from training.model import attention
from training.model_config import ModelConfig

LENGTHS = [12, 1, 7, 20, 1]
"""Windows of 8 tokens end within some of them."""


def packed(lengths: Sequence[int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids_T = torch.randint(3, VOCAB_SIZE, (sum(lengths),), generator=generator)
    positions_T = torch.cat([torch.arange(length) for length in lengths])
    return {"input_ids": ids_T[None], "position_ids": positions_T[None]}


def logits_alone(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Each document in a batch of its own, in transformers' own attention."""
    parts = torch.split(batch["input_ids"], LENGTHS, dim=1)
    return torch.cat([model(input_ids=ids, use_cache=False).logits for ids in parts], dim=1)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3_text", "gpt2", "mixtral"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_every_document_has_the_logits_and_gradients_that_it_has_alone(
    architecture: str, *, checkpointing: bool, training: bool
) -> None:
    model = tiny(architecture)
    if architecture == "gpt2":
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.config.attn_pdrop = 0.0
    batch = packed(LENGTHS)
    weight_TV = torch.randn(sum(LENGTHS), VOCAB_SIZE, generator=torch.Generator().manual_seed(2))
    expected_TV = logits_alone(model, batch)[0]
    (expected_TV * weight_TV).sum().backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    model.set_attn_implementation(BY_DOCUMENT)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    model.train(training)
    found_TV = model(**batch, use_cache=False).logits[0]
    (found_TV * weight_TV).sum().backward()
    torch.testing.assert_close(found_TV, expected_TV, atol=1e-5, rtol=1e-5)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)


def segments(lengths: Sequence[int], window: int | None = None) -> Segments | Tensor | None:
    document_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))

    def sees(_batch: int, _head: int, query: Tensor, key: Tensor) -> Tensor:
        is_near = key > query - (window or sum(lengths))
        return (key <= query) & is_near & (document_T[query] == document_T[key])

    return mask_by_document(
        mask_function=sees,
        local_size=window,
        batch_size=1,
        q_length=sum(lengths),
        kv_length=sum(lengths),
        allow_is_causal_skip=False,
    )


def test_a_row_is_cut_where_its_mask_is() -> None:
    found = segments(LENGTHS)
    assert isinstance(found, Segments)
    assert found.lengths == LENGTHS
    assert found.masks == [None] * len(LENGTHS)


def test_only_documents_longer_than_the_window_need_a_mask() -> None:
    found = segments(LENGTHS, window=8)
    assert isinstance(found, Segments)
    assert found.lengths == LENGTHS
    shapes = [None if mask is None else tuple(mask.shape) for mask in found.masks]
    assert shapes == [(1, 1, 12, 12), None, None, (1, 1, 20, 20), None]
    assert found.masks[0] is not None
    assert found.masks[0][0, 0, 11].tolist() == [False] * 4 + [True] * 8


def test_a_mask_that_looks_ahead_is_left_to_transformers() -> None:
    def sees(_batch: int, _head: int, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) | ((key < 4) & (query < 4))

    found = mask_by_document(
        mask_function=sees, batch_size=1, q_length=6, kv_length=6, allow_is_causal_skip=False
    )
    assert isinstance(found, Tensor)
    assert found[0, 0, 0].tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize("padding", [0, 3])
def test_rows_of_one_document_are_masked_as_ever(padding: int) -> None:
    model = tiny("llama")
    ids_BT = torch.randint(3, VOCAB_SIZE, (2, 9), generator=torch.Generator().manual_seed(3))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 9 - padding :] = 0
    kept = mask_BT.bool()
    expected = model(input_ids=ids_BT, attention_mask=mask_BT).logits[kept]
    model.set_attn_implementation(BY_DOCUMENT)
    found = model(input_ids=ids_BT, attention_mask=mask_BT).logits[kept]
    torch.testing.assert_close(found, expected)


def test_it_generates_what_sdpa_generates() -> None:
    model = tiny("gemma3_text")
    ids = torch.arange(3, 15)[None]
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": True, "eos_token_id": None}
    expected = model.generate(input_ids=ids, **options)
    model.set_attn_implementation(BY_DOCUMENT)
    assert model.generate(input_ids=ids, **options).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("architecture", "can"),
    [("llama", True), ("gpt2", True), ("gemma2", False), ("bloom", False), ("mamba", False)],
)
def test_only_models_that_call_a_registered_attention_can_have_it(
    architecture: str, *, can: bool
) -> None:
    assert can_attend_by_document(tiny(architecture)) is can


@pytest.mark.parametrize(
    ("architecture", "dtype", "chosen"),
    [
        ("llama", "bfloat16", "flash_attention_2"),
        ("llama", "float32", None),
        ("bloom", "bfloat16", None),
    ],
)
def test_flash_attention_is_chosen_for_models_that_know_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    dtype: str,
    chosen: str | None,
) -> None:
    monkeypatch.setattr(loading, "_has_flash_attention", lambda: True)
    tiny(architecture).config.save_pretrained(tmp_path)
    assert attention(ModelConfig.model_validate({"dtype": dtype}), tmp_path) == chosen
