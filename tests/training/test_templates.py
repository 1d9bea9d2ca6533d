"""Templates with habits of their own: thoughts, marks, beginnings of sequence, tools, headers."""

from pathlib import Path

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny_model import CHATML
from training.data_config import DataConfig
from training.documents import Document
from training.encoding import Encoder
from training.layouts import Layout, alpaca_template, chatml_template, choose_layout
from training.rendered import HiddenTurnError, LeftOutError
from training.rows import Conversation, Message, PromptCompletion

# Writes an empty thought before the last answer unless it has one, drops thoughts of earlier
# answers, and begins an answer with an empty thought.
THINKING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}"
    "{% set answer = message['content'].split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = message['content'].split('</think>')[0].split('<think>')[-1].strip('\n') "
    "if '</think>' in message['content'] else '' %}"
    "{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' + answer }}"
    "{% else %}{{ answer }}{% endif %}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
# Its marks hold the role header and the empty thought, but not the end of the turn.
LOOSE_MARKS = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}<|im_start|>assistant\n<think>\n\n</think>\n\n{{ message['content'] }}"
    "{% endgeneration %}<|im_end|>\n"
    "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
MARKED_QUESTIONS = (
    "{% generation %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}{% endgeneration %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + CHATML
TOOLS = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message.tool_calls %}{% for call in message.tool_calls %}"
    "call {{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
)
ALTERNATING = (
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<|im_start|>{{ message['content'] }}<|im_end|>\n{% endfor %}"
)
ENDLESS = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
)


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, template: str, *messages: Message) -> Document:
    encoder = Encoder(tokenizer, Layout(template), train_on="assistant", stop_ids=())
    return encoder.encode(Conversation(1, messages))


def targets(tokenizer: PreTrainedTokenizerBase, document: Document) -> str:
    return tokenizer.decode(document.input_ids[document.is_target])  # type: ignore[no-any-return]


def ask(answer: str, question: str = "q") -> tuple[Message, Message]:
    return Message("user", question), Message("assistant", answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("so", "so<|im_end|>"),
        ("<think>\nhm\n</think>\n\nso", "<think>\nhm\n</think>\n\nso<|im_end|>"),
        ("<think>\n\n</think>\n\nso", "so<|im_end|>"),
    ],
)
def test_an_empty_thought_that_the_prompt_supplies_takes_no_loss(
    tokenizer: PreTrainedTokenizerBase, answer: str, expected: str
) -> None:
    assert targets(tokenizer, encode(tokenizer, THINKING, *ask(answer))) == expected


