"""What a conversation may be, in OpenAI's words or in ShareGPT's, and what is odd about one.

Every row of every upload passes here, so the checks look at what is usual first and build their
sentences only to refuse. A key whose value is null counts as absent: tables pad with nulls what
some of their rows have.
"""

from collections.abc import Mapping
from typing import Any

from training.json_lines import JsonObject, RowProblem, kind, read_exactly, shown
from training.roles import (
    CALL,
    EMPTY,
    OPENAI_NAMES,
    ROLES,
    SHAREGPT_NAMES,
    SYSTEM,
    TOOL,
    Orders,
    role_of,
)
from training.row_checks import Remarks, check_optional_text, check_text, is_blank

MESSAGES = (
    'A row such as {"messages": [{"role": "user", "content": "…"}, '
    '{"role": "assistant", "content": "…"}]}, optionally with tools and system.'
)
SHAREGPT = (
    'A row such as {"conversations": [{"from": "human", "value": "…"}, '
    '{"from": "gpt", "value": "…"}]}, optionally with tools and system.'
)
_CONTENT = "A content that is one string; parts and images are not read."
_THOUGHT = "a thought stands in the content, between <think> and </think>"
_CALL = 'A call such as {"name": "…", "arguments": {…}}, as JSON, or an array of them.'
_TOOLS = 'An array of objects {"type": "function", "function": {"name": "…", …}}.'

_TURN_KEYS = frozenset({"role", "content", "name"})
_MESSAGE_KEYS: Mapping[str, frozenset[str]] = {
    "system": _TURN_KEYS,
    "user": _TURN_KEYS,
    "assistant": _TURN_KEYS | {"weight", "tool_calls"},
    "tool": _TURN_KEYS | {"tool_call_id"},
}
_SHAREGPT_KEYS = frozenset({"from", "role", "value", "content", "weight"})
_NAMES = frozenset(ROLES)
_ROLES = f"One of the roles {', '.join(ROLES)}, in any case"
_MESSAGES_ORDERS, _SHAREGPT_ORDERS = Orders(OPENAI_NAMES), Orders(SHAREGPT_NAMES)
UNREAD_KEYS = "keys of a turn that are not read"


def check_conversation(row: JsonObject) -> Remarks:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _no_turns("messages", messages, MESSAGES)
    remarks: Remarks = ()
    names = _plain_names(messages, "role", "content")
    if names is None:
        names = tuple(_check_message(index, message) for index, message in enumerate(messages))
        remarks = _empty_ones(messages)
    order = _MESSAGES_ORDERS.known.get(names) or _MESSAGES_ORDERS.find(names)
    if not order.has_answer:
        raise _no_answer(MESSAGES)
    if order.has_tool:
        _check_tool_turns(messages)
    if len(row) > 1:
        _check_options(row, messages[0]["role"])
    return order.remarks + remarks if remarks else order.remarks


def check_sharegpt(row: JsonObject) -> Remarks:
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise _no_turns("conversations", turns, SHAREGPT)
    remarks: Remarks = ()
    names = _plain_names(turns, "from", "value")
    if names is None:
        names = tuple(_check_turn(index, turn) for index, turn in enumerate(turns))
        remarks = _odd_ones(turns)
    order = _SHAREGPT_ORDERS.known.get(names) or _SHAREGPT_ORDERS.find(names)
    if not order.has_answer:
        raise _no_answer(SHAREGPT)
    if len(row) > 1:
        _check_options(row, name_in(turns[0]))
    return order.remarks + remarks if remarks else order.remarks


def name_in(turn: JsonObject) -> str:
    """Who speaks in a turn of ShareGPT's."""
    name: str = turn["from"] if turn.get("from") is not None else turn["role"]
    return name


def text_in(turn: JsonObject) -> str:
    """What is said in a turn of ShareGPT's."""
    text: str = turn["value"] if turn.get("value") is not None else turn["content"]
    return text


