"""From data files to the documents of a run: what is kept, cut, dropped, held out or repeated.

Every row that does not make it is counted under a reason, and the counts are told.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from training.config import DataConfig, DatasetSource
from training.encoding import Document, Encoder
from training.failures import RunError
from training.formats import read_rows
from training.rows import Row
from training.templates import HiddenTurnError

log = logging.getLogger(__name__)

TOO_LONG = "longer than max_length"
NO_TARGET = "without a token to train on"
CUT_TO_NOTHING = "nothing to train on after cutting"
REFUSED = "refused by the chat template"
HIDDEN_TURN = "assistant's turns not found in the template's text"


@dataclass
class DataCounts:
    """What became of the rows of one or several files."""

    rows_read: int = 0
    rows_cut: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first_lines: dict[str, str] = field(default_factory=dict)
    """Under each reason to drop rows, where the first one stands and what was said of it."""

    def drop(self, reason: str, row: Row, detail: str) -> None:
        self.dropped[reason] += 1
        self.first_lines.setdefault(reason, f"line {row.line}: {detail}")


@dataclass(frozen=True)
class DataPlan:
    """Documents of one run, in the order of the files, and how they came about.

    Attributes:
        train: Trained on; a document of a source of weight 2 stands here twice.
        valid: Held out.
        num_train_rows: Different documents in `train`.
    """

    train: list[Document]
    valid: list[Document]
    num_train_rows: int
    counts: DataCounts

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.train))

    @property
    def num_targets(self) -> int:
        return sum(document.num_targets for document in self.train)

    def as_facts(self) -> dict[str, Any]:
        """The numbers behind `in_words`, for an event."""
        return {
            "rows_read": self.counts.rows_read,
            "rows_cut": self.counts.rows_cut,
            "rows_dropped": dict(self.counts.dropped),
            "first_dropped": self.counts.first_lines,
            "rows_trained": self.num_train_rows,
            "rows_held_out": len(self.valid),
            "tokens": self.num_tokens,
            "target_tokens": self.num_targets,
        }

    def in_words(self) -> str:
        """One or two sentences on rows and tokens."""
        share = self.num_targets / max(self.num_tokens, 1)
        dropped = "; ".join(f"{n} {reason}" for reason, n in self.counts.dropped.items())
        return (
            f"{self.counts.rows_read} rows read: {self.num_train_rows} to train on, "
            f"{len(self.valid)} held out, {self.counts.dropped.total()} dropped"
            f"{f' ({dropped})' if dropped else ''}, {self.counts.rows_cut} cut. "
            f"{self.num_tokens:,} tokens, of which {self.num_targets:,} ({share:.0%}) are trained."
        )


class DataReader:
    """Reads files of rows as documents, and counts.

    Args:
        encoder: Turns a row into tokens.
        config: Resolved, so that `max_length` is a number.
        heartbeat: Called after every row.
    """

    def __init__(self, encoder: Encoder, config: DataConfig, heartbeat: Callable[[], None]) -> None:
        self.counts = DataCounts()
        self._encoder = encoder
        self._config = config
        self._heartbeat = heartbeat

    def read(self, source: DatasetSource) -> list[Document]:
        """The documents of a file's usable rows.

        Raises:
            training.formats.DataError: A line is not a row of the file's format.
        """
        documents = []
        for row in read_rows(Path(source.path), source.format):
            self.counts.rows_read += 1
            document = self._usable(row)
            if document is not None:
                documents.append(document)
            self._heartbeat()
        return documents

    def _usable(self, row: Row) -> Document | None:
        try:
            document = self._encoder.encode(row)
        except HiddenTurnError as error:
            self.counts.drop(HIDDEN_TURN, row, str(error))
            return None
        except TemplateError as error:
            self.counts.drop(REFUSED, row, str(error))
            return None
        if document.num_targets == 0:
            self.counts.drop(NO_TARGET, row, "no assistant turn takes loss")
            return None
        return self._fitted(row, document)

    def _fitted(self, row: Row, document: Document) -> Document | None:
        limit = self._config.max_length
        assert limit is not None, "the configuration is not resolved"
        if len(document) <= limit:
            return document
        if self._config.overlong == "drop":
            self.counts.drop(TOO_LONG, row, f"{len(document)} tokens, {limit} allowed")
            return None
        cut = document.cut(limit)
        if cut.num_targets == 0:
            self.counts.drop(CUT_TO_NOTHING, row, f"the answer begins after {limit} tokens")
            return None
        self.counts.rows_cut += 1
        return cut


def plan_data(
    reader: DataReader,
    training_files: Sequence[DatasetSource],
    validation_files: Sequence[DatasetSource],
    *,
    eval_split: float,
    seed: int,
) -> DataPlan:
    """Read every file; hold out `eval_split` of the training rows if no file is given for that.

    Rows are held out before weights repeat them, so that none is on both sides. The same files,
    settings and seed give the same plan.

    Raises:
        RunError: No row is left to train on.
        training.formats.DataError: A line is not a row of its file's format.
    """
    rng = np.random.default_rng(seed)
    share = 0.0 if validation_files else eval_split
    train: list[Document] = []
    valid: list[Document] = []
    num_rows = 0
    for source in training_files:
        kept, held_out = _split(reader.read(source), share, rng)
        train += _weighted(kept, source.weight, rng)
        valid += held_out
        num_rows += len(kept)
    for source in validation_files:
        valid += reader.read(source)
    if not train:
        raise _nothing_left(reader.counts)
    return DataPlan(train, valid, num_rows, reader.counts)


def _split(
    documents: list[Document], share: float, rng: np.random.Generator
) -> tuple[list[Document], list[Document]]:
    if not share or len(documents) < 2:
        return documents, []
    num_held_out = min(max(1, round(share * len(documents))), len(documents) - 1)
    held_out = set(rng.permutation(len(documents))[:num_held_out].tolist())
    return (
        [document for i, document in enumerate(documents) if i not in held_out],
        [document for i, document in enumerate(documents) if i in held_out],
    )


def _weighted(documents: list[Document], weight: float, rng: np.random.Generator) -> list[Document]:
    """Every document ⌊weight⌋ times, and the rest of the weight as that share of them, drawn."""
    times, rest = divmod(weight, 1)
    drawn = sorted(rng.permutation(len(documents))[: round(rest * len(documents))].tolist())
    return documents * int(times) + [documents[i] for i in drawn]


def _nothing_left(counts: DataCounts) -> RunError:
    if counts.dropped and counts.dropped[HIDDEN_TURN] + counts.dropped[REFUSED] == (
        counts.dropped.total()
    ):
        reason = HIDDEN_TURN if HIDDEN_TURN in counts.dropped else REFUSED
        return RunError(
            "template_unsupported",
            f"The model's chat template cannot be trained with: {counts.first_lines[reason]}.",
            fault="spec",
            param="training.data.template",
            remedy='Set training.data.template to "chatml" or "alpaca".',
        )
    reasons = "; ".join(
        f"{number} {reason} ({counts.first_lines[reason]})"
        for reason, number in counts.dropped.items()
    )
    return RunError(
        "no_target_tokens",
        f"No row is left to train on, of {counts.rows_read} read: {reasons or 'none was found'}.",
        fault="data",
        remedy="Raise max_length, or give every row an answer that takes loss.",
    )
