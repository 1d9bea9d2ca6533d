"""Carries what a process says from its run directory into the database.

One call of `step` is one short transaction. While the database is away the lines wait on disk;
`step` then does nothing, and the caller comes again.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from jobs.database import Database
from jobs.redaction import Redactor
from jobs.service.records import Fence, record, record_log
from jobs.settings import Settings
from training.events import CheckpointSaved, Event, Finished, parse_event
from worker.active_run import ActiveRun
from worker.outages import UNREACHABLE

_MAX_EVENTS = 500
_MAX_READ_BYTES = 8 << 20
_LOG_CHUNK_BYTES = 64 << 10
_LOG_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_log = logging.getLogger(__name__)


class EventRelay:
    """Relays whole lines of `events.jsonl`."""

    def __init__(
        self,
        path: Path,
        fence: Fence,
        database: Database,
        settings: Settings,
        on_checkpoint: Callable[[CheckpointSaved], None],
    ) -> None:
        self.finished: Finished | None = None
        self.spoke_at = time.monotonic()
        self._path = path
        self._fence = fence
        self._database = database
        self._settings = settings
        self._on_checkpoint = on_checkpoint
        self._offset_bytes = 0
        self._retry_at = 0.0
        self._redact = Redactor(settings.worker_secrets)
        self._batch: tuple[list[Event], int] | None = None  # the same again after a lost reply

    def step(self) -> bool:
        """Relay some events; whether there may be more at once. Raises Fenced."""
        if time.monotonic() < self._retry_at:
            return False
        self._batch = self._batch or self._read()
        if self._batch is None:
            return False
        events, num_bytes = self._batch
        try:
            self._record(events, self._offset_bytes + num_bytes)
        except UNREACHABLE as error:
            _log.warning("events wait on disk: %s", error)
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return False
        self._offset_bytes += num_bytes
        self._batch = None
        self.spoke_at = time.monotonic()
        for event in events:
            self._notice(event)
        return True

    def is_waiting(self) -> bool:
        """Whether events could not be relayed yet."""
        return self._batch is not None

    def _record(self, events: list[Event], relayed_bytes: int) -> None:
        with self._database.writing() as session:
            record(
                session,
                self._fence,
                events,
                relayed_bytes=relayed_bytes,
                settings=self._settings,
            )

    def _notice(self, event: Event) -> None:
        if isinstance(event, CheckpointSaved):
            self._on_checkpoint(event)
        elif isinstance(event, Finished):
            self.finished = event

    def _read(self) -> tuple[list[Event], int] | None:
        """The next whole lines, and their size."""
        content = _read_from(self._path, self._offset_bytes, _MAX_READ_BYTES)
        lines = content.split(b"\n")[:-1]
        if not lines and len(content) == _MAX_READ_BYTES:
            _log.warning("skipped a line without end in %s", self._path)
            return [], len(content)
        if not lines:
            return None
        lines = lines[:_MAX_EVENTS]
        events = [event for line in lines if (event := self._parse(line)) is not None]
        return events, sum(len(line) + 1 for line in lines)

    def _parse(self, line: bytes) -> Event | None:
        try:
            return parse_event(self._redact.known(line.decode(errors="replace")).encode())
        except ValidationError as error:
            _log.warning("skipped a line that is no event: %s", error)
            return None


class LogRelay:
    """Relays `output.log` in chunks that end with a line, secrets taken out."""

    def __init__(self, path: Path, fence: Fence, database: Database, redact: Redactor) -> None:
        self._path = path
        self._fence = fence
        self._database = database
        self._redact = redact
        self._offset_bytes = 0
        self._next_at = 0.0
        self._chunk = b""  # the same again after a lost reply

    def step(self, *, final: bool = False) -> bool:
        """Relay a chunk; whether there may be more at once. Raises Fenced.

        Args:
            final: The process is gone: a last line need not have an end.
        """
        if not final and time.monotonic() < self._next_at:
            return False
        self._next_at = time.monotonic() + _LOG_SECONDS
        self._chunk = self._chunk or self._read(final=final)
        if not self._chunk:
            return False
        try:
            self._record(self._chunk)
        except UNREACHABLE as error:
            _log.warning("output waits on disk: %s", error)
            self._next_at = time.monotonic() + _RETRY_SECONDS
            return False
        self._offset_bytes += len(self._chunk)
        self._chunk = b""
        return True

    def is_waiting(self) -> bool:
        """Whether output could not be relayed yet."""
        return bool(self._chunk)

    def _read(self, *, final: bool) -> bytes:
        content = _read_from(self._path, self._offset_bytes, _LOG_CHUNK_BYTES)
        return content if final else _whole_lines(content)

    def _record(self, chunk: bytes) -> None:
        text = self._redact(
            chunk.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        )
        with self._database.writing() as session:
            record_log(session, self._fence, text, log_bytes=self._offset_bytes + len(chunk))


@dataclass(frozen=True)
class Relays:
    """Both of a run's relays."""

    events: EventRelay
    log: LogRelay

    def step(self, *, final: bool = False) -> bool:
        """One step of each; whether there may be more at once. Raises Fenced."""
        more_events, more_log = self.events.step(), self.log.step(final=final)
        return more_events or more_log

    def is_waiting(self) -> bool:
        """Whether words are held back by a database that is away."""
        return self.events.is_waiting() or self.log.is_waiting()


def relays_of(active: ActiveRun, on_checkpoint: Callable[[CheckpointSaved], None]) -> Relays:
    """The relays of a run; `on_checkpoint` is called after a saved checkpoint was relayed."""
    host, directory = active.host, active.directory
    redact = Redactor(host.settings.worker_secrets)
    return Relays(
        EventRelay(
            directory.events_file, active.fence, host.database, host.settings, on_checkpoint
        ),
        LogRelay(directory.log_file, active.fence, host.database, redact),
    )


def last_line(log_file: Path) -> str:
    """What a process said last, for a failure that has no other words."""
    lines = log_file.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a word"


def _whole_lines(content: bytes) -> bytes:
    """Up to the last line end (a progress bar's, too); all of it where a chunk has none."""
    end = max(content.rfind(b"\n"), content.rfind(b"\r")) + 1
    return content[:end] if end or len(content) < _LOG_CHUNK_BYTES else content


def _read_from(path: Path, offset_bytes: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset_bytes)
            return file.read(size)
    except FileNotFoundError:
        return b""
