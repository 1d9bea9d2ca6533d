"""Rows in Parquet files, and in Arrow's own files and streams.

Only the columns asked for are read, a few rows at a time. Arrow trusts the numbers in a file, so
every batch is checked before it is looked at. Arrow takes a while to import, which is done when
such a file is opened.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.json_lines import JsonObject, RowProblem, shown
from training.row_source import Batch, Values, too_long

ARROW_FILE = b"ARROW1"
_BATCH_ROWS = 256
_BATCH_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20
_PARQUET = "A whole Parquet file, as it was written."
_ARROW = "A whole Arrow file or stream, as it was written."
_JSON = "Strings, finite numbers, booleans, lists, structs and nulls."


class Parquet:
    """The rows of all row groups; a row has its number."""

    holds_texts_only = False

    def __init__(self, path: Path, max_row_bytes: int) -> None:
        """Read the names of the columns.

        Raises:
            RowProblem: It is no Parquet file, or a column comes twice.
        """
        self._path, self._max_row_bytes = path, max_row_bytes
        with _told("the file is not Parquet that can be read", _PARQUET):
            self.columns = _names(self._open().schema_arrow)

    def batches(self, columns: frozenset[str] | None) -> Iterator[Batch]:
        return _rows(self._batches(columns), self._max_row_bytes, _PARQUET)

    def _batches(self, columns: frozenset[str] | None) -> Iterator[Any]:
        file = self._open()
        metadata = file.metadata
        sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        yield from file.iter_batches(
            batch_size=_num_rows(sum(sizes), metadata.num_rows),
            columns=[name for name in self.columns if columns is None or name in columns],
            use_threads=False,
        )

    def _open(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        from pyarrow import parquet  # noqa: PLC0415 - takes a while

        return parquet.ParquetFile(self._path, pre_buffer=False, buffer_size=_BUFFER_BYTES)


class Arrow:
    """The rows of all record batches; a row has its number."""

    holds_texts_only = False

    def __init__(self, path: Path, max_row_bytes: int) -> None:
        """Read the names of the columns.

        Raises:
            RowProblem: It is neither an Arrow file nor a stream, or a column comes twice.
        """
        import pyarrow as pa  # noqa: PLC0415 - takes a while

        self._max_row_bytes = max_row_bytes
        with _told("the file is not Arrow that can be read", _ARROW):
            # Mapped once: each mapping takes as many addresses as the file has bytes.
            self._file = pa.memory_map(str(path)).read_buffer()
            self._is_stream = self._file[: len(ARROW_FILE)].to_pybytes() != ARROW_FILE
            self.columns = _names(self._open().schema)

    def batches(self, columns: frozenset[str] | None) -> Iterator[Batch]:
        return _rows(self._batches(columns), self._max_row_bytes, _ARROW)

    def _batches(self, columns: frozenset[str] | None) -> Iterator[Any]:
        wanted = [name for name in self.columns if columns is None or name in columns]
        reader = self._open()
        whole = (
            reader
            if self._is_stream
            else (reader.get_batch(i) for i in range(reader.num_record_batches))
        )
        for every_column in whole:
            batch = every_column.select(wanted)
            num_rows = _num_rows(batch.nbytes, batch.num_rows) if _is_whole(batch) else 1
            for start in range(0, batch.num_rows, num_rows):
                yield batch.slice(start, num_rows)

    def _open(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        """A reader that leaves the file where it is; asked for some columns, it would copy them."""
        import pyarrow as pa  # noqa: PLC0415 - takes a while

        options = pa.ipc.IpcReadOptions(use_threads=False)
        open_ = pa.ipc.open_stream if self._is_stream else pa.ipc.open_file
        return open_(self._file, options=options)


def _names(schema: Any) -> tuple[str, ...]:  # noqa: ANN401 - pyarrow has no types
    names = tuple(schema.names)
    again = next((name for name in names if names.count(name) > 1), None)
    if again is not None:
        raise RowProblem(f"the column {shown(again)} comes twice", "Each name once.")
    return names


def _num_rows(num_bytes: int, num_rows: int) -> int:
    """Rows to look at together, of about so many bytes each."""
    each = num_bytes // max(num_rows, 1)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(each, 1)))


def _rows(batches: Iterator[Any], max_row_bytes: int, accepted: str) -> Iterator[Batch]:
    number = 1
    while True:
        try:
            with _told("what follows cannot be read", accepted):
                batch = next(batches, None)
        except RowProblem as problem:
            yield Batch([number], [problem])
            return
        if batch is None:
            return
        values = _values(batch, max_row_bytes)
        yield Batch(range(number, number + len(values)), values)
        number += len(values)


def _is_whole(batch: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    """Whether all of a batch is what it says it is; not even its size can be asked for before."""
    try:
        with _told("", ""):
            batch.validate(full=True)
    except RowProblem:
        return False
    return True


def _values(batch: Any, max_row_bytes: int) -> Values:  # noqa: ANN401 - as above
    """The rows of a batch: together, or one by one if something is wrong with one of them."""
    if batch.num_rows > 1:
        try:
            return _as_json(batch, max_row_bytes)
        except RowProblem:
            pass
    return [_value(batch.slice(i, 1), max_row_bytes) for i in range(batch.num_rows)]


def _value(row: Any, max_row_bytes: int) -> JsonObject | RowProblem:  # noqa: ANN401 - as above
    try:
        (value,) = _as_json(row, max_row_bytes)
    except RowProblem as problem:
        return problem
    return value


def _as_json(batch: Any, max_bytes: int) -> list[JsonObject]:  # noqa: ANN401 - as above
    """The rows as JSON has them; raises RowProblem if one of them cannot be."""
    with _told("the row cannot be read", _JSON):
        batch.validate(full=True)
        if batch.nbytes > max_bytes:
            raise too_long(max_bytes)
        rows: list[JsonObject] = batch.to_pylist(maps_as_pydicts="strict")
    if not all(_is_plain(field.type) for field in batch.schema):
        _refuse_foreign(rows)
    return rows


def _is_plain(type_: Any) -> bool:  # noqa: ANN401 - as above
    """Whether values of a type are JSON whatever they are."""
    from pyarrow import types  # noqa: PLC0415 - takes a while

    if types.is_struct(type_):
        return all(_is_plain(field.type) for field in type_)
    if types.is_list(type_) or types.is_large_list(type_) or types.is_dictionary(type_):
        return _is_plain(type_.value_type)
    known = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_(type_) for is_ in (*known, types.is_integer, types.is_boolean, types.is_null))


def _refuse_foreign(rows: list[JsonObject]) -> None:
    for row in rows:
        for column, value in row.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise RowProblem(f"{column} holds what JSON has not: {error}", _JSON) from None


@contextmanager
def _told(words: str, accepted: str) -> Iterator[None]:
    """Arrow's errors as problems; a lack of memory is none of the file's rows."""
    from pyarrow import ArrowException  # noqa: PLC0415 - takes a while

    try:
        yield
    except (MemoryError, RowProblem):
        raise
    except (ArrowException, OSError, ValueError, KeyError) as error:
        said = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise RowProblem(f"{words}: {said or type(error).__name__}", accepted) from None
