"""The worker as a child of `tunesmith serve`: started, started again, and never left behind.

A worker dies with its parent, even one that was killed: it asks the kernel for that before it
becomes the worker, so no thread or fork hook is involved. What it trains dies with it in turn.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

from cli.render import hint

_PR_SET_PDEATHSIG = 1
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 30.0
_HEALTHY_SECONDS = 60.0


class WorkerProcess:
    """One worker child at a time.

    All methods belong to one thread: the kernel counts the thread that started a child as its
    parent.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._wait_seconds = _FIRST_WAIT_SECONDS

    def tend(self) -> None:
        """Start the worker if it is not there; one that keeps dying is started less often."""
        if self._child is not None and self._child.poll() is not None:
            self._note_death(self._child.returncode)
        if self._child is None and time.monotonic() >= self._start_at:
            self._start()

    def ask_to_stop(self) -> None:
        """The first time drains, the second ends its patience."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    def has_ended(self) -> bool:
        return self._child is None or self._child.poll() is not None

    def _start(self) -> None:
        command = [sys.executable, "-m", "cli.worker_process", str(os.getpid())]
        # A session of its own: Ctrl-C in the terminal reaches `serve` only, which passes it on.
        self._child = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own module
        self._started_at = time.monotonic()

    def _note_death(self, code: int) -> None:
        self._child = None
        lived_seconds = time.monotonic() - self._started_at
        if lived_seconds > _HEALTHY_SECONDS:
            self._wait_seconds = _FIRST_WAIT_SECONDS
        hint(f"The worker ended ({_how(code)}); starting it again in {self._wait_seconds:.0f} s")
        self._start_at = time.monotonic() + self._wait_seconds
        self._wait_seconds = min(_LONGEST_WAIT_SECONDS, 2 * self._wait_seconds)


def become_worker() -> None:
    """Turn this process into a worker of this host's pool."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606 - no shell


def _die_with(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        raise SystemExit(1)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    _die_with(int(sys.argv[1]))
    become_worker()
