"""What the rows of a file lie in, told by the file's name and its first bytes alone.

`CONTAINERS` is the table to extend: how a container is told, and what reads it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MappingProxyType

from training.arrow_sources import ARROW_FILE, Arrow, Parquet
from training.csv_source import Csv
from training.data_config import ContainerName
from training.json_lines import BOM
from training.row_source import RowSource
from training.text_sources import JsonArray, JsonLines, PlainText


@dataclass(frozen=True, slots=True)
class Container:
    """What rows lie in.

    Attributes:
        suffixes: Of names of such files.
        open: Opens a file whose rows have at most so many bytes each; raises `RowProblem` on one
            that cannot be read at all.
        magic: What such a file begins with; empty: it is text.
    """

    name: ContainerName
    suffixes: tuple[str, ...]
    open: Callable[[Path, int], RowSource]
    magic: tuple[bytes, ...] = ()


_CONTAINERS = (
    Container("jsonl", (".jsonl", ".ndjson"), JsonLines),
    Container("json", (".json",), JsonArray),
    Container("csv", (".csv", ".tsv"), Csv),
    Container("txt", (".txt",), PlainText),
    Container("parquet", (".parquet",), Parquet, (b"PAR1",)),
    # A stream begins with a length, behind a mark that no text has.
    Container("arrow", (".arrow", ".feather"), Arrow, (ARROW_FILE, b"\xff\xff\xff\xff")),
)
CONTAINERS: Mapping[ContainerName, Container] = MappingProxyType({c.name: c for c in _CONTAINERS})
"""Every container by its name."""


def container_of(filename: str, head: bytes) -> ContainerName:
    """What the rows of a file lie in.

    First bytes that only one container has come before the name. Of texts, what begins with `{` is
    JSON Lines whatever its name, and JSON is an array only if it begins like one.

    Args:
        filename: Its name; only the suffix counts.
        head: Its first KiB, all of it if it is shorter.
    """
    for container in CONTAINERS.values():
        if head.startswith(container.magic):
            return container.name
    suffix = PurePath(filename.lower()).suffix
    named = next((c for c in CONTAINERS.values() if suffix in c.suffixes), CONTAINERS["jsonl"])
    text = head.removeprefix(BOM).lstrip()
    if not named.magic and text.startswith(b"{"):
        return "jsonl"
    if named.name == "json" and not text.startswith(b"["):
        return "jsonl"
    return named.name
