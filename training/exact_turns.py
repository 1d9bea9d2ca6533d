"""Where the assistant speaks in a rendered conversation, told from renderings of it alone.

Where a template marks the assistant's turns itself (`{% generation %}`) its marks are used.
Elsewhere each turn's content is replaced by a sentinel, the conversation is rendered again, and
whatever stands in the sentinel's place is the turn, if all around it is unchanged. A template
that allows neither is refused by name: no row is ever trained on a guess.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jinja2 import TemplateError

from training.chat_template import CompiledTemplate
from training.rendered import HiddenTurnError, LeftOutError, Rendered, Span, behind_header
from training.turns import Turns

_SENTINEL = "\u2063SENTINEL{}\u2063"
_THOUGHT_END = "</think>"


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
        self._lead = self._blank_lead()

    def render(self, turns: Turns, places: list[int], tools: list[dict[str, Any]] | None) -> Exact:
        """The text of a conversation, with a span for each of the assistant's turns at `places`.

        Raises:
            HiddenTurnError: A turn cannot be located.
            LeftOutError: The template leaves out something that the conversation has.
            jinja2.TemplateError: The template refuses the conversation.
        """
        text, marks = self._template.render(turns, tools)
        if self._template.marks_turns:
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
            Span(behind_header(header, text, start, end, content), end, True, tail)
            for (start, end, tail), content in zip(found, contents, strict=True)
        )
        return Exact(Rendered(text, spans, self._template.marks_turns), begins, header)

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
            if not self._template.marks_turns:
                yield start
            elif header and header.strip() in (turns[place]["content"] or ""):
                yield start + self._written_in_mark(turns, tools, place, number)
            else:
                yield start + len(header)  # whatever there is of the header is no content

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
