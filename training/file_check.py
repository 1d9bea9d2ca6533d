"""What a file of rows holds: its good rows counted, its bad ones reported.

The API checks uploads of JSON Lines with `FileChecker` chunk by chunk; files in other containers
are checked whole by `training.data_files`. Memory does not grow with a file. Light: no torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from training.binary_probe import BinaryProbe
from training.data_config import ContainerName, FormatName
from training.formats import Format, RowChecker
from training.json_lines import BOM, JsonObject, LineSplitter, RowProblem, read_objects
from training.name_counts import NameCounts
from training.row_source import Values

MAX_LINE_BYTES = 4 << 20
MAX_ROWS = 10_000_000
MAX_ERRORS = 100
_CHUNK_BYTES = 1 << 20
_BATCH_LINES = 128
_ACCEPTED = "JSON Lines, JSON, CSV and text in UTF-8, Parquet and Arrow"
_BY_ROW = frozenset({"json", "parquet", "arrow"})


@dataclass(frozen=True, slots=True)
class RowError:
    """One refused row.

    Attributes:
        line: Its line in the file, from 1; its number among the rows where lines say nothing.
        column: The place in the line, in characters from 1; None where no place is to blame.
        reason: What is wrong.
        accepted: What would be accepted, in one sentence.
    """

    line: int
    column: int | None
    reason: str
    accepted: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """What a file holds.

    Attributes:
        format: The given format, else that of the first good row; None if there is none.
        num_rows: Good rows.
        num_errors: Refused rows, all of them.
        errors: The first `max_errors` refused rows.
        extra_columns: In how many rows each column stands that its format does not read. From
            the 101st name on they are counted together, as `(others)`.
        remarks: In how many good rows each odd thing was found.
        container: What the rows lie in.
    """

    format: FormatName | None
    num_rows: int
    num_errors: int
    errors: tuple[RowError, ...]
    extra_columns: dict[str, int]
    remarks: dict[str, int] = field(default_factory=dict)
    container: ContainerName = "jsonl"


def word_of_place(container: str) -> str:
    """What a number of a row is called: `line`, or `row` where lines say nothing."""
    return "row" if container in _BY_ROW else "line"


class NotText(ValueError):  # noqa: N818 - the noun says it
    """The file is not text at all, so that no row of it is worth a word."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"the file is {kind}, not text; {_ACCEPTED} are accepted")


class OverLimit(ValueError):  # noqa: N818 - the noun says it
    """The file has more rows than may be checked."""

    def __init__(self, max_rows: int) -> None:
        super().__init__(f"the file has more than {max_rows} rows, the most that is accepted")


