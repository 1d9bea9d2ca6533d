"""Keeps a run's lease alive, and hears what is wanted of it, in a thread of its own.

Nothing else happens in this thread, so that neither a long upload nor a slow relay can cost a
healthy run its lease.
"""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from jobs.service.records import Fence, Fenced, Orders, heartbeat, orders
from worker.host import Host
from worker.outages import UNREACHABLE

_LOOK_SECONDS = 0.5
_log = logging.getLogger(__name__)


class Heartbeat:
    """Renews the lease every `heartbeat_seconds`, and looks for orders more often."""

    def __init__(self, host: Host, fence: Fence) -> None:
        self.orders = Orders(cancelled=False, intent=None)
        self.fenced = threading.Event()
        self._host = host
        self._fence = fence
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    def given_up(self) -> bool:
        """Whether nothing this run still wants of the database matters any more."""
        return self.fenced.is_set() or self._host.drain.hard.is_set()

    def _beat(self) -> None:
        interval_seconds = self._host.settings.heartbeat_seconds
        renewed_at = time.monotonic()
        pause_seconds = 0.0  # what a job is claimed with is wanted from the start
        while not self._stopped.wait(pause_seconds):
            pause_seconds = min(_LOOK_SECONDS, interval_seconds)
            try:
                if time.monotonic() - renewed_at >= interval_seconds:
                    self._renew()
                    renewed_at = time.monotonic()
                else:
                    self._look()
            except Fenced:
                if not self._stopped.is_set():  # else the run has just ended
                    _log.warning("run %s was taken from this worker", self._fence.run_id)
                self.fenced.set()
                return
            except UNREACHABLE as error:
                _log.warning("no heartbeat for run %s: %s", self._fence.run_id, error)

    def _renew(self) -> None:
        with self._host.database.writing() as session:
            self.orders = heartbeat(session, self._fence, self._host.settings)

    def _look(self) -> None:
        with self._host.database.reading() as session:
            self.orders = orders(session, self._fence)
