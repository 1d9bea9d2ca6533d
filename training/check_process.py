"""A data file is checked by a process of its own, which can do nothing but that.

Its report is what the API makes of JSON Lines while they arrive. That a file cannot be read, or
not to its end, is part of the report; that it would take more than is allowed is not.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter

from training.confinement import OutOfTime, confine
from training.data_config import FormatName
from training.data_files import Limits, check_file
from training.file_check import FileReport, word_of_place

MAX_MEMORY_BYTES = 4 << 30
MAX_CPU_SECONDS = 3600
_REPORT = TypeAdapter(FileReport)
_PLAIN = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""For what Arrow imports: each of many threads would claim addresses, and so would its own pool."""


class NotChecked(Exception):  # noqa: N818 - what happened
    """A file could not be checked; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a check may use: bytes of memory beside the file itself, seconds of processor time."""

    memory_bytes: int = MAX_MEMORY_BYTES
    cpu_seconds: int = MAX_CPU_SECONDS


def check(
    path: Path, output: Path | None, format: FormatName | None, limits: Limits, budget: Budget
) -> FileReport:
    """Confine this process, check a file, and write the report as JSON.

    Args:
        path: The file.
        output: Where the report goes; None: to the standard output.
        format: What every row must be; None: what the first good row is.
        limits: How far the check goes.
        budget: What it may use.

    Raises:
        NotChecked: The file is not there, or would take more than the budget; or the report
            cannot be written.
    """
    try:
        with _opened(output) as report_file:
            report = _checked(path, format, limits, budget)
            report_file.write(_REPORT.dump_json(report, indent=2) + b"\n")
    except OSError as error:
        where = "the standard output" if output is None else f"--output {output}"
        raise NotChecked(f"{where} cannot be written: {error.strerror or error}") from error
    except MemoryError:
        raise NotChecked(
            f"reading the file takes more than {budget.memory_bytes} bytes of memory: rows, "
            "pages or row groups of it are too large, or made to fill the memory"
        ) from None
    except OutOfTime:
        raise NotChecked(
            f"reading the file takes more than {budget.cpu_seconds} seconds of processor time"
        ) from None
    return report


def _checked(path: Path, format: FormatName | None, limits: Limits, budget: Budget) -> FileReport:
    try:
        os.environ.update(_PLAIN)
        # Arrow maps the file that it reads into memory.
        memory_bytes = budget.memory_bytes + path.stat().st_size
        if not confine(max_memory_bytes=memory_bytes, max_cpu_seconds=budget.cpu_seconds):
            sys.stderr.write("this system cannot keep the check from the network and files\n")
        return check_file(path, format, limits)
    except OSError as error:
        raise NotChecked(f"{path} cannot be read: {error.strerror or error}") from error


def read_report(path: Path) -> FileReport:
    """A report that `check` has written; raises ValueError if it is none."""
    return _REPORT.validate_json(path.read_bytes())


def in_words(path: Path, report: FileReport) -> str:
    """The report in a few lines for people."""
    word = word_of_place(report.container)
    lines = [f"{path.name} ({report.container}): {_rows(report)}"]
    lines += [f"  {word} {error.line}: {error.reason}" for error in report.errors[:3]]
    lines += [f"  {remark}: {number}" for remark, number in report.remarks.items()]
    return "\n".join(lines)


def _rows(report: FileReport) -> str:
    of_format = f" of format {report.format}" if report.format else ""
    refused = f", {report.num_errors} refused" if report.num_errors else ""
    return f"{report.num_rows} good rows{of_format}{refused}"


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Where the report goes, opened while that is allowed."""
    if output is None:
        yield sys.stdout.buffer
    else:
        with output.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
