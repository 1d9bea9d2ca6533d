"""A Celery transport over a folder, for one machine without a broker server.

Only bells travel here, so a queue holds one message at most: one file per queue. It is written
under a temporary name and renamed over the old one, and taken by renaming it away; nobody ever
sees half a message, and rings coalesce by themselves.
"""

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import virtual
from kombu.utils.json import dumps, loads

_PROPERTIES = ("delivery_info", "delivery_tag")
_log = logging.getLogger(__name__)


class Channel(virtual.Channel):  # type: ignore[misc]
    """Queues as files `<queue>.msg` in the folder of the transport option `folder`."""

    do_restore = False  # an unread bell is rung again by the next sweep

    def _put(self, queue: str, message: dict[str, Any], **_: object) -> None:
        temporary = self._temporary_file(queue)
        try:
            temporary.write_text(dumps(message))
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
            return _message(taken.read_bytes())
        except ValueError as error:
            _log.warning("threw away a malformed message of %s: %s", queue, error)
            raise Empty from error
        finally:
            taken.unlink()

    def _size(self, queue: str) -> int:
        return int(self._file(queue).exists())

    def _purge(self, queue: str) -> int:
        try:
            self._file(queue).unlink()
        except FileNotFoundError:
            return 0
        return 1

    def _file(self, queue: str) -> Path:
        if os.sep in queue or queue.startswith("."):
            raise ValueError(f"{queue!r} cannot be a queue's name")
        return self._folder / f"{queue}.msg"

    def _temporary_file(self, queue: str) -> Path:
        return self._file(queue).with_name(f".{queue}.{secrets.token_hex(8)}")

    @property
    def _folder(self) -> Path:
        return Path(self.connection.client.transport_options["folder"])


class Transport(virtual.Transport):  # type: ignore[misc]
    """Polls the folder; see the transport option `polling_interval`."""

    Channel = Channel
    driver_type = "tunesmith"
    driver_name = "tunesmith"

    def establish_connection(self) -> "Transport":
        folder = Path(self.client.transport_options["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*"):  # of processes that were killed in between
            with suppress(FileNotFoundError):
                if _is_old(leftover):
                    leftover.unlink()
        super().establish_connection()
        return self


def _is_old(path: Path) -> bool:
    with (path.parent / ".clock").open("wb") as clock:
        return os.fstat(clock.fileno()).st_mtime - path.stat().st_mtime > 60


def _message(content: bytes) -> dict[str, Any]:
    """The message of a file.

    Raises:
        ValueError: Somebody else wrote it: kombu could not read it.
    """
    message = loads(content.decode())
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one class for all that is malformed
    properties = message.get("properties")
    if not isinstance(properties, dict) or any(key not in properties for key in _PROPERTIES):
        raise ValueError("no properties of a message")
    if not isinstance(message.get("body"), str):
        raise ValueError("no body")
    return message
