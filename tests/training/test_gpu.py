"""On a GPU every precision and every shortcut learns about what plain float32 learns there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import curve, prepare, train
from training.run_directory import RunDirectory

pytestmark = pytest.mark.gpu

PLAIN: dict[str, Any] = {
    "model": {"dtype": "float32", "attn_implementation": "eager"},
    "adapter": {"lora_dropout": 0.0},
    "data": {"max_length": 256},
    "optimization": {"max_steps": 6, "learning_rate": 0.01, "max_grad_norm": 1.0},
    "reporting": {"logging_steps": 1, "report_to": []},
}
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "sdpa": {"model": {"attn_implementation": "sdpa"}},
    "bfloat16": {"model": {"dtype": "bfloat16", "attn_implementation": "auto"}},
    "float16": {"model": {"dtype": "float16"}},
    "4 bits": {"model": {"dtype": "bfloat16", "quantization": {"bits": 4}}},
    "8 bits": {"model": {"dtype": "float16", "quantization": {"bits": 8}}},
    "recomputed": {"optimization": {"gradient_checkpointing": True}},
    "compiled": {"optimization": {"torch_compile": True}},
    "paged": {"optimization": {"optim": "paged_adamw_8bit"}},
    "whole": {"adapter": {"type": "none"}, "optimization": {"learning_rate": 0.001}},
}


def trained(folder: Path, model: Path, changes: dict[str, dict[str, Any]]) -> RunDirectory:
    sections = {key: {**PLAIN.get(key, {}), **changes.get(key, {})} for key in PLAIN | changes}
    directory = prepare(folder, model, sections)
    assert train(directory).outcome == "succeeded"
    return directory


def losses(directory: RunDirectory) -> list[float]:
    return [float(loss or 0) for loss in curve(directory).values()]


@pytest.mark.parametrize("way", WAYS)
def test_it_learns_what_plain_float32_does(tiny_model: Path, tmp_path: Path, way: str) -> None:
    assert torch.cuda.is_available()
    plain = losses(trained(tmp_path / "plain", tiny_model, {}))
    found = losses(trained(tmp_path / "other", tiny_model, WAYS[way]))
    assert found[0] == pytest.approx(plain[0], rel=0.05)
    assert found[-1] < found[0] - 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_rows_are_kept_apart(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    """With FlashAttention where it is installed, which takes 16 bits only; else with sdpa."""
    model = {"dtype": dtype, "attn_implementation": "auto"}
    one_step = {"max_steps": 1, "per_device_train_batch_size": 40}
    padded = trained(tmp_path / "padded", tiny_model, {"model": model, "optimization": one_step})
    packed = trained(
        tmp_path / "packed",
        tiny_model,
        {"model": model, "optimization": one_step, "data": {"packing": True, "block_size": 4096}},
    )
    assert losses(packed) == pytest.approx(losses(padded), rel=0.01)
    assert curve(packed, "trained_tokens") == curve(padded, "trained_tokens")
