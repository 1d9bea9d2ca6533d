"""A file of rows that is open for reading, whatever it lies in; each container has its own source.

What concerns one row is a value of its batch, so that the rest of the file is read all the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from training.json_lines import JsonObject, RowProblem

Values = Sequence[JsonObject | RowProblem | None]
"""What was found at some places of a file; None: nothing."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows, and the place of each: its line, or its number where lines say nothing."""

    places: Sequence[int]
    values: Values


class RowSource(Protocol):
    """A file of rows."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Those that every row has; None where each row has keys of its own."""
        ...

    @property
    def holds_texts_only(self) -> bool:
        """Whether a cell can hold nothing but text."""
        ...

    def batches(self, columns: frozenset[str] | None) -> Iterator[Batch]:
        """The rows from the first one on, if asked for with these of their columns only.

        What ends a file early is the last value; its places go up.
        """
        ...


def too_long(max_row_bytes: int, *, word: str = "row") -> RowProblem:
    """The refusal of a row over the limit."""
    limit = f"{max_row_bytes} bytes"
    return RowProblem(f"the {word} is longer than {limit}", f"{word.title()}s of at most {limit}.")
