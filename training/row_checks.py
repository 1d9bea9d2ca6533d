"""What each dataset format refuses in a row, and what it would accept instead.

Works on parsed JSON and raises `RowProblem`; the rows themselves, and the table of formats that
names these checks, are in `training.formats`. Every row of every upload passes here, so the
checks of a message look at what is usual first and build their sentences only to refuse.
"""

from collections.abc import Mapping
from typing import Any

from training.json_lines import JsonObject, RowProblem, kind, shown

MESSAGES = (
    'A row such as {"messages": [{"role": "user", "content": "…"}, '
    '{"role": "assistant", "content": "…"}]}, optionally with tools and system.'
)
INSTRUCT = 'A row such as {"instruction": "…", "input": "", "output": "…"}, optionally with system.'
PROMPT_COMPLETION = 'A row such as {"prompt": "…", "completion": "…"}.'
_CONTENT = "A content that is one string; parts and images are not read."

_TURN_KEYS = frozenset({"role", "content", "name"})
_MESSAGE_KEYS: Mapping[str, frozenset[str]] = {
    "system": _TURN_KEYS,
    "developer": _TURN_KEYS,
    "user": _TURN_KEYS,
    "assistant": _TURN_KEYS | {"weight", "tool_calls"},
    "tool": _TURN_KEYS | {"tool_call_id"},
}
_FOREIGN_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function": "tool",
    "observation": "tool",
}


def check_conversation(row: JsonObject) -> None:
    messages = row.get("messages")
    if not isinstance(messages, list):
        raise RowProblem(f"messages is {kind(messages)}, not an array", MESSAGES)
    if not messages:
        raise RowProblem("messages is empty", MESSAGES)
    roles = _plain_roles(messages) or _checked_roles(messages)
    if "assistant" not in roles:
        raise RowProblem("no message is the assistant's, so there is nothing to learn", MESSAGES)
    if "tool" in roles:
        _check_tool_turns(messages)
    if len(row) > 1:
        _check_conversation_options(row)


def _plain_roles(messages: list[Any]) -> set[str] | None:
    """The roles of messages that hold a role and a text only; None asks for a closer look."""
    roles = set()
    for message in messages:
        if not isinstance(message, dict) or len(message) != 2:
            return None
        role, content = message.get("role"), message.get("content")
        if not isinstance(content, str) or not content or content.isspace() or "\0" in content:
            return None
        if not isinstance(role, str) or role not in _MESSAGE_KEYS:
            return None
        roles.add(role)
    return roles


def _checked_roles(messages: list[Any]) -> set[str]:
    return {_check_message(index, message) for index, message in enumerate(messages)}


def _check_tool_turns(messages: list[JsonObject]) -> None:
    tools_called = False
    for index, message in enumerate(messages):
        if message["role"] != "tool":
            tools_called = bool(message.get("tool_calls"))
        elif not tools_called:
            reason = f"messages[{index}] is a tool's, but no assistant called one before it"
            raise RowProblem(reason, "A tool's message after an assistant's with tool_calls.")


def _check_message(index: int, message: object) -> str:
    if not isinstance(message, dict):
        raise RowProblem(f"messages[{index}] is {kind(message)}, not an object", MESSAGES)
    role = message.get("role")
    keys = _MESSAGE_KEYS.get(role) if isinstance(role, str) else None
    if keys is None or not isinstance(role, str):
        raise _wrong_role(index, message)
    if not message.keys() <= keys:
        unknown = ", ".join(shown(key) for key in sorted(message.keys() - keys))
        reason = f"messages[{index}] has keys that a message of role {role} cannot: {unknown}"
        raise RowProblem(reason, f"The keys {', '.join(sorted(keys))}.")
    _check_content(index, message)
    if len(message) > 2:
        _check_turn_options(index, message)
    return role


