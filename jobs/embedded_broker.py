"""A Celery transport over a folder, for one machine without a broker server.

Only bells travel here, so a queue holds one message at most: one file per queue. It is written
under a temporary name and renamed over the old one, and taken by renaming it away; nobody ever
sees half a message, and rings coalesce by themselves.
"""

import json
import logging
import secrets
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import virtual

from jobs.bells import BellsOnly

_LEFTOVER_SECONDS = 60
_LONGEST_WAIT_SECONDS = 0.3
_log = logging.getLogger(__name__)


class Channel(virtual.Channel):
    """Queues as files `<queue>.msg` in the folder of the transport option `folder`."""

    do_restore = False  # an unread bell is rung again by the next sweep

    def _put(self, queue: str, message: dict[str, Any], **_: object) -> None:
        temporary = self._temporary_file(queue)
        try:
            temporary.write_text(json.dumps(message))
            temporary.replace(self._file(queue))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        del timeout  # never blocks: the transport sleeps between polls
        taken = self._temporary_file(queue)
        try:
            self._file(queue).rename(taken)
        except FileNotFoundError:
            raise Empty from None
        try:
            message: dict[str, Any] = json.loads(taken.read_bytes())
        except (ValueError, RecursionError) as error:
            _log.warning("threw away an unreadable message of %s: %s", queue, error)
            raise Empty from error
        finally:
            taken.unlink(missing_ok=True)
        return message

    def _size(self, queue: str) -> int:
        return int(self._file(queue).exists())

    def _purge(self, queue: str) -> int:
        size = self._size(queue)
        self._file(queue).unlink(missing_ok=True)
        return size

    def _file(self, queue: str) -> Path:
        assert "/" not in queue, queue
        return _folder(self.connection.client) / f"{queue}.msg"

    def _temporary_file(self, queue: str) -> Path:
        return self._file(queue).with_name(f".{queue}.{secrets.token_hex(8)}")


class Transport(BellsOnly):
    """Polls the folder as often as the transport option `polling_interval` says."""

    Channel = Channel
    driver_type = "embedded"
    driver_name = "embedded"

    def establish_connection(self) -> "Transport":
        folder = _folder(self.client)
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        super().establish_connection()  # type: ignore[no-untyped-call]
        return self

    def drain_events(  # type: ignore[override]
        self,
        connection: Any,  # noqa: ANN401
        timeout: float | None = None,
    ) -> None:
        """Wait for a message, but not so long that a TERM would wait with it."""
        limit = _LONGEST_WAIT_SECONDS if timeout is None else min(timeout, _LONGEST_WAIT_SECONDS)
        super().drain_events(connection, timeout=limit)  # type: ignore[no-untyped-call]


def _folder(connection: Any) -> Path:  # noqa: ANN401 - kombu's Connection, which is untyped
    return Path(connection.transport_options["folder"])


def _remove_leftovers(folder: Path) -> None:
    """Delete temporary files of processes that were killed between two renames."""
    oldest = time.time() - _LEFTOVER_SECONDS
    for path in folder.glob(".*"):
        with suppress(FileNotFoundError):  # taken care of by another process
            if path.stat().st_mtime < oldest:
                path.unlink()