def calls_in(text: object, at: str) -> list[JsonObject]:
    """The calls that a turn of ShareGPT's consists of, in OpenAI's words.

    Raises:
        RowProblem: They are not JSON, or name no function.
    """
    value = _json_in(text, at, _CALL)
    calls = value if isinstance(value, list) else [value]
    for call in calls:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise RowProblem(f"{at} is a call without the name of a function", _CALL)
    if not calls:
        raise RowProblem(f"{at} calls no function", _CALL)
    return [
        {
            "type": "function",
            "function": {"name": call["name"], "arguments": call.get("arguments") or {}},
        }
        for call in calls
    ]


def tools_in(value: object) -> list[Any]:
    """The tools of a row, which may be written as JSON in a string, and without an envelope.

    Raises:
        RowProblem: They are not JSON.
    """
    if isinstance(value, str):
        value = None if is_blank(value) else _json_in(value, "tools", _TOOLS)
    if value is None:
        return []
    if not isinstance(value, list):
        raise RowProblem(f"tools is {kind(value)}, not an array", _TOOLS)
    return [_in_envelope(tool) for tool in value]


def _in_envelope(tool: Any) -> Any:  # noqa: ANN401 - JSON
    is_bare = isinstance(tool, dict) and tool.get("function") is None and "name" in tool
    return {"type": "function", "function": tool} if is_bare else tool


def _json_in(text: object, at: str, accepted: str) -> Any:  # noqa: ANN401 - JSON
    if not isinstance(text, str):
        raise RowProblem(f"{at} is {kind(text)}, not a string", accepted)
    try:
        return read_exactly(text.encode())
    except RowProblem as problem:
        raise RowProblem(f"{at} is a string that is no JSON: {problem}", accepted) from None


def _no_turns(column: str, turns: object, accepted: str) -> RowProblem:
    reason = "is empty" if turns == [] else f"is {kind(turns)}, not an array"
    return RowProblem(f"{column} {reason}", accepted)


def _no_answer(accepted: str) -> RowProblem:
    return RowProblem("no message is the assistant's, so there is nothing to learn", accepted)


def _plain_names(turns: list[Any], name_key: str, text_key: str) -> tuple[str, ...] | None:
    """The roles of turns that hold a known one and a text only; None asks for a closer look."""
    names = []
    try:
        for turn in turns:
            name, text = turn[name_key], turn[text_key]
            if len(turn) != 2 or name not in _NAMES:
                return None
            if type(text) is not str or not text or text.isspace() or "\0" in text:
                return None
            names.append(name)
    except (KeyError, TypeError):  # no such key, no object, or a name that is a list
        return None
    return tuple(names)


def _check_tool_turns(messages: list[JsonObject]) -> None:
    tools_called = False
    for index, message in enumerate(messages):
        if role_of(message["role"]) != TOOL:
            tools_called = bool(message.get("tool_calls"))
        elif not tools_called:
            reason = f"messages[{index}] is a tool's, but no assistant called one before it"
            raise RowProblem(reason, "A tool's message after an assistant's with tool_calls.")


def _check_message(index: int, message: object) -> str:
    if not isinstance(message, dict):
        raise RowProblem(f"messages[{index}] is {kind(message)}, not an object", MESSAGES)
    name = message.get("role")
    role = role_of(name)
    if role is None or not isinstance(name, str):
        raise _wrong_role(f"messages[{index}]", "role", message, _ROLES)
    keys = _MESSAGE_KEYS[role]
    if not message.keys() <= keys:
        _refuse_unknown_keys(index, message, role)
    _check_content(index, message, role)
    if len(message) > 2:
        _check_turn_options(index, message)
    return name


def _refuse_unknown_keys(index: int, message: JsonObject, role: str) -> None:
    keys = _MESSAGE_KEYS[role]
    unknown = sorted(key for key in message.keys() - keys if message[key] is not None)
    if unknown:
        told = ", ".join(map(shown, unknown))
        reason = f"messages[{index}] has keys that a message of role {role} cannot: {told}"
        thought = f"; {_THOUGHT}" if role == "assistant" else ""
        raise RowProblem(reason, f"The keys {', '.join(sorted(keys))}{thought}.")


