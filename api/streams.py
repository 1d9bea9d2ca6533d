"""Following jobs: one reader for the whole process, any number of listeners.

Once a tick the reader asks, in one short session, how far all watched jobs are, and fetches what
is new of those that moved. A listener holds nothing but its own position: it takes what the
reader has just fetched, or, when it is behind that, a page from the database. So a slow client
costs no memory, and nobody holds a session while waiting for a client.

The reader wakes a few listeners at a time: waking a thousand at once would keep every other
request waiting until the last of them was served.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from anyio import CapacityLimiter, to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from api.errors import Unavailable
from api.schemas.events import EventReply
from api.sse import frame
from jobs.database import Database
from jobs.models import Event
from jobs.service import events
from jobs.service.looks import Look, look
from jobs.states import TERMINAL

_TICK_SECONDS = 0.1
_HEARTBEAT_SECONDS = 15
_PAGE_EVENTS = 100
_FRESH_EVENTS = 500
"""As many as a worker writes in one transaction: those need no page for every listener."""
_WOKEN_AT_ONCE = 25
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class News:
    """What a listener is told: events in order, and where the job stands; both may be old news.

    All who have the same position are told by the same object, so its bytes are made once.
    """

    events: list[Event]
    look: Look

    def only(self, after: int, types: Collection[str] | None) -> "News":
        """What of it comes after a position and is of these types."""
        later = (event for event in self.events if event.seq > after)
        return News([e for e in later if types is None or e.type in types], self.look)

    @cached_property
    def frames(self) -> bytes:
        """The events as server-sent ones, each with its number."""
        return b"".join(
            frame(event.type, EventReply.of(event).model_dump(), event.seq) for event in self.events
        )

    @cached_property
    def progress(self) -> bytes:
        """Where the job stands, as a server-sent event without a number."""
        seen = self.look
        told = {"status": seen.status.value, "phase": seen.phase, "progress": seen.progress}
        return frame("progress", told)


@dataclass
class _Watch:
    """A job somebody listens to, as the last tick saw it."""

    listeners: int = 0
    look: Look | None = None
    fresh: News | None = None
    """Every event between `fresh_after` and its look, from the last tick that found any."""
    fresh_after: int = 0
    waiting: set[asyncio.Future[None]] = field(default_factory=set)

    async def wait(self) -> None:
        """Until the reader has something to tell, be it that there is nothing."""
        told = asyncio.get_running_loop().create_future()
        self.waiting.add(told)
        try:
            await told
        finally:
            self.waiting.discard(told)


class Streams:
    """The reader and its watches; lives in one event loop.

    Args:
        db: Asked for all of them once a tick.
        max_listeners: More at once are refused.
        heartbeat_seconds: How long a listener waits at most to be told something.
    """

    def __init__(
        self, db: Database, max_listeners: int, heartbeat_seconds: float = _HEARTBEAT_SECONDS
    ) -> None:
        self._db = db
        self._max_listeners = max_listeners
        self._heartbeat_seconds = heartbeat_seconds
        self._watches: dict[str, _Watch] = {}
        self._wanted = asyncio.Event()
        self.closed = False

    def close(self) -> None:
        """End every stream now; clients come back with their position."""
        self.closed = True
        self._wanted.set()
        for watch in self._watches.values():
            _tell(watch.waiting)

    async def read(self) -> None:
        """The reader: runs until `close`."""
        # A thread of its own: the ones of requests may all be waiting for the write lock.
        thread = CapacityLimiter(1)
        heartbeat_at = time.monotonic()
        while not self.closed:
            if not self._watches:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            moved = await self._tick(thread)
            if time.monotonic() - heartbeat_at >= self._heartbeat_seconds:
                heartbeat_at, moved = time.monotonic(), list(self._watches.values())
            for watch in moved:
                await _tell_in_turn(watch)
            await asyncio.sleep(_TICK_SECONDS)

    def require_room(self) -> None:
        """Refuse a further listener, before its reply has begun.

        Raises:
            Unavailable: Too many streams are open in this process.
        """
        if sum(watch.listeners for watch in self._watches.values()) >= self._max_listeners:
            raise Unavailable("too many streams are open; try again later", code="too_many_streams")

    async def follow(
        self,
        job_id: str,
        after: int,
        *,
        types: Collection[str] | None = None,
        until_now: bool = False,
    ) -> AsyncIterator[News]:
        """Everything after number `after`, and then what comes, until the job has ended.

        Yields whenever the job moves, and at least once in a heartbeat. Ends when the job is in a
        final status and all of its events were given out, or when the process stops; with
        `until_now`, when all that there is now was given out.

        Raises:
            Unavailable: Too many streams are open in this process.
        """
        with self._watching(job_id) as watch:
            if watch.look is None:
                watch.look = await run_in_threadpool(self._first_look, job_id)
            while not self.closed:
                seen = watch.look
                news, after = await self._news(watch, seen, job_id, after, types)
                yield news
                if after < seen.last_seq:
                    continue
                if seen.status in TERMINAL or until_now:
                    return
                if watch.look is seen and not self.closed:
                    await watch.wait()

    async def _news(
        self,
        watch: _Watch,
        seen: Look,
        job_id: str,
        after: int,
        types: Collection[str] | None,
    ) -> tuple[News, int]:
        """What comes after a position, up to a page of events, and the position behind it."""
        if after >= seen.last_seq:
            return News([], seen), after
        fresh = watch.fresh
        if fresh is not None and fresh.look is seen and watch.fresh_after <= after:
            whole = watch.fresh_after == after and types is None
            return fresh if whole else fresh.only(after, types), seen.last_seq
        page = await run_in_threadpool(self._page, job_id, after, types)
        last_seq = page[-1].seq if page else 0
        is_all = len(page) < _PAGE_EVENTS
        return News(page, seen), max(seen.last_seq, last_seq) if is_all else last_seq

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
        self.require_room()
        watch = self._watches.setdefault(job_id, _Watch())
        watch.listeners += 1
        self._wanted.set()
        try:
            yield watch
        finally:
            watch.listeners -= 1
            if not watch.listeners:
                del self._watches[job_id]

    async def _tick(self, thread: CapacityLimiter) -> list[_Watch]:
        """Ask how far everything is; the watches whose job has moved."""
        known = {job_id: watch.look for job_id, watch in self._watches.items()}
        try:
            looks, fresh = await to_thread.run_sync(self._read, known, limiter=thread)
        except SQLAlchemyError as error:
            _log.warning("streams wait for the database: %s", error)
            return []
        moved = []
        for job_id, seen in looks.items():
            watch = self._watches.get(job_id)
            if watch is None or watch.look == seen:
                continue
            before = known[job_id]
            if before is not None and before.last_seq < seen.last_seq:
                watch.fresh, watch.fresh_after = fresh.get(job_id), before.last_seq
            watch.look = seen
            moved.append(watch)
        return moved

    def _read(self, known: dict[str, Look | None]) -> tuple[dict[str, Look], dict[str, News]]:
        """How far the jobs are, and what is new of those that moved by no more than is kept."""
        fresh: dict[str, News] = {}
        with self._db.reading() as session:
            looks = look(session, known)
            for job_id, seen in looks.items():
                before = known[job_id]
                if before is None:
                    continue
                if 0 < seen.last_seq - before.last_seq <= _FRESH_EVENTS:
                    found = events.since(session, job_id, before.last_seq, _FRESH_EVENTS)
                    fresh[job_id] = News([e for e in found if e.seq <= seen.last_seq], seen)
        return looks, fresh


async def _tell_in_turn(watch: _Watch) -> None:
    waiting = list(watch.waiting)
    for first in range(0, len(waiting), _WOKEN_AT_ONCE):
        _tell(waiting[first : first + _WOKEN_AT_ONCE])
        await asyncio.sleep(0)  # they are served now, and who else is due


def _tell(waiting: Iterable[asyncio.Future[None]]) -> None:
    for told in waiting:
        if not told.done():
            told.set_result(None)
