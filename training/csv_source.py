"""Rows in CSV files, read record by record.

Strict: a quote in the wrong place is told of its record, not read as something else. A record that
cannot be read ends at its line, and the next line is tried as a record of its own.
"""

import csv
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from training.json_lines import BOM, ONLY_UTF8, JsonObject, RowProblem, shown
from training.row_source import Batch, too_long

_BATCH_ROWS = 128
_DELIMITERS = (",", ";", "\t")
_QUOTED = re.compile(r'(?<![^,;\t])"[^"]*+(?:""[^"]*+)*+"?')
_CSV = "A CSV file as spreadsheets write it: a line of names first, quotes doubled inside quotes."


class Csv:
    """A table in text; its first line names the columns.

    The delimiter is the comma, the semicolon or the tab, whichever that line has most of outside
    quotes. An empty cell is null. A row has the line on which it begins.
    """

    holds_texts_only = True

    def __init__(self, path: Path, max_row_bytes: int) -> None:
        """Read the names.

        Raises:
            RowProblem: There are none, they cannot be read, or one comes twice.
        """
        self._path, self._max_row_bytes = path, max_row_bytes
        with path.open("rb") as file:
            names = _Records(file, max_row_bytes).names
        self.columns: tuple[str, ...] = names
        again = next((name for name in names if name and names.count(name) > 1), None)
        if again is not None:
            raise RowProblem(f"the column {shown(again)} comes twice", "Each name once.")

    def batches(self, columns: frozenset[str] | None) -> Iterator[Batch]:
        wanted = [
            (place, name)
            for place, name in enumerate(self.columns)
            if columns is None or name in columns
        ]
        with self._path.open("rb") as file:
            records = _Records(file, self._max_row_bytes)
            while found := list(islice(records, _BATCH_ROWS)):
                values = [self._row(record, wanted) for _, record in found]
                yield Batch([line for line, _ in found], values)

    def _row(
        self, record: list[str] | RowProblem, wanted: list[tuple[int, str]]
    ) -> JsonObject | RowProblem:
        if isinstance(record, RowProblem):
            return record
        if len(record) != len(self.columns):
            counts = f"{len(record)} cells under {len(self.columns)} names"
            return RowProblem(f"the row has {counts}", _CSV)
        return {name: record[place] or None for place, name in wanted}


class _Records:
    """The records behind the names, each with its first line; iterate once."""

    def __init__(self, file: BinaryIO, max_row_bytes: int) -> None:
        self._lines = _Lines(file, max_row_bytes)
        # A field may be as long as a row, which the lines see to.
        csv.field_size_limit(min(max_row_bytes + 1, sys.maxsize))
        delimiter = max(_DELIMITERS, key=_QUOTED.sub("", self._lines.first).count)
        self._reader = csv.reader(self._lines, delimiter=delimiter, strict=True)
        self.names = self._read_names()

    def __iter__(self) -> Iterator[tuple[int, list[str] | RowProblem]]:
        return self

    def __next__(self) -> tuple[int, list[str] | RowProblem]:
        record: list[str] | RowProblem = []
        while not record:  # a blank line is no record
            self._lines.begin()
            record = self._next()
        return self._lines.begun_at, record

    def _next(self) -> list[str] | RowProblem:
        try:
            record = next(self._reader)
        except csv.Error as error:
            return RowProblem(f"not CSV: {error}", _CSV)
        except RowProblem as problem:
            return problem
        bad = self._lines.bad_byte
        return record if bad is None else RowProblem(f"byte 0x{bad:02x} is not UTF-8", ONLY_UTF8)

    def _read_names(self) -> tuple[str, ...]:
        try:
            _, names = next(self)
        except StopIteration:
            raise RowProblem("the file is empty", _CSV) from None
        if isinstance(names, RowProblem):
            raise names
        return tuple(name.strip() for name in names)


class _Lines:
    """The lines of a file for the CSV reader, decoded, none of a row that is too long."""

    def __init__(self, file: BinaryIO, max_row_bytes: int) -> None:
        self._file, self._max_row_bytes = file, max_row_bytes
        self._number = 0
        self._num_bytes = 0
        self.begun_at = 1
        self.bad_byte: int | None = None
        file.seek(len(BOM) if file.read(len(BOM)) == BOM else 0)
        start = file.tell()
        self.first = file.readline(max_row_bytes).decode(errors="replace")
        file.seek(start)

    def begin(self) -> None:
        """A record begins with the next line."""
        self.begun_at, self._num_bytes, self.bad_byte = self._number + 1, 0, None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._max_row_bytes + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self._num_bytes += len(line)
        if self._num_bytes > self._max_row_bytes:
            while line and not line.endswith(b"\n"):
                line = self._file.readline(self._max_row_bytes)
            raise too_long(self._max_row_bytes)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self.bad_byte = line[error.start]
            return line.decode(errors="replace")
