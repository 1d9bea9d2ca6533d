"""Which characters of a rendered conversation take loss.

A conversation is rendered once, whole, as the model will see it; the assistant's turns are then
found in that text (see `training.exact_turns`). What was found so for some conversations of a
shape is used for others of that shape, as long as all of their text is what it should be then
(see `training.turn_layouts`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

from jinja2 import TemplateError

from training.chat_template import CompiledTemplate, Mark
from training.exact_turns import Exact, ExactRenderer
from training.next_turn import next_turn
from training.rendered import HiddenTurnError, LeftOutError, Rendered, Span, behind_header
from training.rows import Conversation, Message
from training.turn_layouts import TurnLayout, learn_layout, made_up_content
from training.turns import Shape, Turns, as_turn, shape_of, ways_to_call

TrainOn = Literal["assistant", "last_assistant", "everything"]

_MAX_SHAPES = 1000
_CHECKED_OF_SHAPE = 4


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
        said = behind_header(self.header, text, start, end, content[0] if self.marks else start)
        return Span(said, end, True, tail)


class ChatRenderer:
    """Renders conversations with one template and finds the assistant's turns in them."""

    def __init__(self, template: str, special_tokens: Mapping[str, Any]) -> None:
        self._template = CompiledTemplate(template, special_tokens)
        self._marks_turns = self._template.marks_turns
        self._exact = ExactRenderer(self._template)
        self._next_turn = cache(partial(next_turn, self._template))
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
        tools = [dict(tool) for tool in row.tools] if row.tools else None
        shape = None if tools else shape_of(turns)
        learned = None if shape is None else self._learned.get(shape)
        if learned is None or learned.is_wrong:
            exact = self._exactly(turns, places, tools)
            rendered = exact.rendered
            if shape is not None and shape not in self._learned:
                self._learn(shape, turns, exact)
        else:
            rendered = self._render_as_learned(turns, places, learned)
        spans = tuple(
            Span(
                span.start,
                span.end,
                _takes_loss(row, place, places[-1], train_on),
                span.tail,
                span.holds_end or self._is_more_than_said(rendered, span, turns[place]),
            )
            for place, span in zip(places, rendered.spans, strict=True)
        )
        return Rendered(rendered.text, spans, rendered.is_marked)

    def _is_more_than_said(self, rendered: Rendered, span: Span, turn: Mapping[str, Any]) -> bool:
        """Whether a mark of the template has more than the content at its end."""
        return self._marks_turns and not _ends_with(
            rendered.text[span.start : span.end], turn["content"]
        )

    def _exactly(
        self, turns: Turns, places: list[int], tools: list[dict[str, Any]] | None
    ) -> Exact:
        """A conversation in the first way to write its calls that the template takes."""
        has_calls = any("tool_calls" in turn for turn in turns)
        refusals: list[Exception] = []
        for way in ways_to_call(turns) if has_calls else (turns,):
            try:
                return self._exact.render(way, places, tools)
            except (HiddenTurnError, LeftOutError, TemplateError) as error:
                refusals.append(error)
        # A way at which the template fails tells less than one that it takes in part.
        refusal = min(refusals, key=lambda error: isinstance(error, TemplateError))
        if isinstance(refusal, TemplateError) and (
            tools or has_calls or any(turn["role"] == "tool" for turn in turns)
        ):
            raise LeftOutError(f"the chat template does not take tools: {refusal}") from refusal
        raise refusal

    def _render_as_learned(self, turns: Turns, places: list[int], learned: _Learned) -> Rendered:
        text, marks = self._template.render(turns)
        spans = learned.spans(text, marks, [turn["content"] for turn in turns])
        if spans is not None and learned.num_agreed >= _CHECKED_OF_SHAPE:
            return Rendered(text, spans, self._marks_turns)
        rendered = self._exact.render(turns, places, None).rendered
        if spans == rendered.spans:
            learned.num_agreed += 1
        elif spans is not None:
            learned.is_wrong = True
        return rendered

    def _learn(self, shape: Shape, turns: Turns, exact: Exact) -> None:
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

    def next_turn(self, row: Conversation) -> str:
        """What the template writes behind the last answer of `row` where more follows."""
        answers = (message for message in reversed(row.messages) if message.role == "assistant")
        return self._next_turn(after_call=bool(next(answers).tool_calls))

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


def _takes_loss(row: Conversation, place: int, last: int, train_on: TrainOn) -> bool:
    return row.messages[place].weight != 0 and (train_on != "last_assistant" or place == last)


def _ends_with(found: str, content: str | None) -> bool:
    """Whether a turn ends with its content, blanks aside."""
    said = (content or "").strip()
    return bool(said) and found.rstrip().endswith(said)
