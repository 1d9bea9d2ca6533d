"""JSON Lines, strictly: which bytes are a line, and which lines are one JSON object.

Separate from the formats because nothing here knows what a row means. Stricter than `json` and
`orjson`: a repeated key, NaN, an integer beyond 64 bits or a lone surrogate is refused, with its
column where there is one, while those two would quietly change the data.

Lines are first read by `orjson`, which is fast but keeps only the last of two equal keys and
rounds long integers. Counting quotes in the lines and in the values written again proves that
nothing was lost (`_read_fast`); else `read_exactly` reads slowly and says what is wrong.
"""

import json
import re
from typing import Any, NoReturn

import orjson

MAX_DEPTH = 256
"""Arrays and objects inside each other; at least what `orjson.dumps` can write."""

BOM = b"\xef\xbb\xbf"
"""The mark that some editors put before the first line."""

JsonObject = dict[str, Any]

ONE_OBJECT = 'One whole JSON object per line, such as {"prompt": "…", "completion": "…"}.'
FROM_ARRAY = f"{ONE_OBJECT} An array is converted by: jq -c '.[]' OLD > NEW."
ONLY_UTF8 = "Text in UTF-8; an older file is converted by: iconv -f latin1 -t utf-8 OLD > NEW."
_SHOWN_CHARS = 60


