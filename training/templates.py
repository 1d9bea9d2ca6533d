"""Which characters of a rendered conversation take loss.

A conversation is rendered once, whole, as the model will see it; the assistant's turns are then
found in that text. Where a template marks them itself (`{% generation %}`) its marks are used.
Elsewhere each turn's content is replaced by a sentinel, the conversation is rendered again, and
whatever stands in the sentinel's place is the turn, if all around it is unchanged. A template
that allows neither is refused by name: no row is ever trained on a guess.

What was found so for some conversations of a shape is used for others of that shape, as long as
all of their text is what it should be then (see `training.turn_layouts`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError

from training.chat_template import CompiledTemplate, Mark
from training.rows import Conversation, Message
from training.turn_layouts import TurnLayout, learn_layout, made_up_content
from training.turns import Shape, Turns, as_turn, shape_of

TrainOn = Literal["assistant", "last_assistant", "everything"]

_SENTINEL = "\u2063SENTINEL{}\u2063"
_THOUGHT_END = "</think>"
_MAX_SHAPES = 1000
_CHECKED_OF_SHAPE = 4


class HiddenTurnError(ValueError):
    """An assistant's turn cannot be told from the rest of the rendered text."""


class LeftOutError(ValueError):
    """The template does not show the model a part of the conversation that the row has."""


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a rendered text: what the assistant says in one turn.

    Attributes:
        takes_loss: False for a turn whose weight is 0, or that is not asked for.
        tail: What follows when this turn is the last one; its first special token may close it.
        holds_end: A mark of the template, with more than the content at its end; a token that
            ends turns may also be the content's own.
    """

    start: int
    end: int
    takes_loss: bool
    tail: str
    holds_end: bool = False


@dataclass(frozen=True)
class Rendered:
    """A whole conversation as the model sees it, and where the assistant speaks.

    Attributes:
        is_marked: The template itself says where, and may count the end of a turn in.
    """

    text: str
    spans: tuple[Span, ...]
    is_marked: bool


@dataclass
class _Learned:
    """What is known of the conversations of one shape.

    Attributes:
        header: What the generation prompt supplies before an answer.
        turns: Numbers of the assistant's turns, and what stands between the content of each and
            all that is found of the turn: characters before it (less than 0) and behind it, and
            the span's tail.
        marks: The same two of the template's own marks, where it makes some.
        num_agreed: Conversations for which the exact way gave the same.
        is_wrong: It gave something else for one; nothing is taken from here any more.
    """

    layout: TurnLayout
    header: str
    turns: tuple[tuple[int, int, int, str], ...]
    marks: tuple[tuple[int, int], ...]
    num_agreed: int = 0
    is_wrong: bool = False

    def spans(self, text: str, marks: list[Mark], contents: list[str]) -> tuple[Span, ...] | None:
        """The spans of a conversation; None if it is not as others of its shape."""
        bounds = self.layout.bounds(text, contents)
        if bounds is None:
            return None
        expected = [
            (bounds[place][0] + lead, bounds[place][1] + trail)
            for (place, *_), (lead, trail) in zip(self.turns, self.marks, strict=False)
        ]
        if marks != expected:
            return None
        return tuple(
            self._span(text, bounds[place], lead, trail, tail)
            for place, lead, trail, tail in self.turns
        )

    def _span(self, text: str, content: tuple[int, int], lead: int, trail: int, tail: str) -> Span:
        start, end = content[0] + lead, content[1] + trail
        said = _behind(self.header, text, start, end, content[0] if self.marks else start)
        return Span(said, end, True, tail)


class _Exact(NamedTuple):
    """A conversation whose turns were all located, for others of its shape to be learned from.

    Attributes:
        begins: Where each turn was found to begin, with what the generation prompt supplies of it.
        header: What the generation prompt supplies.
    """

    rendered: Rendered
    begins: tuple[int, ...]
    header: str


class ChatRenderer:
    """Renders conversations with one template and finds the assistant's turns in them."""

    def __init__(self, template: str, special_tokens: Mapping[str, Any]) -> None:
        self._template = CompiledTemplate(template, special_tokens)
        self._marks_turns = self._template.marks_turns
        self._lead = self._blank_lead()
        self._learned: dict[Shape, _Learned | None] = {}

    def render(self, row: Conversation, train_on: TrainOn) -> Rendered:
        """The text of `row` up to its last assistant turn, with a span for every such turn.

        Raises:
            HiddenTurnError: A turn cannot be located, so that its tokens cannot be told.
            LeftOutError: The template knows no tools, and the row has some.
            jinja2.TemplateError: The template refuses the conversation.
        """
        turns = [as_turn(message) for message in row.messages]
        places = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        # What follows the last answer is never trained on, so it need not be read either.
        turns = turns[: places[-1] + 1]
        shape = None if row.tools else shape_of(turns)
        learned = None if shape is None else self._learned.get(shape)
        if learned is None or learned.is_wrong:
            exact = self._render_exactly(row, turns, places)
            rendered = exact.rendered
            if shape is not None and shape not in self._learned:
                self._learn(shape, turns, exact)
        else:
            rendered = self._render_as_learned(row, turns, places, learned)
        spans = tuple(
            Span(
                span.start,
                span.end,
                self._takes_loss(row, place, places[-1], train_on),
                span.tail,
                self._marks_turns
                and not _ends_with(rendered.text[span.start : span.end], turns[place]["content"]),
            )
            for place, span in zip(places, rendered.spans, strict=True)
        )
        return Rendered(rendered.text, spans, rendered.is_marked)

    def _render_as_learned(
        self, row: Conversation, turns: Turns, places: list[int], learned: _Learned
    ) -> Rendered:
        text, marks = self._template.render(turns)
        spans = learned.spans(text, marks, [turn["content"] for turn in turns])
        if spans is not None and learned.num_agreed >= _CHECKED_OF_SHAPE:
            return Rendered(text, spans, self._marks_turns)
        rendered = self._render_exactly(row, turns, places).rendered
        if spans == rendered.spans:
            learned.num_agreed += 1
        elif spans is not None:
            learned.is_wrong = True
        return rendered

    def _learn(self, shape: Shape, turns: Turns, exact: _Exact) -> None:
        """Note what stands around the contents of a conversation, if anything can be said."""
        if len(self._learned) >= _MAX_SHAPES:
            return
        self._learned[shape] = None
        made_up = [
            {**turn, "content": made_up_content(number)} for number, turn in enumerate(turns)
        ]
        try:
            text, _ = self._template.render(made_up)
        except TemplateError:
            return
        layout = learn_layout(text, len(turns))
        if layout is None:
            return
        bounds = layout.bounds(exact.rendered.text, [turn["content"] for turn in turns])
        if bounds is None:
            return
        _, marks = self._template.render(turns)
        places = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
        self._learned[shape] = _Learned(
            layout,
            exact.header,
            tuple(
                (place, start - bounds[place][0], span.end - bounds[place][1], span.tail)
                for place, start, span in zip(
                    places, exact.begins, exact.rendered.spans, strict=True
                )
            ),
            tuple(
                (start - bounds[place][0], end - bounds[place][1])
                for place, (start, end) in zip(places, marks, strict=False)
            ),
        )

    def _render_exactly(self, row: Conversation, turns: Turns, places: list[int]) -> _Exact:
        tools = [dict(tool) for tool in row.tools] if row.tools else None
        text, marks = self._template.render(turns, tools)
        if self._marks_turns:
            tail = text[marks[-1][1] :] if marks else ""
            found = [(start, end, tail) for start, end in marks]
        else:
            found = [self._locate(turns, tools, text, place) for place in places]
        if len(found) != len(places):
            raise HiddenTurnError(
                f"{len(places)} assistant turns, of which {len(found)} are marked"
            )
        if tools:
            self._require_tools(turns, text)
        for place, (start, end, _) in zip(places, found, strict=True):
            _require_calls(turns[place], text[start:end])
        self._require_answers_of_tools(turns, tools, text)
        header = self._header(turns, tools)
        begins = tuple(start for start, *_ in found)
        contents = self._contents(turns, tools, places, begins, header)
        spans = tuple(
            Span(_behind(header, text, start, end, content), end, True, tail)
            for (start, end, tail), content in zip(found, contents, strict=True)
        )
        return _Exact(Rendered(text, spans, self._marks_turns), begins, header)

    def _contents(
        self,
        turns: Turns,
        tools: list[dict[str, Any]] | None,
        places: list[int],
        begins: tuple[int, ...],
        header: str,
    ) -> Iterator[int]:
        """Where the content of each turn begins; before that, a mark may hold a header."""
        for number, (place, start) in enumerate(zip(places, begins, strict=True)):
            if not self._marks_turns:
                yield start
            elif header and header.strip() in (turns[place]["content"] or ""):
                yield start + self._written_in_mark(turns, tools, place, number)
            else:
                yield start + len(header)  # whatever there is of the header is no content

    def _takes_loss(self, row: Conversation, place: int, last: int, train_on: TrainOn) -> bool:
        return row.messages[place].weight != 0 and (train_on != "last_assistant" or place == last)

    def _require_tools(self, turns: Turns, text: str) -> None:
        try:
            without, _ = self._template.render(turns, None)
        except TemplateError:
            return  # they matter, if it cannot do without
        if without == text:
            raise LeftOutError("the chat template leaves out tools")

    def _require_answers_of_tools(
        self, turns: Turns, tools: list[dict[str, Any]] | None, text: str
    ) -> None:
        """Every answer must stand in the text, or change it where it stands in another form."""
        for place, turn in enumerate(turns):
            if turn["role"] != "tool" or turn["content"].strip() in text:
                continue
            other = [*turns[:place], {**turn, "content": _SENTINEL.format(0)}, *turns[place + 1 :]]
            if self._template.render(other, tools)[0] == text:
                raise LeftOutError("the chat template leaves out messages of the role tool")

    def prompt(self, question: str) -> str:
        """One question and the beginning of an answer, as the model is asked at inference."""
        return self.asked([Message("user", question)])

    def asked(self, messages: Sequence[Message]) -> str:
        """What the model is given to answer `messages`.

        Raises:
            jinja2.TemplateError: The template refuses them.
        """
        text, _ = self._template.render(
            [as_turn(message) for message in messages], None, prompt=True
        )
        return text

    def _header(self, turns: Turns, tools: list[dict[str, Any]] | None) -> str:
        """What the generation prompt supplies of an answer: its role header, an empty thought."""
        before_answer = turns[:-1]
        if not before_answer:
            return ""
        try:
            plain, _ = self._template.render(before_answer, tools)
            prompt, _ = self._template.render(before_answer, tools, prompt=True)
        except TemplateError:
            return ""
        return prompt[len(plain) :] if prompt.startswith(plain) else ""

    def _written_in_mark(
        self, turns: Turns, tools: list[dict[str, Any]] | None, place: int, number: int
    ) -> int:
        """How many characters of a marked turn the template itself writes before the content."""
        probe = _SENTINEL.format(0)
        around = [*turns[:place], {"role": "assistant", "content": probe}, *turns[place + 1 :]]
        text, marks = self._template.render(around, tools)
        start = text.find(probe)
        if start == -1 or number >= len(marks):
            raise HiddenTurnError(f"assistant turn {place + 1} is changed by the template")
        return max(0, start - marks[number][0])

    def _locate(
        self, turns: Turns, tools: list[dict[str, Any]] | None, text: str, place: int
    ) -> tuple[int, int, str]:
        for probe in _probes(turns[place]):
            around = [*turns[:place], {"role": "assistant", "content": probe}, *turns[place + 1 :]]
            rendered, _ = self._template.render(around, tools)
            bounds = _bounds(rendered, probe)
            if bounds is None:
                continue
            before, after = rendered[: bounds[0]], rendered[bounds[1] :]
            end = len(text) - len(after)
            fits = text.startswith(before) and text.endswith(after) and len(before) < end
            if fits and _is_content(text[len(before) : end], turns[place]):
                lead = len(self._lead) if before.endswith(self._lead) else 0
                return len(before) - lead, end, self._tail(around[: place + 1], tools, probe)
        raise HiddenTurnError(f"assistant turn {place + 1} is changed by the template")

    def _blank_lead(self) -> str:
        """Blanks before an answer that no generation prompt supplies: the model has to say them."""
        question, probe = {"role": "user", "content": "a"}, _SENTINEL.format(0)
        try:
            prompt, _ = self._template.render([question], None, prompt=True)
            text, _ = self._template.render(
                [question, {"role": "assistant", "content": probe}], None
            )
        except TemplateError:
            return ""
        bounds = _bounds(text, probe)
        if bounds is None or not text.startswith(prompt):
            return ""
        lead = text[len(prompt) : bounds[0]]
        return lead if lead.isspace() else ""

    def _tail(self, turns: Turns, tools: list[dict[str, Any]] | None, probe: str) -> str:
        rendered, _ = self._template.render(turns, tools)
        bounds = _bounds(rendered, probe)
        return rendered[bounds[1] :] if bounds else ""


