"""Base and adapter as one model: the same answers, whatever was adapted, from its own folder."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)

from tests.tiny_t5 import make_tiny_t5
from tests.training.adapting import make_mamba, with_tokenizer
from training import merging
from training.events import EventWriter, Message, read_events
from training.failures import RunError
from training.merging import Merger
from training.probing import distance, logits_of, probe_of
from training.reporting import Reporter

SETTINGS = GenerationConfig(eos_token_id=[2])
TIED_WARNINGS = "ignore:Model (has|with) `tie_word_embeddings:UserWarning"
pytestmark = pytest.mark.filterwarnings(TIED_WARNINGS)


@pytest.fixture
def reporter(tmp_path: Path) -> Iterator[Reporter]:
    writer = EventWriter(tmp_path / "events.jsonl")
    yield Reporter(writer)
    writer.close()


def told(tmp_path: Path) -> list[Message]:
    found = (event for event, _ in read_events(tmp_path / "events.jsonl"))
    return [event for event in found if isinstance(event, Message)]


def plain(folder: Path, dtype: Any = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def make_adapter(base: Path, folder: Path, scale: float = 0.05, **lora: Any) -> Path:
    """An adapter with random weights, the same each time, so that every part of it matters."""
    options = {"task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear", **lora}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        adapted = get_peft_model(plain(base), LoraConfig(**options))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            parameter.data += scale * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def merger(base: Path, adapter: Path | None, **options: Any) -> Merger:
    tokenizer = AutoTokenizer.from_pretrained(base)
    values = {"dtype": "auto", "max_shard_size": "5GB", "settings": SETTINGS, **options}
    return Merger(base=base, adapter=adapter, tokenizer=tokenizer, **values)


def answers(base: Path, adapter: Path) -> Tensor:
    adapted = PeftModel.from_pretrained(plain(base), str(adapter))
    return logits_of(adapted, probe_of(AutoTokenizer.from_pretrained(base)))


ADAPTED: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 16},
    "rank and alpha patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 32}},
    "a trained head": {"modules_to_save": ["lm_head"]},
    "a trained embedding": {"modules_to_save": ["embed_tokens"]},
    "both, each by itself": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "both as one": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "an adapted head": {"target_modules": ["q_proj", "lm_head"]},
    "an adapted embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "some tokens": {"trainable_token_indices": [3, 7, 399]},
    "norms": {"modules_to_save": ["input_layernorm"]},
}
TIED = {"LoRA", "DoRA", "rsLoRA", "rank and alpha patterns", "both as one", "some tokens", "norms"}


@pytest.mark.parametrize("case", ADAPTED)
def test_the_merged_model_answers_as_base_and_adapter(
    tiny_model: Path, tmp_path: Path, reporter: Reporter, case: str
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", **ADAPTED[case])
    expected = answers(tiny_model, adapter)
    merger(tiny_model, adapter).write(tmp_path / "merged", reporter)
    merged = plain(tmp_path / "merged")
    probe = probe_of(AutoTokenizer.from_pretrained(tmp_path / "merged"))
    assert (logits_of(merged, probe) - expected).abs().max() < 1e-5
    assert (logits_of(plain(tiny_model), probe) - expected).abs().max() > 1e-2
    assert merged.config.tie_word_embeddings == (case in TIED)
    names = load_file(tmp_path / "merged" / "model.safetensors").keys()
    assert ("lm_head.weight" in names) == (case not in TIED)
    assert not [name for name in names if "lora" in name or "base_layer" in name]


@pytest.mark.parametrize("case", ADAPTED)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_whatever_was_adapted_can_be_had_in_sixteen_bits(
    tiny_model: Path, tmp_path: Path, reporter: Reporter, case: str, dtype: str
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", **ADAPTED[case])
    expected = answers(tiny_model, adapter)
    merger(tiny_model, adapter, dtype=dtype).write(tmp_path / "merged", reporter)
    merged = plain(tmp_path / "merged", "auto")
    assert merged.dtype == getattr(torch, dtype)
    probe = probe_of(AutoTokenizer.from_pretrained(tmp_path / "merged"))
    apart = distance(logits_of(merged, probe), expected)
    assert apart < 0.05 < distance(logits_of(plain(tiny_model), probe), expected)
    assert {each.dtype for each in merged.parameters()} == {merged.dtype}


@pytest.mark.parametrize("make", [make_mamba, make_tiny_t5])
def test_a_model_whose_layers_read_each_others_weights_is_compared_too(
    make: Callable[[Path], Path], tiny_model: Path, tmp_path: Path, reporter: Reporter
) -> None:
    base = with_tokenizer(make(tmp_path / "base"), tiny_model)
    merger(base, None, dtype="bfloat16").write(tmp_path / "merged", reporter)
    loader = AutoModelForSeq2SeqLM if make is make_tiny_t5 else AutoModelForCausalLM
    merged = loader.from_pretrained(tmp_path / "merged")
    probe = probe_of(AutoTokenizer.from_pretrained(base))
    assert logits_of(merged, probe).isfinite().all()
    assert {each.dtype for each in merged.parameters()} == {torch.bfloat16}


def test_sixteen_bits_are_rounded_to_once(
    tiny_model: Path, tmp_path: Path, reporter: Reporter
) -> None:
    """Not first the change and then the sum: a weight is off by half a step at most."""
    adapter = make_adapter(tiny_model, tmp_path / "adapter", target_modules=["q_proj"])
    merger(tiny_model, adapter, dtype="bfloat16").write(tmp_path / "merged", reporter)
    name = "model.layers.0.self_attn.q_proj"
    state = load_file(adapter / "adapter_model.safetensors")
    a, b = (state[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
    base = load_file(tiny_model / "model.safetensors")[f"{name}.weight"].bfloat16().float()
    expected = (base + 2 * (b @ a)).bfloat16()  # PEFT's lora_alpha of 8, over a rank of 4
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged[f"{name}.weight"], expected)
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    assert plain(tmp_path / "merged", "auto").dtype == torch.bfloat16
    assert [message.level for message in told(tmp_path)] == ["info"]


def test_a_change_that_the_precision_cannot_hold_is_told(
    tiny_model: Path, tmp_path: Path, reporter: Reporter
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", scale=1e-5)
    for dtype in ("bfloat16", "float32"):
        merger(tiny_model, adapter, dtype=dtype).write(tmp_path / dtype, reporter)
    lossy, exact = told(tmp_path)
    assert (lossy.level, exact.level) == ("warning", "info")
    assert 'ask for "float32"' in lossy.message
    assert lossy.data["rounded"] > 0.5
    assert exact.data["rounded"] < 1e-3


def test_the_folder_is_a_model_of_its_own(
    tiny_model: Path, tmp_path: Path, reporter: Reporter
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter")
    made = merger(tiny_model, adapter, max_shard_size="100KB")
    made.tokenizer.chat_template = "{{ messages[0]['content'] }}<|im_end|>"
    made.write(tmp_path / "merged", reporter)
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1
    assert all((tmp_path / "merged" / shard).stat().st_size < 200_000 for shard in shards)
    model = plain(tmp_path / "merged")
    assert model.config.use_cache is True
    assert model.generation_config.eos_token_id == [2]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.get_chat_template() == made.tokenizer.chat_template
    assert not list((tmp_path / "merged").glob("adapter*"))
    for path in (tmp_path / "merged").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
        assert str(tiny_model).encode() not in path.read_bytes(), path.name


def test_a_model_that_was_trained_whole_is_only_written_anew(
    tiny_model: Path, tmp_path: Path, reporter: Reporter
) -> None:
    merger(tiny_model, None, dtype="float16").write(tmp_path / "merged", reporter)
    before, after = (load_file(f / "model.safetensors") for f in (tiny_model, tmp_path / "merged"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name].half()) for name in before)


def test_what_is_not_in_the_adapters_file_is_refused(
    tiny_model: Path, tmp_path: Path, reporter: Reporter
) -> None:
    """PEFT leaves out what does not fit, with a warning at most."""
    adapter = make_adapter(tiny_model, tmp_path / "adapter")
    state = load_file(adapter / "adapter_model.safetensors")
    name = next(name for name in state if "lora_B" in name)
    state[name.replace("layers.0", "layers.9")] = state.pop(name)
    save_file(state, adapter / "adapter_model.safetensors")
    with pytest.raises(RunError, match="does not fit its base model") as caught:
        merger(tiny_model, adapter).write(tmp_path / "merged", reporter)
    assert caught.value.failure.code == "checkpoint_mismatch"


def test_a_quantised_base_is_refused(tiny_model: Path, tmp_path: Path, reporter: Reporter) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter")
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    for path in tiny_model.iterdir():
        (quantised / path.name).write_bytes(path.read_bytes())
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match="quantised") as caught:
        merger(quantised, adapter).write(tmp_path / "merged", reporter)
    assert caught.value.failure.param == "kind"


@pytest.mark.parametrize(("dtype", "usual"), [("bfloat16", 3e-2), ("float16", 5e-3)])
def test_an_adapter_that_makes_much_of_rounding_is_merged_all_the_same(
    tiny_model: Path, tmp_path: Path, reporter: Reporter, dtype: str, usual: float
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", scale=4)
    merger(tiny_model, adapter, dtype=dtype).write(tmp_path / "merged", reporter)
    probe = probe_of(AutoTokenizer.from_pretrained(tiny_model))
    found_TV = logits_of(plain(tmp_path / "merged", "auto"), probe)
    assert usual < distance(found_TV, answers(tiny_model, adapter)) < 10 * usual


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_written_model_that_answers_otherwise_is_refused(
    tiny_model: Path,
    tmp_path: Path,
    reporter: Reporter,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
) -> None:
    """As if the disk, or a library, had written something else."""
    adapter = make_adapter(tiny_model, tmp_path / "adapter")

    def spoil(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        state["model.norm.weight"] *= 1.2
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(merging, "check_model", spoil)
    with pytest.raises(RunError, match="does not answer as the trained model") as caught:
        merger(tiny_model, adapter, dtype=dtype).write(tmp_path / "merged", reporter)
    assert caught.value.failure.code == "broken_result"
