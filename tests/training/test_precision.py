"""What is trained is float32 on a base of any precision, and recomputing changes nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.training.adapting import (
    IDS_BT,
    adapted_model,
    config_of,
    logits_of,
    make_mixtral,
    reopened,
    train_steps,
    written,
)
from training.adapters import ADAPTERS, Origin, Trainable
from training.added_tokens import Vocabulary
from training.config import TrainingConfig
from training.model import load_model, load_vocabulary

slow = pytest.mark.slow
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
SHAPES: Mapping[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "saved whole": {"modules_to_save": ["norm", "embed_tokens"]},
    "tokens": {},
}


def model_of(folder: Path, config: TrainingConfig, vocabulary: Vocabulary | None) -> Trainable:
    base = load_model(folder, config)
    torch.manual_seed(1)
    origin = Origin("tiny", folder, vocabulary=vocabulary)
    return ADAPTERS[config.adapter.type](base, config.adapter, origin)


def added(folder: Path, shape: str) -> tuple[dict[str, Any], Vocabulary | None]:
    if shape != "tokens":
        return {}, None
    model = {"add_tokens": [f"<t{number}>" for number in range(9)]}
    return model, load_vocabulary(folder, config_of(model=model).model)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_what_is_trained_is_float32(
    tiny_model: Path, shape: str, dtype: str, bits: int | None
) -> None:
    if (shape, bits) == ("dora", 8):
        with pytest.raises(ValueError, match="cannot be trained on 8-bit weights"):
            config_of(adapter=SHAPES[shape], model={"quantization": {"bits": bits}})
        return
    more, vocabulary = added(tiny_model, shape)
    model = {"dtype": dtype, "quantization": {"bits": bits} if bits else None, **more}
    adapter = {"r": 4, "target_modules": ["q_proj", "up_proj"], **SHAPES[shape]}
    trained = model_of(tiny_model, config_of(adapter=adapter, model=model), vocabulary)

    kinds: dict[torch.dtype, int] = {}
    for parameter in trained.parameters():
        if parameter.requires_grad:
            kinds[parameter.dtype] = kinds.get(parameter.dtype, 0) + 1
    assert kinds.keys() == {torch.float32}
    assert kinds[torch.float32] == {"lora": 8, "dora": 12, "saved whole": 10, "tokens": 9}[shape]
    assert isinstance(trained, PeftModel)
    still = trained.base_model.model.model.layers[0].input_layernorm.weight
    assert (still.dtype, still.requires_grad) == (getattr(torch, dtype), False)

    # It computes, goes back and generates in the precision of the base.
    trained.train()
    output = trained(input_ids=IDS_BT, labels=IDS_BT)
    assert output.logits.dtype == getattr(torch, dtype)
    output.loss.backward()
    gradients = {n: p.grad for n, p in trained.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    trained.eval()
    answer = trained.generate(input_ids=IDS_BT[:1], max_new_tokens=2, do_sample=False)
    assert answer.shape == (1, 22)


@pytest.mark.parametrize("shape", ["lora", "saved whole"])
def test_what_is_trained_on_float16_is_float32(tiny_model: Path, shape: str) -> None:
    """Float16 trains on GPUs only; how its weights are held can be seen anywhere."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float16)
    config = config_of(adapter={"r": 4, **SHAPES[shape]}).adapter
    model = ADAPTERS["lora"](base, config, Origin("tiny", tiny_model))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.float16}


def test_small_steps_are_not_lost_in_sixteen_bits(tiny_model: Path, tmp_path: Path) -> None:
    adapter = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["norm"]}
    config = config_of(adapter=adapter, model={"dtype": "bfloat16"})
    model = adapted_model(tiny_model, config)
    name = "base_model.model.model.norm.modules_to_save.default.weight"
    before = model.state_dict()[name].clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    for _ in range(2):
        model(input_ids=IDS_BT, labels=IDS_BT).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()[name]
    assert (after != before).float().mean() > 0.8
    # A bfloat16 weight of 1 would have stayed where it was.
    assert torch.equal(after.bfloat16(), before.bfloat16())

    saved = written(model, tmp_path / "saved")
    again = reopened(tiny_model, saved)
    assert torch.equal(again.state_dict()[name], after)


def test_one_name_is_not_another_that_ends_alike(tiny_model: Path) -> None:
    model = adapted_model(tiny_model, config_of(adapter={"modules_to_save": ["norm"]}))
    whole = {n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
    assert whole == {"base_model.model.model.norm.modules_to_save.default.weight"}


def test_a_tied_pair_is_kept_the_same(tiny_model: Path, tmp_path: Path) -> None:
    config = config_of(adapter={"r": 2, "modules_to_save": ["lm_head"]})
    model = adapted_model(tiny_model, config)
    train_steps(model, 2)
    trained = logits_of(model)
    merged = reopened(tiny_model, written(model, tmp_path / "saved")).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert whole.get_output_embeddings().weight is whole.get_input_embeddings().weight
    assert (logits_of(whole) - trained).abs().max() < 1e-5


RECOMPUTED: list[Any] = [
    pytest.param("llama", {}, {}, id="lora"),
    pytest.param("llama", {"use_dora": True}, {}, id="dora", marks=slow),
    pytest.param("llama", {"init_lora_weights": "pissa"}, {}, id="pissa", marks=slow),
    pytest.param("llama", {"modules_to_save": ["norm"]}, {}, id="saved whole", marks=slow),
    pytest.param("llama", {}, {"quantization": {"bits": 4}}, id="4 bits"),
    pytest.param("llama", {}, {"quantization": {"bits": 8}}, id="8 bits", marks=slow),
    pytest.param("mixtral", {}, {}, id="experts"),
    pytest.param("llama", {"type": "none"}, {}, id="full", marks=slow),
]


@pytest.mark.parametrize(("name", "adapter", "model"), RECOMPUTED)
def test_recomputing_activations_changes_no_gradient(
    tiny_model: Path, tmp_path: Path, name: str, adapter: dict[str, Any], model: dict[str, Any]
) -> None:
    folder = tiny_model if name == "llama" else make_mixtral(tmp_path / "mixtral")
    config = config_of(adapter=adapter, model=model)
    found = []
    for recomputes in (False, True):
        trained = adapted_model(folder, config)
        base: Any = trained.get_base_model() if isinstance(trained, PeftModel) else trained
        if isinstance(trained, PeftModel):
            # One step away from the start, where lora_A has no gradient yet.
            with torch.no_grad():
                for key, parameter in trained.named_parameters():
                    if "lora_B" in key:
                        parameter.add_(0.01)
        if recomputes:
            base.enable_input_require_grads()
            base.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        trained.train()
        trained(input_ids=IDS_BT, labels=IDS_BT, use_cache=False).loss.backward()
        found.append({n: p.grad for n, p in trained.named_parameters() if p.requires_grad})
    plain, recomputed = found
    assert plain.keys() == recomputed.keys()
    for key, gradient in plain.items():
        assert gradient is not None
        assert gradient.any(), key
        assert torch.allclose(gradient, recomputed[key], atol=1e-6), key
