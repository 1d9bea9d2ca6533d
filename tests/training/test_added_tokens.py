"""Tokens that a job adds: their rows are learnt, and found again by whoever opens the result."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from tests.tiny_model import SPECIAL_TOKENS
from tests.training.adapting import make_gpt2, make_mixtral, with_tokenizer
from tests.training.runs import adapter, curve, prepare, train
from training.added_tokens import Vocabulary, make_room
from training.config import TrainingConfig
from training.model import load_tokenizer, load_vocabulary
from training.model_config import ModelConfig
from training.run_directory import RunDirectory

MANY = [f"<tool_{number}>" for number in range(12)]
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"<tool_{number % 12}> {number}?"},
            {"role": "assistant", "content": f"<tool_{(number + 1) % 12}> yes"},
        ]
    }
    for number in range(24)
]
STEPS: dict[str, Any] = {"max_steps": 6, "learning_rate": 0.05, "warmup_steps": 0}


def settings(**sections: Any) -> dict[str, Any]:
    model = {"dtype": "float32", "add_tokens": MANY, **sections.pop("model", {})}
    return {
        "model": model,
        "optimization": STEPS,
        "reporting": {"logging_steps": 1, "report_to": []},
        **sections,
    }


def run(folder: Path, base: Path, **sections: Any) -> RunDirectory:
    directory = prepare(folder, base, settings(**sections), rows=ROWS)
    finished = train(directory)
    assert finished.outcome == "succeeded", finished.failure
    return directory


def opened(base: Path, result: Path) -> PeftModel:
    """As the page on jobs says: room for the tokens first, then the adapter."""
    tokenizer = AutoTokenizer.from_pretrained(result)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    return PeftModel.from_pretrained(model, result)


@torch.no_grad()
def loss_of(model: torch.nn.Module, result: Path) -> float:
    tokenizer = AutoTokenizer.from_pretrained(result)
    ids_BT = tokenizer(["<tool_1> 0?<tool_2> yes"], return_tensors="pt").input_ids
    return float(model.eval()(input_ids=ids_BT, labels=ids_BT).loss)


@pytest.mark.parametrize("kind", ["tied", "untied", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_their_rows_are_learnt_and_open_with_plain_peft(
    tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    makers = {"untied": make_mixtral, "gpt2": make_gpt2}
    made = makers[kind](tmp_path / "m") if kind in makers else None
    base = tiny_model if made is None else with_tokenizer(made, tiny_model)
    directory = run(tmp_path / "run", base, adapter={"r": 2})

    losses = list(curve(directory).values())
    assert losses[-1] < losses[0] - 0.05
    rows = {name: t for name, t in adapter(directory.result).items() if "trainable_tokens" in name}
    assert {len(tensor) for tensor in rows.values()} == {len(MANY)}
    assert len(rows) == (2 if kind == "untied" else 1)

    assert "resize_token_embeddings" in (directory.result / "README.md").read_text()
    model = opened(base, directory.result)
    learnt = loss_of(model, directory.result)
    merged = model.merge_and_unload()
    assert loss_of(merged, directory.result) == pytest.approx(learnt, abs=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert loss_of(whole, directory.result) == pytest.approx(learnt, abs=1e-5)
    head, embedding = whole.get_output_embeddings(), whole.get_input_embeddings()
    assert (head.weight is embedding.weight) is (kind != "untied")


def test_a_run_that_adds_tokens_goes_on_exactly(tiny_model: Path, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"adapter": {"r": 2}, "checkpoints": {"save_steps": 3}}
    straight = run(tmp_path / "straight", tiny_model, **sections)
    broken = prepare(tmp_path / "broken", tiny_model, settings(**sections), rows=ROWS)
    shutil.copytree(straight.checkpoint(3), broken.checkpoint(3))
    assert train(broken).outcome == "succeeded"
    left, right = adapter(straight.result), adapter(broken.result)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert curve(broken) == {step: loss for step, loss in curve(straight).items() if step > 3}


def test_full_fine_tuning_learns_them_with_everything_else(
    tiny_model: Path, tmp_path: Path
) -> None:
    special = {"pad_token": "<pad>"}
    directory = run(
        tmp_path,
        tiny_model,
        adapter={"type": "none"},
        model={"add_special_tokens": special},
        optimization={**STEPS, "learning_rate": 0.01},
    )
    model = AutoModelForCausalLM.from_pretrained(directory.result)
    tokenizer = AutoTokenizer.from_pretrained(directory.result)
    assert model.config.vocab_size == len(tokenizer) == 394 + len(MANY) + 1
    assert tokenizer.pad_token == "<pad>"
    assert model.config.pad_token_id == model.generation_config.pad_token_id == len(tokenizer) - 1
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_rows_that_are_there_are_taken_first(tiny_model: Path, tmp_path: Path) -> None:
    # 394 tokens have 400 rows: nothing is resized for six more.
    vocabulary = load_vocabulary(tiny_model, ModelConfig(add_tokens=MANY[:6]))
    assert vocabulary.new_ids == tuple(range(394, 400))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = model.get_input_embeddings().weight.clone()
    make_room(model, vocabulary)
    assert torch.equal(model.get_input_embeddings().weight, before)

    more = load_vocabulary(tiny_model, ModelConfig(add_tokens=MANY))
    make_room(model, more)
    rows = model.get_input_embeddings().weight
    assert rows.shape == (406, 64)
    assert torch.equal(rows[:400], before)
    assert torch.allclose(rows[400:], before.mean(dim=0).expand(6, -1), atol=1e-3)
    assert model.config.vocab_size == 406


@pytest.mark.parametrize("saved", ["embed_tokens", "lm_head"])
def test_a_module_that_is_saved_whole_has_them_already(
    tiny_model: Path, tmp_path: Path, saved: str
) -> None:
    directory = run(tmp_path, tiny_model, adapter={"r": 2, "modules_to_save": [saved]})
    names = adapter(directory.result)
    assert not any("trainable_tokens" in name for name in names)
    assert names["base_model.model.model.embed_tokens.weight"].shape == (406, 64)
    model = opened(tiny_model, directory.result)
    assert loss_of(model, directory.result) < 5


SPECIAL: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # What the tokenizer has, what is asked for, what comes of it.
    ({}, {}, {"pad_token_id": 2, "bos_token_id": None}),
    ({"pad_token": None}, {}, {"pad_token_id": 2}),
    ({"pad_token": None}, {"pad_token": "<pad>"}, {"pad_token_id": 394, "new_ids": (394,)}),
    ({}, {"pad_token": "<|endoftext|>"}, {"pad_token_id": 0, "new_ids": ()}),
    ({}, {"bos_token": "<s>"}, {"bos_token_id": 394, "new_ids": (394,)}),
    ({}, {"bos_token": "<|im_start|>"}, {"bos_token_id": 1, "new_ids": ()}),
    ({"eos_token": None}, {"eos_token": "</s>"}, {"eos_token_id": 394, "pad_token_id": 2}),
    (
        {"eos_token": None, "pad_token": None},
        {"eos_token": "</s>"},
        {"eos_token_id": 394, "pad_token_id": 394},
    ),
    ({}, {"unk_token": "<unk>", "mask_token": "<mask>"}, {"unk_token_id": 394}),
    ({}, {"extra_special_tokens": ["<a>", "<b>", "<|im_end|>"]}, {"new_ids": (394, 395)}),
]


@pytest.mark.parametrize(("has", "asked", "expected"), SPECIAL)
def test_special_tokens(
    tiny_model: Path,
    tmp_path: Path,
    has: dict[str, Any],
    asked: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        **{"eos_token": "<|im_end|>", "pad_token": "<|im_end|>", **has},
    )
    tokenizer.save_pretrained(folder)

    vocabulary = load_vocabulary(folder, ModelConfig(add_special_tokens=asked))

    found = {
        name: getattr(vocabulary if name == "new_ids" else vocabulary.tokenizer, name)
        for name in expected
    }
    assert found == expected
    for name, value in asked.items():
        if isinstance(value, str):
            assert vocabulary.tokenizer(value, add_special_tokens=False).input_ids == [
                getattr(vocabulary.tokenizer, f"{name}_id")
            ]
    roles = {"bos_token_id", "eos_token_id", "pad_token_id"} & {f"{name}_id" for name in asked}
    assert vocabulary.roles.keys() == roles


def test_a_tokenizer_without_an_end_is_refused_with_the_way_out(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    refused = train(prepare(tmp_path / "run", folder)).failure
    assert refused is not None
    assert refused.param == "training.model.add_special_tokens"
    assert refused.remedy is not None
    assert "eos_token" in refused.remedy


def test_tokens_are_cut_out_whole_and_as_written(tiny_model: Path) -> None:
    asked = ModelConfig(add_tokens=["<Tool>", "ab"], add_special_tokens={"pad_token": "<P>"})
    tokenizer = load_vocabulary(tiny_model, asked).tokenizer
    ids = tokenizer("x <Tool>ab<P> <tool>", add_special_tokens=False).input_ids
    assert [id_ for id_ in ids if id_ >= 394] == [394, 395, 396]
    assert tokenizer.decode(ids) == "x <Tool>ab<P> <tool>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "x <Tool>ab <tool>"
    assert set(load_tokenizer(tiny_model).get_added_vocab()) == set(SPECIAL_TOKENS)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"add_tokens": [""]}, "add_tokens"),
        ({"add_special_tokens": {"pad": "<pad>"}}, "add_special_tokens.pad"),
        ({"add_special_tokens": {"pad_token": 1}}, "add_special_tokens.pad_token"),
    ],
)
def test_what_cannot_be_added(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate({"model": model})


def test_a_command_line_writes_them_as_json() -> None:
    flat = {"add_tokens": '["<a>"]', "add_special_tokens": '{"pad_token": "<pad>"}'}
    found = TrainingConfig.model_validate(flat).model
    assert found.add_tokens == ["<a>"]
    assert found.add_special_tokens == {"pad_token": "<pad>"}
    with pytest.raises(ValidationError, match="be a value or the JSON of one"):
        TrainingConfig.model_validate({"add_tokens": "<a>"})


@pytest.mark.parametrize("strategy", ["zero3", "fsdp"])
def test_nothing_is_added_to_a_model_in_parts(strategy: str) -> None:
    parallelism = {"num_processes": 2, "strategy": strategy}
    for key, section in (
        ("add_tokens", {"model": {"add_tokens": ["<a>"]}}),
        ("pissa", {"adapter": {"init_lora_weights": "pissa"}}),
    ):
        with pytest.raises(ValidationError, match=f'{key}.* needs whole weights.*"zero2"'):
            TrainingConfig.model_validate({**section, "parallelism": parallelism})


def test_a_vocabulary_says_what_was_added(tiny_model: Path) -> None:
    plain = load_vocabulary(tiny_model, ModelConfig())
    assert (plain.new_ids, plain.roles) == ((), {})
    assert Vocabulary(plain.tokenizer).new_ids == ()
