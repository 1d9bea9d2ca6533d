"""A worker on its way out: since when, how long it may take, and whether all patience is over."""

import threading
import time


class Drain:
    """Begun by the first TERM; a second one makes it `hard`."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.hard = threading.Event()
        self._deadline: float | None = None

    def begin(self, seconds: float) -> None:
        self._deadline = self._deadline or time.monotonic() + seconds
        self.begun.set()

    @property
    def seconds_left(self) -> float:
        """Until the worker exits, whatever is still going on; only after `begin`."""
        assert self._deadline is not None
        return max(0.0, self._deadline - time.monotonic())
