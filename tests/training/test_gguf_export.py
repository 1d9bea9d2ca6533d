"""GGUF files: read back by transformers they are the model, or they are not made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, TokenType
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.tiny_model import CHATML, SPECIAL_TOKENS
from training.failures import RunError
from training.gguf_export import check_architecture, check_gguf, write_gguf
from training.gguf_tokenizer import _SPLITS, read_tokenizer

STOP = frozenset({2})
TEXTS = [
    "The quick brown fox",
    "  two spaces, don't\n\nand lines ",
    "\u00fcber 1234 caf\u00e9s \U0001f600",
    "<|im_start|>user\nHello<|im_end|>\n",
]
_CORPUS = ["the quick brown fox jumps over the lazy dog 12 345", "it's a dog's life, isn't it?"] * 9


def convert(folder: Path, target: Path, outtype: Any = "f32") -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    check_architecture(folder)
    write_gguf(folder, target, outtype, name="ft:tiny:local::abc", stop_ids=STOP)
    return check_gguf(target, folder, tokenizer, outtype)


def fields(target: Path) -> dict[str, Any]:
    reader = GGUFReader(target)
    return {name: field.contents() for name, field in reader.fields.items()}


def test_the_file_says_what_the_folder_says(tiny_model: Path, tmp_path: Path) -> None:
    assert convert(tiny_model, tmp_path / "m.gguf") < 1e-6
    said = fields(tmp_path / "m.gguf")
    expected = {
        "general.architecture": "llama",
        "general.name": "ft:tiny:local::abc",
        "llama.block_count": 2,
        "llama.context_length": 256,
        "llama.rope.freq_base": 10_000.0,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }
    assert {name: said[name] for name in expected} == expected
    assert said["tokenizer.ggml.tokens"][:3] == SPECIAL_TOKENS
    assert said["tokenizer.ggml.token_type"][:4] == [TokenType.CONTROL] * 3 + [TokenType.NORMAL]
    names = {tensor.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert "output.weight" not in names  # tied
    assert {"token_embd.weight", "output_norm.weight", "blk.1.ffn_down.weight"} <= names


@pytest.mark.parametrize(
    ("outtype", "bytes_of_a_weight", "file_type"),
    [("f32", 4, 0), ("f16", 2, 1), ("bf16", 2, 32), ("q8_0", 1.0625, 7)],
)
def test_what_matrices_and_vectors_are_kept_in(
    tiny_model: Path, tmp_path: Path, outtype: str, bytes_of_a_weight: float, file_type: int
) -> None:
    write_gguf(tiny_model, tmp_path / "m.gguf", outtype, name="x", stop_ids=STOP)  # type: ignore[arg-type]
    for tensor in GGUFReader(tmp_path / "m.gguf").tensors:
        size = 4 if len(tensor.shape) == 1 else bytes_of_a_weight
        assert tensor.n_bytes == tensor.n_elements * size, tensor.name
    assert fields(tmp_path / "m.gguf")["general.file_type"] == file_type


def save(folder: Path, model: Any, tiny_model: Path) -> Path:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


SHAPE: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KNOWN: dict[str, Any] = {
    "Llama, head of its own": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "Llama, with biases": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True)),
    "Llama, wide heads": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, head_dim=32)),
    "Llama 3, stretched": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3)),
    "Llama, stretched evenly": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
        )
    ),
    "Llama, rows without a token": lambda: LlamaForCausalLM(
        LlamaConfig(**{**SHAPE, "vocab_size": 416})
    ),
    "Mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=128)),
    "Qwen 2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "Qwen 3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_architecture_is_read_back(tiny_model: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    model = KNOWN[name]()
    for parameter in model.parameters():  # biases and norms begin at 0 and 1
        parameter.data += 0.05 * torch.randn_like(parameter)
    folder = save(tmp_path / "model", model, tiny_model)
    assert convert(folder, tmp_path / "m.gguf") < 1e-5


def test_stretched_positions_are_in_the_file(tiny_model: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", KNOWN["Llama 3, stretched"](), tiny_model)
    convert(folder, tmp_path / "m.gguf")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    factors = tensors["rope_freqs.weight"]
    assert len(factors) == 8  # half a head
    assert factors[0] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(8.0)


REFUSED: dict[str, tuple[Any, str]] = {
    "an architecture": (
        lambda: GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=400)),
        "GPT2LMHeadModel",
    ),
    "positions": (
        lambda: LlamaForCausalLM(
            LlamaConfig(
                **SHAPE,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                },
            )
        ),
        "yarn",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_llama_cpp_would_not_understand_is_refused_by_name(
    tiny_model: Path, tmp_path: Path, what: str
) -> None:
    make, named = REFUSED[what]
    folder = save(tmp_path / "model", make(), tiny_model)
    with pytest.raises(RunError, match=named) as caught:
        check_architecture(folder)
    assert caught.value.failure.code == "invalid_spec"
    assert "merged" in (caught.value.failure.remedy or "")


def test_a_file_that_answers_otherwise_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "m.gguf"
    convert(tiny_model, target)
    (query,) = (t for t in GGUFReader(target).tensors if t.name == "blk.0.attn_q.weight")
    content = bytearray(target.read_bytes())
    rows = content[query.data_offset : query.data_offset + query.n_bytes]
    half = len(rows) // 2
    content[query.data_offset : query.data_offset + query.n_bytes] = rows[half:] + rows[:half]
    target.write_bytes(content)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(RunError, match="GGUF file does not answer"):
        check_gguf(target, tiny_model, tokenizer, "f32")
    write_gguf(tiny_model, target, "f32", name="x", stop_ids=STOP)
    tokenizer.chat_template = "another"
    with pytest.raises(RunError, match="template differs"):
        check_gguf(target, tiny_model, tokenizer, "f32")


def test_a_model_that_makes_much_of_rounding_is_written_all_the_same(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for name, parameter in model.named_parameters():
        if "_proj" in name:
            parameter.data *= 32
    folder = save(tmp_path / "model", model, tiny_model)
    assert convert(folder, tmp_path / "m.gguf", "q8_0") > 0.05


def byte_level(*steps: Any, use_regex: bool) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, last])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")


def split(name: str) -> Any:
    (pattern,) = (pattern for pattern, known in _SPLITS.items() if known == name)
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def sentencepiece(*, adds_space: bool) -> PreTrainedTokenizerFast:
    """BPE with byte fallback, as Llama 2 has it."""
    steps = [normalizers.Prepend("\u2581")] if adds_space else []
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", *byte_tokens],
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    plain = Tokenizer.from_str(backend.to_str())
    plain.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=plain, **names)


TOKENIZERS: dict[str, tuple[Any, str, str]] = {
    "smollm": (
        lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True),
        "gpt2",
        "smollm",
    ),
    "llama-bpe": (lambda: byte_level(split("llama-bpe"), use_regex=False), "gpt2", "llama-bpe"),
    "qwen2": (lambda: byte_level(split("qwen2"), use_regex=False), "gpt2", "qwen2"),
    "sentencepiece": (lambda: sentencepiece(adds_space=True), "llama", "default"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_is_read_back(tiny_model: Path, tmp_path: Path, name: str) -> None:
    make, model, pre = TOKENIZERS[name]
    tokenizer = make()
    folder = tmp_path / "model"
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert convert(folder, tmp_path / "m.gguf") < 1e-5
    said = fields(tmp_path / "m.gguf")
    assert (said["tokenizer.ggml.model"], said["tokenizer.ggml.pre"]) == (model, pre)
    assert said["tokenizer.ggml.add_bos_token"] == (tokenizer.bos_token is not None)
    found = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in TEXTS:
        if (pre == "smollm" and "1234" in text) or (model == "llama" and text.startswith(" ")):
            continue  # transformers itself does not build these from a file as they were
        ours = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found(text, add_special_tokens=False)["input_ids"] == ours, text


def unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


UNKNOWN: dict[str, tuple[Any, str]] = {
    "another cut": (
        lambda: byte_level(
            pre_tokenizers.Split(Regex(r"\w+"), behavior="isolated"), use_regex=False
        ),
        "Split",
    ),
    "groups of digits": (
        lambda: byte_level(pre_tokenizers.Digits(individual_digits=False), use_regex=True),
        "Digits",
    ),
    "another vocabulary": (unigram, "Unigram"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(what: str) -> None:
    make, named = UNKNOWN[what]
    with pytest.raises(RunError, match=named):
        read_tokenizer(make(), 400)


def test_tokens_that_were_added_and_rows_without_one_are_told_apart() -> None:
    tokenizer = byte_level(use_regex=True)
    tokenizer.add_tokens(["<call>"])
    tokenizer.add_tokens(["<end>"], special_tokens=True)
    types = read_tokenizer(tokenizer, len(tokenizer) + 1).types
    assert types[-4:-3] == [TokenType.NORMAL]
    assert types[-3:] == [TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNUSED]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_model: Path) -> None:
    with pytest.raises(RunError, match="394 tokens, but the model only 300"):
        read_tokenizer(AutoTokenizer.from_pretrained(tiny_model), 300)


def test_the_token_that_ends_a_turn_is_told_beside_the_end_of_sequence(
    tiny_model: Path, tmp_path: Path
) -> None:
    write_gguf(tiny_model, tmp_path / "m.gguf", "f32", name="x", stop_ids=frozenset({0, 2}))
    said = fields(tmp_path / "m.gguf")
    assert said["tokenizer.ggml.eos_token_id"] == 2
    assert said["tokenizer.ggml.eot_token_id"] == 0
    read_back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert read_back.config.eos_token_id == 2
