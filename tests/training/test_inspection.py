"""Facts of a model folder, and the folders that are not opened."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import (
    BloomConfig,
    GPT2Config,
    LEDConfig,
    MambaConfig,
    PreTrainedConfig,
    T5Config,
    XLNetConfig,
)

from tests.tiny_model import CONTEXT_LENGTH, VOCAB_SIZE
from training.failures import RunError
from training.inspection import UNLIMITED_POSITIONS, context_length, inspect_model

LINEAR = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_the_facts_are_read_from_headers(folder: Path) -> None:
    facts = inspect_model(folder)
    assert facts.architecture == "LlamaForCausalLM"
    assert facts.linear_modules == LINEAR
    assert set(facts.module_names) > {*LINEAR, "embed_tokens", "norm"}
    assert (facts.context_length, facts.vocab_size) == (CONTEXT_LENGTH, VOCAB_SIZE)
    assert facts.num_parameters == 99_648
    assert facts.tie_word_embeddings
    assert facts.has_chat_template
    assert facts.attentions == ("eager", "sdpa", "flash_attention_2")
    assert facts.bytes == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize(
    ("config", "places"),
    [
        (GPT2Config(n_positions=32), 32),
        (LEDConfig(max_decoder_position_embeddings=64), 64),
        (T5Config(n_positions=512), UNLIMITED_POSITIONS),
        (BloomConfig(), UNLIMITED_POSITIONS),
        (MambaConfig(), UNLIMITED_POSITIONS),
        (XLNetConfig(), UNLIMITED_POSITIONS),
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_a_model_has_as_many_places_as_its_table(config: PreTrainedConfig, places: int) -> None:
    assert context_length(config) == places


def test_the_identity_changes_with_a_byte_or_a_name(folder: Path) -> None:
    before = inspect_model(folder).sha256
    assert inspect_model(folder).sha256 == before
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    changed = inspect_model(folder).sha256
    (folder / "chat_template.jinja").rename(folder / "other.jinja")
    assert len({before, changed, inspect_model(folder).sha256}) == 3


def change_json(name: str, **values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_names(shard: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        index = {"weight_map": {"a.weight": shard}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "there is no folder"),
    "no configuration": (lambda p: (p / "config.json").unlink(), "config.json is missing"),
    "no JSON": (lambda p: (p / "config.json").write_text("{"), "config.json is not JSON"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "it has no weights"),
    "pickled": (only_pickled, r"only pickled weights \(pytorch_model.bin\)"),
    "code by map": (change_json("config.json", auto_map={"AutoModel": "m.M"}), "auto_map"),
    "code of the tokenizer": (change_json("tokenizer_config.json", auto_map={}), "auto_map"),
    "code by file": (lambda p: (p / "modeling.py").write_text("1"), r"code of its own \(mod"),
    "a shard elsewhere": (index_names("../x.safetensors"), "a shard outside the folder"),
    "a shard of pickles": (index_names("x.bin"), "a shard that is not safetensors"),
    "a missing shard": (index_names("x.safetensors"), "the shard x.safetensors is missing"),
    "an unknown type": (change_json("config.json", model_type="nonesuch"), "config.json cannot"),
    "a cut file": (cut_short, "model.safetensors is cut short"),
    "no header": (
        lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 64),
        "is not a safetensors file",
    ),
    "a broken header": (
        lambda p: (p / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"[1, 2, 3"),
        "the header of model.safetensors is broken",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_or_trusted_is_refused_in_a_sentence(
    folder: Path, case: str
) -> None:
    change, reason = REFUSED[case]
    change(folder)
    with pytest.raises(RunError, match=reason) as caught:
        inspect_model(folder)
    assert "\n" not in str(caught.value)
