"""Data files as documents: every row is encoded, fitted to the lengths allowed, and counted.

A file that was prepared before is not read again; see `training.prepared`.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from training.data_config import DataConfig
from training.data_counts import CUT_TO_NOTHING, NO_TARGET, TOO_LONG, TOO_SHORT, DataCounts
from training.data_files import container_of_file, read_rows
from training.documents import Document, DocumentWriter
from training.encoding import Encoder, Refusal
from training.file_check import word_of_place
from training.fingerprint import fingerprint
from training.prepared import Prepared, Shelf
from training.rows import Row
from training.run_spec import DatasetSource
from training.tokenization import TokensDiffer

_log = logging.getLogger(__name__)


class DataReader:
    """Reads data files for one encoder and one configuration.

    Args:
        encoder: Turns rows into documents.
        config: Resolved, so that `max_length` is a number.
        shelf: Where the documents are kept.
        heartbeat: Called now and then.
    """

    def __init__(
        self, encoder: Encoder, config: DataConfig, shelf: Shelf, heartbeat: Callable[[], None]
    ) -> None:
        self._encoder = encoder
        self._config = config
        self._shelf = shelf
        self._heartbeat = heartbeat

    def read(self, source: DatasetSource) -> Prepared:
        """The documents of a file's usable rows.

        Raises:
            training.data_files.DataError: A line is not a row of the file's format.
        """
        key = fingerprint(source, self._config, self._encoder.traits())
        try:
            return self._shelf.obtain(key, lambda writer: self._fill(writer, source))
        except TokensDiffer as error:
            _log.warning("the tokenizer is asked for every row from now on: %r", str(error))
            self._encoder.ask_the_tokenizer()
            return self._shelf.obtain(key, lambda writer: self._fill(writer, source))

    def _fill(self, writer: DocumentWriter, source: DatasetSource) -> DataCounts:
        path = Path(source.path)
        counts = DataCounts(word_of_place=word_of_place(container_of_file(path)))
        for row in read_rows(path, source.format):
            counts.rows_read += 1
            documents = self._usable(row, counts)
            counts.rows_left_out += not documents
            for document in documents:
                writer.append(document, row.line)
            self._heartbeat()
        return counts

    def _usable(self, row: Row, counts: DataCounts) -> list[Document]:
        """What is trained on of a row; if nothing is, the reason is counted."""
        limits = self._config
        assert limits.max_length is not None, "the configuration is not resolved"
        document = self._encoder.outcome(row)
        if isinstance(document, Refusal):
            counts.drop(document.reason, row.line, document.detail)
        elif not document.num_targets:
            counts.drop(NO_TARGET, row.line, "no token takes loss")
        elif len(document) > limits.max_length:
            return self._fitted(row, document, counts)
        elif self._is_long_enough(document, row, counts):
            return [document]
        return []

    def _is_long_enough(self, document: Document, row: Row, counts: DataCounts) -> bool:
        """Whether a row, or what is made of one, is trained on; if not, that is counted."""
        least = self._config.min_length
        if len(document) >= least:
            return True
        counts.drop(TOO_SHORT, row.line, f"{len(document)} tokens, at least {least} asked for")
        return False

    def _fitted(self, row: Row, document: Document, counts: DataCounts) -> list[Document]:
        parts = self._parts(row, document)
        if isinstance(parts, Refusal):
            counts.drop(parts.reason, row.line, parts.detail)
            return []
        taught = [part for part in parts if part.num_targets]
        if not taught:
            detail = f"the answer begins after {self._config.max_length} tokens"
            counts.drop(CUT_TO_NOTHING, row.line, detail)
        kept = [part for part in taught if self._is_long_enough(part, row, counts)]
        if kept:
            counts.rows_cut += len(parts) == 1
            counts.rows_split += len(parts) > 1
        return kept

    def _parts(self, row: Row, document: Document) -> list[Document] | Refusal:
        """What is made of a row that is too long; no part of it invents an end of sequence."""
        limit = self._config.max_length
        assert limit is not None, "the configuration is not resolved"
        match self._config.overlong:
            case "truncate_end":
                return [document.part(0, limit)]
            case "split":
                starts = range(0, len(document), limit)
                return [document.part(start, start + limit) for start in starts]
            case "truncate_prompt":
                shorter = self._encoder.with_shorter_prompt(row, limit)
                return shorter if isinstance(shorter, Refusal) else [shorter]
            case _:
                return Refusal(TOO_LONG, f"{len(document)} tokens, {limit} allowed")
