"""Every way to train really trains: the loss falls, and what is frozen stays as it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.training.adapting import make_gpt2, make_mamba, with_tokenizer
from tests.training.runs import adapter, curve, events, prepare, train
from tests.training.tracked_runs import train_apart
from training.adapter_config import AdapterConfig
from training.adapters import ADAPTERS, Origin
from training.config import TrainingConfig
from training.events import Event, Message, Metrics, Sample
from training.loss import HEADS
from training.model import load_model

STEPS = {"max_steps": 12, "learning_rate": 0.05}
METHODS: Mapping[str, dict[str, Any]] = {
    "lora": {},
    "full": {"adapter": {"type": "none"}},
    "int8": {"model": {"dtype": "float32", "quantization": {"bits": 8}}},
    "nf4": {"model": {"dtype": "float32", "quantization": {"bits": 4}}},
    "fp4": {
        "model": {
            "dtype": "float32",
            "quantization": {"bits": 4, "type": "fp4", "double_quant": False},
        }
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_falls(tiny_model: Path, tmp_path: Path, method: str) -> None:
    settings = {
        **METHODS[method],
        "optimization": STEPS,
        "reporting": {"logging_steps": 1, "report_to": []},
    }
    directory = prepare(tmp_path, tiny_model, settings)
    finished = train(directory)
    assert finished.outcome == "succeeded", finished.failure
    losses = curve(directory)
    assert list(losses) == list(range(1, 13))
    first, last = losses[1], losses[12]
    assert first is not None
    assert last is not None
    assert last < first - 0.15


@pytest.mark.parametrize("method", ["int8", "nf4"])
def test_a_layer_whose_weight_the_model_reads_itself_stays_whole(
    tmp_path: Path, method: str
) -> None:
    model = load_model(make_mamba(tmp_path), TrainingConfig.model_validate(METHODS[method]))
    whole = {name.rpartition(".")[2] for name, m in model.named_modules() if type(m) is nn.Linear}
    assert whole == {"dt_proj", "lm_head"}
    assert model(input_ids=torch.arange(3, 19)[None]).logits.isfinite().all()


@pytest.mark.parametrize("method", ["int8", "nf4", "fp4"])
def test_a_quantized_model_learns_the_same_after_it_was_evaluated(
    tiny_model: Path, method: str
) -> None:
    """On some CPUs bitsandbytes changes its weights for good in the first evaluation."""
    model = load_model(tiny_model, TrainingConfig.model_validate(METHODS[method])).train()
    ids = torch.arange(3, 19)[None]

    def slope() -> Tensor:
        inputs = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=inputs).logits.float().logsumexp(-1).sum().backward()
        assert inputs.grad is not None
        return inputs.grad

    expected = slope()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    model.train()
    assert torch.equal(slope(), expected)


def test_the_adapter_loads_with_plain_peft_and_lowers_the_loss(
    tiny_model: Path, tmp_path: Path
) -> None:
    directory = prepare(tmp_path, tiny_model, {"optimization": STEPS})
    assert train(directory).outcome == "succeeded"

    tokenizer = AutoTokenizer.from_pretrained(directory.result)
    ids_1T = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "What is 3 plus 3?"},
            {"role": "assistant", "content": "It is 6."},
        ],
        return_tensors="pt",
    )["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        before = base(input_ids=ids_1T, labels=ids_1T).loss
        after = PeftModel.from_pretrained(base, directory.result)(
            input_ids=ids_1T, labels=ids_1T
        ).loss
    assert after < before - 0.05


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_training_writes_a_model_that_loads_and_stops(
    tiny_model: Path, tmp_path: Path, dtype: str
) -> None:
    settings = {"model": {"dtype": dtype}, "adapter": {"type": "none"}, "optimization": STEPS}
    directory = prepare(tmp_path, tiny_model, settings)
    assert train(directory).outcome == "succeeded"

    model = AutoModelForCausalLM.from_pretrained(directory.result)
    assert model.dtype == getattr(torch, dtype)
    eos = AutoTokenizer.from_pretrained(directory.result).eos_token_id
    assert eos in torch.tensor(model.generation_config.eos_token_id).flatten().tolist()
    changed = load_file(directory.result / "model.safetensors")
    original = load_file(tiny_model / "model.safetensors")
    assert all(not torch.equal(changed[name].float(), original[name]) for name in original)
    in_16_bits = {torch.equal(each, each.bfloat16().to(each.dtype)) for each in changed.values()}
    assert in_16_bits == {dtype == "bfloat16"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_adapters_are_float32_on_a_base_of_any_precision(
    tiny_model: Path, dtype: str, bits: int | None
) -> None:
    quantization = {"bits": bits} if bits else None
    config = TrainingConfig.model_validate(
        {"model": {"dtype": dtype, "quantization": quantization}}
    )
    origin = Origin("tiny", tiny_model)
    model = ADAPTERS["lora"](load_model(tiny_model, config), config.adapter, origin)
    trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert set(trained.values()) == {torch.float32}
    assert all("lora_" in name for name in trained)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradient_checkpointing_changes_nothing(
    tiny_model: Path, tmp_path: Path, *, checkpointing: bool
) -> None:
    norms = []
    for on in (checkpointing, not checkpointing):
        settings = {
            "optimization": {**STEPS, "max_steps": 3, "gradient_checkpointing": on},
            "reporting": {"logging_steps": 1, "report_to": []},
        }
        directory = prepare(tmp_path / str(on), tiny_model, settings)
        assert train(directory).outcome == "succeeded"
        norms.append(curve(directory, "grad_norm"))
        weights = adapter(directory.result)
        assert all(tensor.any() for name, tensor in weights.items() if "lora_B" in name)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.parametrize("kind", ["lora", "none"])
@pytest.mark.parametrize("on", [True, False])
def test_layers_are_recomputed_without_reentrance_where_asked(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, *, on: bool
) -> None:
    asked = []

    def noting(*args: Any, **options: Any) -> Any:
        asked.append(options.get("use_reentrant"))
        return checkpoint(*args, **options)

    for place in ("torch.utils.checkpoint", "transformers.modeling_utils"):
        monkeypatch.setattr(f"{place}.checkpoint", noting)
    settings = {
        "adapter": {"type": kind},
        "optimization": {**STEPS, "max_steps": 1, "gradient_checkpointing": on},
    }
    assert train(prepare(tmp_path, tiny_model, settings)).outcome == "succeeded"
    assert set(asked) == ({False} if on else set())


def test_only_the_named_modules_are_adapted(tiny_model: Path, tmp_path: Path) -> None:
    settings = {
        "adapter": {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["norm"]},
        "optimization": {"max_steps": 2, "warmup_steps": 0},
    }
    directory = prepare(tmp_path, tiny_model, settings)
    assert train(directory).outcome == "succeeded"
    names = {name.split(".")[-3] for name in adapter(directory.result) if "lora_" in name}
    assert names == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("key", "names"), [("target_modules", ["q_proj", "query"]), ("modules_to_save", ["head"])]
)
def test_a_module_that_does_not_exist_is_refused_by_name(
    tiny_model: Path, tmp_path: Path, key: str, names: list[str]
) -> None:
    finished = train(prepare(tmp_path, tiny_model, {"adapter": {key: names}}))
    assert finished.failure is not None
    assert finished.failure.param == f"training.adapter.{key}"
    assert names[-1] in finished.failure.message


def test_the_trained_share_and_the_data_are_told(tiny_model: Path, tmp_path: Path) -> None:
    settings = {
        "optimization": {"max_steps": 2},
        "evaluation": {"sample_prompts": ["What is 1 plus 1?"], "sample_max_new_tokens": 4},
        "data": {"eval_split": 0.25},
    }
    directory = prepare(tmp_path, tiny_model, settings)
    assert train(directory).outcome == "succeeded"
    told = [event for event in events(directory) if isinstance(event, Message)]
    told_first = {key: event.data for event in reversed(told) for key in event.data}
    data, share, engine = (told_first[key] for key in ("rows_read", "parameters", "head"))
    assert (data["rows_read"], data["rows_trained"], data["rows_held_out"]) == (40, 30, 10)
    assert data["tokens"] > data["target_tokens"] > 0
    assert share["trained_parameters"] == AdapterConfig().r * 2048
    assert engine["head"] in HEADS
    samples = [event for event in events(directory) if isinstance(event, Sample)]
    assert [(event.step, event.prompt) for event in samples] == [(2, "What is 1 plus 1?")]


def test_sample_answers_end_with_the_context(tiny_model: Path, tmp_path: Path) -> None:
    model = with_tokenizer(make_gpt2(tmp_path / "model"), tiny_model)
    prompts = ["What?", "word " * 400]
    settings = {
        "optimization": {"max_steps": 1, "warmup_steps": 0},
        "evaluation": {"sample_prompts": prompts, "sample_max_new_tokens": 300},
        "data": {"eval_split": 0.25, "max_length": 128},
    }
    directory = prepare(tmp_path / "run", model, settings)
    assert train(directory).outcome == "succeeded"
    samples = [event for event in events(directory) if isinstance(event, Sample)]
    assert [event.prompt for event in samples] == prompts


def test_training_stops_early_and_keeps_the_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    settings = {
        # A rate this high makes the held-out loss rise at once.
        "optimization": {"max_steps": 40, "learning_rate": 3.0, "warmup_steps": 0},
        "data": {"eval_split": 0.25},
        "evaluation": {"eval_steps": 2, "early_stopping_patience": 2},
    }
    directory = prepare(tmp_path / "whole", tiny_model, settings)
    finished = train(directory)
    assert finished.outcome == "succeeded"
    valid = curve(directory, "valid_loss")
    best = min(valid, key=lambda step: valid[step] or 0.0)
    assert finished.step == max(valid) == best + 4 < 40
    assert directory.newest_valid_checkpoint() == directory.checkpoint(finished.step)

    # What was seen before a pause counts: with new patience it would go on for longer.
    paused = prepare(tmp_path / "paused", tiny_model, settings)

    def is_all_but_over(event: Event) -> bool:
        return isinstance(event, Metrics) and "valid_loss" in event.metrics and event.step > best

    assert train(paused, stop_when=is_all_but_over, reason="pause").step == best + 3
    assert train(paused).step == finished.step
    assert curve(paused, "valid_loss") == valid


def test_the_same_seed_begins_with_the_same_adapter(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"optimization": {"max_steps": 1, "learning_rate": 1e-12, "warmup_steps": 0}}
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        torch.manual_seed(len(name))
        assert train(prepare(tmp_path / name, tiny_model, settings, seed=seed)).step == 1
    one, two, three = (adapter(tmp_path / name / "result") for name in ("one", "two", "three"))
    name = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[name], two[name])
    assert not torch.allclose(one[name], three[name])


@pytest.mark.slow
def test_a_fresh_process_begins_with_the_same_adapter(tiny_model: Path, tmp_path: Path) -> None:
    """Whatever order its sets are in: nothing of the process is in what a seed draws."""
    settings = {
        "adapter": {"r": 4, "target_modules": ["q_proj", "down_proj", "v_proj"]},
        "optimization": {"max_steps": 1, "learning_rate": 1e-12, "warmup_steps": 0},
    }
    found = []
    for hash_seed in ("1", "2"):
        directory = prepare(tmp_path / hash_seed, tiny_model, settings)
        train_apart(directory, {"PYTHONHASHSEED": hash_seed})
        found.append(adapter(directory.result))
    one, two = found
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_slow_bfloat16_is_told(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = {
        "model": {"dtype": "bfloat16"},
        "optimization": {"max_steps": 1, "learning_rate": 0.01, "warmup_steps": 0},
    }
    rows = [{"prompt": "a", "completion": "b"}]
    directory = prepare(tmp_path, tiny_model, settings, rows=rows, format="prompt_completion")
    assert train(directory).outcome == "succeeded"
    told = [event for event in events(directory) if isinstance(event, Message)]
    advised = any("float32" in event.message for event in told)
    assert advised is not torch.ops.mkldnn._is_mkldnn_bf16_supported()
