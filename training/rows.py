"""What training reads: one frozen value per dataset format, made by `training.formats`."""

from dataclasses import dataclass
from typing import NamedTuple

from training.json_lines import JsonObject


class Message(NamedTuple):
    """One turn of a conversation. `content` is None only where an assistant calls tools."""

    role: str
    content: str | None
    weight: int | None = None
    """0 keeps an assistant's turn out of the loss; 1 or None trains on it."""
    name: str | None = None
    tool_calls: tuple[JsonObject, ...] | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    line: int
    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] | None = None


@dataclass(frozen=True, slots=True)
class Instruction:
    line: int
    instruction: str
    output: str
    input: str = ""
    system: str | None = None
    """None leaves the template's own system prompt; an empty one removes it."""
    history: tuple[tuple[str, str], ...] = ()
    """Questions and answers of the conversation so far."""


@dataclass(frozen=True, slots=True)
class PromptCompletion:
    line: int
    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text: every token of it is trained on, and the end of sequence that is put behind."""

    line: int
    text: str


Row = Conversation | Instruction | PromptCompletion | Text
