"""Files of the same rows in every container, written as other programs write them."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

Rows = Sequence[dict[str, Any]]


def _jsonl(rows: Rows, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _json(rows: Rows, path: Path) -> None:
    path.write_text(json.dumps(rows, indent=2))


def _csv(rows: Rows, path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _txt(rows: Rows, path: Path) -> None:
    path.write_text("".join(f"{row['text']}\n" for row in rows))


def _parquet(rows: Rows, path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=3)


def _arrow(rows: Rows, path: Path) -> None:
    table = pa.Table.from_pylist(list(rows))
    with ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def stream(rows: Rows, path: Path) -> None:
    """As `datasets` keeps its tables."""
    table = pa.Table.from_pylist(list(rows))
    with ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


WRITERS: dict[str, Callable[[Rows, Path], None]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "txt": _txt,
    "parquet": _parquet,
    "arrow": _arrow,
}


def written(container: str, rows: Rows, folder: Path) -> Path:
    path = folder / f"rows.{container}"
    WRITERS[container](rows, path)
    return path


def as_bytes(container: str, rows: Rows, folder: Path) -> bytes:
    return written(container, rows, folder).read_bytes()


def csv_line(*cells: str) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()
