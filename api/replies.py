"""Whether a reply that tells of a new job reached its client: decides what a repeated post means.

A reply was sent whole when its last byte was handed to the server's connection and the client was
still there. That is noted by a thread which gathers: a create pays for no second transaction.
"""

import logging
import threading
from collections.abc import Coroutine
from typing import Any, cast

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.database import Database
from jobs.service import creations

_PAUSE_SECONDS = 0.2
"""A repetition comes 0.4 s after its post at the earliest."""
_MAX_WAITING = 10_000
_STATE = "creation_id"
_log = logging.getLogger(__name__)


class Receipts:
    """The replies sent whole, on their way into the database; `note` costs nothing."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._noted: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="receipts", daemon=True)
        self._thread.start()

    def note(self, creation_id: str) -> None:
        with self._changed:
            if not self._noted:
                self._changed.notify()
            self._noted.add(creation_id)

    def flush(self) -> None:
        """Have everything in the database that was noted before."""
        with self._writing:
            with self._changed:
                noted, self._noted = self._noted, set()
            if noted:
                try:
                    with self._db.writing() as session:
                        creations.replied(session, noted)
                except SQLAlchemyError:
                    self._put_back(noted)
                    raise

    def close(self) -> None:
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _put_back(self, noted: set[str]) -> None:
        """An unnoted reply only makes a repetition easier: beyond some they may be lost."""
        with self._changed:
            if len(self._noted) + len(noted) <= _MAX_WAITING:
                self._noted |= noted

    def _run(self) -> None:
        while self._wait():
            self._flush()
        self._flush()

    def _wait(self) -> bool:
        """Let the replies of a burst gather; False: it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._noted or self._closing.is_set())
        return not self._closing.wait(_PAUSE_SECONDS)

    def _flush(self) -> None:
        try:
            self.flush()
        except SQLAlchemyError as error:
            _log.warning("replies that were sent are noted later: %s", error)


def tells_of(request: Request, creation_id: str | None) -> None:
    """The reply to `request` answers this post: note when it was sent whole."""
    setattr(request.state, _STATE, creation_id)


class ReplyWatch:
    """Sees the last byte of every reply that tells of a new job."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body")
            creation_id = scope.get("state", {}).get(_STATE) if is_last else None
            if creation_id is None:
                await send(message)
                return
            await send({**message, "more_body": True})
            await send({**message, "body": b"", "more_body": True})  # waits for a full connection
            is_there = _is_there(receive)
            await send({**message, "body": b""})
            if is_there:
                receipts: Receipts = scope["app"].state.services.receipts
                receipts.note(creation_id)

        is_post = scope["type"] == "http" and scope["method"] == "POST"
        await self._app(scope, receive, watched if is_post else send)


def _is_there(receive: Receive) -> bool:
    """Whether the client was not gone yet: it has nothing to say until the reply has ended.

    Asked without waiting, for a twentieth of what a cancelled wait costs.
    """
    waiting = cast(Coroutine[Any, Any, Message], receive())
    try:
        waiting.send(None)
    except StopIteration as said:
        message: Message = said.value
        return bool(message["type"] != "http.disconnect")
    waiting.close()
    return True
