"""A conversation as a chat template writes it, and where the assistant speaks in it."""

from dataclasses import dataclass


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


def behind_header(header: str, text: str, start: int, end: int, content: int) -> int:
    """Where the model begins to speak in a turn: behind what the generation prompt supplies of it.

    That begins before the content does: the words of a header in a content are the content's own.
    """
    place = text.find(header, max(0, start - len(header)), end) if header else -1
    if place == -1 or place > start or place >= content:
        return start
    return max(start, place + len(header))
