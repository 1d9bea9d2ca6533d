"""The result: complete, free of this machine's paths, and refused if it is not what was trained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from tests.training.adapting import make_mixtral, with_tokenizer
from tests.training.runs import adapter, prepare, train
from training.export import check_adapter, check_model
from training.failures import RunError
from training.run_directory import RunDirectory, verify

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
    "a number is none": (replace_one(lambda each: each * float("nan")), "is not finite"),
    "nothing was learnt": (zero_b, "Every lora_B is zero"),
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
    expected = "nothing_learned" if case == "nothing was learnt" else "broken_result"
    assert caught.value.failure.code == expected


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