def _wrong_role(at: str, key: str, turn: JsonObject, roles: str) -> RowProblem:
    if key not in turn:
        return RowProblem(f"{at} has no {key}", f"{roles}.")
    return RowProblem(f"{at}.{key} is {shown(turn[key])}", f"{roles}.")


def _check_content(index: int, message: JsonObject, role: str) -> None:
    at = f"messages[{index}]"
    tool_calls, content = message.get("tool_calls"), message.get("content")
    if tool_calls and content is None:
        return
    if "content" not in message:
        raise RowProblem(f"{at} has no content", _CONTENT)
    check_text(content, f"{at}.content", _CONTENT)
    if role == "assistant" and not tool_calls and is_blank(content):
        raise RowProblem(f"{at} is an empty assistant turn", "A content to learn, or tool_calls.")


def _check_turn_options(index: int, message: JsonObject) -> None:
    at = f"messages[{index}]"
    check_optional_text(message.get("name"), f"{at}.name")
    check_optional_text(message.get("tool_call_id"), f"{at}.tool_call_id")
    _check_weight(message.get("weight"), f"{at}.weight")
    _check_functions(message.get("tool_calls"), f"{at}.tool_calls")


def _check_weight(weight: object, at: str) -> None:
    """0 or 1, which tables write as 0.0 and 1.0 where some rows have none; no boolean."""
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        raise RowProblem(f"{at} is {shown(weight)}", "A weight of 0 or 1, or none.")


def _empty_ones(messages: list[JsonObject]) -> Remarks:
    """Of turns that were found good: an empty one of the assistant calls tools, at least."""
    empty = (is_blank(m.get("content")) and not m.get("tool_calls") for m in messages)
    return (EMPTY,) if any(empty) else ()


def _check_turn(index: int, turn: object) -> str:
    at = f"conversations[{index}]"
    if not isinstance(turn, dict):
        raise RowProblem(f"{at} is {kind(turn)}, not an object", SHAREGPT)
    key = "role" if turn.get("from") is None and "role" in turn else "from"
    name = turn.get(key)
    if not isinstance(name, str) or (name != CALL and role_of(name) is None):
        raise _wrong_role(at, key, turn, f"{_ROLES}; or {CALL}")
    text_key = "content" if turn.get("value") is None and "content" in turn else "value"
    if text_key not in turn:
        raise RowProblem(f"{at} has no {text_key}", SHAREGPT)
    _check_value(turn[text_key], name, f"{at}.{text_key}")
    _check_weight(turn.get("weight"), f"{at}.weight")
    return name


def _check_value(text: object, name: str, at: str) -> None:
    check_text(text, at, _CONTENT)
    if name == CALL:
        calls_in(text, at)
    elif role_of(name) == "assistant" and is_blank(text):
        raise RowProblem(f"{at} is an empty assistant turn", "A text to learn.")


def _odd_ones(turns: list[JsonObject]) -> Remarks:
    is_empty = any(is_blank(text_in(turn)) for turn in turns)
    has_more = any(
        value is not None and key not in _SHAREGPT_KEYS
        for turn in turns
        for key, value in turn.items()
    )
    return (EMPTY,) * is_empty + (UNREAD_KEYS,) * has_more


def _check_options(row: JsonObject, first_name: str) -> None:
    if (tools := row.get("tools")) is not None:
        _check_functions(tools_in(tools), "tools")
    system = row.get("system")
    check_optional_text(system, "system")
    if system is not None and role_of(first_name) == SYSTEM:
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
    if not isinstance(value, list):
        raise RowProblem(f"{at} is {kind(value)}, not an array", _TOOLS)
    for index, item in enumerate(value):
        function = item.get("function") if isinstance(item, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            raise RowProblem(f"{at}[{index}] has no function with a name", _TOOLS)
