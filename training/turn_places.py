"""Where one of the assistant's turns stands in a rendered conversation.

Its content is replaced by a sentinel and the conversation is rendered again: whatever stands in the
sentinel's place is the turn, if all around it is unchanged.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jinja2 import TemplateError

from training.chat_template import CompiledTemplate
from training.rendered import HiddenTurnError, num_shared
from training.turns import Turns

_SENTINEL = "\u2063SENTINEL{}\u2063"
NOBODYS_WORDS = _SENTINEL.format(0)
"""A text that no conversation has."""
THOUGHT_END = "</think>"


class TurnPlace(NamedTuple):
    """Where a turn stands; see `training.rendered.Span`."""

    start: int
    end: int
    tail: str
    holds_end: bool = False


class TurnFinder:
    """Finds turns in what one template writes."""

    def __init__(self, template: CompiledTemplate) -> None:
        self._template = template
        self._lead = self._blank_lead()

    def find(
        self, turns: Turns, tools: list[dict[str, Any]] | None, text: str, place: int
    ) -> TurnPlace:
        """The turn at `place`; raises HiddenTurnError where it cannot be told from the rest."""
        calls = turns[place].get("tool_calls")
        for probe in _probes(turns[place]):
            try:
                found = self._replaced(turns, tools, text, place, probe)
            except TemplateError:
                if not calls:
                    raise
                continue  # what a tool answers may have to follow a call
            if found and not (calls and self._holds_answers(turns, tools, text, place, found)):
                return found
        called = self._called(turns, tools, text, place) if calls else None
        if called is None:
            which = ", which calls tools," if calls else ""
            raise HiddenTurnError(f"assistant turn {place + 1}{which} is changed by the template")
        return called

    def _replaced(
        self, turns: Turns, tools: list[dict[str, Any]] | None, text: str, place: int, probe: str
    ) -> TurnPlace | None:
        """What stands in the place of the probe, if it is the turn's and nothing else changes."""
        around = [*turns[:place], {"role": "assistant", "content": probe}, *turns[place + 1 :]]
        rendered, _ = self._template.render(around, tools)
        bounds = _bounds(rendered, probe)
        if bounds is None:
            return None
        before, after = rendered[: bounds[0]], rendered[bounds[1] :]
        end = len(text) - len(after)
        fits = text.startswith(before) and text.endswith(after) and len(before) < end
        if not fits or not _is_content(text[len(before) : end], turns[place]):
            return None
        lead = len(self._lead) if before.endswith(self._lead) else 0
        return TurnPlace(len(before) - lead, end, self._tail(around[: place + 1], tools, probe))

    def _holds_answers(
        self,
        turns: Turns,
        tools: list[dict[str, Any]] | None,
        text: str,
        place: int,
        found: TurnPlace,
    ) -> bool:
        """Whether what a tool answers changes a turn; Gemma 4 writes both in one."""
        answers = [i for i, turn in enumerate(turns) if i > place and turn["role"] == "tool"]
        if not answers:
            return False
        other = [
            {**turn, "content": NOBODYS_WORDS} if number in answers else turn
            for number, turn in enumerate(turns)
        ]
        try:
            rendered, _ = self._template.render(other, tools)
        except TemplateError:
            said = text[found.start : found.end]
            return any(turns[number]["content"].strip() in said for number in answers)
        return not rendered.startswith(text[: found.end])

    def _called(
        self, turns: Turns, tools: list[dict[str, Any]] | None, text: str, place: int
    ) -> TurnPlace | None:
        """A turn that calls tools, from where the model is asked up to where the turn ends.

        Some templates write a call with a header of its own (gpt-oss), or what a tool answers
        only behind a call, so that no content can stand in its place.
        """
        try:
            before, _ = self._template.render(turns[:place], tools)
            prompt, _ = self._template.render(turns[:place], tools, prompt=True)
            whole, _ = self._template.render(turns[: place + 1], tools)
        except TemplateError:
            return None
        supplied = num_shared(prompt, whole)
        is_asked = supplied == len(prompt) or (
            prompt.startswith(before) and supplied >= len(before)
        )
        end = len(whole.rstrip())
        if not is_asked or not text.startswith(whole) or supplied >= end:
            return None
        return TurnPlace(supplied, end, whole[end:], holds_end=True)

    def _blank_lead(self) -> str:
        """Blanks before an answer that no generation prompt supplies: the model has to say them."""
        question, probe = {"role": "user", "content": "a"}, NOBODYS_WORDS
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


def _probes(turn: Mapping[str, Any]) -> Iterator[str]:
    yield NOBODYS_WORDS
    if THOUGHT_END in (turn["content"] or ""):
        yield f"<think>\n{_SENTINEL.format(1)}\n{THOUGHT_END}\n\n{_SENTINEL.format(2)}"


def _bounds(rendered: str, probe: str) -> tuple[int, int] | None:
    """Where the probe's text stands; a thought that the template dropped is not part of it."""
    last = _SENTINEL.format(2 if THOUGHT_END in probe else 0)
    if rendered.count(last) != 1:
        return None
    end = rendered.index(last)
    start = end
    if THOUGHT_END in probe and (thought := rendered.find(_SENTINEL.format(1))) != -1:
        start = rendered.rfind("<think>", 0, thought)
    return (start, end + len(last)) if start != -1 else None


def _is_content(found: str, turn: Mapping[str, Any]) -> bool:
    if turn.get("tool_calls"):
        return True
    content: str = turn["content"]
    if found.strip() == content.strip():
        return True
    answer = content.rsplit(THOUGHT_END, 1)[-1].strip()
    return THOUGHT_END in content and found.strip().endswith(answer)
