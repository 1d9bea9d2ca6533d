"""A GGUF file becomes a model folder that loads like any other."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.__main__ import main
from training.conversion import convert_gguf

QUANTIZED = gguf.GGMLQuantizationType.Q8_0


@pytest.fixture(scope="module")
def gguf_file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as llama.cpp keeps one: matrices in 8 bits, rotary pairs interleaved."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    _add_config(writer, model.config)
    _add_tokenizer(writer, tiny_model)
    _add_weights(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_config(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    state = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"] for token in state["added_tokens"]}
    kinds = [
        gguf.TokenType.CONTROL if number in special else gguf.TokenType.NORMAL
        for number in range(len(tokenizer))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _add_weights(writer: gguf.GGUFWriter, model: Any) -> None:
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        known = names.get_name(name, try_suffixes=(".weight",))
        array = _interleaved(tensor.numpy(), heads.get(name.split(".")[-2]))
        if array.ndim == 1:
            writer.add_tensor(known, array)
        else:
            packed = gguf.quants.quantize(array, QUANTIZED)
            writer.add_tensor(known, packed, raw_dtype=QUANTIZED)


def _interleaved(array: np.ndarray, heads: int | None) -> np.ndarray:
    """(rows, columns) with the two halves of each head's rows dealt out in turn."""
    if heads is None:
        return array
    rows, columns = array.shape
    halves = array.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def test_a_gguf_file_becomes_a_model_folder(
    gguf_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    assert main(["convert", str(gguf_file), str(folder)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    original = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    converted = AutoModelForCausalLM.from_pretrained(folder)
    assert converted.dtype == torch.bfloat16
    expected = original.state_dict()
    weights = converted.state_dict()
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        largest = expected[name].abs().max()
        assert (weight.float() - expected[name]).abs().max() < 0.02 * largest, name


def test_the_tokenizer_and_its_template_come_along(
    gguf_file: Path, tiny_model: Path, tmp_path: Path
) -> None:
    convert_gguf(gguf_file, tmp_path / "model")
    original = AutoTokenizer.from_pretrained(tiny_model)
    converted = AutoTokenizer.from_pretrained(tmp_path / "model")
    chat = [{"role": "user", "content": "Où est le chat?"}, {"role": "assistant", "content": "Là."}]
    text = original.apply_chat_template(chat, tokenize=False)
    assert converted.apply_chat_template(chat, tokenize=False) == text
    assert converted(text)["input_ids"] == original(text)["input_ids"]


def test_a_folder_that_is_there_is_kept(gguf_file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="is there already"):
        convert_gguf(gguf_file, tmp_path)


def test_a_file_that_is_no_gguf_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    assert main(["convert", str(tmp_path / "bad.gguf"), str(tmp_path / "model")]) != 0
    assert capsys.readouterr().err.strip()
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]
