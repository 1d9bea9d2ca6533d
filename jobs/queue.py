"""Celery as a doorbell: its settings.

A message names no job. It wakes whoever has free slots in a pool, and the work itself is claimed
from the database; so a message may be lost, doubled, late or forged without harm.
"""

import logging
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from jobs.bells import WAKE
from jobs.settings import Settings

_EXPIRES_SECONDS = 60
PATIENCE_SECONDS = 1.0
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
        broker_connection_timeout=PATIENCE_SECONDS,
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


class Sender:
    """Puts bells into the queues of pools, as long as the broker takes them within a second."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_celery_app(settings)
        if settings.broker_url:
            self._app.conf.broker_transport_options = {
                "socket_timeout": PATIENCE_SECONDS,
                "socket_connect_timeout": PATIENCE_SECONDS,
                "max_retries": 0,
            }

    def send(self, pool: str) -> None:
        try:
            self._app.send_task(
                WAKE, queue=queue_name(pool), expires=_EXPIRES_SECONDS, ignore_result=True
            )
        except (OperationalError, OSError) as error:
            _log.warning("no bell for pool %s: %s", pool, error)

    def close(self) -> None:
        self._app.close()
