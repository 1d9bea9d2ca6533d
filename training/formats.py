"""The dataset formats: what a row may be, and how a file of rows is checked and read.

`FORMATS` is the table to extend: a check (what is refused, and what would be accepted) and a
build (from the checked JSON to a frozen row) per format. The API checks uploads with
`FileChecker` chunk by chunk; training reads the same files with `read_rows`. Light: no torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from training.binary_probe import BinaryProbe
from training.config import FormatName
from training.json_lines import (
    BOM,
    JsonObject,
    LineSplitter,
    RowProblem,
    is_blank,
    read_object,
    read_objects,
    shown,
)
from training.name_counts import NameCounts
from training.row_checks import (
    INSTRUCT,
    MESSAGES,
    PROMPT_COMPLETION,
    check_conversation,
    check_instruction,
    check_prompt_completion,
)
from training.rows import Conversation, Instruction, Message, PromptCompletion, Row

MAX_LINE_BYTES = 4 << 20
MAX_ROWS = 10_000_000
MAX_ERRORS = 100
_CHUNK_BYTES = 1 << 20
_BATCH_LINES = 128
_MAX_SHOWN_KEYS = 10


@dataclass(frozen=True, slots=True)
class Format:
    """One dataset format.

    Attributes:
        keys: The columns every row has, by which the format is recognised.
        columns: Every column it reads; further ones are counted and ignored.
        check: Raises `RowProblem` on a row that is not of this format, one without `keys` too.
        build: The row at a line number, from JSON that passed `check`.
        accepted: The shape of a row, in one sentence.
    """

    name: FormatName
    keys: frozenset[str]
    columns: frozenset[str]
    check: Callable[[JsonObject], None]
    build: Callable[[int, JsonObject], Row]
    accepted: str


def _conversation(line: int, row: JsonObject) -> Conversation:
    messages = [_message(message) for message in row["messages"]]
    if row.get("system") is not None:
        messages.insert(0, Message("system", row["system"]))
    return Conversation(line, tuple(messages), _objects(row.get("tools")))


def _message(message: JsonObject) -> Message:
    role = message["role"]
    return Message(
        role="system" if role == "developer" else role,
        content=message.get("content"),
        weight=message.get("weight"),
        name=message.get("name"),
        tool_calls=_objects(message.get("tool_calls")),
        tool_call_id=message.get("tool_call_id"),
    )


def _objects(value: list[JsonObject] | None) -> tuple[JsonObject, ...] | None:
    return tuple(value) if value else None


def _instruction(line: int, row: JsonObject) -> Instruction:
    text = row["instruction"], row["output"], row.get("input") or "", row.get("system")
    return Instruction(line, *text)


def _prompt_completion(line: int, row: JsonObject) -> PromptCompletion:
    return PromptCompletion(line, row["prompt"], row["completion"])


_FORMATS = (
    Format(
        name="messages",
        keys=frozenset({"messages"}),
        columns=frozenset({"messages", "tools", "parallel_tool_calls", "system"}),
        check=check_conversation,
        build=_conversation,
        accepted=MESSAGES,
    ),
    Format(
        name="instruct",
        keys=frozenset({"instruction", "output"}),
        columns=frozenset({"instruction", "output", "input", "system"}),
        check=check_instruction,
        build=_instruction,
        accepted=INSTRUCT,
    ),
    Format(
        name="prompt_completion",
        keys=frozenset({"prompt", "completion"}),
        columns=frozenset({"prompt", "completion"}),
        check=check_prompt_completion,
        build=_prompt_completion,
        accepted=PROMPT_COMPLETION,
    ),
)
FORMATS: Mapping[FormatName, Format] = MappingProxyType({each.name: each for each in _FORMATS})
"""Every format by its name, in the order in which they are tried on a row."""


def detect_format(row: JsonObject) -> FormatName | None:
    """The first format in `FORMATS` all of whose keys the row has."""
    format = _detected(row)
    return None if format is None else format.name


def _detected(row: JsonObject) -> Format | None:
    return next((format for format in FORMATS.values() if row.keys() >= format.keys), None)


@dataclass(frozen=True, slots=True)
class RowError:
    """One refused row.

    Attributes:
        line: Its line in the file, from 1.
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
    """

    format: FormatName | None
    num_rows: int
    num_errors: int
    errors: tuple[RowError, ...]
    extra_columns: dict[str, int]


class NotText(ValueError):  # noqa: N818 - the noun says it
    """The file is not text at all, so that no row of it is worth a word."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"the file is {kind}, not text; a JSONL file in UTF-8 is accepted")


class OverLimit(ValueError):  # noqa: N818 - the noun says it
    """The file has more rows than may be checked."""

    def __init__(self, max_rows: int) -> None:
        super().__init__(f"the file has more than {max_rows} rows, the most that is accepted")


