"""From data files to the documents of a run: what is held out, repeated, left out, and told."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data_config import DataConfig
from training.data_counts import (
    CUT_TO_NOTHING,
    HIDDEN_TURN,
    LEFT_OUT,
    NO_TARGET,
    REFUSED,
    SEVERAL_TURNS,
    TOO_LONG,
    TOO_SHORT,
    DataCounts,
)
from training.documents import Choice, Documents
from training.failures import RunError
from training.reading import DataReader
from training.run_spec import DatasetSource

Places = NDArray[np.int64]

_OTHER_TEMPLATE = (
    'Set training.data.template to "chatml" or "alpaca" if the rows call no tools; rows that do '
    "need a model whose own chat template takes them."
)
_LONGER_LIMIT = "Raise training.data.max_length."
_OF_TEMPLATE = (HIDDEN_TURN, REFUSED, LEFT_OUT)
_REMEDIES = {
    HIDDEN_TURN: _OTHER_TEMPLATE,
    REFUSED: _OTHER_TEMPLATE,
    LEFT_OUT: (
        "Choose a model whose own chat template takes them, with training.data.template at "
        '"auto", name a layout that does, or take them out of the rows.'
    ),
    TOO_SHORT: "Lower training.data.min_length, or give longer rows.",
    TOO_LONG: _LONGER_LIMIT,
    CUT_TO_NOTHING: _LONGER_LIMIT,
    NO_TARGET: "Give every row an answer that takes loss.",
    SEVERAL_TURNS: (
        "Give every row one question and one answer, or choose a model without an encoder."
    ),
}


@dataclass(frozen=True)
class DataPlan:
    """Documents of one run, in the order of the files, and how they came about.

    Attributes:
        train: Trained on; a document of a source of weight 2 stands here twice.
        valid: Held out.
        num_train_rows: Different documents in `train`.
        num_found: Files that were found prepared, of `num_files`.
        seconds: What it took to find or prepare them.
    """

    train: Choice
    valid: Choice
    num_train_rows: int
    counts: DataCounts
    num_files: int
    num_found: int
    seconds: float

    def as_facts(self) -> dict[str, Any]:
        """The numbers behind `in_words`, for an event."""
        return {
            "rows_read": self.counts.rows_read,
            "rows_cut": self.counts.rows_cut,
            "rows_split": self.counts.rows_split,
            "rows_dropped": self.counts.dropped,
            "first_dropped": self.counts.first_lines,
            "rows_trained": self.num_train_rows,
            "rows_held_out": len(self.valid),
            "tokens": self.train.num_tokens,
            "target_tokens": self.train.num_targets,
            "tokens_held_out": self.valid.num_tokens,
            "target_tokens_held_out": self.valid.num_targets,
        }

    def preparation_in_words(self) -> str:
        files = "1 file" if self.num_files == 1 else f"{self.num_files} files"
        if not self.num_found:
            return f"The data was prepared: {files} in {self.seconds:.2f} s."
        return f"The data was found prepared: {self.num_found} of {files}, in {self.seconds:.2f} s."

    def in_words(self) -> str:
        """Two or three sentences on rows and tokens."""
        counts = self.counts
        held_out = f" Held out: {_tokens(self.valid)} are measured." if self.valid else ""
        dropped = "; ".join(f"{n} {reason}" for reason, n in counts.dropped.items())
        return (
            f"{counts.rows_read} rows read: {self.num_train_rows} to train on, "
            f"{len(self.valid)} held out, {counts.num_dropped} dropped"
            f"{f' ({dropped})' if dropped else ''}, {counts.rows_cut} cut"
            f"{f', {counts.rows_split} split' if counts.rows_split else ''}. "
            f"{_tokens(self.train)} are trained.{held_out}"
        )


def _tokens(choice: Choice) -> str:
    tokens, targets = choice.num_tokens, choice.num_targets
    return f"{tokens:,} tokens, of which {targets:,} ({targets / max(tokens, 1):.0%})"


def plan_data(
    reader: DataReader,
    training_files: Sequence[DatasetSource],
    validation_files: Sequence[DatasetSource],
    config: DataConfig,
    seed: int,
) -> DataPlan:
    """Read every file; hold out a share of the training rows if no file is given for that.

    Rows are held out before weights repeat them, so that none is on both sides; the caps on their
    numbers come between the two. The same files, settings and seed give the same plan.

    Raises:
        RunError: No row is left to train on, or more are left out than may be.
        training.data_files.DataError: A line is not a row of its file's format.
    """
    rng = np.random.default_rng(seed)
    share = 0.0 if validation_files else config.eval_split
    sources = (*training_files, *validation_files)
    prepared = [reader.read(source) for source in sources]
    counts = DataCounts()
    for number, each in enumerate(prepared, start=1):
        counts.add(each.counts, f"file {number}" if len(sources) > 1 else None)
    parts = tuple(each.documents for each in prepared)
    kept, held_out = _sides(parts, len(training_files), share, rng)
    kept, held_out = _capped(kept, config.max_train_rows), _capped(held_out, config.max_eval_rows)
    weights = [source.weight for source in training_files]
    train = [_weighted(places, weight, rng) for places, weight in zip(kept, weights, strict=True)]
    if not sum(map(len, train)):
        raise _nothing_left(counts)
    _check_dropped(counts, config.max_dropped)
    return DataPlan(
        train=Choice(parts, np.concatenate(train)),
        valid=Choice(parts, np.concatenate(held_out)),
        num_train_rows=sum(map(len, kept)),
        counts=counts,
        num_files=len(sources),
        num_found=sum(each.was_found for each in prepared),
        seconds=sum(each.seconds for each in prepared),
    )


def _sides(
    parts: Sequence[Documents], num_training: int, share: float, rng: np.random.Generator
) -> tuple[list[Places], list[Places]]:
    """The documents of each file that are trained on, and of each those that are held out."""
    kept, held_out = [], []
    num_before = 0
    for number, documents in enumerate(parts):
        places = np.arange(num_before, num_before + len(documents))
        num_before += len(documents)
        if number < num_training:
            stays, places = _split(places, documents.lines, share, rng)
            kept.append(stays)
        held_out.append(places)
    return kept, held_out


def _split(
    places: Places, lines: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[Places, Places]:
    """Those that stay, and a share of the rows that is held out, with all documents of a row."""
    rows, row_of = np.unique(lines, return_inverse=True)
    if not share or len(rows) < 2:
        return places, places[:0]
    num_held_out = min(max(1, round(share * len(rows))), len(rows) - 1)
    is_held_out = np.zeros(len(rows), np.bool_)
    is_held_out[rng.permutation(len(rows))[:num_held_out]] = True
    return places[~is_held_out[row_of]], places[is_held_out[row_of]]


def _capped(files: list[Places], limit: int | None) -> list[Places]:
    """The first `limit` documents, in the order of the files."""
    if limit is None:
        return files
    capped = []
    for places in files:
        capped.append(places[:limit])
        limit -= len(capped[-1])
    return capped


def _weighted(places: Places, weight: float, rng: np.random.Generator) -> Places:
    """Every document ⌊weight⌋ times, and the rest of the weight as that share of them, drawn.

    However small the weight, one is drawn.
    """
    times, rest = divmod(weight, 1)
    num_drawn = max(round(rest * len(places)), int(times == 0))
    drawn = np.sort(rng.permutation(len(places))[:num_drawn])
    return np.concatenate([np.tile(places, int(times)), places[drawn]])


def _nothing_left(counts: DataCounts) -> RunError:
    of_template = [reason for reason in _OF_TEMPLATE if reason in counts.dropped]
    if of_template and sum(counts.dropped[r] for r in of_template) == counts.num_dropped:
        reason = of_template[0]
        return RunError(
            "template_unsupported",
            f"The chat template cannot be trained with: {counts.first_lines[reason]}.",
            fault="spec",
            param="training.data.template",
            remedy=_REMEDIES[reason],
        )
    return RunError(
        "no_target_tokens",
        f"No row is left to train on, of {counts.rows_read} read: "
        f"{_reasons(counts) or 'none was found'}.",
        fault="data",
        param="training.data.min_length" if counts.dropped.keys() == {TOO_SHORT} else None,
        remedy=_remedies(counts.dropped or (NO_TARGET,)),
    )


def _check_dropped(counts: DataCounts, max_dropped: float) -> None:
    share = counts.rows_left_out / counts.rows_read
    if share > max_dropped:
        raise RunError(
            "invalid_data",
            f"{counts.rows_left_out} of {counts.rows_read} rows are left out, which is "
            f"{_percent(share)} where {_percent(max_dropped)} may be: {_reasons(counts)}.",
            fault="data",
            param="training.data.max_dropped",
            remedy=f"{_remedies(counts.dropped)} Or raise training.data.max_dropped.",
        )


def _percent(share: float) -> str:
    return f"{share * 100:.3g}%"


def _reasons(counts: DataCounts) -> str:
    return "; ".join(
        f"{number} {reason} ({counts.first_lines[reason]})"
        for reason, number in counts.dropped.items()
    )


def _remedies(reasons: Iterable[str]) -> str:
    return " ".join(dict.fromkeys(_REMEDIES[reason] for reason in reasons))
