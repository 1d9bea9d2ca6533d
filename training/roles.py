"""Who speaks in a conversation: the names that data sets give the roles, and odd orders of them.

`ROLES` is the table to extend. An odd order is no error: it is kept as it is and counted, because
what can be made of it is for the chat template to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
CALL = "function_call"
"""In ShareGPT's data: a turn of the assistant whose text is a call of a tool, as JSON."""

ROLES: Mapping[str, str] = MappingProxyType(
    {
        "system": SYSTEM,
        "developer": SYSTEM,
        "user": USER,
        "human": USER,
        "prompter": USER,
        "utilisateur": USER,
        "assistant": ASSISTANT,
        "gpt": ASSISTANT,
        "chatgpt": ASSISTANT,
        "bot": ASSISTANT,
        "model": ASSISTANT,
        "ai": ASSISTANT,
        "tool": TOOL,
        "function": TOOL,
        "observation": TOOL,
    }
)
"""The role under each of its names, which are told apart without regard to case."""

OPENAI_NAMES = frozenset({"system", "developer", "user", "assistant", "tool"})
SHAREGPT_NAMES = OPENAI_NAMES | {"human", "gpt", "observation", CALL}

RENAMED = "roles under other names"
SAME_ROLE = "two turns of one role together"
ASSISTANT_FIRST = "the assistant begins"
LAST_UNANSWERED = "turns after the last answer, which are not read"
LATER_SYSTEM = "a system message after the first turn"
EMPTY = "an empty turn that is not the assistant's"

_MAX_KNOWN, _MAX_KNOWN_TURNS = 2048, 64


@dataclass(frozen=True, slots=True)
class Order:
    """Whose turn it is, one after another.

    Attributes:
        has_answer: Whether the assistant speaks.
        has_tool: Whether a tool answers.
        remarks: What is odd about it, each kind once.
    """

    has_answer: bool
    has_tool: bool
    remarks: tuple[str, ...]


def role_of(name: object) -> str | None:
    """The role that a name stands for."""
    if not isinstance(name, str):
        return None
    return ROLES.get(name) or ROLES.get(name.casefold())


class Orders:
    """Orders by the names that speak, remembered: most rows of a file have one of a few.

    Attributes:
        known: Look here first; it is a dictionary, because every row of every upload does.
    """

    def __init__(self, native: frozenset[str]) -> None:
        """`native` are the names that are nothing to remark upon."""
        self.known: dict[tuple[str, ...], Order] = {}
        self._native = native

    def find(self, names: tuple[str, ...]) -> Order:
        """The order of turns under these names, all of them in the table.

        A function call is a turn of the assistant.
        """
        roles = [ASSISTANT if name == CALL else role_of(name) for name in names]
        remarks = tuple(_remarks(names, roles, self._native))
        order = Order(ASSISTANT in roles, TOOL in roles, remarks)
        if len(names) <= _MAX_KNOWN_TURNS and len(self.known) < _MAX_KNOWN:
            self.known[names] = order
        return order


def _remarks(names: tuple[str, ...], roles: list[str | None], native: frozenset[str]) -> list[str]:
    spoken = roles[1:] if roles[0] == SYSTEM else roles
    found = {
        RENAMED: not native.issuperset(names),
        SAME_ROLE: any(a == b != TOOL for a, b in pairwise(roles)),
        ASSISTANT_FIRST: spoken[:1] == [ASSISTANT],
        LAST_UNANSWERED: ASSISTANT in roles and roles[-1] != ASSISTANT,
        LATER_SYSTEM: SYSTEM in roles[1:],
    }
    return [remark for remark, applies in found.items() if applies]
