"""JSON bodies, read strictly: a capped size, and nothing that would change on its way in.

Refused with the path of the place at fault: a repeated key, NaN or infinity, a NUL character, a
lone surrogate, an integer beyond 64 bits, nesting beyond `MAX_DEPTH`.
"""

import json
import math
from collections.abc import Iterator
from email.message import Message
from typing import Any, NoReturn

from fastapi import Request

from api.errors import UnsupportedMediaType
from jobs.errors import InvalidRequest, TooLarge

MAX_DEPTH = 64

_Place = tuple[str, Any]


class JsonRequest(Request):
    """A request whose body was read and checked before its route sees it."""

    raw: bytes
    parsed: Any

    async def body(self) -> bytes:
        return self.raw

    async def json(self) -> Any:  # noqa: ANN401 - JSON
        return self.parsed


async def read_json(request: Request, max_bytes: int, *, is_optional: bool = False) -> JsonRequest:
    """Read the whole body of `request` as JSON; an optional one may be empty, of whatever type.

    Raises:
        UnsupportedMediaType: It is not declared as plain JSON.
        TooLarge: It has more than `max_bytes` bytes.
        InvalidRequest: It is not strict JSON.
    """
    checked = JsonRequest(request.scope, request.receive)
    if not is_optional:
        _require_json(request)
    checked.raw = await _read(request, max_bytes)
    if is_optional and not checked.raw:
        return checked
    _require_json(request)
    checked.parsed = parse(checked.raw)
    return checked


def parse(raw: bytes) -> Any:  # noqa: ANN401 - JSON
    """The value of a body; raises InvalidRequest."""
    if not raw.strip():
        raise InvalidRequest("the body is empty; send a JSON object", code="invalid_json")
    try:
        value = _DECODER.decode(raw.decode())
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"the body is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}",
            code="invalid_json",
        ) from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            code="invalid_json",
        ) from None
    except RecursionError:
        _refuse_depth()
    for path, found in _walk("", value, 1):
        _check(path, found)
    return value


class _Repeated:
    """Stands in the parsed value for an object that gave a key twice, until its path is known."""

    def __init__(self, key: str) -> None:
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Repeated:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            return _Repeated(key)
        found[key] = value
    return found


def _integer(token: str) -> int | float:
    """An integer; one that is too long for Python to read is as good as infinite."""
    return int(token) if len(token) <= 20 else math.copysign(math.inf, -token.startswith("-"))


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def _walk(path: str, value: object, depth: int) -> Iterator[_Place]:
    """Every string, number and repeated key in `value` with its dotted path."""
    if depth > MAX_DEPTH:
        _refuse_depth()
    if isinstance(value, dict):
        for key, inner in value.items():
            yield path, key
            yield from _walk(f"{path}.{key}" if path else key, inner, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(f"{path}.{index}" if path else str(index), inner, depth + 1)
    else:
        yield path, value


def _check(path: str, value: object) -> None:
    problem = None
    if isinstance(value, str):
        problem = _text_problem(value)
    elif isinstance(value, float) and not math.isfinite(value):
        problem = "is not a finite number; give one that a double can hold"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        problem = "does not fit 64 bits; give a smaller number"
    elif isinstance(value, _Repeated):
        problem = f"gives the key {value.key!r} twice; give it once"
    if problem:
        path = path.encode("utf-8", "backslashreplace").decode().replace("\0", "\\u0000")
        raise InvalidRequest(
            f"{path or 'the body'} {problem}", param=path or None, code="invalid_json"
        )


def _text_problem(text: str) -> str | None:
    if "\0" in text:
        return r"holds a NUL character (\u0000); remove it"
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        return r"holds a lone surrogate, half of a character; send both halves or none"
    return None


def _refuse_depth() -> NoReturn:
    raise InvalidRequest(
        f"the body nests more than {MAX_DEPTH} objects and arrays in each other",
        code="invalid_json",
    ) from None


def _require_json(request: Request) -> None:
    given = request.headers.get("content-type", "")
    header = Message()
    header["content-type"] = given
    if header.get_content_type() != "application/json" or not given:
        raise UnsupportedMediaType(
            f"content-type: {given or 'none'!s} is not read here; send application/json",
            param="content-type",
        )
    if (coding := request.headers.get("content-encoding", "identity")) != "identity":
        raise UnsupportedMediaType(
            f"content-encoding: {coding} is not read here; send the body as it is",
            param="content-encoding",
        )


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    body = bytearray()
    if declared.isdigit() and int(declared) <= max_bytes:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise TooLarge(f"the body is over {max_bytes} bytes, the most that is read here")
