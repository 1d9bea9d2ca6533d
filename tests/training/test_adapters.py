"""Every way an adapter can begin and be shaped: what is saved is what was trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.training.adapting import (
    EXPERTS,
    Folders,
    adapted_model,
    config_of,
    logits_of,
    reopened,
    train_steps,
    written,
)
from tests.training.runs import adapter, curve, prepare, train
from training.events import Progress

slow = pytest.mark.slow
EVERYTHING = {
    "init_lora_weights": "pissa",
    "use_rslora": True,
    "use_dora": True,
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"v_proj": 3, "q_proj": 5},
}
PATTERNS = {
    "rank_pattern": {"q_proj": 2, r"layers\.1\..*down_proj": 8},
    "alpha_pattern": {"v_proj": 3},
}
VARIANTS = [
    pytest.param("llama", {}, id="lora"),
    pytest.param("llama", {"init_lora_weights": "gaussian"}, id="gaussian", marks=slow),
    pytest.param("llama", {"init_lora_weights": "orthogonal"}, id="orthogonal", marks=slow),
    pytest.param("llama", {"init_lora_weights": "mica"}, id="mica", marks=slow),
    pytest.param("llama", {"init_lora_weights": "pissa"}, id="pissa", marks=slow),
    pytest.param("llama", {"init_lora_weights": "pissa_niter_4"}, id="pissa_niter"),
    pytest.param("llama", {"init_lora_weights": "olora"}, id="olora"),
    pytest.param("llama", {"use_rslora": True}, id="rslora", marks=slow),
    pytest.param("llama", {"use_dora": True}, id="dora"),
    pytest.param("llama", PATTERNS, id="patterns"),
    pytest.param("llama", EVERYTHING, id="pissa, rslora, dora, patterns"),
    pytest.param("llama", {"layers_to_transform": [1]}, id="one layer", marks=slow),
    pytest.param("llama", {"modules_to_save": ["embed_tokens"]}, id="embedding saved"),
    pytest.param("gpt2", {}, id="gpt2", marks=slow),
    pytest.param("gpt2", {"use_dora": True}, id="gpt2 dora", marks=slow),
    pytest.param("gpt2", {"init_lora_weights": "pissa"}, id="gpt2 pissa", marks=slow),
    pytest.param("gpt2", {"init_lora_weights": "olora"}, id="gpt2 olora"),
    pytest.param("mixtral", {}, id="mixtral"),
    pytest.param(
        "mixtral", {"target_modules": ["embed_tokens", "lm_head"]}, id="embedding", marks=slow
    ),
    pytest.param("qwen", {"target_modules": [], "target_parameters": EXPERTS}, id="qwen experts"),
    pytest.param("glm", {}, id="shared expert", marks=slow),
    pytest.param("mamba", {}, id="mamba"),
]


@pytest.mark.parametrize(("name", "keys"), VARIANTS)
def test_base_and_saved_adapter_are_what_was_trained(
    folders: Folders, tmp_path: Path, name: str, keys: dict[str, Any]
) -> None:
    model = adapted_model(folders[name], config_of(adapter={"r": 4, "lora_alpha": 8, **keys}))
    begun = logits_of(model)
    train_steps(model, 3)
    trained = logits_of(model)
    assert (trained - begun).abs().max() > 0.01

    saved = written(model, tmp_path / "saved")

    again = reopened(folders[name], saved)
    assert (logits_of(again) - trained).abs().max() < 1e-5
    merged = again.merge_and_unload()
    assert (logits_of(merged) - trained).abs().max() < 1e-5
    written_as = json.loads((saved / "adapter_config.json").read_text())
    assert written_as["init_lora_weights"] is True
    assert written_as["base_model_name_or_path"] == "tiny"


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("llama", EVERYTHING),
        ("llama", {"init_lora_weights": "pissa_niter_2"}),
        ("gpt2", {"init_lora_weights": "olora"}),
        ("llama", {"init_lora_weights": "mica", "modules_to_save": ["norm"]}),
        ("mixtral", {}),
        ("loftq", {"init_lora_weights": "loftq"}),
    ],
    ids=["everything", "pissa_niter", "gpt2 olora", "mica", "experts", "loftq"],
)
def test_training_goes_on_bit_for_bit(
    folders: Folders, tmp_path: Path, name: str, keys: dict[str, Any]
) -> None:
    quantization = {"bits": 4} if name == "loftq" else None
    folder = folders["llama" if name == "loftq" else name]
    config = config_of(adapter={"r": 4, **keys}, model={"quantization": quantization})
    straight = adapted_model(folder, config)
    state = train_steps(straight, 2)
    saved = written(straight, tmp_path / "saved")
    train_steps(straight, 2, state)

    # Another seed: nothing may be drawn anew.
    resumed = adapted_model(folder, config, saved=saved, seed=99)
    train_steps(resumed, 2, state)

    one, other = (written(m, tmp_path / n) for m, n in ((straight, "one"), (resumed, "other")))
    left, right = adapter(one), adapter(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert torch.equal(logits_of(straight), logits_of(resumed))


def test_a_paused_run_that_took_its_base_apart_goes_on_exactly(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.reporting.PROGRESS_SECONDS", 0)
    settings = {
        "adapter": {"r": 4, "lora_dropout": 0.1, **EVERYTHING},
        "optimization": {"max_steps": 5, "learning_rate": 0.01},
        "reporting": {"logging_steps": 1, "report_to": []},
    }
    straight = prepare(tmp_path / "straight", tiny_model, settings)
    paused = prepare(tmp_path / "paused", tiny_model, settings)
    assert train(straight).outcome == "succeeded"
    stopped = train(
        paused, stop_when=lambda e: isinstance(e, Progress) and e.step == 2, reason="pause"
    )
    assert stopped.outcome == "interrupted"
    assert train(paused).outcome == "succeeded"
    assert curve(paused) == curve(straight)
    left, right = adapter(paused.result), adapter(straight.result)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert (paused.result / "adapter_config.json").read_bytes() == (
        straight.result / "adapter_config.json"
    ).read_bytes()


def test_a_job_goes_on_from_an_adapter_that_took_its_base_apart(
    tiny_model: Path, tmp_path: Path
) -> None:
    def settings(max_steps: int, learning_rate: float) -> dict[str, Any]:
        return {
            "adapter": {"r": 4, **EVERYTHING},
            "optimization": {
                "max_steps": max_steps,
                "learning_rate": learning_rate,
                "lr_scheduler_type": "constant",
                "warmup_steps": 0,
                "per_device_train_batch_size": 40,
            },
            "reporting": {"logging_steps": 1, "report_to": []},
        }

    longer = prepare(tmp_path / "longer", tiny_model, settings(3, 0.01))
    parent = prepare(tmp_path / "parent", tiny_model, settings(2, 0.01))
    assert train(longer).outcome == train(parent).outcome == "succeeded"
    start = {"path": str(parent.result), "name": "ft:tiny:o::1"}
    child = prepare(tmp_path / "child", tiny_model, settings(1, 1e-30), start=start)
    assert train(child).outcome == "succeeded"
    assert curve(child)[1] == pytest.approx(curve(longer)[3], rel=1e-6)
    before, after = adapter(parent.result), adapter(child.result)
    assert all(torch.equal(before[name], after[name]) for name in before)

    other = settings(1, 1e-30) | {"adapter": {"r": 4, **EVERYTHING, "use_dora": False}}
    refused = train(prepare(tmp_path / "other", tiny_model, other, start=start)).failure
    assert refused is not None
    assert refused.param == "training.adapter.use_dora"


@pytest.mark.parametrize(
    ("start", "theirs"), [("pissa", "pissa"), ("olora", "olora"), ("pissa_niter_16", "pissa")]
)
def test_it_begins_where_peft_begins(folders: Folders, start: str, theirs: Any) -> None:
    config = config_of(adapter={"r": 4, "lora_alpha": 12, "init_lora_weights": start})
    ours = adapted_model(folders["llama"], config)
    base = AutoModelForCausalLM.from_pretrained(folders["llama"])
    untouched = logits_of(base)
    asked = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=12,
        target_modules="all-linear",
        init_lora_weights=theirs,
    )
    found, expected = ours.state_dict(), get_peft_model(base, asked).state_dict()

    assert (logits_of(ours) - untouched).abs().max() < 1e-5
    names = [name for name in found if name.endswith("lora_A.default.weight")]
    assert len(names) == 14
    for name in names:
        b, rest = name.replace("lora_A", "lora_B"), name.replace("lora_A.default", "base_layer")
        if start == theirs:
            product = found[b] @ found[name]
            assert torch.allclose(product, expected[b] @ expected[name], atol=1e-6)
            assert torch.allclose(found[rest], expected[rest], atol=1e-6)
        # As much is taken out of the base, or nearly so with a few iterations.
        assert found[rest].norm() < 1.01 * expected[rest].norm()


def test_loftq_begins_with_what_quantization_took(folders: Folders, tmp_path: Path) -> None:
    folder, four_bits = folders["llama"], {"quantization": {"bits": 4}}
    whole = logits_of(AutoModelForCausalLM.from_pretrained(folder))

    def error(start: object) -> float:
        adapter = {"r": 16, "lora_alpha": 8, "init_lora_weights": start}
        model = adapted_model(folder, config_of(adapter=adapter, model=four_bits))
        return float((logits_of(model) - whole).square().mean())

    assert error("loftq") < 0.6 * error(True)

    config = config_of(adapter={"r": 16, "init_lora_weights": "loftq"}, model=four_bits)
    model = adapted_model(folder, config)
    train_steps(model, 3)
    trained = logits_of(model)
    saved = reopened(folder, written(model, tmp_path / "saved"))
    # On the whole base it is the change alone: nearer to what was trained than that base is.
    assert (logits_of(saved) - trained).square().mean() < 0.1 * (whole - trained).square().mean()
