"""Rows in text files: JSON Lines, an array in JSON, and plain text, each read as it comes.

What is not UTF-8 is told of the row it stands in, and so is what is too long to be kept.
"""

from collections.abc import Iterator
from pathlib import Path

from training.json_array import ONE_ARRAY, ArraySplitter
from training.json_lines import (
    BOM,
    FROM_ARRAY,
    ONE_OBJECT,
    ONLY_UTF8,
    JsonObject,
    LineSplitter,
    RowProblem,
    is_blank,
    read_objects,
    shown,
)
from training.row_source import Batch, too_long

_BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 128
_EXCERPT_CHARS = 20


class JsonLines:
    """One object on each line."""

    columns = None
    holds_texts_only = False

    def __init__(self, path: Path, max_row_bytes: int) -> None:
        self._path, self._max_row_bytes = path, max_row_bytes

    def batches(self, columns: frozenset[str] | None) -> Iterator[Batch]:  # noqa: ARG002 - all keys
        number = 1
        for lines in _lines(self._path, self._max_row_bytes):
            values = read_objects(lines, self._max_row_bytes)
            yield Batch(range(number, number + len(values)), values)
            number += len(values)


class PlainText:
    """One text on each line; blank lines are none."""

    columns = ("text",)
    holds_texts_only = True

    def __init__(self, path: Path, max_row_bytes: int) -> None:
        self._path, self._max_row_bytes = path, max_row_bytes

    def batches(self, columns: frozenset[str] | None) -> Iterator[Batch]:  # noqa: ARG002 - only one
        number = 1
        for lines in _lines(self._path, self._max_row_bytes):
            values = [self._value(line) for line in lines]
            yield Batch(range(number, number + len(values)), values)
            number += len(values)

    def _value(self, line: bytes) -> JsonObject | RowProblem | None:
        if len(line) > self._max_row_bytes:
            return too_long(self._max_row_bytes, word="line")
        if is_blank(line):
            return None
        try:
            return {"text": line.removesuffix(b"\r").decode()}
        except UnicodeDecodeError as error:
            return RowProblem(f"byte 0x{line[error.start]:02x} is not UTF-8", ONLY_UTF8)


class JsonArray:
    """One array of objects; a row has the number of its element."""

    columns = None
    holds_texts_only = False

    def __init__(self, path: Path, max_row_bytes: int) -> None:
        self._path, self._max_row_bytes = path, max_row_bytes

    def batches(self, columns: frozenset[str] | None) -> Iterator[Batch]:  # noqa: ARG002 - all keys
        splitter = ArraySplitter(self._max_row_bytes)
        number = 1
        for block in _blocks(self._path):
            rows = splitter.feed(block)
            for start in range(0, len(rows), _BATCH_ROWS):
                part = rows[start : start + _BATCH_ROWS]
                found = zip(read_objects(part, self._max_row_bytes), part, strict=True)
                values = [self._value(value, row) for value, row in found]
                yield Batch(range(number, number + len(values)), values)
                number += len(values)
        splitter.finish()
        if splitter.problem is not None:
            yield Batch([number], [splitter.problem])

    def _value(self, value: JsonObject | RowProblem | None, row: bytes) -> JsonObject | RowProblem:
        """The same in words of an array: a row has no lines, so a place in it is shown."""
        if isinstance(value, dict):
            return value
        if len(row) > self._max_row_bytes:
            return too_long(self._max_row_bytes)
        if value is None:
            return RowProblem("nothing stands where a row should", ONE_ARRAY)
        accepted = ONE_ARRAY if value.accepted in {ONE_OBJECT, FROM_ARRAY} else value.accepted
        return RowProblem(f"{value.reason}{_excerpt(row, value.column)}", accepted)


def _excerpt(row: bytes, column: int | None) -> str:
    if column is None:
        return ""
    start = max(0, column - 1 - _EXCERPT_CHARS)
    return f", near {shown(row.decode(errors='replace')[start : column + _EXCERPT_CHARS])}"


def _lines(path: Path, max_line_bytes: int) -> Iterator[list[bytes]]:
    """All lines of a file, some at a time, without the byte order mark before the first."""
    splitter = LineSplitter(max_line_bytes)
    is_first = True
    for block in _blocks(path):
        lines = splitter.feed(block)
        if lines and is_first:
            lines[0], is_first = lines[0].removeprefix(BOM), False
        for start in range(0, len(lines), _BATCH_ROWS):
            yield lines[start : start + _BATCH_ROWS]
    last = splitter.finish()
    yield [last.removeprefix(BOM) if is_first else last]


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