class RowProblem(ValueError):  # noqa: N818 - `RowError` is what reports carry
    """Why a row is refused.

    Attributes:
        reason: What is wrong, in one sentence without a full stop.
        accepted: What would be accepted, in one sentence.
        column: Where in the line, counted in characters from 1; None where no place is to blame.
    """

    def __init__(self, reason: str, accepted: str, column: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.accepted = accepted
        self.column = column


class LineSplitter:
    """Cuts a stream of bytes at newlines, in memory bounded by the longest line it may keep.

    Of a line beyond `max_line_bytes` a beginning is handed over that is beyond it too, without a
    byte order mark as with it, so its length tells; the rest is dropped as it arrives.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._kept_bytes = max_line_bytes + len(BOM) + 1
        self._pending = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in `chunk`, without their newlines."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._pending:
            self._keep(lines[0])
            lines[0] = self.finish()
        self._keep(rest)
        return lines

    def finish(self) -> bytes:
        """What follows the last newline."""
        line = bytes(self._pending)
        self._pending.clear()
        return line

    def _keep(self, piece: bytes) -> None:
        self._pending += piece[: self._kept_bytes - len(self._pending)]


def read_objects(lines: list[bytes], max_line_bytes: int) -> list[JsonObject | RowProblem | None]:
    """For every line the object that it holds, or why it is refused, or None if it is blank.

    Many lines at once (some 100) are read faster than one by one.
    """
    if max(map(len, lines), default=0) <= max_line_bytes:
        values = _read_fast(lines)
        if values is not None:
            return values
    return [_object_or_problem(line, max_line_bytes) for line in lines]


def _object_or_problem(line: bytes, max_line_bytes: int) -> JsonObject | RowProblem | None:
    if len(line) > max_line_bytes:
        limit = f"{max_line_bytes} bytes"
        return RowProblem(f"the line is longer than {limit}", f"Lines of at most {limit}.")
    if is_blank(line):
        return None
    try:
        return read_object(line)
    except RowProblem as problem:
        return problem


def is_blank(line: bytes) -> bool:
    return not line or line.isspace()


def read_object(line: bytes) -> JsonObject:
    """The object that a line holds, exactly as written.

    Raises:
        RowProblem: It holds something else, or something that does not survive reading.
    """
    values = _read_fast([line])
    value = values[0] if values else read_exactly(line)
    if not isinstance(value, dict):
        accepted = FROM_ARRAY if isinstance(value, list) else ONE_OBJECT
        raise RowProblem(f"the row is {kind(value)}, not an object", accepted)
    return value


def kind(value: object) -> str:
    """What a parsed JSON value is, with its article."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "a number")


def shown(value: object) -> str:
    """A parsed JSON value as JSON on one line, shortened, to quote it in a message."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _read_fast(lines: list[bytes]) -> list[Any] | None:
    r"""The objects in `lines` if it is certain that nothing was lost in any of them, else None.

    A line and its value written again both have two quotes for every string and one for every
    quote inside a string (unless the line spells that one `\u0022`, which the value never does).
    So a key that came twice leaves fewer quotes, and only where none did are the sums equal. An
    integer beyond 64 bits has 19 digits or more, and became a float.
    """
    text = b"\n".join(lines)
    if b"\\u0022" in text:
        return None
    try:
        values = [orjson.loads(line) for line in lines]
        written = orjson.dumps(values)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the latter: nested too deep
        return None
    exact = (
        written.count(b'"') == text.count(b'"')
        and {*map(type, values)} == {dict}
        and not (_has_long_number(text) and _has_float(values))
    )
    return values if exact else None


_DIGITS = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG_NUMBER = b"0" * 19


def _has_long_number(text: bytes) -> bool:
    """Whether 19 digits stand together; 18 bytes hold two of every ninth, which settle most."""
    return b"00" in text[::9].translate(_DIGITS) and _LONG_NUMBER in text.translate(_DIGITS)


def _has_float(values: list[Any]) -> bool:
    """Whether there is a float anywhere in `values`; level by level, which is the fastest."""
    while values:
        if float in map(type, values):
            return True
        values = [
            child
            for value in values
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
    return False


_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_NESTING = re.compile(rf"{_STRING}|[\[{{]|[\]}}]".encode(), re.DOTALL)
_NUMBERS = re.compile(rf"{_STRING}|-?(?:NaN|Infinity|[0-9][0-9.eE+-]*)", re.DOTALL)
_ESCAPES = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def read_exactly(line: bytes) -> Any:  # noqa: ANN401 - JSON
    """The value that `line` holds, read slowly by rules that lose nothing.

    Raises:
        RowProblem: It is not JSON, or holds something that does not survive reading.
    """
    text = _decoded(line)
    _refuse_deep_nesting(line)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        _refuse_syntax(text, error)
    except _RefusedNumber as error:
        raise RowProblem(error.reason, error.accepted, _column(text, error.token)) from None
    _refuse_lone_surrogates(text)
    return value


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        reason = f"byte 0x{line[error.start]:02x} (byte {error.start + 1} of the line) is not UTF-8"
        raise RowProblem(reason, ONLY_UTF8, len(line[: error.start].decode()) + 1) from None


def _refuse_deep_nesting(line: bytes) -> None:
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for match in _NESTING.finditer(line):
        token = match[0]
        depth += (token in b"[{") - (token in b"]}")
        if depth > MAX_DEPTH:
            column = len(line[: match.start()].decode()) + 1
            accepted = f"At most {MAX_DEPTH} arrays and objects inside each other."
            raise RowProblem(f"nested more than {MAX_DEPTH} deep", accepted, column)


def _refuse_syntax(text: str, error: json.JSONDecodeError) -> NoReturn:
    place = text[error.pos : error.pos + 1]
    message = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
    if not text[error.pos :].strip() or message.startswith("unterminated"):
        reason = "the line ends before its JSON does"
    elif message.startswith("invalid control character"):
        name = "NUL" if place == "\0" else f"0x{ord(place):02x}"
        reason = f"a raw {name} character inside a string"
    elif place == "\0":
        reason = "a raw NUL character"
    elif place == "\ufeff":
        reason = "a byte order mark that is not at the start of the file"
    else:
        reason = f"not JSON: {message}"
    accepted = FROM_ARRAY if text.lstrip().startswith("[") else ONE_OBJECT
    raise RowProblem(reason, accepted, error.pos + 1) from None


def _refuse_lone_surrogates(text: str) -> None:
    r"""Only for valid JSON, where every backslash begins an escape inside a string."""
    if "\\u" not in text:
        return
    for match in _ESCAPES.finditer(text):
        if match["lone"]:
            reason = f"a lone surrogate ({match[0]}), which is half of a character"
            accepted = r"Both halves together, such as \ud83d\ude00, or the character itself."
            raise RowProblem(reason, accepted, match.start() + 1)


def _column(text: str, number: str) -> int | None:
    """Where `number` first stands outside of strings, in characters from 1."""
    places = (match.start() + 1 for match in _NUMBERS.finditer(text) if match[0] == number)
    return next(places, None)


class _RefusedNumber(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, token: str, reason: str, accepted: str) -> None:
        super().__init__(reason)
        self.token, self.reason, self.accepted = token, reason, accepted


def _without_repeats(pairs: list[tuple[str, Any]]) -> JsonObject:
    result: JsonObject = {}
    for key, value in pairs:
        if key in result:
            raise RowProblem(f"the key {shown(key)} comes twice", "Each key once per object.")
        result[key] = value
    return result


def _refuse_constant(token: str) -> NoReturn:
    accepted = "Finite numbers, null, or a string; JSON has no NaN or Infinity."
    raise _RefusedNumber(token, f"{token} is not a JSON number", accepted)


def _integer(token: str) -> int:
    if len(token) > 20 or not -(2**63) <= int(token) < 2**64:
        reason = f"an integer of {len(token.lstrip('-'))} digits does not fit 64 bits"
        raise _RefusedNumber(token, reason, "Integers of 64 bits, or a string of digits.")
    return int(token)


def _finite(token: str) -> float:
    value = float(token)
    if value in {float("inf"), float("-inf")}:
        reason = f"the number {shown(token)[1:-1]} is beyond a double"
        raise _RefusedNumber(token, reason, "Numbers up to 1.79e308, or a string.")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_without_repeats,
    parse_constant=_refuse_constant,
    parse_int=_integer,
    parse_float=_finite,
)
