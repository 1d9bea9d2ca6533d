"""Why a run is to stop, and how: a word on disk, TERM, patience, KILL.

A wish to stop and keep what is trained is no reason to end a process: the process hears of it and
ends by itself, with success. Any of the reasons is stronger.
"""

import logging
import time
from typing import Literal

from jobs.settings import Settings
from jobs.states import Intent
from training.run_directory import RunDirectory, StopReason
from worker.drain import Drain
from worker.heartbeat import Heartbeat
from worker.launchers.base import RunHandle

Reason = Literal["pause", "drain", "cancel", "hung", "lost"]
"""`pause` and `drain` save a checkpoint first; `hung`: silent for too long; `lost`: the fence."""

_STRENGTH: tuple[Reason, ...] = ("pause", "drain", "cancel", "hung", "lost")
_KILL_REPEAT_SECONDS = 5.0
_DRAIN_SHARE_FOR_SAVING = 0.8  # the rest is for uploading what was saved
_log = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - what was asked for
    """A run was told to stop before it had started its process."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def reason_to_stop(heartbeat: Heartbeat, drain: Drain) -> Reason | None:
    """The strongest reason there is."""
    if heartbeat.fenced.is_set():
        return "lost"
    if heartbeat.orders.cancelled:
        return "cancel"
    if drain.begun.is_set():
        return "drain"
    return "pause" if heartbeat.orders.intent == Intent.PAUSE else None


class StopLadder:
    """Stops one command. `want` says why, `climb` is called again and again until it is gone."""

    def __init__(self, handle: RunHandle, directory: RunDirectory, settings: Settings) -> None:
        self.reason: Reason | None = None
        self._handle = handle
        self._directory = directory
        self._settings = settings
        self._kill_at: float | None = None
        self._told_to_keep = directory.is_to_keep()  # to an earlier command of the run

    def want(self, reason: Reason) -> None:
        """Stop for this reason, unless there is a stronger one already."""
        if self.reason is not None and _STRENGTH.index(reason) <= _STRENGTH.index(self.reason):
            return
        _log.info("stopping %s: %s", self._directory.path.name, reason)
        self.reason = reason
        self._kill_at = time.monotonic() + self._grace_seconds(reason)
        if reason in ("pause", "drain", "cancel"):
            self._say(reason)

    def keep(self, *, wanted: bool) -> None:
        """Have it end with a result of what is trained so far, or not any more."""
        if self.reason is not None or wanted == self._told_to_keep:
            return
        try:
            if wanted:
                self._directory.write_stop_reason("stop")
            else:
                self._directory.withdraw_stop()
        except OSError as error:  # tried again with the next look
            _log.warning("cannot tell %s what is wanted: %s", self._directory.path.name, error)
        else:
            self._told_to_keep = wanted

    def hurry(self) -> None:
        """No more patience."""
        self._kill_at = time.monotonic()

    def climb(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._handle.signal("KILL")
            self._kill_at = time.monotonic() + _KILL_REPEAT_SECONDS

    def _say(self, reason: StopReason) -> None:
        try:
            self._directory.write_stop_reason(reason)
        except OSError as error:  # a full disk must not keep a run going
            _log.warning("cannot say why %s stops: %s", self._directory.path.name, error)
        self._handle.signal("TERM")

    def _grace_seconds(self, reason: Reason) -> float:
        if reason in {"pause", "drain"}:
            return _DRAIN_SHARE_FOR_SAVING * self._settings.drain_seconds
        return self._settings.stop_grace_seconds if reason == "cancel" else 0.0
