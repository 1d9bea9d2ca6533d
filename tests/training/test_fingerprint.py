"""Whatever can change a token changes the name that prepared data lies under."""

from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from tests.tiny_model import make_tiny_model
from tests.training.runs import write_rows
from training import fingerprint as module
from training.data_config import DataConfig
from training.encoding import Encoder
from training.fingerprint import fingerprint
from training.layouts import Layout, merge_alpaca
from training.model import load_tokenizer
from training.run_spec import DatasetSource

BASE = DataConfig(max_length=64, format="messages")
OTHER_VALUES: dict[str, Any] = {
    "format": "instruct",
    "template": "chatml",
    "default_system": "Be kind.",
    "add_bos_token": True,
    "max_length": 65,
    "min_length": 2,
    "overlong": "split",
    "max_dropped": 0.5,
    "max_train_rows": 5,
    "max_eval_rows": 5,
    "eval_split": 0.1,
    "train_on": "everything",
    "packing": True,
    "block_size": 4096,
}
ONLY_CHOOSE = {
    *("block_size", "max_dropped", "max_train_rows", "max_eval_rows", "eval_split", "packing"),
}
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


@pytest.fixture
def source(tmp_path: Path) -> DatasetSource:
    return DatasetSource(path=str(write_rows(tmp_path / "rows.jsonl")), format="messages")


def traits(tokenizer: PreTrainedTokenizerBase, **changes: Any) -> dict[str, Any]:
    layout = Layout(**{"template": TEMPLATE, **changes.pop("layout", {})})
    settings = {"train_on": "assistant", "stop_ids": (), **changes}
    return Encoder(tokenizer, layout, **settings).traits()


@pytest.mark.parametrize("key", DataConfig.model_fields)
def test_every_key_counts_unless_it_only_chooses(source: DatasetSource, key: str) -> None:
    assert getattr(BASE, key) != OTHER_VALUES[key]
    other = BASE.model_copy(update={key: OTHER_VALUES[key]})
    same = fingerprint(source, BASE, {}) == fingerprint(source, other, {})
    assert same == (key in ONLY_CHOOSE)


def test_the_bytes_of_the_file_count_and_its_place_and_weight_do_not(
    source: DatasetSource, tmp_path: Path
) -> None:
    first = fingerprint(source, BASE, {})
    content = Path(source.path).read_bytes()
    (tmp_path / "moved.jsonl").write_bytes(content)
    moved = DatasetSource(path=str(tmp_path / "moved.jsonl"), format="messages", weight=2.0)
    assert fingerprint(moved, BASE, {}) == first
    (tmp_path / "moved.jsonl").write_bytes(content.replace(b"plus", b"Plus", 1))
    assert fingerprint(moved, BASE, {}) != first
    other_format = source.model_copy(update={"format": "instruct"})
    assert fingerprint(other_format, BASE, {}) != first


def test_code_and_libraries_count(source: DatasetSource, monkeypatch: pytest.MonkeyPatch) -> None:
    software = module._software()
    assert software.keys() == {
        "tunesmith",
        "python",
        "jinja2",
        "numpy",
        "orjson",
        "pyarrow",
        "tokenizers",
        "transformers",
    }
    first = fingerprint(source, BASE, {})
    for name in software:
        monkeypatch.setattr(module, "_software", lambda name=name: {**software, name: "other"})
        assert fingerprint(source, BASE, {}) != first


def test_our_code_counts_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CODE", tmp_path)
    (tmp_path / "encoding.py").write_text("a = 1\n")
    before = module._software.__wrapped__()
    (tmp_path / "encoding.py").write_text("a = 2\n")
    assert module._software.__wrapped__()["tunesmith"] != before["tunesmith"]


def test_all_that_the_encoder_depends_on_counts(
    source: DatasetSource, tokenizer: PreTrainedTokenizerBase
) -> None:
    variants = [
        traits(tokenizer),
        traits(tokenizer, layout={"template": TEMPLATE + " "}),
        traits(tokenizer, layout={"template": None}),
        traits(tokenizer, layout={"merge": merge_alpaca}),
        traits(tokenizer, layout={"adds_bos": True}),
        traits(tokenizer, train_on="everything"),
        traits(tokenizer, stop_ids=(1,)),
    ]
    assert len({fingerprint(source, BASE, each) for each in variants}) == len(variants)
    assert traits(tokenizer) == variants[0]


def test_the_tokenizer_counts_by_its_files_and_by_what_is_added_to_it(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    first = traits(load_tokenizer(folder))
    assert traits(load_tokenizer(folder)) == first
    more = load_tokenizer(folder)
    more.add_tokens(["<new>"])
    named = load_tokenizer(folder)
    named.bos_token = "<|endoftext|>"
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes() + b"\n")
    written = load_tokenizer(folder)
    variants = [traits(each) for each in (more, named, written)]
    assert first not in variants
    assert all(variants.count(each) == 1 for each in variants)


def test_the_weights_of_the_model_do_not_count(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    first = traits(load_tokenizer(folder))
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert traits(load_tokenizer(folder)) == first
