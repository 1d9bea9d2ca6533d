"""How answers look: aligned columns for people, JSON for programs.

Standard output carries the answer and nothing else; progress and hints go to standard error.
"""

import json
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

_UNITS = ("B", "KB", "MB", "GB", "TB")


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print the answer.")]


def hint(text: str) -> None:
    """Say something that is not the answer."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:  # noqa: ANN401 - whatever the server answered
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns: nothing is cut off in a pipe, a terminal folds what is too wide."""
    cells = [["" if value is None else str(value) for value in row] for row in rows]
    console = Console()
    if console.is_terminal:
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in cells:
            table.add_row(*row)
        console.print(table, markup=False)
        return
    lines = [list(columns), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """One `name  value` line each; empty values are left out."""
    shown = [(name, value) for name, value in fields if value not in {None, ""}]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        typer.echo(f"{name.ljust(width)}  {value}")


def size(count: int | None) -> str:
    """Bytes in words, e.g. `9.8 MB` (powers of ten)."""
    if count is None:
        return ""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:  # noqa: B007 - the unit it stopped at
        if value < 1000:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """`4:07` or `2:04:07`; empty when it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def moment(unix_seconds: float | None) -> str:
    """Local date and time."""
    if unix_seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_seconds))


def number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def how_it_ended(made: Mapping[str, Any]) -> str:
    """The end of a job or an export, why it was that, and what to do about it."""
    error = made.get("error") or {}
    said = [part for part in (error.get("message"), error.get("remedy")) if part]
    return f"{made['id']} {made['status']}{': ' if said else ''}{' '.join(said)}"
