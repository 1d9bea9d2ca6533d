"""What a ticket is: the one behaviour that the example teaches, and how an answer is judged."""

import json
from typing import Any

INSTRUCTION = "Turn the mail into a ticket."
PRODUCTS = ("lamp", "fan", "camera", "charger", "headphones", "kettle", "scale", "speaker")
CATEGORIES = ("billing", "delivery", "fault", "question", "return")
PRIORITIES = ("low", "normal", "high")
KEYS = ("category", "priority", "product", "summary")

_MAX_SUMMARY_WORDS = 12


def question(mail: str) -> list[dict[str, str]]:
    """The conversation that a ticket answers."""
    return [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": mail}]


def written(ticket: dict[str, str]) -> str:
    """A ticket as the model is taught to write it: one line, keys in a fixed order."""
    return json.dumps({key: ticket[key] for key in KEYS})


def is_valid(answer: str) -> bool:
    """Whether `answer` is one JSON ticket and nothing else: exact keys, allowed values."""
    try:
        ticket: Any = json.loads(answer)
    except ValueError:
        return False
    return (
        isinstance(ticket, dict)
        and tuple(ticket) == KEYS
        and ticket["category"] in CATEGORIES
        and ticket["priority"] in PRIORITIES
        and ticket["product"] in PRODUCTS
        and isinstance(ticket["summary"], str)
        and 0 < len(ticket["summary"].split()) <= _MAX_SUMMARY_WORDS
    )
