"""What became of the rows of a data file. Light."""

from pydantic import BaseModel, ConfigDict

TOO_SHORT = "shorter than min_length"
TOO_LONG = "longer than max_length"
NO_TARGET = "without a token to train on"
CUT_TO_NOTHING = "nothing to train on after cutting"
REFUSED = "refused by the chat template"
LEFT_OUT = "with a part that the chat template leaves out"
SEVERAL_TURNS = "of more than one question and one answer"
HIDDEN_TURN = "assistant's turns not found in the template's text"


class DataCounts(BaseModel):
    """Rows that were read, cut, split and dropped.

    Attributes:
        rows_cut: Trained on in part.
        rows_split: Trained on as several documents.
        rows_left_out: Not trained on at all.
        dropped: Under each reason, how many rows, or parts of rows that were split.
        first_lines: Under each reason to drop rows, where the first one stands and what was said
            of it.
        word_of_place: What a number of a row is called: its line, or its row.
    """

    model_config = ConfigDict(extra="forbid")
    rows_read: int = 0
    rows_cut: int = 0
    rows_split: int = 0
    rows_left_out: int = 0
    dropped: dict[str, int] = {}
    first_lines: dict[str, str] = {}
    word_of_place: str = "line"

    @property
    def num_dropped(self) -> int:
        return sum(self.dropped.values())

    def drop(self, reason: str, line: int, detail: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        self.first_lines.setdefault(reason, f"{self.word_of_place} {line}: {detail}")

    def add(self, other: "DataCounts", file: str | None) -> None:
        """Count in the rows of one more file, which is named where lines are."""
        self.rows_read += other.rows_read
        self.rows_cut += other.rows_cut
        self.rows_split += other.rows_split
        self.rows_left_out += other.rows_left_out
        for reason, number in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + number
            line = other.first_lines[reason]
            self.first_lines.setdefault(reason, line if file is None else f"{file}, {line}")
