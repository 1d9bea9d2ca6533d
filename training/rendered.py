"""A conversation as a chat template writes it, and where the assistant speaks in it."""

from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple


class HiddenTurnError(ValueError):
    """An assistant's turn cannot be told from the rest of the rendered text."""


class LeftOutError(ValueError):
    """The template does not show the model a part of the conversation that the row has."""


class Span(NamedTuple):
    """Characters `start` to `end` of a rendered text: what the assistant says in one turn.

    Attributes:
        takes_loss: False for a turn whose weight is 0, or that is not asked for.
        tail: What follows when this turn is the last one; its first special token may close it.
        holds_end: It has more than the content at its end: a mark of the template, or a whole turn
            that calls tools. Elsewhere a token that ends turns may be the content's own.
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
    if place == -1 or place >= content:
        return max(start, min(content, _behind_part(header, text, start)))
    if place > start:
        return start
    return max(start, place + len(header))


def _behind_part(header: str, text: str, start: int) -> int:
    """Behind as much of a header as stands around a place, for one with a thought that is not."""
    places = range(max(0, start - len(header)), start + 1)
    begins = (place for place in places if header.startswith(text[place:start]))
    return max((place + num_shared(header, text[place:]) for place in begins), default=start)


def num_shared(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
