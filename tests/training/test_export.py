"""The result: complete, free of this machine's paths, and refused if it is not what was trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from tests.training.adapting import make_mixtral, with_tokenizer
from tests.training.runs import adapter, prepare, train
from training.failures import RunError
from training.run_directory import RunDirectory, verify
from training.written import check_adapter, check_learned, check_model

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def done(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    settings = {"optimization": {"max_steps": 3}, "data": {"eval_split": 0.1}}
    directory = prepare(tmp_path_factory.mktemp("run"), tiny_model, settings, name='say "hi"')
    assert train(directory).outcome == "succeeded"
    return directory


def test_the_folder_is_whole_and_names_no_path(done: RunDirectory, tiny_model: Path) -> None:
    assert verify(done.result)
    assert {path.name for path in done.result.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "manifest.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for path in done.result.iterdir():
        content = path.read_bytes()
        assert str(tiny_model).encode() not in content, path.name
        assert str(done.path).encode() not in content, path.name
    config = json.loads((done.result / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert isinstance(config["lora_alpha"], int)


def test_the_card_says_what_it_is(done: RunDirectory) -> None:
    card = (done.result / "README.md").read_text()
    header, body = card.removeprefix("---\n").split("---\n", 1)
    assert header.splitlines()[:2] == ['base_model: "tiny"', "library_name: peft"]
    assert '# say "hi"' in body
    assert "40 rows read: 36 to train on, 4 held out" in body
    assert "| valid_loss |" in body


def test_the_tokenizer_and_the_template_are_those_of_training(
    done: RunDirectory, tiny_model: Path
) -> None:
    ours, base = (AutoTokenizer.from_pretrained(p) for p in (done.result, tiny_model))
    talk = [{"role": "user", "content": "hi"}]
    assert ours.apply_chat_template(talk) == base.apply_chat_template(talk)
    assert ours.eos_token_id == base.eos_token_id


def zero_b(tensors: Tensors) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name] = torch.zeros_like(tensors[name])


def rename(pattern: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[pattern.format(name)] = tensors.pop(name)

    return change


def replace_one(make: Callable[[Tensor], Tensor]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        name = next(iter(tensors))
        tensors[name] = make(tensors[name])

    return change


TAMPERED: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "a tensor is missing": (lambda tensors: tensors.popitem(), "is missing"),
    "a tensor is too many": (lambda t: t.update(more=torch.ones(1)), "was not expected"),
    "a tensor is empty": (replace_one(lambda _: torch.zeros(0)), "is empty"),
    "a shape is wrong": (replace_one(lambda each: each.T.contiguous()), "has the shape"),
    "compiled": (rename("_orig_mod.{}"), "prefix of a wrapper"),
    "sharded": (rename("base_model._fsdp_wrapped_module.{}"), "prefix of a wrapper"),
    "parallel": (rename("module.{}"), "prefix of a wrapper"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_a_tampered_adapter_is_refused(done: RunDirectory, tmp_path: Path, case: str) -> None:
    tensors = load_file(done.result / "adapter_model.safetensors")
    expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    check_adapter(done.result, expected)
    change, reason = TAMPERED[case]
    change(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(RunError, match=reason) as caught:
        check_adapter(tmp_path, expected)
    assert caught.value.failure.code == "broken_result"


def test_an_adapter_without_numbers_is_refused(done: RunDirectory, tmp_path: Path) -> None:
    tensors = load_file(done.result / "adapter_model.safetensors")
    replace_one(lambda each: each * float("nan"))(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(RunError, match="is not finite") as caught:
        check_learned(tmp_path)
    assert caught.value.failure.code == "broken_result"


def test_an_adapter_that_changes_nothing_is_refused(done: RunDirectory, tmp_path: Path) -> None:
    check_learned(done.result)
    tensors = load_file(done.result / "adapter_model.safetensors")
    zero_b(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(RunError, match="Every lora_B is zero") as caught:
        check_learned(tmp_path)
    assert caught.value.failure.code == "nothing_learned"


def test_a_broken_checkpoint_does_not_count(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be found out when the run has to go on from it, which is too late."""

    def save_empty(state: Tensors, path: Path, **options: Any) -> None:
        save_file({name: torch.zeros(0) for name in state}, path, **options)

    monkeypatch.setattr("training.checkpoint.save_file", save_empty)
    settings = {"optimization": {"max_steps": 4}, "checkpoints": {"save_steps": 2}}
    directory = prepare(tmp_path, tiny_model, settings)
    finished = train(directory)
    assert finished.failure is not None
    assert finished.failure.code == "broken_result"
    assert not directory.checkpoint(2).exists()


def test_a_broken_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no weights"):
        check_model(tmp_path)
    save_file({"weight": torch.full((2,), float("inf"))}, tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="not finite"):
        check_model(tmp_path)


def test_an_adapter_that_learnt_nothing_leaves_no_result(tiny_model: Path, tmp_path: Path) -> None:
    too_low = {"max_steps": 1, "learning_rate": 1e-46}  # no number of 32 bits
    directory = prepare(tmp_path, tiny_model, {"optimization": too_low})
    finished = train(directory)
    assert finished.failure is not None
    assert finished.failure.code == "nothing_learned"
    assert finished.failure.fault == "spec"
    assert not directory.result.exists()


def test_an_adapter_of_the_embedding_alone_is_a_result(tiny_model: Path, tmp_path: Path) -> None:
    model = with_tokenizer(make_mixtral(tmp_path / "model"), tiny_model)
    settings = {
        "adapter": {"target_modules": ["embed_tokens"]},
        "optimization": {"max_steps": 2, "learning_rate": 0.01},
    }
    directory = prepare(tmp_path / "run", model, settings)
    finished = train(directory)
    assert finished.outcome == "succeeded", finished.failure
    assert any("lora_embedding_B" in name for name in adapter(directory.result))
