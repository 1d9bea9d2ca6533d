"""Long work made visible: one line that changes on a terminal, plain lines in a pipe.

Both go to standard error, so that the answer on standard output stays clean.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli.client import Json
from cli.render import duration, hint, number, size

_PLAIN_LINE_SECONDS = 5.0


class JobView(Protocol):
    """Where a job is, and what it said."""

    def say(self, text: str) -> None: ...

    def show(self, phase: str, progress: Json) -> None: ...


@contextmanager
def job_view() -> Iterator[JobView]:
    """A view for as long as the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainView()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[numbers]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _LiveView(bars)


class _LiveView:
    """A bar that moves."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("queued", total=None, numbers="")

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def show(self, phase: str, progress: Json) -> None:
        self._bars.update(
            self._task,
            description=phase,
            total=progress.get("total_steps"),
            completed=progress.get("step") or 0,
            numbers=numbers(progress),
        )


class _PlainView:
    """A line for every new phase, and every few seconds while steps are made."""

    def __init__(self) -> None:
        self._phase = ""
        self._next_line_at = 0.0

    def say(self, text: str) -> None:
        hint(text)

    def show(self, phase: str, progress: Json) -> None:
        step = progress.get("step")
        is_news = step and (
            step == progress.get("total_steps") or time.monotonic() >= self._next_line_at
        )
        if phase == self._phase and not is_news:
            return
        line = f"{phase}  {numbers(progress)}".rstrip()
        self._phase = phase
        self._next_line_at = time.monotonic() + _PLAIN_LINE_SECONDS
        hint(line)


def numbers(progress: Json) -> str:
    """`step 12/40  loss 0.812  96 tokens/s  ETA 1:03`, of what is known."""
    step, total = progress.get("step"), progress.get("total_steps")
    loss, speed = progress.get("train_loss"), progress.get("tokens_per_second")
    left = progress.get("eta_seconds")
    parts = (
        f"step {step or 0}/{total}" if total else "",
        f"loss {number(loss)}" if loss is not None else "",
        f"{speed:.0f} tokens/s" if speed is not None else "",
        f"ETA {duration(left)}" if left is not None else "",
    )
    return "  ".join(part for part in parts if part)


class Transfer(Protocol):
    """A number of bytes on their way."""

    def add(self, count: int) -> None: ...


@contextmanager
def transfer(what: str, total_bytes: int, done_bytes: int = 0) -> Iterator[Transfer]:
    """Show `what` moving: a bar on a terminal, a line every few seconds in a pipe."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainTransfer(what, total_bytes, done_bytes)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield _LiveTransfer(bars, what, total_bytes, done_bytes)


class _LiveTransfer:
    def __init__(self, bars: Progress, what: str, total_bytes: int, done_bytes: int) -> None:
        self._bars = bars
        self._task = bars.add_task(what, total=total_bytes, completed=done_bytes)

    def add(self, count: int) -> None:
        self._bars.advance(self._task, count)


class _PlainTransfer:
    def __init__(self, what: str, total_bytes: int, done_bytes: int) -> None:
        self._what, self._total, self._done = what, total_bytes, done_bytes
        self._next_line_at = time.monotonic() + _PLAIN_LINE_SECONDS

    def add(self, count: int) -> None:
        self._done += count
        if time.monotonic() >= self._next_line_at:
            hint(f"{self._what}  {size(self._done)} of {size(self._total)}")
            self._next_line_at = time.monotonic() + _PLAIN_LINE_SECONDS
