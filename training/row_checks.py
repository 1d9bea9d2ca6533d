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
    messages = row["messages"]
    if not isinstance(messages, list):
        raise RowProblem(f"messages is {kind(messages)}, not an array", MESSAGES)
    if not messages:
        raise RowProblem("messages is empty", MESSAGES)
    if "assistant" not in _checked_roles(messages):
        raise RowProblem("no message is the assistant's, so there is nothing to learn", MESSAGES)
    if len(row) > 1:
        _check_conversation_options(row)


def _checked_roles(messages: list[object]) -> list[str]:
    roles = [_check_message(index, message) for index, message in enumerate(messages)]
    if "tool" in roles:
        _check_tool_turns(messages, roles)
    return roles


def _check_tool_turns(messages: list[Any], roles: list[str]) -> None:
    tools_called = False
    for index, role in enumerate(roles):
        if role != "tool":
            tools_called = bool(messages[index].get("tool_calls"))
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
    content = message.get("content")
    if role == "assistant":
        _check_answer(index, message)
    elif not isinstance(content, str):
        raise _wrong_content(index, message)
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


def _wrong_content(index: int, message: JsonObject) -> RowProblem:
    if "content" not in message:
        return RowProblem(f"messages[{index}] has no content", "A content that is a string.")
    reason = f"messages[{index}].content is {kind(message['content'])}, not a string"
    return RowProblem(reason, "A content that is one string; parts and images are not read.")


def _check_answer(index: int, message: JsonObject) -> None:
    content = message.get("content")
    if isinstance(content, str) and content and not content.isspace():
        return
    if content is not None and not isinstance(content, str):
        raise _wrong_content(index, message)
    if message.get("tool_calls"):
        return
    if content is None:
        raise _wrong_content(index, message)
    reason = f"messages[{index}] is an empty assistant turn"
    raise RowProblem(reason, "An assistant's content with text in it, or tool_calls.")


def _check_turn_options(index: int, message: JsonObject) -> None:
    at = f"messages[{index}]"
    _check_text(message.get("name"), f"{at}.name")
    _check_text(message.get("tool_call_id"), f"{at}.tool_call_id")
    weight = message.get("weight")
    if weight is not None and (type(weight) is not int or weight not in {0, 1}):
        raise RowProblem(f"{at}.weight is {shown(weight)}", "A weight of 0 or 1, or none.")
    _check_functions(message.get("tool_calls"), f"{at}.tool_calls")


def _check_conversation_options(row: JsonObject) -> None:
    _check_functions(row.get("tools"), "tools")
    _check_text(row.get("system"), "system")
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


def _check_text(value: object, at: str) -> None:
    """A string that may be left out, or null."""
    if value is not None and not isinstance(value, str):
        raise RowProblem(f"{at} is {kind(value)}, not a string", f"A string for {at}, or none.")


def _check_target(row: JsonObject, key: str, accepted: str) -> None:
    """A string that is learned, so there must be something in it."""
    value = row[key]
    if not isinstance(value, str):
        raise RowProblem(f"{key} is {kind(value)}, not a string", accepted)
    if not value or value.isspace():
        raise RowProblem(f"{key} is empty, so there is nothing to learn", accepted)


def _check_source(row: JsonObject, key: str, accepted: str) -> None:
    """A string that must be there."""
    if not isinstance(row[key], str):
        raise RowProblem(f"{key} is {kind(row[key])}, not a string", accepted)


def check_instruction(row: JsonObject) -> None:
    _check_source(row, "instruction", INSTRUCT)
    _check_target(row, "output", INSTRUCT)
    _check_text(row.get("input"), "input")
    _check_text(row.get("system"), "system")


def check_prompt_completion(row: JsonObject) -> None:
    _check_source(row, "prompt", PROMPT_COMPLETION)
    _check_target(row, "completion", PROMPT_COMPLETION)
