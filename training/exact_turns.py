"""Where the assistant speaks in a rendered conversation, told from renderings of it alone.

Where a template marks the assistant's turns itself (`{% generation %}`) its marks are used.
Elsewhere each turn is looked for by itself (see `training.turn_places`). A template that allows
neither is refused by name: no row is ever trained on a guess.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jinja2 import TemplateError

from training.chat_template import CompiledTemplate
from training.rendered import (
    HiddenTurnError,
    LeftOutError,
    Rendered,
    Span,
    behind_header,
)
from training.turn_places import NOBODYS_WORDS, THOUGHT_END, TurnFinder, TurnPlace
from training.turns import Turns

_NO_CALLS = "the chat template leaves out tool_calls"
_GIVEN = frozenset({"system", "tool", "user"})
"""Roles whose messages some templates do not write."""


class Exact(NamedTuple):
    """A conversation whose turns were all located, for others of its shape to be learned from.

    Attributes:
        begins: Where each turn was found to begin, with what the generation prompt supplies of it.
        header: What the generation prompt supplies.
    """

    rendered: Rendered
    begins: tuple[int, ...]
    header: str


class ExactRenderer:
    """Renders conversations with one template, each as often as it takes to find every turn."""

    def __init__(self, template: CompiledTemplate) -> None:
        self._template = template
        self._finder = TurnFinder(template)

    def render(self, turns: Turns, places: list[int], tools: list[dict[str, Any]] | None) -> Exact:
        """The text of a conversation, with a span for each of the assistant's turns at `places`.

        Raises:
            HiddenTurnError: A turn cannot be located.
            LeftOutError: The template leaves out something that the conversation has.
            jinja2.TemplateError: The template refuses the conversation.
        """
        text, marks = self._template.render(turns, tools)
        for place in places:
            self._require_each_call(turns, tools, text, place)
        if self._template.marks_turns:
            tail = text[marks[-1][1] :] if marks else ""
            found = [TurnPlace(start, end, tail) for start, end in marks]
        else:
            found = [self._finder.find(turns, tools, text, place) for place in places]
        if len(found) != len(places):
            raise HiddenTurnError(
                f"{len(places)} assistant turns, of which {len(found)} are marked"
            )
        if tools:
            self._require_tools(turns, text)
        for place, turn in zip(places, found, strict=True):
            _require_said(turns[place], place, text[turn.start : turn.end])
        self._require_given(turns, tools, text)
        if any(_has_given(turns, text[start:end]) for start, end in marks):
            self._require_own_marks(turns, tools)
        header = self._header(turns, tools)
        begins = tuple(turn.start for turn in found)
        contents = self._contents(turns, tools, text, places, begins, header)
        spans = tuple(
            Span(behind_header(header, text, start, end, content), end, True, tail, holds_end)
            for (start, end, tail, holds_end), content in zip(found, contents, strict=True)
        )
        return Exact(Rendered(text, spans, self._template.marks_turns), begins, header)

    def _contents(
        self,
        turns: Turns,
        tools: list[dict[str, Any]] | None,
        text: str,
        places: list[int],
        begins: tuple[int, ...],
        header: str,
    ) -> Iterator[int]:
        """Where the content of each turn begins; before that, a mark may hold a header."""
        for number, (place, start) in enumerate(zip(places, begins, strict=True)):
            around = text[max(0, start - len(header)) : start + len(header)]
            if not self._template.marks_turns or not header:
                yield start
            elif header.strip() in (turns[place]["content"] or ""):
                yield start + self._written_in_mark(turns, tools, place, number)
            elif header in around:
                yield start + len(header)  # whatever there is of the header is no content
            else:
                yield start + self._written_beside_part(turns, tools, place, number)

    def _written_beside_part(
        self, turns: Turns, tools: list[dict[str, Any]] | None, place: int, number: int
    ) -> int:
        """As `_written_in_mark`; 0 if it cannot be told, and the mark is taken as it is."""
        try:
            return self._written_in_mark(turns, tools, place, number)
        except (HiddenTurnError, TemplateError):
            return 0

    def _require_tools(self, turns: Turns, text: str) -> None:
        try:
            without, _ = self._template.render(turns, None)
        except TemplateError:
            return  # they matter, if it cannot do without
        if without == text:
            raise LeftOutError("the chat template leaves out tools")

    def _require_given(self, turns: Turns, tools: list[dict[str, Any]] | None, text: str) -> None:
        """What is not the model's own must stand in the text, or change it in another form."""
        for place, turn in enumerate(turns):
            role = turn["role"]
            if role not in _GIVEN or turn["content"].strip() in text:
                continue
            if self._is_same_with(turns, tools, text, place, {"content": NOBODYS_WORDS}):
                raise LeftOutError(f"the chat template leaves out messages of the role {role}")

    def _require_own_marks(self, turns: Turns, tools: list[dict[str, Any]] | None) -> None:
        """An answer may repeat a question; then other questions leave the mark without them."""
        others = [
            {**turn, "content": NOBODYS_WORDS} if turn["role"] in _GIVEN else turn for turn in turns
        ]
        try:
            text, marks = self._template.render(others, tools)
        except TemplateError:
            return
        if any(NOBODYS_WORDS in text[start:end] for start, end in marks):
            raise HiddenTurnError("the template marks what others say as the assistant's")

    def _require_each_call(
        self, turns: Turns, tools: list[dict[str, Any]] | None, text: str, place: int
    ) -> None:
        """That a function is named is not enough: another call or the content may name it."""
        calls = turns[place].get("tool_calls", ())
        for number, call in enumerate(calls):
            changed = [*calls[:number], _of_another(call), *calls[number + 1 :]]
            if self._is_same_with(turns, tools, text, place, {"tool_calls": changed}):
                raise LeftOutError(_NO_CALLS)

    def _is_same_with(
        self,
        turns: Turns,
        tools: list[dict[str, Any]] | None,
        text: str,
        place: int,
        change: Mapping[str, Any],
    ) -> bool:
        """Whether the template writes `text` all the same when a turn has something else."""
        other = [*turns[:place], {**turns[place], **change}, *turns[place + 1 :]]
        try:
            return self._template.render(other, tools)[0] == text
        except TemplateError:
            return False  # it matters, if it cannot do with something else

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
        probe = NOBODYS_WORDS
        around = [*turns[:place], {"role": "assistant", "content": probe}, *turns[place + 1 :]]
        text, marks = self._template.render(around, tools)
        start = text.find(probe)
        if start == -1 or number >= len(marks):
            raise HiddenTurnError(f"assistant turn {place + 1} is changed by the template")
        return max(0, start - marks[number][0])


