"""Prompt layouts, and which characters of a rendered conversation take loss.

A conversation is rendered once, whole, as the model will see it; the assistant's turns are then
found in that text. Where a template marks them itself (`{% generation %}`) its marks are used.
Elsewhere each turn's content is replaced by a sentinel, the conversation is rendered again, and
whatever stands in the sentinel's place is the turn, if all around it is unchanged. A template
that allows neither is refused by name: no row is ever trained on a guess.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from training.config import FormatName
from training.failures import RunError
from training.rows import Conversation, Instruction, Message

Turns = list[dict[str, Any]]
TrainOn = Literal["assistant", "last_assistant", "everything"]

ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
ALPACA_SYSTEM_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
_ALPACA_INPUT = "\n\n### Input:\n"

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}{{ END }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALPACA = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% elif '### Input:' in messages[0]['content'] %}{% set system = SYSTEM_WITH_INPUT %}"
    "{% else %}{% set system = SYSTEM %}{% endif %}"
    "{% if system %}{{ system + '\n\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}"
    "{% elif message['role'] != 'system' %}"
    "{{ raise_exception('the alpaca layout has no role ' + message['role']) }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)

_SENTINEL = "\u2063SENTINEL{}\u2063"
_THOUGHT_END = "</think>"
_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")


class HiddenTurnError(ValueError):
    """An assistant's turn cannot be told from the rest of the rendered text."""


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a rendered text: what the assistant says in one turn.

    Attributes:
        takes_loss: False for a turn whose weight is 0, or that is not asked for.
        tail: What follows when this turn is the last one; its first special token may close it.
    """

    start: int
    end: int
    takes_loss: bool
    tail: str


@dataclass(frozen=True)
class Rendered:
    """A whole conversation as the model sees it, and where the assistant speaks.

    Attributes:
        is_marked: The template itself says where, and may count the end of a turn in.
    """

    text: str
    spans: tuple[Span, ...]
    is_marked: bool


def alpaca_template() -> str:
    """The layout of Stanford Alpaca's instruction data, as a chat template."""
    return (
        f"{{% set SYSTEM = {json.dumps(ALPACA_SYSTEM)} %}}"
        f"{{% set SYSTEM_WITH_INPUT = {json.dumps(ALPACA_SYSTEM_WITH_INPUT)} %}}{ALPACA}"
    )


def chatml_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """ChatML; a tokenizer without its end marker ends turns with its own end of sequence."""
    known = "<|im_end|>" in tokenizer.get_added_vocab()
    return CHATML.replace("{{ END }}", "<|im_end|>" if known else "{{ eos_token }}")


NAMED_TEMPLATES: Mapping[str, Callable[[PreTrainedTokenizerBase], str]] = MappingProxyType(
    {"alpaca": lambda _tokenizer: alpaca_template(), "chatml": chatml_template}
)


def chat_template(
    tokenizer: PreTrainedTokenizerBase, name: str, formats: set[FormatName]
) -> str | None:
    """The chat template for data of these formats; None if none of them needs one.

    Raises:
        RunError: `name` is unknown, or "auto" and the model has no template for conversations.
    """
    if not formats - {"prompt_completion"}:
        return None
    if name == "auto":
        return _own_template(tokenizer, formats)
    if name in NAMED_TEMPLATES:
        return NAMED_TEMPLATES[name](tokenizer)
    raise _template_error(
        f"There is no template {name!r}.", 'Accepted are "auto", "chatml" and "alpaca".'
    )


def _own_template(tokenizer: PreTrainedTokenizerBase, formats: set[FormatName]) -> str:
    if tokenizer.chat_template:
        return tokenizer.get_chat_template()
    if "messages" in formats:
        raise _template_error(
            "The model has no chat template of its own.",
            'Set training.data.template to "chatml" or "alpaca".',
        )
    return alpaca_template()


def _template_error(message: str, remedy: str) -> RunError:
    return RunError(
        "invalid_template", message, fault="spec", param="training.data.template", remedy=remedy
    )


def as_conversation(row: Instruction, *, alpaca: bool) -> Conversation:
    """An instruction as a conversation of one question and one answer."""
    separator = _ALPACA_INPUT if alpaca else "\n\n"
    question = row.instruction + (separator + row.input if row.input else "")
    system = () if row.system is None else (Message("system", row.system),)
    turns = (*system, Message("user", question), Message("assistant", row.output))
    return Conversation(row.line, turns)


