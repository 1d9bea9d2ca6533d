"""Which tokens take loss, exact per token, with templates that differ in what they do to a turn."""

from pathlib import Path

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny_model import CHATML, make_tiny_model
from training.documents import Document
from training.encoding import Encoder
from training.layouts import Layout, alpaca_template, merge_alpaca
from training.rendered import HiddenTurnError
from training.rows import Conversation, Instruction, Message, PromptCompletion
from training.templates import TrainOn

TRIMMING = CHATML.replace("message['content']", "message['content'] | trim")
TAGGED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OTHER_END_LAST = CHATML.replace(
    "<|im_end|>\n{% endfor %}",
    "{% if loop.last %}<|endoftext|>{% else %}<|im_end|>{% endif %}\n{% endfor %}",
)
DEFAULT_SYSTEM = "<|im_start|>system\nBe kind.<|im_end|>\n" + CHATML
UPPER = CHATML.replace("message['content']", "message['content'] | upper")
TALK = (
    Message("user", "one"),
    Message("assistant", " red "),
    Message("user", "two"),
    Message("assistant", "blue"),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder: Path = make_tiny_model(tmp_path_factory.mktemp("model"))
    return AutoTokenizer.from_pretrained(folder)


def encoder(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None = CHATML,
    *,
    train_on: TrainOn = "assistant",
) -> Encoder:
    return Encoder(tokenizer, Layout(template, merge_alpaca), train_on=train_on, stop_ids=())


def targets(tokenizer: PreTrainedTokenizerBase, document: Document) -> list[str]:
    """The text of each unbroken run of tokens that take loss."""
    runs: list[list[int]] = []
    before = False
    for token, is_target in zip(document.input_ids, document.is_target, strict=True):
        if is_target:
            runs = runs if before else [*runs, []]
            runs[-1].append(int(token))
        before = bool(is_target)
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, [" red <|im_end|>", "blue<|im_end|>"]),
        (TRIMMING, ["red<|im_end|>", "blue<|im_end|>"]),
        (TAGGED, [" red <|im_end|>", "blue<|im_end|>"]),
        (OTHER_END_LAST, [" red <|im_end|>", "blue<|endoftext|>"]),
        (DEFAULT_SYSTEM, [" red <|im_end|>", "blue<|im_end|>"]),
    ],
)
def test_turns_and_their_ends_take_loss(tokenizer, template, expected):
    document = encoder(tokenizer, template).encode(Conversation(1, TALK))
    assert targets(tokenizer, document) == expected


def test_a_trailing_question_takes_no_loss(tokenizer):
    row = Conversation(1, (*TALK, Message("user", "three")))
    assert targets(tokenizer, encoder(tokenizer).encode(row))[-1] == "blue<|im_end|>"


def test_a_turn_of_weight_0_takes_no_loss(tokenizer):
    row = Conversation(1, (TALK[0], Message("assistant", "red", weight=0), *TALK[2:]))
    assert targets(tokenizer, encoder(tokenizer).encode(row)) == ["blue<|im_end|>"]


def test_only_the_last_answer_takes_loss_if_asked(tokenizer):
    document = encoder(tokenizer, train_on="last_assistant").encode(Conversation(1, TALK))
    assert targets(tokenizer, document) == ["blue<|im_end|>"]


def test_everything_but_the_first_token_takes_loss_if_asked(tokenizer):
    document = encoder(tokenizer, train_on="everything").encode(Conversation(1, TALK))
    assert document.num_targets >= len(document) - 2
    assert not document.is_target[0]


def test_a_template_that_changes_the_answer_is_refused(tokenizer):
    with pytest.raises((HiddenTurnError, TemplateError), match="assistant turn"):
        encoder(tokenizer, UPPER).encode(Conversation(1, TALK))


def test_an_instruction_in_the_layout_of_alpaca(tokenizer):
    row = Instruction(1, "Name a colour.", input="of the sky", output="blue")
    document = encoder(tokenizer, alpaca_template()).encode(row)
    assert targets(tokenizer, document) == ["blue<|im_end|>"]
    assert "### Input:\nof the sky" in tokenizer.decode(document.input_ids)


def test_a_completion_and_the_end_of_sequence_take_loss(tokenizer):
    document = encoder(tokenizer, None).encode(PromptCompletion(1, "one ", "two"))
    assert targets(tokenizer, document) == ["two<|im_end|>"]
