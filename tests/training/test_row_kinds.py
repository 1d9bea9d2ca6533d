"""What the model is shown of rows of every format: the text, and which of it takes loss."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.training.container_files import written
from tests.training.dataset_corpus import CALL, TOOL, chat, row, said, told, turn
from training.data_config import DataConfig
from training.data_files import read_rows
from training.documents import Document
from training.encoding import Encoder
from training.formats import FORMATS
from training.layouts import Layout, choose_layout
from training.prepared import Shelf
from training.reading import DataReader
from training.rows import PromptCompletion, Row, Text
from training.run_spec import DatasetSource

WITH_TOOLS = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] %}{{ message['content'] }}{% endif %}"
    "{% for call in message['tool_calls'] or [] %}{{ call | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def read(tmp_path: Path):
    def read(line: bytes) -> Row:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(line)
        (only,) = read_rows(path)
        return only

    return read


def encoded(tokenizer: PreTrainedTokenizerBase, row: Row, layout: Layout) -> Document:
    return Encoder(tokenizer, layout, train_on="assistant", stop_ids=()).encode(row)


def shown(tokenizer: PreTrainedTokenizerBase, document: Document) -> str:
    text: str = tokenizer.decode(document.input_ids)
    return text


def test_all_of_a_text_is_trained_on_and_its_end(tokenizer, read):
    document = encoded(tokenizer, read(b'{"text":"one two"}'), Layout(None))
    assert shown(tokenizer, document) == "one two<|im_end|>"
    assert document.num_targets == len(document) - 1
    assert not document.is_target[0]


@pytest.mark.parametrize(
    "text", ["one<|im_end|>", "<|endoftext|>one", "<|endoftext|>one<|im_end|>"]
)
def test_a_text_that_has_its_ends_gets_no_second_ones(tiny_model: Path, text: str):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model, bos_token="<|endoftext|>")
    document = encoded(tokenizer, Text(1, text), Layout(None, adds_bos=True))
    assert shown(tokenizer, document) == "<|endoftext|>one<|im_end|>"


@pytest.mark.parametrize("blanks", ["\n", " \n\n"])
def test_blanks_behind_the_end_of_a_text_stay_and_no_second_end_follows(tokenizer, blanks: str):
    """A rendered chat ends like that."""
    text = f"<|im_start|>user\none<|im_end|>{blanks}"
    document = encoded(tokenizer, Text(1, text), Layout(None))
    assert shown(tokenizer, document) == text
    assert document.is_target[1:].all()


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("yes", "yes<|im_end|>"),
        ("yes<|im_end|>", "yes<|im_end|>"),
        ("yes<|im_end|>\n", "yes<|im_end|>\n"),
        ("yes\n", "yes\n<|im_end|>"),
        ("<|im_end|>", "<|im_end|>"),
        ("\n", "\n<|im_end|>"),
    ],
)
def test_a_completion_ends_once(tokenizer, completion: str, expected: str):
    """Also behind a prompt that holds an end of its own."""
    row = PromptCompletion(1, "one<|im_end|>\n", completion)
    document = encoded(tokenizer, row, Layout(None))
    assert tokenizer.decode(document.input_ids[document.is_target]) == expected


def test_a_history_comes_before_the_question_and_its_answers_are_trained_on(tokenizer, read):
    told_before = told(history=[["one", "two"]], instruction="three", output="four", system="five")
    layout = choose_layout(tokenizer, DataConfig(), {"instruct"})
    document = encoded(tokenizer, read(told_before), layout)
    assert shown(tokenizer, document) == (
        "<|im_start|>system\nfive<|im_end|>\n"
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
        "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\nfour<|im_end|>\n"
    )
    learned = tokenizer.decode(document.input_ids[document.is_target])
    assert learned == "two<|im_end|>four<|im_end|>"


def test_a_call_of_sharegpt_is_one_of_openai(tokenizer, read):
    call = CALL["function"] | {"arguments": {"zone": "UTC"}}
    ours = row(
        turn("user", "one"),
        turn("assistant", None, tool_calls=[{"type": "function", "function": call}]),
        turn("tool", "two"),
        turn("assistant", "three"),
        tools=[TOOL],
    )
    theirs = chat(
        said("human", "one"),
        said("function_call", json.dumps(call)),
        said("observation", "two"),
        said("gpt", "three"),
        tools=json.dumps([TOOL["function"]]),
    )
    one, other = (encoded(tokenizer, read(each), Layout(WITH_TOOLS)) for each in (ours, theirs))
    assert shown(tokenizer, one) == shown(tokenizer, other)
    assert one.is_target.tolist() == other.is_target.tolist()


@pytest.mark.parametrize("weight", [0, 0.0, 1, 1.0])
def test_a_weight_is_a_whole_number_however_it_is_written(weight, read):
    for line in (
        row(turn("user"), turn("assistant", weight=weight)),
        chat(said("human"), said("gpt", weight=weight)),
    ):
        assert repr(read(line).messages[1].weight) == str(int(weight))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_every_format_become_documents(name, tokenizer, read):
    accepted = FORMATS[name].accepted.replace("…", "one two")
    example = read(accepted[accepted.index("{") : accepted.rindex("}") + 1].encode())
    layout = choose_layout(tokenizer, DataConfig(), {name})
    document = encoded(tokenizer, example, layout)
    learned = "one two<|im_end|>"
    assert shown(tokenizer, document).strip().endswith(learned)
    if name == "text":  # nothing predicts the first token of a document
        learned = learned.removeprefix(tokenizer.decode(document.input_ids[:1]))
    assert tokenizer.decode(document.input_ids[document.is_target]) == learned


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.is_chat])
def test_conversations_need_a_template(name, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(Exception, match="no chat template of its own"):
        choose_layout(tokenizer, DataConfig(), {name})


@pytest.mark.parametrize(
    ("container", "place"), [("jsonl", "line 2"), ("csv", "line 3"), ("parquet", "row 2")]
)
def test_a_dropped_row_is_told_by_its_place(container, place, tokenizer, tmp_path: Path):
    texts = ["one", "one two three four five six seven eight nine", "ten"]
    path = written(container, [{"text": text} for text in texts], tmp_path)
    encoder = Encoder(tokenizer, Layout(None), train_on="assistant", stop_ids=())
    config = DataConfig(max_length=12)
    reader = DataReader(encoder, config, Shelf(tmp_path / "shelf"), lambda: None)
    prepared = reader.read(DatasetSource(path=str(path), format="text"))
    (told,) = prepared.counts.first_lines.values()
    assert (len(prepared.documents), prepared.counts.rows_read) == (2, 3)
    assert told.startswith(f"{place}: ")


def test_the_same_bytes_read_as_something_else_are_another_data_set(tokenizer, tmp_path: Path):
    encoder = Encoder(tokenizer, Layout(None), train_on="assistant", stop_ids=())
    reader = DataReader(encoder, DataConfig(max_length=99), Shelf(tmp_path / "shelf"), lambda: None)
    found = []
    for name in ("rows.csv", "rows.txt"):
        (tmp_path / name).write_text("text\none\ntwo\n")
        source = DatasetSource(path=str(tmp_path / name), format="text")
        found.append(len(reader.read(source).documents))
    assert found == [2, 3]
