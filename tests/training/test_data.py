"""What becomes of rows: kept, cut, dropped with a count, held out, repeated."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import prepare, train, write_rows
from training.data import DataPlan, plan_data
from training.data_config import DataConfig
from training.data_counts import CUT_TO_NOTHING, LEFT_OUT, NO_TARGET, TOO_LONG, TOO_SHORT
from training.encoding import Encoder
from training.failures import RunError
from training.layouts import NAMED_TEMPLATES, choose_layout
from training.model import load_tokenizer
from training.prepared import Shelf
from training.reading import DataReader
from training.run_spec import DatasetSource


def talk(question: str, answer: str, weight: int | None = None) -> dict[str, Any]:
    reply: dict[str, Any] = {"role": "assistant", "content": answer}
    if weight is not None:
        reply["weight"] = weight
    return {"messages": [{"role": "user", "content": question}, reply]}


def plan(
    model: Path,
    folder: Path,
    rows: list[dict[str, Any]],
    *,
    weight: float = 1.0,
    valid: list[dict[str, Any]] | None = None,
    **config: Any,
) -> DataPlan:
    tokenizer = load_tokenizer(model)
    settings = DataConfig.model_validate({"max_length": 64, **config})
    layout = choose_layout(tokenizer, settings, {"messages"})
    encoder = Encoder(tokenizer, layout, train_on="assistant", stop_ids=())

    folder.mkdir(exist_ok=True)

    def source(name: str, rows: list[dict[str, Any]], weight: float) -> DatasetSource:
        path = str(write_rows(folder / name, rows))
        return DatasetSource(path=path, format="messages", weight=weight)

    return plan_data(
        DataReader(encoder, settings, Shelf(folder / "documents"), lambda: None),
        [source("train.jsonl", rows, weight)],
        [source("valid.jsonl", valid, 1.0)] if valid else [],
        settings,
        seed=3,
    )


SHORT = talk("hi", "yes")
LONG_ANSWER = talk("hi", "no " * 60)
LONG_QUESTION = talk("why " * 60, "so")
SILENT = talk("hi", "not this one", weight=0)


def test_rows_that_cannot_be_used_are_counted_under_their_reason(
    tiny_model: Path, tmp_path: Path
) -> None:
    made = plan(tiny_model, tmp_path, [SHORT, LONG_QUESTION, SILENT, LONG_ANSWER])
    assert made.counts.dropped == {TOO_LONG: 2, NO_TARGET: 1}
    assert made.counts.rows_read == 4
    assert made.num_train_rows == 1
    assert made.counts.first_lines[TOO_LONG].startswith("line 2: ")
    assert "1 to train on" in made.in_words()
    assert f"2 {TOO_LONG}" in made.in_words()


def test_a_cut_answer_is_not_taught_to_end(tiny_model: Path, tmp_path: Path) -> None:
    made = plan(tiny_model, tmp_path, [LONG_ANSWER, LONG_QUESTION, SHORT], overlong="truncate_end")
    cut, short = made.train
    eos = load_tokenizer(tiny_model).eos_token_id
    assert len(cut) == 64
    assert cut.is_target[-1]
    assert eos not in cut.input_ids[cut.is_target]
    assert eos == short.input_ids[short.is_target][-1]
    assert made.counts.rows_cut == 1
    assert made.counts.dropped == {CUT_TO_NOTHING: 1}


def test_no_row_left_is_a_failure_that_says_why(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=f"2 {TOO_LONG}.*1 {NO_TARGET}") as caught:
        plan(tiny_model, tmp_path, [LONG_QUESTION, LONG_ANSWER, SILENT])
    assert caught.value.failure.code == "no_target_tokens"
    assert caught.value.failure.fault == "data"
    assert caught.value.failure.param is None
    assert caught.value.failure.remedy == (
        "Raise training.data.max_length. Give every row an answer that takes loss."
    )


def test_rows_that_are_all_too_short_are_no_reason_to_raise_max_length(
    tiny_model: Path, tmp_path: Path
) -> None:
    told = rf"1 read: 1 {TOO_SHORT} \(line 1: \d+ tokens, at least 60 asked for\)"
    with pytest.raises(RunError, match=told) as caught:
        plan(tiny_model, tmp_path, [SHORT], min_length=60)
    assert caught.value.failure.param == "training.data.min_length"
    assert caught.value.failure.remedy == "Lower training.data.min_length, or give longer rows."


def test_more_rows_left_out_than_may_be_are_a_failure_that_says_why(
    tiny_model: Path, tmp_path: Path
) -> None:
    rows = [SHORT, LONG_QUESTION, SILENT, LONG_ANSWER]
    told = rf"^3 of 4 rows are left out, which is 75% where 74\.9% may be: 2 {TOO_LONG} \(line 2: "
    with pytest.raises(RunError, match=rf"{told}.*; 1 {NO_TARGET} \(line 3: ") as caught:
        plan(tiny_model, tmp_path, rows, max_dropped=0.749)
    failure = caught.value.failure
    assert (failure.code, failure.fault) == ("invalid_data", "data")
    assert failure.param == "training.data.max_dropped"
    assert failure.remedy == (
        "Raise training.data.max_length. Give every row an answer that takes loss. "
        "Or raise training.data.max_dropped."
    )
    assert plan(tiny_model, tmp_path, rows, max_dropped=0.75).num_train_rows == 1
    assert plan(tiny_model, tmp_path, rows).num_train_rows == 1


def test_rows_that_the_template_refuses_and_rows_of_a_validation_file_are_left_out_too(
    tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=rf"^1 of 2 rows .*: 1 {LEFT_OUT} \(line 2: "):
        plan(tiny_model, tmp_path, [SHORT, WITH_TOOLS], max_dropped=0)
    with pytest.raises(RunError, match=r"^1 of 3 rows .* 33\.3% where 0% .*: 1 .*\(file 2, line 1"):
        plan(tiny_model, tmp_path, [SHORT, SHORT], valid=[LONG_ANSWER], max_dropped=0)


def test_what_the_owner_leaves_out_himself_is_allowed(tiny_model: Path, tmp_path: Path) -> None:
    rows = numbered(20)
    kept = plan(tiny_model, tmp_path, rows, weight=0.5, max_train_rows=4, max_dropped=0)
    assert len(kept.train) == 2


def test_tokens_are_told_of_both_sides(tiny_model: Path, tmp_path: Path) -> None:
    made = plan(tiny_model, tmp_path, [SHORT, SHORT], valid=[SHORT])
    (held_out,) = made.valid
    tokens, targets = len(held_out), held_out.num_targets
    share = f"{targets / tokens:.0%}"
    facts = made.as_facts()
    assert (facts["tokens"], facts["target_tokens"]) == (2 * tokens, 2 * targets)
    assert (facts["tokens_held_out"], facts["target_tokens_held_out"]) == (tokens, targets)
    assert made.in_words().endswith(
        f". {2 * tokens} tokens, of which {2 * targets} ({share}) are trained. "
        f"Held out: {tokens} tokens, of which {targets} ({share}) are measured."
    )
    alone = plan(tiny_model, tmp_path, [SHORT])
    assert alone.in_words().endswith(" are trained.")
    assert alone.as_facts()["tokens_held_out"] == 0


def numbered(count: int) -> list[dict[str, Any]]:
    return [talk(f"number {i}", f"it is {i}") for i in range(count)]


def texts(made: DataPlan, which: str) -> list[bytes]:
    return [each.input_ids.tobytes() for each in getattr(made, which)]


def test_the_split_holds_out_the_same_rows_every_time(tiny_model: Path, tmp_path: Path) -> None:
    first, second = (plan(tiny_model, tmp_path, numbered(20), eval_split=0.25) for _ in range(2))
    assert texts(first, "valid") == texts(second, "valid")
    assert texts(first, "train") == texts(second, "train")
    assert (len(first.valid), len(first.train)) == (5, 15)
    assert not set(texts(first, "valid")) & set(texts(first, "train"))


def test_a_validation_file_makes_the_split_needless(tiny_model: Path, tmp_path: Path) -> None:
    made = plan(tiny_model, tmp_path, numbered(8), eval_split=0.5, valid=numbered(3))
    assert (len(made.train), len(made.valid)) == (8, 3)


@pytest.mark.parametrize(
    ("weight", "expected"), [(1, 12), (2, 24), (0.5, 6), (1.25, 15), (1e-9, 1)]
)
def test_a_weight_repeats_rows_but_none_that_is_held_out(
    tiny_model: Path, tmp_path: Path, weight: float, expected: int
) -> None:
    made = plan(tiny_model, tmp_path, numbered(16), eval_split=0.25, weight=weight)
    assert len(made.train) == expected
    assert made.num_train_rows == 12
    assert not set(texts(made, "valid")) & set(texts(made, "train"))
    repeats = [texts(made, "train").count(text) for text in set(texts(made, "train"))]
    assert max(repeats) - min(repeats) <= 1


def test_messages_need_a_template_of_the_model_or_by_name(
    tmp_path: Path, tiny_model_without_template: Path
) -> None:
    model = tiny_model_without_template
    refused = train(prepare(tmp_path / "auto", model))
    assert refused.failure is not None
    assert refused.failure.param == "training.data.template"
    assert "chatml" in (refused.failure.remedy or "")
    for name in NAMED_TEMPLATES.keys() - {"alpaca_seq2seq"}:
        settings = {"data": {"template": name}, "optimization": {"max_steps": 2}}
        directory = prepare(tmp_path / name, model, settings)
        assert train(directory).outcome == "succeeded"
        assert (directory.result / "chat_template.jinja").is_file()


def test_instructions_without_a_template_take_the_alpaca_layout(
    tmp_path: Path, tiny_model_without_template: Path
) -> None:
    rows = [{"instruction": "Add.", "input": f"{i} and 1", "output": str(i + 1)} for i in range(8)]
    settings = {"optimization": {"max_steps": 2}}
    directory = prepare(
        tmp_path, tiny_model_without_template, settings, rows=rows, format="instruct"
    )
    assert train(directory).outcome == "succeeded"
    template = (directory.result / "chat_template.jinja").read_text()
    assert "### Response:" in template


def test_a_template_that_hides_the_answers_is_named(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in tiny_model.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(
        template.replace("message['content']", "message['content'] | upper")
    )
    finished = train(prepare(tmp_path / "run", model))
    assert finished.failure is not None
    assert finished.failure.code == "template_unsupported"
    assert finished.failure.param == "training.data.template"
    assert "rows that do need a model whose own chat template takes them" in str(
        finished.failure.remedy
    )


WITH_TOOLS = SHORT | {
    "tools": [{"type": "function", "function": {"name": "add"}}],
    "parallel_tool_calls": False,
}


def test_rows_whose_tools_the_template_leaves_out_are_counted(
    tiny_model: Path, tmp_path: Path
) -> None:
    made = plan(tiny_model, tmp_path, [SHORT, WITH_TOOLS, WITH_TOOLS])
    assert made.counts.dropped == {LEFT_OUT: 2}
    assert made.counts.first_lines[LEFT_OUT] == "line 2: the chat template leaves out tools"
    assert f"2 {LEFT_OUT}" in made.in_words()


def test_a_file_of_tools_needs_a_template_that_takes_them(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="leaves out tools") as caught:
        plan(tiny_model, tmp_path, [WITH_TOOLS])
    assert caught.value.failure.code == "template_unsupported"
    assert "takes them" in str(caught.value.failure.remedy)


@pytest.mark.parametrize("template", ["alpaca", "vigogne_chat_v2"])
def test_a_layout_that_knows_no_tools_is_told_so(
    tiny_model: Path, tmp_path: Path, template: str
) -> None:
    """A call has no content in OpenAI's rows, which a layout may stumble over first."""
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    row = {
        "tools": WITH_TOOLS["tools"],
        "messages": [
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_call_id": "c"},
            {"role": "assistant", "content": "2"},
        ],
    }
    with pytest.raises(RunError, match="does not take tools") as caught:
        plan(tiny_model, tmp_path, [row], template=template)
    assert "take them out of the rows" in str(caught.value.failure.remedy)


def test_a_row_without_tools_may_say_how_they_are_called(tiny_model: Path, tmp_path: Path) -> None:
    made = plan(tiny_model, tmp_path, [SHORT | {"parallel_tool_calls": True, "tools": []}])
    assert made.counts.dropped == {}