class DataError(ValueError):
    """A row that training cannot read."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


class _RowChecker:
    """Checks that all rows have one format: the given one, else that of the first good row."""

    def __init__(self, name: FormatName | None) -> None:
        self.format = None if name is None else FORMATS[name]

    def check(self, row: JsonObject) -> Format:
        """The format of a row that is good.

        Raises:
            RowProblem: It is not, or it is of another format than the rows before.
        """
        format = self.format or _detected(row)
        if format is None or not row.keys() >= format.keys:
            raise self._foreign(row)
        format.check(row)
        self.format = format
        return format

    def _foreign(self, row: JsonObject) -> RowProblem:
        found = ", ".join(shown(key) for key in list(row)[:_MAX_SHOWN_KEYS]) or "none"
        if self.format is None:
            accepted = " ".join(each.accepted for each in FORMATS.values())
            return RowProblem(f"no known format has just these keys: {found}", accepted)
        other = _detected(row)
        if other is not None:
            reason = f"a row of format {other.name} in a file of format {self.format.name}"
        else:
            missing = ", ".join(sorted(self.format.keys - row.keys()))
            reason = f"{missing} is missing; the row has the keys: {found}"
        return RowProblem(reason, self.format.accepted)


class FileChecker:
    """Checks a file that arrives in chunks of any size, in memory that does not grow with it.

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
        self._max_errors = max_errors
        self._max_rows = max_rows
        self._rows = _RowChecker(format)
        self._splitter = LineSplitter(max_line_bytes)
        self._probe = BinaryProbe()
        self._num_lines = 0
        self._num_good = 0
        self._num_bad = 0
        self._errors: list[RowError] = []
        self._extra_columns = NameCounts()

    def feed(self, chunk: bytes) -> None:
        """Check the lines that end in `chunk`.

        Raises:
            NotText: The file is not text; the checker is of no use any more.
            OverLimit: The file has too many rows; the same.
        """
        for start in range(0, len(chunk), _CHUNK_BYTES):
            piece = chunk[start : start + _CHUNK_BYTES]
            self._refuse_binary(self._probe.feed(piece))
            self._check_lines(self._splitter.feed(piece))

    def finish(self) -> FileReport:
        """Check the line after the last newline, and report.

        Raises:
            NotText: As `feed`, for a file that is shorter than what tells.
            OverLimit: As `feed`.
        """
        self._refuse_binary(self._probe.finish())
        self._check_lines([self._splitter.finish()])
        if not self._num_good and not self._num_bad:
            reason = "the file has no rows" if self._probe.saw_anything else "the file is empty"
            self._note(1, RowProblem(reason, "At least one row."))
        format = self._rows.format
        return FileReport(
            format=None if format is None else format.name,
            num_rows=self._num_good,
            num_errors=self._num_bad,
            errors=tuple(self._errors),
            extra_columns=dict(self._extra_columns.counts),
        )

    def _refuse_binary(self, kind: str | None) -> None:
        if kind is not None:
            raise NotText(kind)

    def _check_lines(self, lines: list[bytes]) -> None:
        if lines and self._num_lines == 0:
            lines[0] = lines[0].removeprefix(BOM)
        for start in range(0, len(lines), _BATCH_LINES):
            values = read_objects(lines[start : start + _BATCH_LINES], self._max_line_bytes)
            if not self._all_good(values):
                for number, value in enumerate(values, start=self._num_lines + 1):
                    self._check(number, value)
            self._num_lines += len(values)
            if self._num_good + self._num_bad > self._max_rows:
                raise OverLimit(self._max_rows)

    def _all_good(self, values: list[JsonObject | RowProblem | None]) -> bool:
        """Count rows that are all good, faster than one by one; False leaves them uncounted."""
        format = self._rows.format
        rows = [value for value in values if isinstance(value, dict)]
        if format is None or len(rows) < len(values):
            return False
        try:
            for row in rows:
                format.check(row)
        except RowProblem:
            return False
        self._num_good += len(rows)
        self._count_extra_columns(format, rows)
        return True

    def _check(self, line: int, value: JsonObject | RowProblem | None) -> None:
        if value is None:
            return
        try:
            if isinstance(value, RowProblem):
                raise value
            format = self._rows.check(value)
        except RowProblem as problem:
            self._note(line, problem)
        else:
            self._num_good += 1
            self._count_extra_columns(format, [value])

    def _note(self, line: int, problem: RowProblem) -> None:
        self._num_bad += 1
        if len(self._errors) < self._max_errors:
            error = RowError(line, problem.column, problem.reason, problem.accepted)
            self._errors.append(error)

    def _count_extra_columns(self, format: Format, rows: Sequence[JsonObject]) -> None:
        num_keys, columns = len(format.keys), format.columns
        for row in rows:
            if len(row) > num_keys and not row.keys() <= columns:
                for key in row:
                    if key not in columns:
                        self._extra_columns.add(key)


def read_rows(path: Path, format: FormatName | None = None) -> Iterator[Row]:
    """The rows of a file, of lines of any length.

    Raises:
        DataError: At the first row that is refused, or for a file without rows.
    """
    rows = _RowChecker(format)
    empty = True
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(BOM) if number == 1 else raw
            if is_blank(line):
                continue
            empty = False
            try:
                row = read_object(line)
                build = rows.check(row).build
            except RowProblem as problem:
                raise DataError(number, problem.reason) from None
            yield build(number, row)
    if empty:
        raise DataError(1, "the file has no rows")