class Tally:
    """Counts the rows of one file as they come.

    Args:
        format: What every row must be; None: what the first good row is.
        max_errors: How many errors are kept; all are counted.
        max_rows: Places that may hold something.
    """

    def __init__(self, format: FormatName | None, *, max_errors: int, max_rows: int) -> None:
        self._rows = RowChecker(format)
        self._max_errors = max_errors
        self._max_rows = max_rows
        self._num_good = 0
        self._num_bad = 0
        self._errors: list[RowError] = []
        self._remarks: dict[str, int] = {}
        self._extra_columns = NameCounts()

    def add(self, places: Sequence[int], values: Values) -> None:
        """Check what stands at these places.

        Raises:
            OverLimit: The file has too many rows.
        """
        if not self._all_good(values):
            for place, value in zip(places, values, strict=True):
                self._check(place, value)
        if self._num_good + self._num_bad > self._max_rows:
            raise OverLimit(self._max_rows)

    def expect(self, format: FormatName | None) -> None:
        """What every row must be, where that is known before the first one is read."""
        self._rows = RowChecker(format)

    def note(self, place: int, problem: RowProblem) -> None:
        """Count a refusal."""
        self._num_bad += 1
        if len(self._errors) < self._max_errors:
            error = RowError(place, problem.column, problem.reason, problem.accepted)
            self._errors.append(error)

    def count_unread(self, columns: Iterable[str]) -> None:
        """Count columns of all good rows that were not even looked at."""
        for column in columns if self._num_good else ():
            self._extra_columns.add(column, self._num_good)

    def report(self, container: ContainerName, *, nothing: str) -> FileReport:
        """What was found; `nothing` is the reason to refuse a file without any row."""
        if not self._num_good and not self._num_bad:
            self.note(1, RowProblem(nothing, "At least one row."))
        format = self._rows.format
        return FileReport(
            format=None if format is None else format.name,
            num_rows=self._num_good,
            num_errors=self._num_bad,
            errors=tuple(self._errors),
            extra_columns=dict(self._extra_columns.counts),
            remarks=dict(self._remarks),
            container=container,
        )

    def _all_good(self, values: Values) -> bool:
        """Count rows that are all good, faster than one by one; False leaves them uncounted."""
        format = self._rows.format
        rows = [value for value in values if isinstance(value, dict)]
        if format is None or len(rows) < len(values):
            return False
        try:
            found = [remarks for row in rows if (remarks := format.check(row))]
        except RowProblem:
            return False
        self._num_good += len(rows)
        for remarks in found:
            self._count_remarks(remarks)
        self._count_extra_columns(format, rows)
        return True

    def _check(self, place: int, value: JsonObject | RowProblem | None) -> None:
        if value is None:
            return
        try:
            if isinstance(value, RowProblem):
                raise value
            named, remarks = self._rows.check(value)
        except RowProblem as problem:
            self.note(place, problem)
            return
        assert self._rows.format is not None
        self._num_good += 1
        self._count_remarks(remarks)
        self._count_extra_columns(self._rows.format, [named])

    def _count_remarks(self, remarks: Sequence[str]) -> None:
        for remark in remarks:
            self._remarks[remark] = self._remarks.get(remark, 0) + 1

    def _count_extra_columns(self, format: Format, rows: Sequence[JsonObject]) -> None:
        num_keys, columns = len(format.keys), format.columns
        for row in rows:
            if len(row) > num_keys and not row.keys() <= columns:
                for key in row:
                    if key not in columns:
                        self._extra_columns.add(key)


class FileChecker:
    """Checks a JSONL file that arrives in chunks of any size.

    Args:
        format: What every row must be; None: what the first good row is.
        max_line_bytes: A longer line is one error, and the next line is read again.
        max_errors: How many errors are kept; all are counted.
        max_rows: Lines that may hold something.
    """

    def __init__(
        self,
        *,
        format: FormatName | None = None,
        max_line_bytes: int = MAX_LINE_BYTES,
        max_errors: int = MAX_ERRORS,
        max_rows: int = MAX_ROWS,
    ) -> None:
        self._max_line_bytes = max_line_bytes
        self._tally = Tally(format, max_errors=max_errors, max_rows=max_rows)
        self._splitter = LineSplitter(max_line_bytes)
        self._probe = BinaryProbe()
        self._num_lines = 0

    def feed(self, chunk: bytes) -> None:
        """Check the lines that end in `chunk`.

        Raises:
            NotText: The file is not text; the checker is of no use any more.
            OverLimit: The file has too many rows; the same.
        """
        for start in range(0, len(chunk), _CHUNK_BYTES):
            piece = chunk[start : start + _CHUNK_BYTES]
            _refuse_binary(self._probe.feed(piece))
            self._check_lines(self._splitter.feed(piece))

    def finish(self) -> FileReport:
        """Check the line after the last newline, and report.

        Raises:
            NotText: As `feed`, for a file that is shorter than what tells.
            OverLimit: As `feed`.
        """
        _refuse_binary(self._probe.finish())
        self._check_lines([self._splitter.finish()])
        nothing = "the file has no rows" if self._probe.saw_anything else "the file is empty"
        return self._tally.report("jsonl", nothing=nothing)

    def given_up(self, problem: RowProblem) -> FileReport:
        """What was found until `feed` or `finish` raised; that is the last error."""
        self._tally.note(self._num_lines or 1, problem)
        return self._tally.report("jsonl", nothing=problem.reason)

    def _check_lines(self, lines: list[bytes]) -> None:
        if lines and self._num_lines == 0:
            lines[0] = lines[0].removeprefix(BOM)
        for start in range(0, len(lines), _BATCH_LINES):
            values = read_objects(lines[start : start + _BATCH_LINES], self._max_line_bytes)
            first = self._num_lines + 1
            self._num_lines += len(values)
            self._tally.add(range(first, first + len(values)), values)


def _refuse_binary(kind: str | None) -> None:
    if kind is not None:
        raise NotText(kind)