def _has_given(turns: Turns, marked: str) -> bool:
    """Whether what is marked as the assistant's has words that it was given, or the same ones."""
    given = (turn["content"].strip() for turn in turns if turn["role"] in _GIVEN)
    return any(words and words in marked for words in given)


def _of_another(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call of another function; some templates write the name as a part of its id (Kimi K2)."""
    name, other = call["function"]["name"], NOBODYS_WORDS
    changed = {**call, "function": {**call["function"], "name": other}}
    if name and isinstance(call.get("id"), str):
        changed["id"] = call["id"].replace(name, other)
    return changed


def _require_said(turn: Mapping[str, Any], place: int, found: str) -> None:
    """What an assistant says: its content and each call, and no `None` for no content."""
    calls = turn.get("tool_calls", ())
    if any(call["function"]["name"] not in found for call in calls):
        raise LeftOutError(_NO_CALLS)
    if calls and turn["content"] is None and found.lstrip().startswith("None"):
        raise LeftOutError("the chat template writes None where tool_calls stand for the content")
    if _is_said(turn["content"] or "", found):
        return
    if calls:
        raise LeftOutError("the chat template leaves out the content beside tool_calls")
    raise HiddenTurnError(f"assistant turn {place + 1} is changed by the template")


def _is_said(content: str, found: str) -> bool:
    """Whether what is found holds the content, or all of it but for a thought."""
    return content.rsplit(THOUGHT_END, 1)[-1].strip() in found
