"""Following jobs: one reader for the whole process, any number of listeners.

Once a tick the reader asks, in one short session, how far all watched jobs are, and fetches what
is new of those that moved. A listener holds nothing but its own position: it takes what the
reader has just fetched, or, when it is behind that, a page from the database. So a slow client
costs no memory, and nobody holds a session while waiting for a client.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api.errors import Unavailable
from jobs.database import Database
from jobs.models import Event
from jobs.service import events
from jobs.service.looks import Look, look
from jobs.states import TERMINAL

_TICK_SECONDS = 0.25
_PAGE_EVENTS = 100
_MAX_LISTENERS = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class News:
    """What a listener is told: events in order, and where the job stands; both may be old news."""

    events: list[Event]
    look: Look


@dataclass
class _Watch:
    """A job somebody listens to, as the last tick saw it."""

    listeners: int = 0
    look: Look | None = None
    fresh: list[Event] = field(default_factory=list)
    """What the last tick that found something fetched: every event after `fresh_after`."""
    fresh_after: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        moved, self.moved = self.moved, asyncio.Event()
        moved.set()


class Streams:
    """The reader and its watches; lives in one event loop."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._watches: dict[str, _Watch] = {}
        self._wanted = asyncio.Event()
        self.closed = False

    def close(self) -> None:
        """End every stream now; clients come back with their position."""
        self.closed = True
        self._wanted.set()
        for watch in self._watches.values():
            watch.tell()

    async def read(self) -> None:
        """The reader: runs until `close`."""
        while not self.closed:
            if not self._watches:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            await self._tick()
            await asyncio.sleep(_TICK_SECONDS)

    async def follow(
        self,
        job_id: str,
        after: int,
        *,
        types: Collection[str] | None = None,
        patience_seconds: float | None,
    ) -> AsyncIterator[News]:
        """Everything after number `after`, and then what comes, until the job has ended.

        Yields as often as the job moves, and at least every `patience_seconds`; None: ends when
        all that there is now was given out. Ends when the job is in a final status and all of its
        events were given out, or when the process stops.

        Raises:
            Unavailable: Too many streams are open in this process.
        """
        with self._watching(job_id) as watch:
            if watch.look is None:
                watch.look = await run_in_threadpool(self._first_look, job_id)
            while not self.closed:
                moved, seen = watch.moved, watch.look
                batch, after = await self._after(watch, seen.last_seq, job_id, after, types)
                yield News(batch, seen)
                if after < seen.last_seq:
                    continue
                if seen.status in TERMINAL or patience_seconds is None:
                    return
                await _wait(moved, patience_seconds)

    async def _after(
        self,
        watch: _Watch,
        last_seq: int,
        job_id: str,
        after: int,
        types: Collection[str] | None,
    ) -> tuple[list[Event], int]:
        """The events after a position, up to a page of them, and the position behind them."""
        if after >= last_seq:
            return [], after
        if watch.fresh and watch.fresh_after <= after:
            wanted = (e for e in watch.fresh if after < e.seq <= last_seq)
            return [e for e in wanted if types is None or e.type in types], last_seq
        page = await run_in_threadpool(self._page, job_id, after, types)
        if len(page) == _PAGE_EVENTS:
            return page, page[-1].seq
        return page, max(last_seq, page[-1].seq if page else 0)

    def _first_look(self, job_id: str) -> Look:
        with self._db.reading() as session:
            return look(session, [job_id])[job_id]

    def _page(self, job_id: str, after: int, types: Collection[str] | None) -> list[Event]:
        with self._db.reading() as session:
            return events.since(
                session, job_id, after, _PAGE_EVENTS, None if types is None else list(types)
            )

    @contextmanager
    def _watching(self, job_id: str) -> Iterator[_Watch]:
        if sum(watch.listeners for watch in self._watches.values()) >= _MAX_LISTENERS:
            raise Unavailable("too many streams are open; try again later", code="too_many_streams")
        watch = self._watches.setdefault(job_id, _Watch())
        watch.listeners += 1
        self._wanted.set()
        try:
            yield watch
        finally:
            watch.listeners -= 1
            if not watch.listeners:
                del self._watches[job_id]

    async def _tick(self) -> None:
        known = {job_id: watch.look for job_id, watch in self._watches.items()}
        try:
            looks, fresh = await run_in_threadpool(self._read, known)
        except SQLAlchemyError as error:
            _log.warning("streams wait for the database: %s", error)
            return
        for job_id, seen in looks.items():
            watch = self._watches.get(job_id)
            if watch is None or watch.look == seen:
                continue
            if watch.look is not None and watch.look.last_seq < seen.last_seq:
                watch.fresh, watch.fresh_after = fresh.get(job_id, []), watch.look.last_seq
            watch.look = seen
            watch.tell()

    def _read(
        self, known: dict[str, Look | None]
    ) -> tuple[dict[str, Look], dict[str, list[Event]]]:
        """How far the jobs are, and the new events of those that moved by less than a page."""
        fresh: dict[str, list[Event]] = {}
        with self._db.reading() as session:
            looks = look(session, known)
            for job_id, seen in looks.items():
                before = known[job_id]
                if before is None or before.last_seq >= seen.last_seq:
                    continue
                few = seen.last_seq - before.last_seq < _PAGE_EVENTS
                fresh[job_id] = (
                    events.since(session, job_id, before.last_seq, _PAGE_EVENTS) if few else []
                )
        return looks, fresh


async def _wait(moved: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await moved.wait()
    except TimeoutError:
        return
