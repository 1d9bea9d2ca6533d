"""Brings webhooks to their endpoints: one thread of every API process.

What is due lies in the database, so a restart loses nothing and several processes share the work.
A delivery that is under way when its process dies is due again after its lease.
"""

import asyncio
import concurrent.futures
import logging
import threading
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from api.addresses import Unreachable
from jobs.database import Database
from jobs.service import webhooks
from jobs.service.webhooks import Parcel
from jobs.settings import Settings

if TYPE_CHECKING:
    from api.mail import Mail

_POLL_SECONDS = 1.0
_MAX_UNDER_WAY = 20
_log = logging.getLogger(__name__)


class Courier:
    """Takes what is due, sends it, and keeps how that ended."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._mail: Mail | None = None
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Let what is under way end, and stop."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def send(self, parcel: Parcel) -> int:
        """Send one parcel now, from any other thread; raises Unreachable."""
        sending: concurrent.futures.Future[int] = asyncio.run_coroutine_threadsafe(
            self._post(parcel), self._loop
        )
        return sending.result()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._work())

    async def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._take()
            except SQLAlchemyError as error:
                _log.warning("webhooks wait for the database: %s", error)
            try:
                await asyncio.wait_for(self._stopping.wait(), _POLL_SECONDS)
            except TimeoutError:
                continue
        if self._under_way:
            await asyncio.wait(self._under_way)
        if self._mail is not None:
            await self._mail.close()

    async def _take(self) -> None:
        room = _MAX_UNDER_WAY - len(self._under_way)
        for parcel in await asyncio.to_thread(self._due, room) if room else ():
            task = asyncio.create_task(self._deliver(parcel))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _due(self, limit: int) -> list[Parcel]:
        with self._db.reading() as session:
            if not webhooks.any_due(session):
                return []
        with self._db.writing() as session:
            return webhooks.take(session, limit)

    async def _deliver(self, parcel: Parcel) -> None:
        status, problem = None, None
        try:
            status = await self._post(parcel)
        except Unreachable as error:
            problem = error.message
        if status is not None and not 200 <= status < 300:
            problem = f"the endpoint replied {status}"
        try:
            await asyncio.to_thread(self._settle, parcel, status, problem)
        except SQLAlchemyError as error:
            _log.warning("webhook %s is sent again: %s", parcel.delivery_id, error)

    def _settle(self, parcel: Parcel, status: int | None, problem: str | None) -> None:
        with self._db.writing() as session:
            webhooks.settle(session, parcel, self._settings, status=status, problem=problem)

    async def _post(self, parcel: Parcel) -> int:
        if self._mail is None:
            self._mail = await asyncio.to_thread(self._make_mail)
        return await self._mail.post(parcel)

    def _make_mail(self) -> "Mail":
        from api.mail import Mail  # noqa: PLC0415 - a tenth of the server's start

        return Mail(allow_private=self._settings.webhook_allow_private)
