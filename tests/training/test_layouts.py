"""Named layouts: what is trained on, what is saved and what is asked at inference are one text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.training.runs import prepare, train
from training.data_config import DataConfig
from training.documents import Document
from training.encoding import Encoder
from training.failures import RunError
from training.layout_fit import SEQ2SEQ_TEMPLATE, idle_misfits
from training.layouts import NAMED_TEMPLATES, Layout, choose_layout, merge_vigogne
from training.rows import Conversation, Instruction, Message

END = "<|im_end|>"
NAMES = [name for name in NAMED_TEMPLATES if name != SEQ2SEQ_TEMPLATE]
TALK = (Message("user", "one?"), Message("assistant", "red"))
MORE = (*TALK, Message("user", "two?"), Message("assistant", " blue\n"))
TALKS: Mapping[str, tuple[Message, ...]] = {
    "one turn": TALK,
    "several turns": MORE,
    "a system message": (Message("system", "Be brief."), *MORE),
    "an empty system message": (Message("system", ""), *MORE),
    "a question at the end": (*MORE, Message("user", "three?")),
}


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    return tokenizer


@pytest.fixture
def with_bos(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer that begins every text with its token for that, as Llama's does."""
    tokenizer.bos_token = "<|endoftext|>"
    special: Any = [("<|endoftext|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=special
    )
    return tokenizer


def layout_of(tokenizer: PreTrainedTokenizerBase, **data: Any) -> Layout:
    return choose_layout(tokenizer, DataConfig(**data), {"messages"})


def encode(
    tokenizer: PreTrainedTokenizerBase, layout: Layout, row: Conversation | Instruction
) -> Document:
    return Encoder(tokenizer, layout, train_on="assistant", stop_ids=()).encode(row)


def rendered(tokenizer: PreTrainedTokenizerBase, *messages: Message, **data: Any) -> str:
    document = encode(tokenizer, layout_of(tokenizer, **data), Conversation(1, messages))
    return tokenizer.decode(document.input_ids)  # type: ignore[no-any-return]


def as_dicts(messages: tuple[Message, ...]) -> list[dict[str, str | None]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def saved(
    tokenizer: PreTrainedTokenizerBase, layout: Layout, folder: Path
) -> PreTrainedTokenizerBase:
    """The tokenizer as whoever downloads it gets it."""
    tokenizer.chat_template = layout.template
    tokenizer.save_pretrained(folder)
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return found


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("kind", ["tokenizer", "with_bos"])
@pytest.mark.parametrize("name", NAMES)
def test_the_saved_template_writes_the_tokens_that_are_trained_on(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, kind: str, talk: str
) -> None:
    tokenizer = request.getfixturevalue(kind)
    layout = layout_of(tokenizer, template=name)
    messages = TALKS[talk]
    document = encode(tokenizer, layout, Conversation(1, messages))
    ids = document.input_ids.tolist()
    plain = saved(tokenizer, layout, tmp_path)

    up_to_last_answer = messages[:-1] if messages[-1].role == "user" else messages
    assert plain.apply_chat_template(as_dicts(up_to_last_answer))["input_ids"] == ids
    answers = [m.content or "" for m in messages if m.role == "assistant"]
    trained = plain.decode(document.input_ids[document.is_target])
    assert [part.strip() for part in trained.split(END)] == [*map(str.strip, answers), ""]

    question = [*up_to_last_answer[:-1]]
    asked = plain.apply_chat_template(as_dicts((*question,)), add_generation_prompt=True)
    asked_ids = asked["input_ids"]
    assert ids[: len(asked_ids)] == asked_ids
    assert document.is_target[len(asked_ids)]
    assert not document.is_target[len(asked_ids) - 1]
    assert (ids[0] == plain.bos_token_id) == (kind == "with_bos")
    assert ids.count(plain.convert_tokens_to_ids("<|endoftext|>")) == (kind == "with_bos")


S = "Be brief."
SYSTEM = Message("system", S)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "vigogne_alpaca",
            f"### System:\n{S}\n\n### Instruction:\none?\n\n### Response:\nred{END}"
            f"\n\n### Instruction:\ntwo?\n\n### Response:\n blue\n{END}",
        ),
        (
            "vigogne_chat_v2",
            f"<|system|>: {S}\n<|user|>: one?\n<|assistant|>: red{END}"
            f"\n<|user|>: two?\n<|assistant|>:  blue\n{END}",
        ),
        (
            "vigogne_chat_v3",
            f"[INST] <<SYS>>\n{S}\n<</SYS>>\n\none? [/INST] red{END}"
            f" [INST] two? [/INST]  blue\n{END}",
        ),
    ],
)
def test_the_layouts_of_vigogne(
    tokenizer: PreTrainedTokenizerBase, name: str, expected: str
) -> None:
    assert rendered(tokenizer, SYSTEM, *MORE, template=name) == expected


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("vigogne_alpaca", "### System:\n\n\n### Instruction:\none?"),
        ("vigogne_chat_v2", "<|system|>: \n<|user|>: one?"),
        ("vigogne_chat_v3", "[INST] one? [/INST]"),
        ("alpaca", "### Instruction:\none?"),
    ],
)
def test_an_empty_system_message_is_not_the_default_one(
    tokenizer: PreTrainedTokenizerBase, name: str, begins: str
) -> None:
    """Of a row, or for all rows."""
    of_the_row = rendered(tokenizer, Message("system", ""), *TALK, template=name)
    assert of_the_row.startswith(begins)
    assert rendered(tokenizer, *TALK, template=name, default_system="") == of_the_row
    assert rendered(tokenizer, *TALK, template=name) != of_the_row


