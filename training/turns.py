"""Messages as chat templates read them: dicts, the arguments of a call as an object."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from training.rows import Message

Turns = list[dict[str, Any]]
Shape = tuple[str, ...]
"""The roles of a conversation's turns, one after the other."""


def shape_of(turns: Turns) -> Shape | None:
    """None for what is not to be learned from: calls of tools and whatever else is no content."""
    if all(len(turn) == 2 and turn["role"] != "tool" for turn in turns):
        return tuple(turn["role"] for turn in turns)
    return None


def as_turn(message: Message) -> dict[str, Any]:
    """A message with no more keys than it has values."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is None and message.tool_call_id is None and message.tool_calls is None:
        return turn
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [_as_tool_call(call) for call in message.tool_calls]
    return turn


def ways_to_call(turns: Turns) -> Iterator[Turns]:
    """The same calls as one template or another reads them, as they are first.

    With no content, None or an empty text, beside them: some fail at the one, some leave out the
    call at the other. And with arguments that are an object, or JSON.
    """
    for has_json in (False, True):
        for has_other_blank in (False, True):
            yield [
                _in_another_way(turn, has_json=has_json, has_other_blank=has_other_blank)
                for turn in turns
            ]


def _in_another_way(
    turn: dict[str, Any], *, has_json: bool, has_other_blank: bool
) -> dict[str, Any]:
    calls = turn.get("tool_calls")
    if not calls:
        return turn
    changed: dict[str, Any] = {}
    if has_json:
        changed["tool_calls"] = [
            {**call, "function": _with_json_arguments(call["function"])} for call in calls
        ]
    if has_other_blank and not (turn["content"] or "").strip():
        changed["content"] = "" if turn["content"] is None else None
    return {**turn, **changed}


def _with_json_arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    if not isinstance(arguments, dict):
        return dict(function)
    return {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}


def _as_tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI sends arguments as JSON in a string; templates write them out as an object."""
    function = dict(call.get("function", {}))
    if isinstance(arguments := function.get("arguments"), str):
        try:
            function["arguments"] = json.loads(arguments)
        except (ValueError, RecursionError):
            function["arguments"] = arguments
    return {**call, "function": function}