def test_a_thought_that_the_template_drops_takes_no_loss(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    turns = (*ask("<think>\nhm\n</think>\n\nred"), *ask("<think>\nah\n</think>\n\nblue"))
    document = encode(tokenizer, THINKING, *turns)
    expected = "red<|im_end|><think>\nah\n</think>\n\nblue<|im_end|>"
    assert targets(tokenizer, document) == expected


def test_marks_are_trimmed_to_what_the_model_says(tokenizer: PreTrainedTokenizerBase) -> None:
    document = encode(tokenizer, LOOSE_MARKS, *ask("red"), *ask("blue"))
    assert targets(tokenizer, document) == "red<|im_end|>blue<|im_end|>"


def test_the_beginning_of_sequence_stands_once(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.bos_token = "<|endoftext|>"
    document = encode(tokenizer, WITH_BOS, *ask("red"))
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "red"}],
        chat_template=WITH_BOS,
    )["input_ids"]
    assert document.input_ids.tolist() == whole
    assert whole.count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_that_writes_it_does_so_before_a_completion(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.bos_token = "<|endoftext|>"

    def ids(prompt: str) -> list[int]:
        layout = choose_layout(tokenizer, DataConfig(), {"prompt_completion"})
        encoder = Encoder(tokenizer, layout, train_on="everything", stop_ids=())
        return encoder.encode(PromptCompletion(1, prompt, "cd")).input_ids.tolist()

    bare = ids("ab")
    tokenizer.backend_tokenizer.post_processor = bos_writer(tokenizer)
    written, by_hand = ids("ab"), ids("<|endoftext|>ab")
    assert written == by_hand == [tokenizer.bos_token_id, *bare]


def bos_writer(tokenizer: PreTrainedTokenizerBase) -> object:
    from tokenizers.processors import TemplateProcessing

    bos = ("<|endoftext|>", tokenizer.bos_token_id)
    return TemplateProcessing(single="<|endoftext|> $A", special_tokens=[bos])


def test_a_call_of_a_tool_takes_loss_and_its_answer_does_not(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    document = encode(
        tokenizer,
        TOOLS,
        Message("user", "add"),
        Message("assistant", None, tool_calls=(call,)),
        Message("tool", "2", tool_call_id="1"),
        Message("assistant", "two"),
    )
    assert targets(tokenizer, document) == 'call add {"a": 1}<|im_end|>two<|im_end|>'


def test_marks_around_a_question_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(HiddenTurnError, match="marks what others say"):
        encode(tokenizer, MARKED_QUESTIONS, *ask("red"))


def test_an_answer_may_repeat_the_question(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = (Message("user", "say red"), Message("assistant", "You said: say red"))
    document = encode(tokenizer, LOOSE_MARKS, *messages)
    assert targets(tokenizer, document) == "You said: say red<|im_end|>"


def test_equal_texts_are_told_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    document = encode(tokenizer, CHATML, *ask("red", "red"), *ask("red", "red"))
    assert targets(tokenizer, document) == "red<|im_end|>red<|im_end|>"


def test_a_refusal_of_the_template_is_heard(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        encode(tokenizer, ALTERNATING, Message("system", "be"), *ask("red"))


def test_a_turn_without_an_end_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(HiddenTurnError, match="closes the assistant's turn with no token"):
        encode(tokenizer, ENDLESS, *ask("red"))


def test_named_layouts_end_turns_with_a_token_the_model_stops_at(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.eos_token = "<|endoftext|>"
    chatml = encode(tokenizer, chatml_template(tokenizer), *ask("red"))
    assert targets(tokenizer, chatml) == "red<|im_end|>"
    alpaca = encode(tokenizer, alpaca_template(), *ask("red"))
    assert targets(tokenizer, alpaca) == "red<|endoftext|>"


def test_the_alpaca_layout_keeps_a_system_prompt_of_its_own(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    document = encode(tokenizer, alpaca_template(), Message("system", "Be brief."), *ask("red"))
    text = tokenizer.decode(document.input_ids)
    assert text.startswith("Be brief.\n\n### Instruction:\nq\n\n### Response:\nred")


ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL_TALK = (
    Message("user", "add"),
    Message("assistant", None, tool_calls=(CALL,)),
    Message("tool", '{"sum": 2}', tool_call_id="1", name="add"),
    Message("assistant", "two"),
)
NAMES = "<|im_start|>{{ message['role'] }}{{ ' ' + message.name if message.name else '' }}"
TOOLS_AND_NAMES = TOOLS.replace("<|im_start|>{{ message['role'] }}", NAMES)
JSON_ANSWERS = TOOLS.replace(
    "{% else %}{{ message['content'] }}",
    "{% elif message['role'] == 'tool' %}{{ message['content'] | tojson }}"
    "{% else %}{{ message['content'] }}",
)
MARKED_TOOLS = TOOLS.replace(
    "{% if message.tool_calls %}",
    "{% if message['role'] == 'assistant' %}{% generation %}{% if message.tool_calls %}"
    "{% for call in message.tool_calls %}"
    "call {{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}"
    "{% else %}{{ message['content'] }}{% endif %}<|im_end|>{% endgeneration %}\n"
    "{% elif message.tool_calls %}",
).replace("{% endif %}<|im_end|>\n{% endfor %}", "<|im_end|>\n{% endif %}{% endfor %}")


def encode_with_tools(
    tokenizer: PreTrainedTokenizerBase, template: str, *messages: Message
) -> Document:
    encoder = Encoder(tokenizer, Layout(template), train_on="assistant", stop_ids=())
    return encoder.encode(Conversation(1, messages, (ADD,)))


@pytest.mark.parametrize("template", [TOOLS, TOOLS_AND_NAMES, JSON_ANSWERS, MARKED_TOOLS])
def test_tools_are_shown_and_calls_take_loss(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    document = encode_with_tools(tokenizer, template, *TOOL_TALK)
    assert targets(tokenizer, document) == 'call add {"a": 1}<|im_end|>two<|im_end|>'
    text = tokenizer.decode(document.input_ids)
    assert text.startswith('<|im_start|>tools\n[{"type": "function", "function": {"name": "add"')
    assert ("tool add\n" in text) == (template == TOOLS_AND_NAMES)


def test_a_call_of_weight_0_takes_no_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    call = Message("assistant", None, weight=0, tool_calls=(CALL,))
    talk = (TOOL_TALK[0], call, *TOOL_TALK[2:])
    document = encode_with_tools(tokenizer, TOOLS, *talk)
    assert targets(tokenizer, document) == "two<|im_end|>"
    assert 'call add {"a": 1}' in tokenizer.decode(document.input_ids)


def test_two_calls_in_one_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    other = {"type": "function", "function": {"name": "sub", "arguments": {"b": [2]}}}
    both = Message("assistant", None, tool_calls=(CALL, other))
    document = encode_with_tools(tokenizer, TOOLS, TOOL_TALK[0], both)
    assert targets(tokenizer, document) == 'call add {"a": 1}call sub {"b": [2]}<|im_end|>'
    twice = Message("assistant", None, tool_calls=(CALL, CALL))
    document = encode_with_tools(tokenizer, TOOLS, TOOL_TALK[0], twice)
    assert targets(tokenizer, document) == 'call add {"a": 1}call add {"a": 1}<|im_end|>'


IGNORES_CALLS = TOOLS.replace("message.tool_calls %}{% for", "message.nothing %}{% for")
IGNORES_ANSWERS = "{% set messages = messages | rejectattr('role', 'eq', 'tool') | list %}" + TOOLS
FIRST_CALL = TOOLS.replace("in message.tool_calls %}call", "in message.tool_calls[:1] %}call")
NO_CALLS = TOOLS.partition("{% for")[0] + CHATML
WRITES_NONE = TOOLS.replace("call {{", "{{ message['content'] }}call {{")
FAILS_AT_EMPTY = WRITES_NONE.replace(
    "{% if message.tool_calls %}",
    "{% if message['content'] == '' %}{{ raise_exception('no content') }}{% endif %}"
    "{% if message.tool_calls %}",
)
FAILS_AT_NONE = NO_CALLS.replace("{{ message['content'] }}", "{{ '' + message['content'] }}")


@pytest.mark.parametrize(
    ("template", "messages", "named"),
    [
        (CHATML, (Message("user", "a"), Message("assistant", "b")), "leaves out tools"),
        (IGNORES_CALLS, TOOL_TALK, "leaves out tool_calls"),
        (
            FIRST_CALL,
            (TOOL_TALK[0], Message("assistant", None, tool_calls=(CALL, CALL))),
            "leaves out tool_calls",
        ),
        (
            NO_CALLS,
            (TOOL_TALK[0], Message("assistant", "I add.", tool_calls=(CALL,))),
            "leaves out tool_calls",
        ),
        (
            NO_CALLS,
            (TOOL_TALK[0], Message("assistant", "", tool_calls=(CALL,))),
            "leaves out tool_calls",
        ),
        (IGNORES_ANSWERS, TOOL_TALK, "role tool"),
        (FAILS_AT_EMPTY, TOOL_TALK, "writes None"),
        (FAILS_AT_NONE, TOOL_TALK, "leaves out tool_calls"),
        (
            TOOLS,
            (TOOL_TALK[0], Message("assistant", "I add.", tool_calls=(CALL,))),
            "the content beside tool_calls",
        ),
    ],
)
def test_a_template_that_leaves_tools_out_is_refused_by_name(
    tokenizer: PreTrainedTokenizerBase, template: str, messages: tuple[Message, ...], named: str
) -> None:
    with pytest.raises(LeftOutError, match=named):
        encode_with_tools(tokenizer, template, *messages)


def test_content_beside_a_call_takes_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    template = TOOLS.replace("call {{", "{{ message['content'] or '' }}call {{")
    said = Message("assistant", "I add. ", tool_calls=(CALL,))
    document = encode_with_tools(tokenizer, template, TOOL_TALK[0], said)
    assert targets(tokenizer, document) == 'I add. call add {"a": 1}<|im_end|>'
    document = encode_with_tools(tokenizer, template, *TOOL_TALK)
    assert targets(tokenizer, document) == 'call add {"a": 1}<|im_end|>two<|im_end|>'


@pytest.mark.parametrize(
    ("template", "content"),
    [
        (WRITES_NONE, None),
        (
            WRITES_NONE.replace(
                "{{ message['content'] }}call", "{{ '' + message['content'] }}call"
            ),
            None,
        ),
        (TOOLS.replace("{% if message.tool_calls %}", "{% if message['content'] is none %}"), ""),
        (TOOLS.replace("call.function.arguments | tojson", "'' + call.function.arguments"), None),
    ],
)
def test_calls_are_written_as_the_template_reads_them(
    tokenizer: PreTrainedTokenizerBase, template: str, content: str | None
) -> None:
    call = Message("assistant", content, tool_calls=(CALL,))
    document = encode_with_tools(tokenizer, template, TOOL_TALK[0], call, *TOOL_TALK[2:])
    assert targets(tokenizer, document) == 'call add {"a": 1}<|im_end|>two<|im_end|>'


CALL_TEXT = "{{ call.function.name }} {{ call.function.arguments | tojson }}"
# A call has a header of its own, and a tool answers nothing but a call (as with gpt-oss).
HEADED_CALLS = (
    "{{ tools | tojson if tools }}{% set ns = namespace(called=false) %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' and not ns.called %}"
    "{{ raise_exception('a tool answers no call') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}{% if message.tool_calls %}{% set ns.called = true %}"
    "{% for call in message.tool_calls %} to " + CALL_TEXT + "{% endfor %}<|endoftext|>"
    "{% else %} says\n{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
# What tools answer stands in the turn that calls them, and the content behind (as with Gemma 4).
ANSWERS_WITHIN = (
    "{{ tools | tojson if tools }}{% for message in messages if message['role'] != 'tool' %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message.tool_calls %}{% for call in message.tool_calls %}"
    + CALL_TEXT
    + "<|endoftext|>{% endfor %}{% for answer in messages if answer['role'] == 'tool' %}"
    "answered {{ answer['content'] }}<|endoftext|>{% endfor %}{% endif %}"
    "{{ message['content'] or '' }}{% if message['content'] %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_call_with_a_header_of_its_own_takes_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    document = encode_with_tools(tokenizer, HEADED_CALLS, *TOOL_TALK)
    expected = ' to add {"a": 1}<|endoftext|>two<|im_end|>'
    assert targets(tokenizer, document) == expected
    document = encode_with_tools(tokenizer, HEADED_CALLS, *TOOL_TALK[:2])
    assert targets(tokenizer, document) == ' to add {"a": 1}<|endoftext|>'


def test_what_a_tool_answers_in_the_turn_that_calls_it_takes_no_loss(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    document = encode_with_tools(tokenizer, ANSWERS_WITHIN, *TOOL_TALK)
    assert targets(tokenizer, document) == 'add {"a": 1}<|endoftext|>two<|im_end|>'
    assert 'answered {"sum": 2}' in tokenizer.decode(document.input_ids)
    said = Message("assistant", "I add.", tool_calls=(CALL,))
    with pytest.raises(HiddenTurnError, match="assistant turn 2, which calls tools, is changed"):
        encode_with_tools(tokenizer, ANSWERS_WITHIN, TOOL_TALK[0], said, *TOOL_TALK[2:])


# An answer ends where a question begins, a call where its answer does (as with GLM).
OPEN_ENDED = (
    "{{ tools | tojson if tools }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|im_end|>{% elif message['role'] == 'tool' %}<|endoftext|>"
    "{% else %}<|im_start|>{% endif %}{{ message['content'] or '' }}"
    "{% for call in message.tool_calls or [] %}" + CALL_TEXT + "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def test_a_call_ends_where_what_the_tool_answers_begins(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    stop_ids = tokenizer.convert_tokens_to_ids(["<|endoftext|>"])
    encoder = Encoder(tokenizer, Layout(OPEN_ENDED), train_on="assistant", stop_ids=stop_ids)
    whole = encoder.encode(Conversation(1, TOOL_TALK, (ADD,)))
    assert targets(tokenizer, whole) == 'add {"a": 1}<|endoftext|>two<|im_end|>'
    call = encoder.encode(Conversation(1, TOOL_TALK[:2], (ADD,)))
    assert targets(tokenizer, call) == 'add {"a": 1}<|endoftext|>'
    with pytest.raises(HiddenTurnError, match="with no token of its own"):
        encode_with_tools(tokenizer, OPEN_ENDED, *TOOL_TALK[:2])


def test_a_call_that_is_named_in_its_id_takes_loss(tokenizer: PreTrainedTokenizerBase) -> None:
    template = TOOLS.replace("call.function.name", "call.id")
    call = Message("assistant", None, tool_calls=({**CALL, "id": "functions.add:0"},))
    document = encode_with_tools(tokenizer, template, TOOL_TALK[0], call)
    assert targets(tokenizer, document) == 'call functions.add:0 {"a": 1}<|im_end|>'
    with pytest.raises(LeftOutError, match="leaves out tool_calls"):
        encode_with_tools(tokenizer, template, *TOOL_TALK)


ASKED_LAST = (
    "{% for message in messages if message['role'] != 'system' or messages[-1]['role'] == 'user' %}"
    + CHATML.partition("%}")[2]
)


def test_a_template_that_leaves_a_system_message_out_is_refused_by_name(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    talk = (Message("user", "Hi"), Message("assistant", "Hello"))
    encode = Encoder(tokenizer, Layout(ASKED_LAST), train_on="assistant", stop_ids=()).encode
    for _ in range(12):
        assert encode(Conversation(1, talk)).num_targets
        with pytest.raises(LeftOutError, match="leaves out messages of the role system"):
            encode(Conversation(1, (Message("system", "Be kind."), *talk)))


READS_PARTS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% set said = "
    "message['content'][0].text if message['role'] == 'ROLE' else message['content'] %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ said }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ said }}<|im_end|>{% endif %}\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("role", "error", "named"),
    [
        ("user", LeftOutError, "leaves out messages of the role user"),
        ("assistant", HiddenTurnError, "assistant turn 2 is changed"),
    ],
)
def test_a_template_that_reads_contents_in_parts_is_refused_by_name(
    tokenizer: PreTrainedTokenizerBase, role: str, error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        encode(tokenizer, READS_PARTS.replace("ROLE", role), *ask("red", "Hi?"))