class ChatRenderer:
    """Renders conversations with one template and finds the assistant's turns in them."""

    def __init__(self, template: str, special_tokens: Mapping[str, Any]) -> None:
        self._template = template
        self._special_tokens = {
            name: value for name, value in special_tokens.items() if isinstance(value, str)
        }
        self._marks_turns = bool(_GENERATION_TAG.search(template))

    def render(self, row: Conversation, train_on: TrainOn) -> Rendered:
        """The text of `row` up to its last assistant turn, with a span for every such turn.

        Raises:
            HiddenTurnError: A turn cannot be located, so that its tokens cannot be told.
            jinja2.TemplateError: The template refuses the conversation.
        """
        turns = [_as_turn(message) for message in row.messages]
        places = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        # What follows the last answer is never trained on, so it need not be read either.
        turns = turns[: places[-1] + 1]
        tools = [dict(tool) for tool in row.tools] if row.tools else None
        text, marks = self._render(turns, tools)
        if self._marks_turns:
            tail = text[marks[-1][1] :] if marks else ""
            found = [(start, end, tail) for start, end in marks]
            found = [self._without_header(turns, tools, text, each) for each in found]
        else:
            found = [self._locate(turns, tools, text, place) for place in places]
        if len(found) != len(places):
            raise HiddenTurnError(
                f"{len(places)} assistant turns, of which {len(found)} are marked"
            )
        return Rendered(
            text,
            tuple(
                Span(start, end, self._takes_loss(row, place, places[-1], train_on), tail)
                for place, (start, end, tail) in zip(places, found, strict=True)
            ),
            self._marks_turns,
        )

    def _takes_loss(self, row: Conversation, place: int, last: int, train_on: TrainOn) -> bool:
        return row.messages[place].weight != 0 and (train_on != "last_assistant" or place == last)

    def prompt(self, question: str) -> str:
        """One question and the beginning of an answer, as the model is asked at inference."""
        text, _ = self._render([{"role": "user", "content": question}], None, prompt=True)
        return text

    def _render(
        self, turns: Turns, tools: list[dict[str, Any]] | None, *, prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        rendered: Any = render_jinja_template(
            conversations=[turns],
            tools=cast("list[dict[Any, Any] | Callable[..., Any]] | None", tools),
            chat_template=self._template,
            return_assistant_tokens_mask=self._marks_turns,
            add_generation_prompt=prompt,
            **cast("dict[str, Any]", self._special_tokens),
        )
        texts, marks = rendered
        return texts[0], (marks[0] if marks else [])

    def _without_header(
        self,
        turns: Turns,
        tools: list[dict[str, Any]] | None,
        text: str,
        found: tuple[int, int, str],
    ) -> tuple[int, int, str]:
        """A marked turn less what the generation prompt supplies: a role header, an empty think."""
        start, end, tail = found
        header = self._header(turns, tools)
        place = text.rfind(header, 0, start + len(header)) if header else -1
        if place != -1 and place <= start < place + len(header) <= end:
            start = place + len(header)
        return start, end, tail

    def _header(self, turns: Turns, tools: list[dict[str, Any]] | None) -> str:
        before_answer = turns[:-1]
        if not before_answer:
            return ""
        plain, _ = self._render(before_answer, tools)
        prompt, _ = self._render(before_answer, tools, prompt=True)
        return prompt[len(plain) :] if prompt.startswith(plain) else ""

    def _locate(
        self, turns: Turns, tools: list[dict[str, Any]] | None, text: str, place: int
    ) -> tuple[int, int, str]:
        for probe in _probes(turns[place]):
            around = [*turns[:place], {"role": "assistant", "content": probe}, *turns[place + 1 :]]
            rendered, _ = self._render(around, tools)
            bounds = _bounds(rendered, probe)
            if bounds is None:
                continue
            before, after = rendered[: bounds[0]], rendered[bounds[1] :]
            end = len(text) - len(after)
            fits = text.startswith(before) and text.endswith(after) and len(before) < end
            if fits and _is_content(text[len(before) : end], turns[place]):
                return len(before), end, self._tail(around[: place + 1], tools, probe)
        raise HiddenTurnError(f"assistant turn {place + 1} is changed by the template")

    def _tail(self, turns: Turns, tools: list[dict[str, Any]] | None, probe: str) -> str:
        rendered, _ = self._render(turns, tools)
        bounds = _bounds(rendered, probe)
        return rendered[bounds[1] :] if bounds else ""


def _as_turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [_as_tool_call(call) for call in message.tool_calls]
    return turn


def _as_tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI sends arguments as JSON in a string; templates write them out as an object."""
    function = dict(call.get("function", {}))
    if isinstance(arguments := function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(arguments)
        except ValueError:
            function["arguments"] = arguments
    return {**call, "function": function}


def _probes(turn: Mapping[str, Any]) -> Iterator[str]:
    yield _SENTINEL.format(0)
    if _THOUGHT_END in (turn["content"] or ""):
        yield f"<think>\n{_SENTINEL.format(1)}\n{_THOUGHT_END}\n\n{_SENTINEL.format(2)}"


def _bounds(rendered: str, probe: str) -> tuple[int, int] | None:
    """Where the probe's text stands; a thought that the template dropped is not part of it."""
    last = _SENTINEL.format(2 if _THOUGHT_END in probe else 0)
    if rendered.count(last) != 1:
        return None
    end = rendered.index(last)
    start = end
    if _THOUGHT_END in probe and (thought := rendered.find(_SENTINEL.format(1))) != -1:
        start = rendered.rfind("<think>", 0, thought)
    return (start, end + len(last)) if start != -1 else None


def _is_content(found: str, turn: Mapping[str, Any]) -> bool:
    if turn.get("tool_calls"):
        return True
    content: str = turn["content"]
    if found.strip() == content.strip():
        return True
    answer = content.rsplit(_THOUGHT_END, 1)[-1].strip()
    return _THOUGHT_END in content and found.strip().endswith(answer)
