"""One chat template, compiled once. What it writes depends on nothing but the conversation.

Compiled as transformers compiles it, sandboxed, because nobody asks for a conversation in
another way at inference; that has no public name, and a test holds both together.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Template, TemplateError
from transformers.utils.chat_template_utils import (
    _compile_jinja_template,
    _render_with_assistant_indices,
)

Turn = Mapping[str, Any]
Mark = tuple[int, int]

_GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = datetime(2024, 7, 26, tzinfo=UTC)
"""For templates that write the date: a day that some of them fall back to themselves."""
_MISTAKES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def _fixed_date(format: str) -> str:
    return _TODAY.strftime(format)


class CompiledTemplate:
    """Writes conversations.

    Attributes:
        marks_turns: The template marks what an assistant says with `{% generation %}`.
    """

    def __init__(self, template: str, special_tokens: Mapping[str, Any]) -> None:
        self.marks_turns = bool(_GENERATION_TAG.search(template))
        self._compiled: Template = _compile_jinja_template(template)
        self._variables: dict[str, Any] = {
            **self._compiled.globals,
            **{name: value for name, value in special_tokens.items() if isinstance(value, str)},
            "documents": None,
            "strftime_now": _fixed_date,
        }

    def render(
        self, turns: Sequence[Turn], tools: Sequence[Any] | None = None, *, prompt: bool = False
    ) -> tuple[str, list[Mark]]:
        """The text, and the marks in it if the template makes some.

        Raises:
            jinja2.TemplateError: The template refuses the conversation, or fails at it.
        """
        variables = {
            **self._variables,
            "messages": turns,
            "tools": tools,
            "add_generation_prompt": prompt,
        }
        try:
            if not self.marks_turns:
                return self._written(variables), []
            text, marks = _render_with_assistant_indices(  # type: ignore[no-untyped-call]
                compiled_template=self._compiled, **variables
            )
        except _MISTAKES as error:
            raise TemplateError(f"the chat template fails: {error}") from error
        num_answers = sum(turn["role"] == "assistant" for turn in turns)
        return text, _joined(marks) if len(marks) > num_answers else list(marks)

    def _written(self, variables: dict[str, Any]) -> str:
        """As `Template.render`, without merging the same globals into every context."""
        template = self._compiled
        context = template.environment.context_class(
            template.environment, variables, template.name, template.blocks
        )
        return template.environment.concat(template.root_render_func(context))


def _joined(marks: Sequence[Mark]) -> list[Mark]:
    """Marks that touch as one, such as an answer's and that of what ends it; no empty ones."""
    joined: list[Mark] = []
    for start, end in marks:
        if start == end:
            continue
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, end))
    return joined
