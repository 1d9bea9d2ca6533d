"""Data files, whatever their rows lie in: read by training, and checked before.

In a table every row has the same columns, so their names alone tell its format, or that it has
none; only what the format reads is read then.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.binary_probe import HEAD_BYTES, binary_kind
from training.containers import CONTAINERS, container_of
from training.data_config import ContainerName, FormatName
from training.file_check import (
    MAX_ERRORS,
    MAX_LINE_BYTES,
    MAX_ROWS,
    FileChecker,
    FileReport,
    NotText,
    OverLimit,
    Tally,
    word_of_place,
)
from training.formats import RowChecker
from training.json_lines import RowProblem
from training.row_source import RowSource
from training.rows import Row

_BLOCK_BYTES = 1 << 20
_ANY_BYTES = 1 << 40
"""A limit that no row reaches."""
_OTHERS = "A file of JSON Lines, JSON, Parquet or Arrow, or another format."


class DataError(ValueError):
    """A row that training cannot read.

    Attributes:
        line: Its line, or its number where lines say nothing.
        reason: What is wrong.
    """

    def __init__(self, line: int, reason: str, word: str = "line") -> None:
        super().__init__(f"{word} {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a check goes.

    Attributes:
        max_row_bytes: A longer row is one error.
        max_rows: Places that may hold something.
        max_errors: How many errors are kept; all are counted.
    """

    max_row_bytes: int = MAX_LINE_BYTES
    max_rows: int = MAX_ROWS
    max_errors: int = MAX_ERRORS


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file of rows.

    Attributes:
        format: What it has to be, or what its columns tell; None: each row tells.
        read: The columns that are read; None: all.
        unread: Those of a table that are not.
    """

    source: RowSource
    format: FormatName | None
    read: frozenset[str] | None = None
    unread: tuple[str, ...] = ()


def read_rows(path: Path, format: FormatName | None = None) -> Iterator[Row]:
    """The rows of a file, of any length.

    Raises:
        DataError: At the first row that is refused, or for a file without rows.
    """
    reading = _Reading(path)
    try:
        yield from reading.rows(format)
    except RowProblem as problem:
        word = word_of_place(reading.container)
        raise DataError(reading.place, problem.reason, word) from None


def check_file(
    path: Path, format: FormatName | None = None, limits: Limits | None = None
) -> FileReport:
    """What a file holds; why it cannot be read, or not to its end, is told as an error of a row.

    Raises:
        OSError: There is no such file.
        MemoryError: It needs more memory than there is.
    """
    limits, container = limits or Limits(), container_of_file(path)
    if container == "jsonl":
        return _check_lines(path, format, limits)
    tally = Tally(format, max_errors=limits.max_errors, max_rows=limits.max_rows)
    place = 1
    try:
        opened = _open(path, container, format, limits.max_row_bytes)
        tally.expect(opened.format)
        for batch in opened.source.batches(opened.read):
            place = batch.places[-1]
            tally.add(batch.places, batch.values)
        tally.count_unread(opened.unread)
    except RowProblem as problem:
        tally.note(place, problem)
    except OverLimit as limit:
        tally.note(place, _over(limit))
    return tally.report(container, nothing=_nothing(path))


class _Reading:
    """Where in a file the reader is."""

    def __init__(self, path: Path) -> None:
        self.container = container_of_file(path)
        self.place = 1
        self._path = path

    def rows(self, format: FormatName | None) -> Iterator[Row]:
        """All rows; raises RowProblem at the first that is refused."""
        opened = _open(self._path, self.container, format, _ANY_BYTES)
        rows = RowChecker(opened.format)
        is_empty = True
        for batch in opened.source.batches(opened.read):
            for self.place, value in zip(batch.places, batch.values, strict=True):
                if isinstance(value, RowProblem):
                    raise value
                if value is not None:
                    is_empty = False
                    yield rows.build(self.place, value)
        if is_empty:
            self.place = 1
            raise RowProblem(_nothing(self._path), "At least one row.")


def _check_lines(path: Path, format: FormatName | None, limits: Limits) -> FileReport:
    checker = FileChecker(
        format=format,
        max_line_bytes=limits.max_row_bytes,
        max_errors=limits.max_errors,
        max_rows=limits.max_rows,
    )
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                checker.feed(block)
        return checker.finish()
    except NotText as refusal:
        return checker.given_up(_no_text(refusal))
    except OverLimit as limit:
        return checker.given_up(_over(limit))


def container_of_file(path: Path) -> ContainerName:
    """What the rows of a file lie in."""
    with path.open("rb") as file:
        return container_of(path.name, file.read(HEAD_BYTES))


def _open(
    path: Path, container: ContainerName, format: FormatName | None, max_row_bytes: int
) -> _Opened:
    """A file, ready to be read.

    Raises:
        RowProblem: It cannot be read, or its columns are of no format, or not of this one.
    """
    kind = CONTAINERS[container]
    if not kind.magic:
        _refuse_binary(path)
    source = kind.open(path, max_row_bytes)
    if source.columns is None:
        return _Opened(source, format)
    found = RowChecker(format).format_of(dict.fromkeys(source.columns))
    if found.is_chat and source.holds_texts_only:
        raise RowProblem(
            f"a cell of such a file is a text, and cannot hold {' or '.join(sorted(found.keys))}",
            _OTHERS,
        )
    read = found.columns | found.aliases.keys()
    unread = tuple(name for name in source.columns if name not in read)
    return _Opened(source, found.name, read, unread)


def _refuse_binary(path: Path) -> None:
    with path.open("rb") as file:
        kind = binary_kind(file.read(HEAD_BYTES))
    if kind is not None:
        raise _no_text(NotText(kind))


def _nothing(path: Path) -> str:
    return "the file has no rows" if path.stat().st_size else "the file is empty"


def _no_text(refusal: NotText) -> RowProblem:
    return RowProblem(str(refusal), _OTHERS)


def _over(limit: OverLimit) -> RowProblem:
    return RowProblem(str(limit), "Fewer rows, or several files.")
