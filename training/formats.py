"""The dataset formats: what a row may be, and the frozen row that is made of it.

`FORMATS` is the table to extend: a check (what is refused, and what would be accepted) and a
build (from the checked JSON to a row) per format. Files of rows are checked by
`training.file_check` and read by `training.data_files`. Light: no torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from training.conversation_checks import (
    MESSAGES,
    SHAREGPT,
    calls_in,
    check_conversation,
    check_sharegpt,
    name_in,
    text_in,
    tools_in,
)
from training.data_config import FormatName
from training.json_lines import JsonObject, RowProblem, shown
from training.roles import ASSISTANT, CALL, SYSTEM, role_of
from training.row_checks import (
    INSTRUCT,
    PROMPT_COMPLETION,
    TEXT,
    Remarks,
    check_instruction,
    check_plain_text,
    check_prompt_completion,
)
from training.rows import Conversation, Instruction, Message, PromptCompletion, Row, Text

_MAX_SHOWN_KEYS = 10


@dataclass(frozen=True, slots=True)
class Format:
    """One dataset format.

    Attributes:
        keys: The columns every row has, by which the format is recognised.
        columns: Every column it reads; further ones are counted and ignored.
        check: Raises `RowProblem` on a row that is not of this format, one without `keys` too;
            returns what is odd about a good one.
        build: The row at a line number, from JSON that passed `check`.
        accepted: The shape of a row, in one sentence.
        aliases: Other names of columns, and the columns that they stand for.
        is_chat: Whether its rows need a chat template that takes conversations.
    """

    name: FormatName
    keys: frozenset[str]
    columns: frozenset[str]
    check: Callable[[JsonObject], Remarks]
    build: Callable[[int, JsonObject], Row]
    accepted: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    is_chat: bool = False

    def renamed(self, row: JsonObject) -> JsonObject:
        """`row` with its columns under the names that the format has for them."""
        if not self.aliases.keys() & row.keys():
            return row
        names = {key: self.aliases.get(key, key) for key in row}
        taken = {key for key, name in names.items() if name != key and name in row}
        return {key if key in taken else names[key]: value for key, value in row.items()}


def _conversation(line: int, row: JsonObject) -> Conversation:
    messages = [_message(message) for message in row["messages"]]
    return _with_options(line, row, messages)


def _message(message: JsonObject) -> Message:
    role = role_of(message["role"])
    assert role is not None
    return Message(
        role=role,
        content=message.get("content"),
        weight=_weight(message),
        name=message.get("name"),
        tool_calls=_objects(message.get("tool_calls")),
        tool_call_id=message.get("tool_call_id"),
    )


def _weight(turn: JsonObject) -> int | None:
    return None if (weight := turn.get("weight")) is None else int(weight)


def _sharegpt(line: int, row: JsonObject) -> Conversation:
    return _with_options(line, row, [_turn(turn) for turn in row["conversations"]])


def _turn(turn: JsonObject) -> Message:
    name, text = name_in(turn), text_in(turn)
    weight = _weight(turn)
    if name == CALL:
        calls = _objects(calls_in(text, "value"))
        return Message(ASSISTANT, None, weight, tool_calls=calls)
    role = role_of(name)
    assert role is not None
    return Message(role, text, weight if role == ASSISTANT else None)


def _with_options(line: int, row: JsonObject, messages: list[Message]) -> Conversation:
    if row.get("system") is not None:
        messages.insert(0, Message(SYSTEM, row["system"]))
    return Conversation(line, tuple(messages), _objects(tools_in(row.get("tools"))))


def _objects(value: list[JsonObject] | None) -> tuple[JsonObject, ...] | None:
    return tuple(map(_without_nulls, value)) if value else None


def _without_nulls(value: Any) -> Any:  # noqa: ANN401 - JSON
    """`value` less the keys, at any depth, that are null: a table pads objects with those.

    A template would write the parameters of one tool into the next.
    """
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _instruction(line: int, row: JsonObject) -> Instruction:
    text = row["instruction"], row["output"], row.get("input") or "", row.get("system")
    return Instruction(line, *text, tuple((q, a) for q, a in row.get("history") or ()))


def _prompt_completion(line: int, row: JsonObject) -> PromptCompletion:
    return PromptCompletion(line, row["prompt"], row["completion"])


def _text(line: int, row: JsonObject) -> Text:
    return Text(line, row["text"])


_FORMATS = (
    Format(
        name="messages",
        keys=frozenset({"messages"}),
        columns=frozenset({"messages", "tools", "parallel_tool_calls", "system"}),
        check=check_conversation,
        build=_conversation,
        accepted=MESSAGES,
        aliases={"conversation": "messages"},
        is_chat=True,
    ),
    Format(
        name="sharegpt",
        keys=frozenset({"conversations"}),
        columns=frozenset({"conversations", "tools", "system"}),
        check=check_sharegpt,
        build=_sharegpt,
        accepted=SHAREGPT,
        is_chat=True,
    ),
    Format(
        name="instruct",
        keys=frozenset({"instruction", "output"}),
        columns=frozenset({"instruction", "output", "input", "system", "history"}),
        check=check_instruction,
        build=_instruction,
        accepted=INSTRUCT,
    ),
    Format(
        name="prompt_completion",
        keys=frozenset({"prompt", "completion"}),
        columns=frozenset({"prompt", "completion"}),
        check=check_prompt_completion,
        build=_prompt_completion,
        accepted=PROMPT_COMPLETION,
    ),
    Format(
        name="text",
        keys=frozenset({"text"}),
        columns=frozenset({"text"}),
        check=check_plain_text,
        build=_text,
        accepted=TEXT,
    ),
)
FORMATS: Mapping[FormatName, Format] = MappingProxyType({each.name: each for each in _FORMATS})
"""Every format by its name, in the order in which they are tried on a row."""


def detect_format(row: JsonObject) -> FormatName | None:
    """The first format in `FORMATS` all of whose keys the row has."""
    format = _detected(row)
    return None if format is None else format.name


def _detected(row: JsonObject) -> Format | None:
    return next((each for each in FORMATS.values() if each.renamed(row).keys() >= each.keys), None)


class RowChecker:
    """Checks that all rows have one format: the given one, else that of the first good row.

    Attributes:
        format: None until it is known.
    """

    def __init__(self, name: FormatName | None) -> None:
        self.format = None if name is None else FORMATS[name]

    def check(self, row: JsonObject) -> tuple[JsonObject, Remarks]:
        """A row that is good, as its format names the columns, and what is odd about it.

        Raises:
            RowProblem: It is not, or it is of another format than the rows before.
        """
        format = self.format_of(row)
        named = format.renamed(row)
        remarks = format.check(named)
        self.format = format
        return named, remarks

    def format_of(self, row: JsonObject) -> Format:
        """The format of a row by its keys alone.

        Raises:
            RowProblem: They are those of none, or of another one than the rows before have.
        """
        format = self.format or _detected(row)
        if format is None or not format.renamed(row).keys() >= format.keys:
            raise self._foreign(row)
        return format

    def build(self, line: int, row: JsonObject) -> Row:
        """The row at a line; raises RowProblem as `check` does."""
        named, _ = self.check(row)
        assert self.format is not None
        return self.format.build(line, named)

    def _foreign(self, row: JsonObject) -> RowProblem:
        found = ", ".join(shown(key) for key in list(row)[:_MAX_SHOWN_KEYS]) or "none"
        if self.format is None:
            accepted = " ".join(each.accepted for each in FORMATS.values())
            return RowProblem(f"no known format has just these keys: {found}", accepted)
        other = _detected(row)
        if other is not None:
            reason = f"a row of format {other.name} in a file of format {self.format.name}"
        else:
            missing = ", ".join(sorted(self.format.keys - row.keys()))
            reason = f"{missing} is missing; the row has the keys: {found}"
        return RowProblem(reason, self.format.accepted)
