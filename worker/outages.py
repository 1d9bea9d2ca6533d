"""Living through a database that is away: training goes on, and every step is tried again."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

UNREACHABLE = (OperationalError, InterfaceError, PoolTimeoutError)
"""What SQLAlchemy raises when a database does not answer, is locked too long or restarts."""

T = TypeVar("T")
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class GaveUp(Exception):  # noqa: N818 - a decision, not an error
    """The caller no longer wants what the database kept it waiting for."""


def persistently(step: Callable[[], T], give_up: Callable[[], bool]) -> T:
    """The value of a database step, however long the database is away.

    Raises:
        GaveUp: `give_up` said so while it was away.
    """
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return step()
        except UNREACHABLE as error:
            _log.warning(
                "the database is away: %s", error.orig if hasattr(error, "orig") else error
            )
        until = time.monotonic() + pause_seconds
        while time.monotonic() < until:
            if give_up():
                raise GaveUp
            time.sleep(_FIRST_PAUSE_SECONDS)
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
