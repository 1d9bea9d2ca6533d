"""Celery's Redis transport, for a Redis that others can write to: only bells come out of it."""

import logging
from queue import Empty

from kombu.transport import redis
from redis.exceptions import ResponseError

from jobs.bells import BellsOnly

_UNREADABLE = (ArithmeticError, AttributeError, RecursionError, TypeError, ValueError)
"""What kombu's JSON reader raises, over the values that it builds, too."""
_log = logging.getLogger(__name__)


class Channel(redis.Channel):
    """Reads on after an item that is no message."""

    def _brpop_read(self, **options: object) -> object:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except self.connection_errors:
            raise
        except _UNREADABLE as error:
            _log.warning("threw away an unreadable message: %s", error)
            raise Empty from error


class Transport(BellsOnly, redis.Transport):
    """As `kombu.transport.redis`, with the channel above."""

    Channel = Channel
    # Celery reconnects after these; another error ends the worker. So it comes back from a
    # refusal, too: a replica that takes no writes, or a key of another type.
    connection_errors = (*redis.Transport.connection_errors, ResponseError)