def _wrong_role(index: int, message: JsonObject) -> RowProblem:
    accepted = f"One of the roles {', '.join(_MESSAGE_KEYS)}."
    if "role" not in message:
        return RowProblem(f"messages[{index}] has no role", accepted)
    role = message["role"]
    reason = f"messages[{index}].role is {shown(role)}"
    meant = _FOREIGN_ROLES.get(role.lower(), role.lower()) if isinstance(role, str) else None
    if meant in _MESSAGE_KEYS:
        reason = f'{reason}; write "{meant}"'
    return RowProblem(reason, accepted)


def _check_content(index: int, message: JsonObject) -> None:
    at = f"messages[{index}]"
    tool_calls, content = message.get("tool_calls"), message.get("content")
    if tool_calls and content is None:
        return
    if "content" not in message:
        raise RowProblem(f"{at} has no content", _CONTENT)
    _check_text(content, f"{at}.content", _CONTENT)
    if message["role"] == "assistant" and not tool_calls and _is_blank(content):
        raise RowProblem(f"{at} is an empty assistant turn", "A content to learn, or tool_calls.")


def _check_turn_options(index: int, message: JsonObject) -> None:
    at = f"messages[{index}]"
    _check_optional_text(message.get("name"), f"{at}.name")
    _check_optional_text(message.get("tool_call_id"), f"{at}.tool_call_id")
    weight = message.get("weight")
    if weight is not None and (type(weight) is not int or weight not in {0, 1}):
        raise RowProblem(f"{at}.weight is {shown(weight)}", "A weight of 0 or 1, or none.")
    _check_functions(message.get("tool_calls"), f"{at}.tool_calls")


def _check_conversation_options(row: JsonObject) -> None:
    _check_functions(row.get("tools"), "tools")
    _check_optional_text(row.get("system"), "system")
    if row.get("system") is not None and row["messages"][0]["role"] in {"system", "developer"}:
        reason = "the row has a system prompt twice, as a column and as its first message"
        raise RowProblem(reason, "Either the column system, or a first message of that role.")
    parallel = row.get("parallel_tool_calls")
    if parallel is not None and not isinstance(parallel, bool):
        reason = f"parallel_tool_calls is {kind(parallel)}, not a boolean"
        raise RowProblem(reason, "true, false, or no such key; it does not change training.")


def _check_functions(value: object, at: str) -> None:
    """`tools` and `tool_calls` alike: a list of objects that each name a function."""
    if value is None:
        return
    accepted = 'An array of objects {"type": "function", "function": {"name": "…", …}}.'
    if not isinstance(value, list):
        raise RowProblem(f"{at} is {kind(value)}, not an array", accepted)
    for index, item in enumerate(value):
        function = item.get("function") if isinstance(item, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            raise RowProblem(f"{at}[{index}] has no function with a name", accepted)


def _check_text(value: object, at: str, accepted: str) -> None:
    if not isinstance(value, str):
        raise RowProblem(f"{at} is {kind(value)}, not a string", accepted)
    if "\0" in value:
        raise RowProblem(f"{at} holds a NUL character", "Text without NUL characters.")


def _check_optional_text(value: object, at: str) -> None:
    """A string that may be left out, or null."""
    if value is not None:
        _check_text(value, at, f"A string for {at}, or none.")


def _check_target(row: JsonObject, key: str, accepted: str) -> None:
    """A string that is learned, so there must be something in it."""
    value = row.get(key)
    _check_text(value, key, accepted)
    if _is_blank(value):
        raise RowProblem(f"{key} is empty, so there is nothing to learn", accepted)


def _is_blank(text: object) -> bool:
    return isinstance(text, str) and (not text or text.isspace())


def check_instruction(row: JsonObject) -> None:
    _check_text(row.get("instruction"), "instruction", INSTRUCT)
    _check_target(row, "output", INSTRUCT)
    if len(row) > 2:
        _check_optional_text(row.get("input"), "input")
        _check_optional_text(row.get("system"), "system")


def check_prompt_completion(row: JsonObject) -> None:
    _check_text(row.get("prompt"), "prompt", PROMPT_COMPLETION)
    _check_target(row, "completion", PROMPT_COMPLETION)
