"""How a bell is rung, without waiting for the broker."""

import threading

from jobs.settings import Settings

_PAUSE_SECONDS = 0.1
_CLOSE_SECONDS = 2.0


class Bell:
    """Rings pools from a thread of its own: `ring` costs nothing and cannot fail.

    Rings for the same pool that have not gone out yet are one ring. A broker that does not take
    one within about a second misses it: rescue rings again for whatever waits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
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
        """Send what is waiting, for about a second, and stop."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=_CLOSE_SECONDS)

    def _send(self) -> None:
        # Celery takes a while to import, which the first answer of a server need not wait for.
        from jobs.queue import Sender  # noqa: PLC0415

        sender = Sender(self._settings)
        while (pools := self._next()) is not None:
            for pool in pools:
                sender.send(pool)
            self._pause()
        sender.close()

    def _next(self) -> set[str] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pools or self._closed)
            pools, self._pools = self._pools, set()
        return pools or None

    def _pause(self) -> None:
        """Let the rings of a burst become one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=_PAUSE_SECONDS)