def _behind(header: str, text: str, start: int, end: int, content: int) -> int:
    """Where the model begins to speak in a turn: behind what the generation prompt supplies of it.

    That begins before the content does: the words of a header in a content are the content's own.
    """
    place = text.find(header, max(0, start - len(header)), end) if header else -1
    if place == -1 or place > start or place >= content:
        return start
    return max(start, place + len(header))


def _ends_with(found: str, content: str | None) -> bool:
    """Whether a turn ends with its content, blanks aside."""
    said = (content or "").strip()
    return bool(said) and found.rstrip().endswith(said)


def _require_calls(turn: Mapping[str, Any], found: str) -> None:
    """What an assistant says where it calls tools: each call, and no `None` for no content."""
    calls = turn.get("tool_calls", ())
    if any(call["function"]["name"] not in found for call in calls):
        raise LeftOutError("the chat template leaves out tool_calls")
    if calls and turn["content"] is None and found.lstrip().startswith("None"):
        raise LeftOutError("the chat template writes None where tool_calls stand for the content")
    if calls and not _is_said(turn["content"] or "", found):
        raise LeftOutError("the chat template leaves out the content beside tool_calls")


def _is_said(content: str, found: str) -> bool:
    """Whether what is found holds the content, or all of it but for a thought."""
    return content.rsplit(_THOUGHT_END, 1)[-1].strip() in found


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
