"""What a TERM or a word on disk does to training; light, to be in place before torch is loaded.

Until training begins there is nothing to save and a TERM ends the process where it stands.
While training (`deferred`), it is only noted, and heeded at the next step boundary. The wish to
stop and keep what is trained comes without a TERM, and waits until there is something to keep.
Where several processes train together, what one has heard all of them do, at the same boundary.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from training.failures import StopRequested
from training.run_directory import RunDirectory, StopReason

_WEAKER_FIRST: tuple[StopReason | None, ...] = (None, "stop", "pause", "drain", "cancel", "lost")
_SAVING: tuple[StopReason, ...] = ("pause", "drain")


class StopSignal:
    """Listens for TERM and INT, for as long as the process lives.

    Attributes:
        can_keep: Whether what is trained is worth a result; a `stop` is not seen before.
        reason: Why training is to end, as of the last `look`; None while it is not.
    """

    def __init__(
        self, directory: RunDirectory, strongest: Callable[[int], int] = lambda number: number
    ) -> None:
        """Listens for a process alone, or for one of several.

        Args:
            directory: The run's.
            strongest: The highest of the numbers that all processes pass to it.
        """
        self.can_keep = False
        self.reason: StopReason | None = None
        self._directory = directory
        self._strongest = strongest
        self._deferred = False
        self._signalled: StopReason | None = None

    def listen(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def ignore(self) -> None:
        """Hear nothing more: what is left to do is a word about the end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that takes a `look` by itself, at moments of its choice.

        Raises:
            StopRequested: After the block, if the process is to end without a result.
        """
        self._deferred = True
        try:
            yield
            self.look()
        finally:
            self._deferred = False
        reason = self._signalled or self.reason
        if reason is not None and reason != "stop":
            raise StopRequested(reason)

    def look(self) -> StopReason | None:
        """Whether training is to end, and why: all processes look together, and see the same."""
        heard: StopReason | None = self._signalled
        if heard is None and self.can_keep and self._directory.is_to_keep():
            heard = "stop"
        agreed = _WEAKER_FIRST[self._strongest(_WEAKER_FIRST.index(heard))]
        self.reason = agreed or self.reason
        return self.reason

    @property
    def is_agreed(self) -> bool:
        """Whether it was a look that ended the process, not a signal of its own."""
        return self.reason is not None and self.reason != "stop"

    @property
    def saves(self) -> bool:
        """Whether the requested stop wants a checkpoint first."""
        return self.reason in {"stop", *_SAVING}

    def request(self) -> None:
        """Note that the process is to end, and why; end it here and now if nothing is deferred.

        Raises:
            StopRequested: Outside of `deferred`.
        """
        reason = self._signalled or self._directory.read_stop_reason()
        if reason == "stop":
            return  # it is found between steps, with a TERM or without
        self._signalled = reason
        if not self._deferred:
            raise StopRequested(reason)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.request()
