"""Data files that people really send: what must be accepted, and what must be refused and where.

Built here byte by byte, so that the API's tests can upload the same files.
"""

import json
from dataclasses import dataclass

LINE_LIMIT = 8192
"""The line cap that `a line over the cap` is made for."""


@dataclass(frozen=True)
class Refused:
    """A file with one bad row: where it is, and words of the reason."""

    content: bytes
    reason: str
    column: int | None = None
    line: int = 2
    num_good: int = 2


GOOD = json.dumps(
    {"messages": [{"role": "user", "content": "Hé?"}, {"role": "assistant", "content": "Oui."}]}
).encode()


def row(*messages: object, **columns: object) -> bytes:
    """A messages row."""
    return json.dumps({"messages": list(messages), **columns}).encode()


def turn(role: str, content: object = "text", **keys: object) -> dict[str, object]:
    return {"role": role, "content": content, **keys}


def said(speaker: str, value: object = "text", **keys: object) -> dict[str, object]:
    """A turn of ShareGPT's."""
    return {"from": speaker, "value": value, **keys}


def chat(*turns: object, **columns: object) -> bytes:
    """A ShareGPT row."""
    return json.dumps({"conversations": list(turns), **columns}).encode()


def told(**columns: object) -> bytes:
    """An instruct row."""
    return json.dumps({"instruction": "a", "output": "b", **columns}).encode()


def around(bad: bytes) -> bytes:
    """A file whose second line is bad, between two good ones."""
    return around_of(GOOD, bad)


def around_of(good: bytes, bad: bytes) -> bytes:
    return b"\n".join([good, bad, good, b""])


USER = turn("user", "hello")
ASSISTANT = turn("assistant", "hi")
CALL = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
CHAT = chat(said("human"), said("gpt"))
TOLD = told()

ACCEPTED: dict[str, tuple[bytes, int]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD + b"\n", 1),
    "CRLF": (GOOD + b"\r\n" + GOOD + b"\r\n", 2),
    "blank lines": (b"\n" + GOOD + b"\n\n \t\r\n" + GOOD + b"\n\n", 2),
    "no final newline": (GOOD + b"\n" + GOOD, 2),
    "line separators inside strings": (row(USER, turn("assistant", "a\u2028b\u2029c\x85d")), 1),
    "raw line separators": ('{"prompt":"a\u2028b\x85","completion":"c\u2029"}\n'.encode(), 1),
    "a trailing user turn": (row(USER, ASSISTANT, USER), 1),
    "an assistant who begins": (row(ASSISTANT), 1),
    "a system and a developer prompt": (
        row(turn("system"), USER, ASSISTANT) + b"\n" + row(turn("developer"), USER, ASSISTANT),
        2,
    ),
    "a system column": (row(USER, ASSISTANT, system="Be kind."), 1),
    "empty user and system turns": (row(turn("system", ""), turn("user", ""), ASSISTANT), 1),
    "weights": (row(USER, turn("assistant", weight=0), USER, turn("assistant", weight=1)), 1),
    "weights as a table with gaps writes them": (
        row(USER, turn("assistant", weight=0.0), USER, turn("assistant", weight=1.0)),
        1,
    ),
    "a name": (row(turn("user", name="ada"), ASSISTANT), 1),
    "keys that are null": (
        row(turn("user", name=None), turn("assistant", weight=None, tool_calls=None), tools=None),
        1,
    ),
    "tools": (
        row(
            USER,
            {"role": "assistant", "tool_calls": [CALL, CALL]},
            turn("tool", "12:00", tool_call_id="1"),
            turn("tool", "12:01", tool_call_id="1"),
            ASSISTANT,
            tools=[TOOL],
            parallel_tool_calls=False,
        ),
        1,
    ),
    "tool calls with null and empty content": (
        row(USER, turn("assistant", None, tool_calls=[CALL]))
        + b"\n"
        + row(USER, turn("assistant", "", tool_calls=[CALL])),
        2,
    ),
    "quotes, backslashes and escapes": (
        rb'{"prompt":"say \"\u00e9\" and \\u0022 \u0022\/","completion":"\\\"\ud83d\ude00"}',
        1,
    ),
    "a control character that is escaped": (rb'{"prompt":"\u001b[1m","completion":"a\t"}', 1),
    "numbers of 64 bits in another column": (
        b'{"prompt":"a","completion":"b","id":18446744073709551615,"low":-9223372036854775808}',
        1,
    ),
    "fractions in another column": (
        b'{"prompt":"a","completion":"b","score":0.12345678901234567891}',
        1,
    ),
    "numbers and brackets as text": (
        b'{"prompt":"' + b"1" * 5000 + b"[{" * 500 + b'","completion":"NaN Infinity"}',
        1,
    ),
    "an empty prompt": (b'{"prompt":"","completion":"b"}', 1),
    "an instruction with a null input": (b'{"instruction":"a","input":null,"output":"b"}', 1),
    "tools as JSON in a string": (row(USER, ASSISTANT, tools=json.dumps([TOOL])), 1),
    "tools in a blank string": (row(USER, ASSISTANT, tools=" "), 1),
    "keys of other roles that are null": (
        row(turn("user", weight=None, refusal=None), turn("assistant", tool_call_id=None)),
        1,
    ),
    "a conversation of vigogne": (
        b'{"id":"1","conversation":[{"role":"USER","content":"a"},'
        b'{"role":"ASSISTANT","content":"b"}]}',
        1,
    ),
    "ShareGPT's": (CHAT + b"\n" + chat(said("system"), said("human"), said("gpt")), 2),
    "ShareGPT's in other words": (chat(turn("user"), turn("assistant"), said("bot")), 1),
    "ShareGPT's with keys of its own": (
        chat(said("human", markdown=None, weight=None), said("gpt", weight=1.0, hash="x")),
        1,
    ),
    "ShareGPT's with tools": (
        chat(
            said("human"),
            said("function_call", '{"name": "clock", "arguments": {"zone": "UTC"}}'),
            said("observation", "12:00"),
            said("gpt"),
            tools=json.dumps([{"name": "clock", "parameters": {}}, TOOL]),
        ),
        1,
    ),
    "a tool that answers a call written as text": (
        chat(said("human"), said("gpt", "<call>"), said("tool"), said("gpt")),
        1,
    ),
    "a history": (told(history=[["q", "a"], ["", "b"]]) + b"\n" + told(history=[]), 2),
    "a history that is null": (told(history=None), 1),
    "plain text": (b'{"text":"a","id":1}\n{"text":" b\\n"}', 2),
    "columns of another format": (
        b'{"messages":' + row(USER, ASSISTANT)[13:-1] + b',"prompt":"x"}',
        1,
    ),
}