@pytest.mark.parametrize("name", ["auto", *NAMES])
@pytest.mark.parametrize(
    "text", ["Sois bref.", "Été “à” l'eau: {{ x }} {% y %} \\n \"\n'…'\n🦙\u2028"]
)
def test_a_default_system_message_is_that_of_rows_without_one(
    tokenizer: PreTrainedTokenizerBase, name: str, text: str
) -> None:
    given = rendered(tokenizer, Message("system", text), *TALK, template=name)
    assert rendered(tokenizer, *TALK, template=name, default_system=text) == given
    other = rendered(tokenizer, SYSTEM, *TALK, template=name, default_system=text)
    assert other == rendered(tokenizer, SYSTEM, *TALK, template=name)


@pytest.mark.parametrize("name", ["vigogne_alpaca", "vigogne_chat_v2", "vigogne_chat_v3"])
@pytest.mark.parametrize(
    "messages",
    [
        (Message("assistant", "red"),),
        (*TALK, Message("assistant", "blue")),
        (*TALK, Message("system", S), *TALK),
        (Message("user", "a"), *TALK),
    ],
)
def test_turns_that_do_not_alternate_are_refused(
    tokenizer: PreTrainedTokenizerBase, name: str, messages: tuple[Message, ...]
) -> None:
    with pytest.raises(TemplateError, match="take turns"):
        rendered(tokenizer, *messages, template=name)


def test_a_beginning_of_sequence_can_be_left_out_and_asked_for(
    with_bos: PreTrainedTokenizerBase,
) -> None:
    layout = layout_of(with_bos, template="vigogne_chat_v3", add_bos_token=False)
    assert encode(with_bos, layout, Conversation(1, TALK)).input_ids[0] != with_bos.bos_token_id
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    for asked, count in ((None, 0), (True, 1)):
        text = rendered(with_bos, *TALK, template="vigogne_chat_v3", add_bos_token=asked)
        assert text.count("<|endoftext|>") == count


