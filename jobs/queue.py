"""The doorbell: Celery's settings, and how a bell is rung.

A message names no job. It wakes whoever has free slots in a pool, and the work itself is claimed
from the database; so a message may be lost, doubled, late or forged without harm.
"""

import logging
import threading
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from jobs.bells import WAKE
from jobs.settings import Settings

_EXPIRES_SECONDS = 60
_PATIENCE_SECONDS = 1.0
_PAUSE_SECONDS = 0.1
_POLL_SECONDS = 0.05
_log = logging.getLogger(__name__)


def queue_name(pool: str) -> str:
    return f"tunesmith.{pool}"


def make_celery_app(settings: Settings) -> Celery:
    """Celery as a doorbell: JSON only, acknowledged at once, no results, no limits, no control.

    The one task runs in a thread of the worker's own process, where the supervisor lives.
    """
    app = Celery("tunesmith", set_as_current=False)
    app.conf.update(
        include=["worker.tasks"],
        task_default_queue=queue_name(settings.worker_pool),
        task_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        task_acks_late=False,
        task_time_limit=None,
        task_soft_time_limit=None,
        task_publish_retry=False,
        worker_pool="threads",
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        broker_connection_timeout=_PATIENCE_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        enable_utc=True,
        **_broker(settings),
    )
    return app


def _broker(settings: Settings) -> dict[str, Any]:
    if settings.broker_url:
        return {
            "broker_url": settings.broker_url,
            "broker_transport": "jobs.redis_broker:Transport",
            "worker_disable_prefetch": True,
        }
    folder = settings.broker_folder
    return {
        "broker_url": "localhost",  # unused; the transport below has no host
        "broker_transport": "jobs.embedded_broker:Transport",
        "broker_transport_options": {
            "folder": str(folder),
            "polling_interval": _POLL_SECONDS,
        },
    }


class Bell:
    """Rings pools from a thread of its own: `ring` costs nothing and cannot fail.

    Rings for the same pool that have not gone out yet are one ring. A broker that does not take
    one within about a second misses it: rescue rings again for whatever waits.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = make_celery_app(settings)
        if settings.broker_url:
            self._app.conf.broker_transport_options = {
                "socket_timeout": _PATIENCE_SECONDS,
                "socket_connect_timeout": _PATIENCE_SECONDS,
                "max_retries": 0,
            }
        self._changed = threading.Condition()
        self._pools: set[str] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._send, name="bell", daemon=True)
        self._thread.start()

    def ring(self, pool: str) -> None:
        with self._changed:
            if pool not in self._pools:
                self._pools.add(pool)
                self._changed.notify()

    def close(self) -> None:
        """Send what is waiting, for as long as the bell is patient, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=2 * _PATIENCE_SECONDS)

    def _send(self) -> None:
        while (pools := self._next()) is not None:
            for pool in pools:
                self._send_one(pool)
            self._pause()
        self._app.close()

    def _next(self) -> set[str] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pools or self._closed)
            pools, self._pools = self._pools, set()
        return pools or None

    def _pause(self) -> None:
        """Let the rings of a burst become one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=_PAUSE_SECONDS)

    def _send_one(self, pool: str) -> None:
        try:
            self._app.send_task(
                WAKE, queue=queue_name(pool), expires=_EXPIRES_SECONDS, ignore_result=True
            )
        except (OperationalError, OSError) as error:
            _log.warning("no bell for pool %s: %s", pool, error)
