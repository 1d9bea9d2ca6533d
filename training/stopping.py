"""What a TERM does to a training process; light, so that it is in place before torch is loaded.

Until training begins there is nothing to save and a TERM ends the process where it stands.
While training (`deferred`), it is only noted, and heeded at the next step boundary.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from training.failures import StopRequested
from training.run_directory import RunDirectory, StopReason


class StopSignal:
    """Listens for TERM and INT, for as long as the process lives.

    Attributes:
        reason: Why the process is to end; None while it is not.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.reason: StopReason | None = None
        self._directory = directory
        self._deferred = False

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that asks for `reason` by itself, at moments of its choice.

        Raises:
            StopRequested: After the block, if a stop was requested meanwhile.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.reason is not None:
            raise StopRequested(self.reason)

    @property
    def saves(self) -> bool:
        """Whether the requested stop wants a checkpoint first."""
        return self.reason in {"pause", "drain"}

    def request(self) -> None:
        """Note that the process is to end, and why; end it here and now if nothing is deferred.

        Raises:
            StopRequested: Outside of `deferred`.
        """
        if self.reason is None:
            self.reason = self._directory.read_stop_reason()
        if not self._deferred:
            raise StopRequested(self.reason)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.request()
