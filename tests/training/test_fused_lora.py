"""A LoRA layer as one operation says and learns what PEFT's does."""

from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from tests.training.architectures import VOCAB_SIZE, tiny
from tests.training.runs import FLOAT32, adapter, curve, prepare, train
from training import engine, fused_lora
from training.collation import PaddedCollator
from training.fused_lora import fuse_lora, unfuse_lora
from training.isolation import made_up_documents
from training.reference import Reference

IDS = torch.arange(3, 51).view(2, 24) % VOCAB_SIZE


def adapted(architecture: str = "llama", **options: Any) -> PeftModel:
    torch.manual_seed(0)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", **options}
    model = get_peft_model(tiny(architecture), LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.train()


def learned(model: nn.Module) -> dict[str, Tensor]:
    """Logits and gradients of one pass, the same dropout every time."""
    model.zero_grad()
    torch.manual_seed(1)
    logits = model(input_ids=IDS, use_cache=False).logits
    logits.float().logsumexp(-1).sum().backward()
    found = {"logits": logits.detach().float()}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.float().clone()
    return found


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= share * value.norm() + 1e-6, name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_outputs_and_gradients_are_those_of_peft(
    dtype: torch.dtype, dropout: float, *, checkpointing: bool
) -> None:
    model = adapted(lora_dropout=dropout)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    if checkpointing:
        model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
        model.get_base_model().enable_input_require_grads()
    expected = learned(model)
    assert fuse_lora(model) == 14
    assert_close(learned(model), expected, 1e-5 if dtype == torch.float32 else 0.05)
    unfuse_lora(model)
    assert_close(learned(model), expected, 0)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_scale_and_rank_are_the_layers_own(options: dict[str, Any]) -> None:
    model = adapted(**options)
    expected = learned(model)
    assert fuse_lora(model) == 14
    assert_close(learned(model), expected, 1e-5)


@pytest.mark.parametrize(
    ("architecture", "options", "number"),
    [
        ("llama", {"use_dora": True}, 0),
        ("qwen2", {"target_modules": ["q_proj"], "lora_bias": True}, 0),
        ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}, 0),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, 2),
        ("mixtral", {"target_modules": ["q_proj", "v_proj"]}, 4),
    ],
)
def test_only_plain_layers_are_touched(
    architecture: str, options: dict[str, Any], number: int
) -> None:
    model = adapted(architecture, **options)
    expected = learned(model)
    assert fuse_lora(model) == number
    assert_close(learned(model), expected, 1e-5)


def test_what_is_done_to_an_adapter_is_heeded() -> None:
    model = adapted().eval()
    with torch.no_grad():
        tuned = model(input_ids=IDS).logits
        with model.disable_adapter():
            plain = model(input_ids=IDS).logits
        assert (tuned - plain).abs().max() > 1e-2
        fuse_lora(model)
        with model.disable_adapter():
            torch.testing.assert_close(model(input_ids=IDS).logits, plain)
        model.merge_adapter()
        torch.testing.assert_close(model(input_ids=IDS).logits, tuned, atol=1e-5, rtol=1e-4)
        model.unmerge_adapter()
        torch.testing.assert_close(model(input_ids=IDS).logits, tuned, atol=1e-5, rtol=1e-4)


def test_a_run_learns_the_same_with_and_without_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        **FLOAT32,
        "optimization": {"max_steps": 4, "optim": "sgd", "learning_rate": 0.5, "warmup_steps": 0},
        "reporting": {"logging_steps": 1, "report_to": []},
    }
    fused = prepare(tmp_path / "fused", tiny_model, settings)
    assert train(fused).outcome == "succeeded"
    monkeypatch.setattr(engine, "fuse_lora", lambda _model: 0)
    plain = prepare(tmp_path / "plain", tiny_model, settings)
    assert train(plain).outcome == "succeeded"
    assert curve(fused) == pytest.approx(curve(plain), rel=1e-6)
    weights, expected = adapter(fused.result), adapter(plain.result)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=1e-6, rtol=1e-4)


def test_a_layer_that_would_learn_otherwise_is_left_to_peft(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = adapted()
    expected = learned(model)

    def broken(wrong: PeftModel) -> int:
        number = fuse_lora(wrong)
        for module in fused(wrong):
            module.forward = MethodType(lambda layer, x: 2 * LoraLinear.forward(layer, x), module)
        return number

    def fused(model: nn.Module) -> list[nn.Module]:
        return [module for module in model.modules() if "forward" in vars(module)]

    monkeypatch.setattr(engine, "fuse_lora", broken)
    probe = PaddedCollator(0)(made_up_documents(VOCAB_SIZE, 2))
    assert engine._leanest_head(model, Reference(model, probe), fuses=True) == "streamed"
    assert not fused(model)
    assert_close(learned(model), expected, 0)


@pytest.mark.parametrize("target", ["q_proj", "down_proj"])
def test_a_wrong_way_back_to_the_layer_below_is_seen(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(target_modules=[target])
    expected = learned(model)
    monkeypatch.setattr(fused_lora, "_added", lambda total, *_product: total)
    probe = PaddedCollator(0)(made_up_documents(VOCAB_SIZE, 2))
    assert engine._leanest_head(model, Reference(model, probe), fuses=True) == "streamed"
    assert_close(learned(model), expected, 0)
