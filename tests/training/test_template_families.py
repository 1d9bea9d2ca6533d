"""Every habit of a template, the shortcut through each against the slow way, and the pitfalls."""

import random
from pathlib import Path

import pytest
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tests.training.template_families import FAMILIES
from training.documents import Document
from training.encoding import Encoder
from training.layouts import NAMED_TEMPLATES, Layout
from training.model import load_tokenizer
from training.rendered import HiddenTurnError, LeftOutError
from training.rows import Conversation, Message
from training.templates import ChatRenderer, TrainOn
from training.tokenization import WholeTokens

TALK = (
    Message("user", "one"),
    Message("assistant", "red"),
    Message("user", "two"),
    Message("assistant", "blue"),
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


def encoder(
    tokenizer: PreTrainedTokenizerBase, template: str, train_on: TrainOn = "assistant"
) -> Encoder:
    return Encoder(tokenizer, Layout(template), train_on=train_on, stop_ids=())


def learned(tokenizer: PreTrainedTokenizerBase, document: Document) -> list[str]:
    """Each unbroken run of tokens that take loss, without the blanks before what closes it."""
    runs: list[list[int]] = []
    for place, is_target in enumerate(document.is_target):
        if is_target:
            if not document.is_target[place - 1]:
                runs.append([])
            runs[-1].append(int(document.input_ids[place]))
    return [tokenizer.decode(run).replace(" \n<|im_end|>", "<|im_end|>") for run in runs]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answers_and_what_closes_them_take_loss(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    family = FAMILIES[name]
    encode = encoder(tokenizer, family.template).encode
    for _ in range(12):  # the later ones go through what was learned of the first ones
        assert learned(tokenizer, encode(Conversation(1, TALK))) == list(family.learned)


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_questions_and_answers_are_told_apart(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    family = FAMILIES[name]
    row = Conversation(1, tuple(Message(each.role, "same") for each in TALK))
    expected = [text.replace("red", "same").replace("blue", "same") for text in family.learned]
    encode = encoder(tokenizer, family.template).encode
    for _ in range(12):
        assert learned(tokenizer, encode(row)) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_a_system_message_takes_no_loss_or_is_refused(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    family = FAMILIES[name]
    row = Conversation(1, (Message("system", "be kind"), *TALK))
    encode = encoder(tokenizer, family.template).encode
    if not family.takes_system:
        with pytest.raises(TemplateError, match="alternate"):
            encode(row)
        return
    document = encode(row)
    assert learned(tokenizer, document) == list(family.learned)
    assert "be kind" in tokenizer.decode(document.input_ids)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("header", ["", " final:", " to all", "\n<think>"])
def test_what_looks_like_a_header_or_an_end_in_an_answer_is_learned(
    tokenizer: PreTrainedTokenizerBase, name: str, header: str
) -> None:
    family = FAMILIES[name]
    posing = f"<|im_start|>assistant{header}\nblue<|im_end|>"
    end = family.learned[1].removeprefix("blue")
    encode = encoder(tokenizer, family.template).encode
    for answer in ["blue", posing] * 6:
        row = Conversation(1, (*TALK[:3], Message("assistant", answer)))
        assert learned(tokenizer, encode(row)) == [family.learned[0], answer + end]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_looks_like_an_answer_in_a_question_is_not_learned(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    family = FAMILIES[name]
    posing = "one<|im_end|>\n<|im_start|>assistant\nred<|im_end|>"
    encode = encoder(tokenizer, family.template).encode
    for question in ["one", posing] * 6:
        row = Conversation(1, (Message("user", question), *TALK[1:]))
        assert learned(tokenizer, encode(row)) == list(family.learned)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "begun by the prompt" in name])
@pytest.mark.parametrize("order", [1, -1])
def test_what_the_prompt_says_of_an_answer_is_not_learned(
    tokenizer: PreTrainedTokenizerBase, name: str, order: int
) -> None:
    """Whichever kind of row the shape was learned from."""
    said = {"blue": "blue", "<think>\nhm\n</think>\n\nblue": "hm\n</think>\n\nblue"}
    encode = encoder(tokenizer, FAMILIES[name].template).encode
    for answer, expected in list(said.items())[::order]:
        for _ in range(6):
            row = Conversation(1, (*TALK[:3], Message("assistant", answer)))
            assert learned(tokenizer, encode(row)) == ["red<|im_end|>", f"{expected}<|im_end|>"]


def test_beginnings_of_conversations_mislead_in_some_of_them() -> None:
    """What comes before an answer, rendered without it, is not what it begins with."""
    misled = set()
    for name, family in FAMILIES.items():
        system = (Message("system", "be kind"),) if family.takes_system else ()
        turns = [{"role": each.role, "content": each.content} for each in (*system, *TALK)]
        template = ChatRenderer(family.template, {})._template
        whole, _ = template.render(turns)
        for place, turn in enumerate(turns):
            if turn["role"] == "assistant":
                prompt, _ = template.render(turns[:place], prompt=True)
                if not whole.startswith(f"{prompt}{turn['content']}"):
                    misled.add(name)
    assert misled == {
        "thought before the last answer only",
        "thought before every answer",
        "thought after the last question only",
        "prompt unlike the header",
        "a channel in the header",
        "system before the last question",
        "an answer ends where the next question begins, after a thought at the end only",
        "a marked turn with its header, of which the prompt says more",
        "a thought begun by the prompt",
        "a marked thought begun by the prompt",
    }


CONTENTS = [
    "red", "", " red ", "\n\nred\n", "red\n", "two words", "a <b> & \"c\" '{d}'", "{{ x }}",
    "<think>\nhm\n</think>\n\nred", "<think>\n\n</think>\n\nred", "no </think> here", "é 世 😀",
    "user", "assistant", "<|im_end|>", "red<|im_end|>", "<|im_start|>assistant\nblue<|im_end|>",
    "<|im_start|>assistant\n<think>\nhm", "### Input:\nx", "[INST] x",
    "red red", "1 2 3", "\u2063CONTENT0\u2063", "system\nbe kind", "a" * 300, "\t x", "one\r\ntwo",
]  # fmt: skip


def talks(count: int) -> list[Conversation]:
    chooser = random.Random(4)
    rows = []
    for line in range(count):
        messages = []
        if chooser.random() < 0.3:
            messages.append(Message("system", chooser.choice(CONTENTS)))
        for _ in range(chooser.randint(1, 3)):
            answer = chooser.choice([each for each in CONTENTS if each.strip()])
            weight = chooser.choice([None, None, 0])
            messages.append(Message("user", chooser.choice(CONTENTS)))
            messages.append(Message("assistant", answer, weight=weight))
        if chooser.random() < 0.2:
            messages.append(Message("user", "and then?"))
        rows.append(Conversation(line, tuple(messages)))
    return rows


TALKS = talks(120)


def outcome(encoder: Encoder, row: Conversation) -> tuple[list[int], list[bool]] | str:
    try:
        document = encoder.encode(row)
    except (HiddenTurnError, LeftOutError, TemplateError) as error:
        return f"{type(error).__name__}: {error}"
    return document.input_ids.tolist(), document.is_target.tolist()


ALL = (*FAMILIES, *NAMED_TEMPLATES)


def template_of(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    family = FAMILIES.get(name)
    return family.template if family else NAMED_TEMPLATES[name].body(tokenizer)


@pytest.mark.parametrize("name", ALL)
def test_the_shortcut_gives_what_the_slow_way_gives(
    tokenizer: PreTrainedTokenizerBase, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = template_of(tokenizer, name)
    fast, slow = encoder(tokenizer, template), encoder(tokenizer, template)
    slow.ask_the_tokenizer()
    monkeypatch.setattr(slow._renderer, "_learn", lambda *_args: None)
    assert isinstance(slow._tokens, WholeTokens)
    for row in TALKS:
        assert outcome(fast, row) == outcome(slow, row), row
    learnt = fast._renderer._learned.values() if fast._renderer else ()
    assert any(each is not None and each.num_agreed >= 4 for each in learnt)


@pytest.mark.parametrize("name", ALL)
def test_what_is_written_is_what_transformers_writes(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    template = template_of(tokenizer, name)
    compiled = ChatRenderer(template, tokenizer.special_tokens_map)._template
    turns = [{"role": each.role, "content": each.content} for each in TALK]
    for prompt in (False, True):
        text, _ = compiled.render(turns, prompt=prompt)
        theirs = tokenizer.apply_chat_template(
            turns, chat_template=template, add_generation_prompt=prompt, tokenize=False
        )
        if name == "the date":
            assert text.startswith("<|im_start|>system\nToday is 26 July 2024.<|im_end|>")
            text, theirs = (each.split("<|im_end|>", 1)[1] for each in (text, theirs))
        assert text == theirs


def test_a_shape_that_misleads_is_not_used_again(tokenizer: PreTrainedTokenizerBase) -> None:
    """Its first rows look as if it wrote contents as they are; a later one does not."""
    template = FAMILIES["plain"].template.replace(
        "{{ message['content'] }}",
        "{% if 'SHOUT' in message['content'] %}{{ message['content'] | lower }}"
        "{% else %}{{ message['content'] }}{% endif %}",
    )
    encode = encoder(tokenizer, template).encode
    for _ in range(12):
        encode(Conversation(1, TALK))
    loud = (Message("user", "SHOUT one"), *TALK[1:])
    document = encode(Conversation(1, loud))
    assert "shout one" in tokenizer.decode(document.input_ids)
    assert learned(tokenizer, document) == ["red<|im_end|>", "blue<|im_end|>"]
    with pytest.raises(HiddenTurnError):
        encode(Conversation(1, (*TALK[:3], Message("assistant", "SHOUT"))))


def test_a_template_that_fails_at_a_row_refuses_it(tokenizer: PreTrainedTokenizerBase) -> None:
    template = FAMILIES["plain"].template.replace(
        "{{ message['content'] }}", "{{ message['content'] + message['missing'] }}"
    )
    with pytest.raises(TemplateError):
        encoder(tokenizer, template).encode(Conversation(1, TALK))
    adds = FAMILIES["plain"].template.replace("{{ message['content'] }}", "{{ 1 + 'a' }}")
    with pytest.raises(TemplateError, match="the chat template fails: "):
        encoder(tokenizer, adds).encode(Conversation(1, TALK))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_question_takes_loss_and_every_answer_does(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    family = FAMILIES[name]
    asked, said = ["QJXone", "QJXtwo"], ["ZKVone", "ZKVtwo"]
    messages = [
        message
        for question, answer in zip(asked, said, strict=True)
        for message in (Message("user", question), Message("assistant", answer))
    ]
    document = encoder(tokenizer, family.template).encode(Conversation(1, tuple(messages)))
    text = " ".join(learned(tokenizer, document))
    assert all(answer in text for answer in said)
    assert "QJX" not in text
    assert len(learned(tokenizer, document)) == 2
    assert "think" not in text
    assert "assistant" not in text
