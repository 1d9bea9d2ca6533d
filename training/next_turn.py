"""What a chat template writes where another than the assistant speaks next.

Some templates write nothing behind an answer: it ends where the next turn begins (GLM:
`<|user|>`), and the model stops at the token that begins it.
"""

from typing import Any

from jinja2 import TemplateError

from training.chat_template import CompiledTemplate

_SAID = "\u2063SAID\u2063"
_QUESTION = {"role": "user", "content": "a"}
_ANSWER = {"role": "assistant", "content": _SAID}
_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": _SAID, "arguments": {}}}],
}
_RESULT = {"role": "tool", "content": "b", "name": _SAID}


def next_turn(template: CompiledTemplate, *, after_call: bool) -> str:
    """What follows an answer, or a call of a tool, that is not the last turn; empty if unknown."""
    turns: list[dict[str, Any]] = [_QUESTION, _CALL if after_call else _ANSWER]
    try:
        whole, _ = template.render(turns)
        longer, _ = template.render([*turns, _RESULT if after_call else _QUESTION])
    except TemplateError:
        return ""
    answer = whole[whole.find(_SAID) :]
    return longer.partition(answer)[2] if answer.startswith(_SAID) else ""
