"""Rows that are too short or too long: whole, cut at either end, split, or left out and counted."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import PreTrainedTokenizerBase

from tests.training.runs import write_rows
from tests.training.test_data import LONG_ANSWER, LONG_QUESTION, SHORT, numbered, plan, talk
from training.data import DataPlan, plan_data
from training.data_config import DataConfig
from training.data_counts import CUT_TO_NOTHING, REFUSED, TOO_LONG, TOO_SHORT
from training.documents import Document
from training.encoding import Encoder
from training.layouts import Layout
from training.model import load_tokenizer
from training.prepared import Shelf
from training.reading import DataReader
from training.run_spec import DatasetSource

ALTERNATING = (
    "{% for message in messages if message['role'] != 'system' %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


def plan_file(
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    layout: Layout | None = None,
    format: str = "prompt_completion",
    train_on: str = "assistant",
    **config: Any,
) -> DataPlan:
    settings = DataConfig.model_validate({"max_length": 64, "train_on": train_on, **config})
    encoder = Encoder(tokenizer, layout or Layout(None), train_on=settings.train_on, stop_ids=())
    path = str(write_rows(folder / "rows.jsonl", rows))
    source = DatasetSource.model_validate({"path": path, "format": format})
    reader = DataReader(encoder, settings, Shelf(folder / "documents"), lambda: None)
    return plan_data(reader, [source], [], settings, seed=3)


def shown(tokenizer: PreTrainedTokenizerBase, document: Document) -> tuple[str, str]:
    """The whole text, and the part of it that takes loss."""
    whole, learned = document.input_ids, document.input_ids[document.is_target]
    return tokenizer.decode(whole), tokenizer.decode(learned)


def conversation(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_both_limits_are_inclusive(tiny_model: Path, tmp_path: Path) -> None:
    rows = [talk("hi", "o" * n) for n in range(1, 30)]
    lengths = plan(tiny_model, tmp_path / "all", rows).train.lengths
    least, most = int(lengths.min()) + 3, int(lengths.max()) - 5
    made = plan(tiny_model, tmp_path / "some", rows, min_length=least, max_length=most)
    assert made.train.lengths.min() == least
    assert made.train.lengths.max() == most
    assert made.counts.dropped == {
        TOO_SHORT: int((lengths < least).sum()),
        TOO_LONG: int((lengths > most).sum()),
    }
    assert made.counts.first_lines[TOO_SHORT].endswith(f"tokens, at least {least} asked for")


def test_no_length_fits_between_limits_that_cross() -> None:
    with pytest.raises(ValidationError, match=r"min_length 65 is above max_length 64"):
        DataConfig(min_length=65, max_length=64)


def test_a_prompt_loses_its_left_and_the_answer_nothing(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    row = {"prompt": "".join(map(chr, range(33, 127))), "completion": " two"}
    made = plan_file(tokenizer, tmp_path, [row], overlong="truncate_prompt")
    whole, learned = shown(tokenizer, made.train[0])
    assert len(made.train[0]) == 64
    assert learned == " two<|im_end|>"
    assert (row["prompt"] + row["completion"] + "<|im_end|>").endswith(whole)
    assert made.counts.rows_cut == 1


def test_the_beginning_of_sequence_stays_before_a_prompt_that_is_cut(
    tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.bos_token = "<|endoftext|>"
    rows = [{"prompt": "q" * 100, "completion": "a"}]
    layout = Layout(None, adds_bos=True)
    made = plan_file(tokenizer, tmp_path, rows, layout=layout, overlong="truncate_prompt")
    whole, learned = shown(tokenizer, made.train[0])
    assert len(made.train[0]) == 64
    assert whole == "<|endoftext|>" + "q" * 61 + "a<|im_end|>"
    assert learned == "a<|im_end|>"


@pytest.mark.parametrize("completion", ["a" * 63, "a" * 64, "a" * 200])
def test_an_answer_that_fills_everything_is_left_out(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, completion: str
) -> None:
    rows = [{"prompt": "q" * 90, "completion": each} for each in (completion, "a" * 62)]
    made = plan_file(tokenizer, tmp_path, rows, overlong="truncate_prompt")
    assert [len(document) for document in made.train] == [64]
    assert made.counts.dropped == {TOO_LONG: 1}
    assert made.counts.first_lines[TOO_LONG] == (
        "line 1: the answer, with all else that is kept whole, fills max_length (64 tokens), so "
        "that no token of the prompt is left"
    )


def test_a_conversation_loses_its_oldest_turns_and_keeps_its_system_message(
    tiny_model: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    turns = [(role, f"{role[0]}{n}") for n in range(20) for role in ("user", "assistant")]
    row = conversation(("system", "be brief"), *turns)
    (document,) = plan(tiny_model, tmp_path, [row], overlong="truncate_prompt").train
    whole, learned = shown(tokenizer, document)
    kept = whole.split("<|im_start|>")[1:]
    assert kept[0] == "system\nbe brief<|im_end|>\n"
    assert kept[1].startswith("user\n")
    assert kept[-1] == "assistant\na19<|im_end|>\n"
    assert learned == "".join(
        turn.removeprefix("assistant\n").rstrip("\n")
        for turn in kept
        if turn.startswith("assistant")
    )
    expected = [f"{role}\n{text}<|im_end|>\n" for role, text in turns]
    assert kept[1:] == expected[-len(kept[1:]) :]
    assert 64 - len(document) < 16  # no more than a question and its answer


def test_the_last_question_loses_its_beginning(
    tiny_model: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    question = "".join(map(chr, range(33, 127)))
    row = conversation(
        ("system", "be brief"), ("user", "old"), ("assistant", "told"), ("user", question),
        ("assistant", "the answer"),
    )  # fmt: skip
    (document,) = plan(tiny_model, tmp_path, [row], overlong="truncate_prompt").train
    whole, learned = shown(tokenizer, document)
    assert whole.startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n")
    assert learned == "the answer<|im_end|>"
    rest = whole.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    assert rest
    assert question.endswith(rest)
    assert 60 <= len(document) <= 64


def test_what_is_left_of_a_conversation_still_alternates(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    turns = [(role, f"{role[0]}{n}") for n in range(20) for role in ("user", "assistant")]
    broken = conversation(("user", "q" * 90), ("user", "q"), ("assistant", "a"))
    rows = [conversation(*turns), broken]
    made = plan_file(
        tokenizer, tmp_path, rows, layout=Layout(ALTERNATING), format="messages",
        overlong="truncate_prompt",
    )  # fmt: skip
    assert len(made.train) == 1
    assert made.counts.dropped == {REFUSED: 1}


@pytest.mark.parametrize("train_on", ["assistant", "everything"])
def test_the_last_answer_that_takes_loss_is_the_one_that_is_kept(
    tiny_model: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, train_on: str
) -> None:
    row = conversation(
        ("user", "old"), ("assistant", "told"), ("user", "q"), ("assistant", "the answer"),
        ("user", "x" * 90), ("assistant", "read, not learned"),
    )  # fmt: skip
    row["messages"][-1]["weight"] = 0
    (document,) = plan_file(
        tokenizer, tmp_path, [row], layout=Layout(tokenizer.chat_template), format="messages",
        overlong="truncate_prompt", train_on=train_on,
    ).train  # fmt: skip
    whole, learned = shown(tokenizer, document)
    assert whole.endswith("assistant\nthe answer<|im_end|>\n")
    assert "the answer<|im_end|>" in learned


def test_an_instruction_is_cut_as_the_conversation_it_becomes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [{"instruction": "why " * 60, "output": "so"}]
    layout = Layout(tokenizer.chat_template)
    made = plan_file(
        tokenizer, tmp_path, rows, layout=layout, format="instruct", overlong="truncate_prompt"
    )
    whole, learned = shown(tokenizer, made.train[0])
    assert learned == "so<|im_end|>"
    assert whole.startswith("<|im_start|>user\n")
    assert len(made.train[0]) <= 64


@pytest.mark.parametrize("train_on", ["assistant", "everything"])
def test_a_split_row_is_whole_in_parts_and_ends_once(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, train_on: str
) -> None:
    text = "ZXQJ" * 23 + "ZX"  # no two of these letters are one token
    rows = [{"prompt": text, "completion": text}]
    made = plan_file(tokenizer, tmp_path, rows, overlong="split", train_on=train_on)
    whole, learned = (
        "".join(parts)
        for parts in zip(*(shown(tokenizer, part) for part in made.train), strict=True)
    )
    num_parts = {"assistant": 2, "everything": 3}[train_on]  # the first part has no answer
    assert made.train.lengths.tolist() == [64, 64, 61][-num_parts:]
    assert whole == (text + text + "<|im_end|>")[-sum(made.train.lengths) - 9 :]
    assert not any(part.is_target[0] for part in made.train)
    assert learned.count("<|im_end|>") == 1
    assert (made.counts.rows_split, made.counts.rows_cut, made.counts.rows_read) == (1, 0, 1)
    assert "1 split" in made.in_words()


def test_a_part_shorter_than_min_length_is_left_out_and_counted(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [{"prompt": "", "completion": "ZXQJ" * number} for number in (20, 31)]
    made = plan_file(tokenizer, tmp_path, rows, overlong="split", min_length=20)
    assert made.train.lengths.tolist() == [64, 64, 61]  # of 81 and 125 tokens
    assert made.counts.dropped == {TOO_SHORT: 1}
    assert made.counts.first_lines[TOO_SHORT] == "line 1: 17 tokens, at least 20 asked for"


def test_a_row_that_loses_a_part_is_not_left_out(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [{"prompt": "", "completion": "ZXQJ" * number} for number in (20, 31)]
    settings = {"overlong": "split", "min_length": 20, "max_dropped": 0}
    made = plan_file(tokenizer, tmp_path, rows, **settings)
    assert (made.counts.rows_left_out, made.counts.num_dropped) == (0, 1)


def test_the_parts_of_a_row_stay_on_one_side(tiny_model: Path, tmp_path: Path) -> None:
    rows = [talk(f"number {i}", f"{i} " * 80) for i in range(12)]
    made = plan(tiny_model, tmp_path, rows, overlong="split", eval_split=0.25)
    lines = made.train.parts[0].lines
    train, valid = (set(lines[choice.places].tolist()) for choice in (made.train, made.valid))
    assert len(valid) == 3
    assert train | valid == set(range(1, 13))
    assert not train & valid
    assert len(made.train) > len(train)


@pytest.mark.parametrize("policy", ["truncate_end", "truncate_prompt", "split"])
def test_no_policy_changes_a_row_that_fits(tiny_model: Path, tmp_path: Path, policy: str) -> None:
    whole = plan(tiny_model, tmp_path / "a", [SHORT])
    same = plan(tiny_model, tmp_path / "b", [SHORT], overlong=policy)
    assert (same.train[0].input_ids == whole.train[0].input_ids).all()
    assert (same.train[0].is_target == whole.train[0].is_target).all()
    assert (same.counts.rows_cut, same.counts.rows_split) == (0, 0)


def test_a_part_without_an_answer_is_counted_when_nothing_else_is_left(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = [LONG_QUESTION, LONG_ANSWER, SHORT]
    made = plan(tiny_model, tmp_path, rows, overlong="truncate_end")
    assert made.counts.dropped == {CUT_TO_NOTHING: 1}
    made = plan(tiny_model, tmp_path, rows, overlong="split")
    assert made.counts.dropped == {}
    assert made.counts.rows_split == 2


def test_caps_count_usable_rows_before_weights_repeat_them(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = [LONG_ANSWER, *numbered(20)]
    whole = plan(tiny_model, tmp_path / "a", rows, eval_split=0.25)
    made = plan(
        tiny_model, tmp_path / "b", rows,
        weight=2, eval_split=0.25, max_train_rows=7, max_eval_rows=3,
    )  # fmt: skip
    assert (made.num_train_rows, len(made.train), len(made.valid)) == (7, 14, 3)
    assert made.train.places[:7].tolist() == whole.train.places[:7].tolist()
    assert made.valid.places.tolist() == whole.valid.places[:3].tolist()
    assert made.counts.rows_read == 21


def test_a_cap_goes_through_the_files_in_their_order(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    settings = DataConfig(max_length=64, max_train_rows=5)
    encoder = Encoder(tokenizer, Layout(None), train_on="assistant", stop_ids=())
    reader = DataReader(encoder, settings, Shelf(tmp_path / "documents"), lambda: None)
    sources = []
    for name in "ab":
        rows = [{"prompt": f"{name}{n}", "completion": "c"} for n in range(3)]
        path = str(write_rows(tmp_path / name, rows))
        sources.append(DatasetSource(path=path, format="prompt_completion"))
    made = plan_data(reader, sources, [], settings, seed=3)
    assert made.train.places.tolist() == [0, 1, 2, 3, 4]
    assert made.num_train_rows == 5