@pytest.mark.parametrize(
    ("data", "formats", "param"),
    [
        ({"template": "chatml", "add_bos_token": True}, {"messages"}, "add_bos_token"),
        ({"add_bos_token": True}, {"prompt_completion"}, "add_bos_token"),
        ({"add_bos_token": False}, {"messages"}, "add_bos_token"),
    ],
)
def test_what_a_tokenizer_or_a_template_cannot_do_is_refused(
    tokenizer: PreTrainedTokenizerBase, data: dict[str, Any], formats: Any, param: str
) -> None:
    with pytest.raises(RunError) as refused:
        choose_layout(tokenizer, DataConfig(**data), formats)
    assert refused.value.failure.param == f"training.data.{param}"


@pytest.mark.parametrize(
    ("data", "formats"),
    [
        ({"default_system": S}, {"prompt_completion"}),
        ({"template": "chatml"}, {"prompt_completion", "text"}),
        ({"train_on": "last_assistant"}, {"text"}),
    ],
)
def test_what_shapes_no_text_is_refused(data: dict[str, Any], formats: Any) -> None:
    (misfit,) = idle_misfits(DataConfig(**data), formats)
    assert misfit.param == f"training.data.{next(iter(data))}"


@pytest.mark.parametrize("data", [{}, {"template": "auto", "train_on": "everything"}])
def test_what_shapes_no_text_passes_at_its_default(data: dict[str, Any]) -> None:
    whole = DataConfig(**data).model_dump()
    assert not list(idle_misfits(DataConfig(**whole), {"prompt_completion"}))
    keys = {"template": "chatml", "default_system": S, "train_on": "last_assistant"}
    assert not list(idle_misfits(DataConfig(**keys), {"text", "messages"}))


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("Traduis en anglais :", "Traduis en anglais : le chat"),
        ("Traduis... !?~ ", "Traduis : le chat"),
        ("Traduis (en anglais)", "Traduis (en anglais) : le chat"),
    ],
)
def test_an_input_is_merged_as_vigogne_merges_it(instruction: str, expected: str) -> None:
    assert merge_vigogne(instruction, "le chat") == expected


def test_an_instruction_in_the_layout_of_vigogne(tokenizer: PreTrainedTokenizerBase) -> None:
    layout = layout_of(tokenizer, template="vigogne_alpaca")
    row = Instruction(1, "Add!", "two", "1 and 1.", "")
    expected = f"### System:\n\n\n### Instruction:\nAdd : 1 and 1.\n\n### Response:\ntwo{END}"
    assert tokenizer.decode(encode(tokenizer, layout, row).input_ids) == expected
    unmerged = tokenizer.decode(encode(tokenizer, layout, Instruction(1, "Add!", "two")).input_ids)
    assert "### Instruction:\nAdd!\n\n" in unmerged


@pytest.mark.parametrize(
    ("data", "taken_over"),
    [
        *(({"template": name, "default_system": S, "add_bos_token": False}, ...) for name in NAMES),
        ({"default_system": S}, {"default_system": None}),
    ],
)
def test_what_goes_on_from_a_whole_model_has_its_layout(
    with_bos: PreTrainedTokenizerBase, tmp_path: Path, data: dict[str, Any], taken_over: Any
) -> None:
    """Whose tokenizer has the template that was saved."""
    layout = layout_of(with_bos, **data)
    tuned = saved(with_bos, layout, tmp_path)
    keys = data if taken_over is ... else data | taken_over
    assert layout_of(tuned, **keys) == layout


def test_a_run_saves_the_layout_that_it_trains_on(tiny_model: Path, tmp_path: Path) -> None:
    """Whatever template the model had before."""
    settings = {
        "data": {"template": "vigogne_chat_v2", "default_system": "Sois bref."},
        "optimization": {"max_steps": 2},
    }
    directory = prepare(tmp_path, tiny_model, settings)
    assert train(directory).outcome == "succeeded"
    found = AutoTokenizer.from_pretrained(directory.result)
    text = found.apply_chat_template(as_dicts(TALK), tokenize=False)
    assert text == f"<|system|>: Sois bref.\n<|user|>: one?\n<|assistant|>: red{END}"