REFUSED: dict[str, Refused] = {
    "an empty file": Refused(b"", "the file is empty", line=1, num_good=0),
    "a file of blank lines": Refused(b"\n \r\n\n", "no rows", line=1, num_good=0),
    "only a byte order mark": Refused(b"\xef\xbb\xbf", "no rows", line=1, num_good=0),
    "one byte": Refused(b"x", "not JSON", column=1, line=1, num_good=0),
    "one zero byte": Refused(b"\0", "NUL", column=1, line=1, num_good=0),
    "one brace": Refused(b"{", "ends before", column=2, line=1, num_good=0),
    "a raw NUL in a string": Refused(around(b'{"prompt":"a\0"}'), "raw NUL", column=13),
    "a raw NUL between values": Refused(around(b'{"prompt":\0"a"}'), "raw NUL", column=11),
    "a raw tab in a string": Refused(around(b'{"prompt":"a\tb"}'), "raw 0x09", column=13),
    "an escaped NUL": Refused(
        around(row(USER, turn("assistant", "a\0"))), "messages[1].content holds a NUL"
    ),
    "a Latin-1 byte": Refused(
        around('{"prompt":"café"}'.encode("latin1")), "byte 0xe9 (byte 15 of the line)", column=15
    ),
    "a Latin-1 byte after UTF-8": Refused(
        around('{"prompt":"é'.encode() + b'\xe9"}'), "byte 0xe9 (byte 14 of the line)", column=13
    ),
    "half a UTF-8 character": Refused(around(b'{"prompt":"\xc3"}'), "0xc3", column=12),
    "a surrogate in UTF-8": Refused(around(b'{"prompt":"\xed\xa0\x80"}'), "0xed", column=12),
    "a lone high surrogate": Refused(
        around(rb'{"prompt":"\ud800","completion":"b"}'), "lone surrogate", column=12
    ),
    "a lone low surrogate": Refused(
        around(rb'{"prompt":"\\ \uDC00","completion":"b"}'), "lone surrogate", column=15
    ),
    "two high surrogates": Refused(
        around(rb'{"prompt":"\ud83d\ud83d\ude00"}'), "lone surrogate", column=12
    ),
    "a truncated last line": Refused(
        GOOD + b"\n" + GOOD[:-4], "ends before its JSON does", column=len(GOOD) - 8, num_good=1
    ),
    "a line cut after a comma": Refused(
        around(b'{"prompt":"a",'), "ends before its JSON does", column=15
    ),
    "a duplicate key": Refused(
        around(b'{"prompt":"a","completion":"b","prompt":"a"}'), '"prompt" comes twice'
    ),
    "a duplicate key deep inside": Refused(
        around(row(USER, ASSISTANT)[:-3] + b',"role":"user"}]}'), '"role" comes twice'
    ),
    "a duplicate key behind escaped quotes": Refused(
        around(rb'{"prompt":"\u0022\u0022","prompt":"\u0022","completion":"b"}'),
        '"prompt" comes twice',
    ),
    "a duplicate key with a number": Refused(
        around(b'{"prompt":"a","completion":"b","n":1,"n":2}'), '"n" comes twice'
    ),
    "a duplicate key spelled otherwise": Refused(
        around(rb'{"prompt":"a","completion":"b","\u0070rompt":"a"}'), '"prompt" comes twice'
    ),
    "a duplicate key that is half a character": Refused(
        around(rb'{"\ud800":1,"\ud800":2}'), "comes twice"
    ),
    "NaN": Refused(around(b'{"prompt":"NaN","completion":"b","x":NaN}'), "NaN", column=38),
    "Infinity": Refused(around(b'{"x":[Infinity]}'), "Infinity", column=7),
    "minus Infinity": Refused(around(b'{"x":-Infinity}'), "-Infinity", column=6),
    "a number beyond a double": Refused(around(b'{"x":1e999}'), "1e999", column=6),
    "an integer of 5,000 digits": Refused(
        around(b'{"prompt":"a","completion":"b","x":' + b"1" * 5000 + b"}"),
        "5000 digits",
        column=36,
    ),
    "an integer of 65 bits": Refused(
        around(b'{"prompt":"a","completion":"b","x":18446744073709551616}'), "20 digits", column=36
    ),
    "an integer below 64 bits": Refused(
        around(b'{"prompt":"18446744073709551616","completion":"b","x":-9223372036854775809}'),
        "19 digits",
        column=55,
    ),
    "a line over the cap": Refused(
        around(b'{"prompt":"' + b"a" * LINE_LIMIT + b'","completion":"b"}'),
        f"longer than {LINE_LIMIT} bytes",
    ),
    "spaces over the cap": Refused(
        around(b" " * (LINE_LIMIT + 1)), f"longer than {LINE_LIMIT} bytes"
    ),
    "a good row and spaces over the cap": Refused(
        around(GOOD + b" " * LINE_LIMIT), f"longer than {LINE_LIMIT} bytes"
    ),
    "arrays 257 deep": Refused(around(b"[" * 257 + b"]" * 257), "256 deep", column=257),
    "objects 257 deep": Refused(
        around(b'{"a":' * 257 + b"1" + b"}" * 257), "256 deep", column=1281
    ),
    "an array": Refused(around(b"[1, 2]"), "an array, not an object"),
    "the start of an array": Refused(
        b"[\n" + GOOD + b"\n", "ends before", column=2, line=1, num_good=1
    ),
    "a string": Refused(around(b'"text"'), "a string, not an object"),
    "a number": Refused(around(b"1"), "a number, not an object"),
    "null": Refused(around(b"null"), "null, not an object"),
    "true": Refused(around(b"true"), "a boolean, not an object"),
    "two rows on a line": Refused(around(GOOD + GOOD), "extra data", column=len(GOOD) + 1),
    "a Python literal": Refused(around(b"{'prompt': 'a'}"), "double quotes", column=2),
    "a wrong escape": Refused(around(rb'{"prompt":"\x41"}'), "escape", column=12),
    "a byte order mark in the middle": Refused(
        around(b"\xef\xbb\xbf" + GOOD), "byte order mark", column=1
    ),
    "an unknown format": Refused(
        b'{"content":"a","id":1}\n' + GOOD,
        'no known format has just these keys: "content", "id"',
        line=1,
        num_good=1,
    ),
    "an empty object": Refused(b"{}\n" + GOOD, "these keys: none", line=1, num_good=1),
    "another format": Refused(
        around(b'{"prompt":"a","completion":"b"}'),
        "format prompt_completion in a file of format messages",
    ),
    "a missing column": Refused(
        around(b'{"message":[]}'), 'messages is missing; the row has the keys: "message"'
    ),
    "messages as a string": Refused(around(b'{"messages":"[]"}'), "messages is a string"),
    "no messages": Refused(around(row()), "messages is empty"),
    "a message that is a string": Refused(around(row(USER, "hi")), "messages[1] is a string"),
    "no role": Refused(around(row({"content": "hi"}, ASSISTANT)), "messages[0] has no role"),
    "a role that is unknown": Refused(
        around(row(USER, turn("critic"), ASSISTANT)), 'messages[1].role is "critic"'
    ),
    "a role that is a list": Refused(
        around(row(USER, {"role": ["user"], "content": ""})), 'messages[1].role is ["user"]'
    ),
    "a very long role": Refused(
        around(row(USER, turn("x" * 1000))), 'messages[1].role is "' + "x" * 59 + "…"
    ),
    "no content": Refused(around(row({"role": "user"}, ASSISTANT)), "messages[0] has no content"),
    "content that is null": Refused(
        around(row(USER, turn("assistant", None))), "messages[1].content is null"
    ),
    "content in parts": Refused(
        around(row(turn("user", [{"type": "text", "text": "a"}]), ASSISTANT)),
        "messages[0].content is an array",
    ),
    "an empty assistant turn": Refused(
        around(row(USER, turn("assistant", ""))), "messages[1] is an empty assistant turn"
    ),
    "a blank assistant turn": Refused(
        around(row(USER, ASSISTANT, turn("assistant", " \n\u3000"))),
        "messages[2] is an empty assistant turn",
    ),
    "no assistant turn": Refused(
        around(row(USER, turn("system"))), "no message is the assistant's"
    ),
    "an unknown key in a message": Refused(
        around(row(USER, turn("assistant", refusal="no"))), 'role assistant cannot: "refusal"'
    ),
    "a user's weight": Refused(
        around(row(turn("user", weight=1), ASSISTANT)), 'role user cannot: "weight"'
    ),
    "a user's tool calls": Refused(
        around(row(turn("user", tool_calls=[CALL]), ASSISTANT)), 'role user cannot: "tool_calls"'
    ),
    "a weight of 2": Refused(
        around(row(USER, turn("assistant", weight=2))), "messages[1].weight is 2"
    ),
    "a weight of a half": Refused(
        around(row(USER, turn("assistant", weight=0.5))), "messages[1].weight is 0.5"
    ),
    "a weight that is true": Refused(
        around(row(USER, turn("assistant", weight=True))), "messages[1].weight is true"
    ),
    "a name that is a number": Refused(
        around(row(turn("user", name=1), ASSISTANT)), "messages[0].name is a number"
    ),
    "a tool without a call": Refused(
        around(row(USER, turn("tool"), ASSISTANT)), "messages[1] is a tool's"
    ),
    "a tool after a later turn": Refused(
        around(row(turn("assistant", tool_calls=[CALL]), USER, turn("tool"))),
        "messages[2] is a tool's",
    ),
    "tool calls without content, empty": Refused(
        around(row(USER, {"role": "assistant", "tool_calls": []})), "messages[1] has no content"
    ),
    "tool calls as a string": Refused(
        around(row(USER, turn("assistant", tool_calls="[]"))), "messages[1].tool_calls is a string"
    ),
    "a tool call without a name": Refused(
        around(row(USER, turn("assistant", tool_calls=[CALL, {"function": {}}]))),
        "messages[1].tool_calls[1] has no function",
    ),
    "tools as a string that is no JSON": Refused(
        around(row(USER, ASSISTANT, tools="clock")),
        "tools is a string that is no JSON: not JSON: expecting value",
    ),
    "tools as a string of an object": Refused(
        around(row(USER, ASSISTANT, tools="{}")), "tools is an object, not an array"
    ),
    "a tool in a string without a name": Refused(
        around(row(USER, ASSISTANT, tools='[{"function": {}}]')), "tools[0] has no function"
    ),
    "an empty conversation of ShareGPT's": Refused(
        around_of(CHAT, chat()), "conversations is empty"
    ),
    "an unknown speaker": Refused(
        around_of(CHAT, chat(said("human"), said("critic"))), 'conversations[1].from is "critic"'
    ),
    "a turn without a speaker": Refused(
        around_of(CHAT, chat({"value": "a"}, said("gpt"))), "conversations[0] has no from"
    ),
    "a turn without a value": Refused(
        around_of(CHAT, chat(said("human"), {"from": "gpt"})), "conversations[1] has no value"
    ),
    "a value that is a number": Refused(
        around_of(CHAT, chat(said("human", 1), said("gpt"))),
        "conversations[0].value is a number",
    ),
    "an empty answer of ShareGPT's": Refused(
        around_of(CHAT, chat(said("human"), said("gpt", " "))),
        "conversations[1].value is an empty assistant turn",
    ),
    "a conversation that nobody answers": Refused(
        around_of(CHAT, chat(said("human"))), "no message is the assistant's"
    ),
    "a function call that is no JSON": Refused(
        around_of(CHAT, chat(said("human"), said("function_call", "clock()"))),
        "conversations[1].value is a string that is no JSON",
    ),
    "a function call without a name": Refused(
        around_of(CHAT, chat(said("human"), said("function_call", '{"arguments": {}}'))),
        "conversations[1].value is a call without the name of a function",
    ),
    "a function call of nothing": Refused(
        around_of(CHAT, chat(said("human"), said("function_call", "[]"))),
        "conversations[1].value calls no function",
    ),
    "a weight of 2 of ShareGPT's": Refused(
        around_of(CHAT, chat(said("human"), said("gpt", weight=2))),
        "conversations[1].weight is 2",
    ),
    "a weight that is true of ShareGPT's": Refused(
        around_of(CHAT, chat(said("human"), said("gpt", weight=True))),
        "conversations[1].weight is true",
    ),
    "a weight that is a list": Refused(
        around_of(CHAT, chat(said("human"), said("gpt", weight=[]))),
        "conversations[1].weight is []",
    ),
    "two system prompts of ShareGPT's": Refused(
        around_of(CHAT, chat(said("system"), said("gpt"), system="x")), "system prompt twice"
    ),
    "a history that is a string": Refused(
        around_of(TOLD, told(history="q")), "history is a string"
    ),
    "a history of questions": Refused(
        around_of(TOLD, told(history=["q"])), "history[0] is no pair of question and answer"
    ),
    "a history of three": Refused(
        around_of(TOLD, told(history=[["q", "a"], ["q", "a", "b"]])), "history[1] is no pair"
    ),
    "a history with a number": Refused(
        around_of(TOLD, told(history=[["q", 1]])), "history[0][1] is a number"
    ),
    "a history with an empty answer": Refused(
        around_of(TOLD, told(history=[["q", ""]])), "history[0][1] is an empty answer"
    ),
    "a text that is a number": Refused(
        around_of(b'{"text":"a"}', b'{"text":1}'), "text is a number"
    ),
    "a blank text": Refused(around_of(b'{"text":"a"}', b'{"text":" "}'), "text is empty"),
    "a tool that is a string": Refused(
        around(row(USER, ASSISTANT, tools=["clock"])), "tools[0] has no function"
    ),
    "parallel tool calls as a number": Refused(
        around(row(USER, ASSISTANT, parallel_tool_calls=1)), "parallel_tool_calls is a number"
    ),
    "two system prompts": Refused(
        around(row(turn("system"), USER, ASSISTANT, system="x")), "system prompt twice"
    ),
    "a system column that is a list": Refused(
        around(row(USER, ASSISTANT, system=[])), "system is an array"
    ),
    "no output": Refused(
        b'{"instruction":"a","output":"b"}\n{"instruction":"a"}', "output is missing", num_good=1
    ),
    "an output that is null": Refused(
        b'{"instruction":"a","output":"b"}\n{"instruction":"a","output":null}',
        "output is null",
        num_good=1,
    ),
    "a blank output": Refused(
        b'{"instruction":"a","output":"b"}\n{"instruction":"a","output":" "}',
        "output is empty",
        num_good=1,
    ),
    "an input that is a number": Refused(
        b'{"instruction":"a","output":"b"}\n{"instruction":"a","input":1,"output":"b"}',
        "input is a number",
        num_good=1,
    ),
    "a prompt of messages": Refused(
        b'{"prompt":"a","completion":"b"}\n{"prompt":[],"completion":"b"}',
        "prompt is an array",
        num_good=1,
    ),
    "a blank completion": Refused(
        b'{"prompt":"a","completion":"b"}\n{"prompt":"a","completion":"\\n"}',
        "completion is empty",
        num_good=1,
    ),
    "a NUL in a prompt": Refused(
        b'{"prompt":"a","completion":"b"}\n{"prompt":"\\u0000","completion":"b"}',
        "prompt holds a NUL",
        num_good=1,
    ),
}

NOT_TEXT: dict[str, bytes] = {
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0",
    "ZIP": b"PK\x03\x04\x14\0",
    "Parquet": b"PAR1\x15\x04",
    "Arrow": b"ARROW1\0\0",
    "PNG": b"\x89PNG\r\n\x1a\n",
    "PDF": b"%PDF-1.7\n",
    "Zstandard": b"\x28\xb5\x2f\xfd\0",
    "xz": b"\xfd7zXZ\x00",
    "bzip2": b"BZh91AY",
    "SQLite": b"SQLite format 3\x00",
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "binary": bytes(range(32)) * 40,
}
