"""Starts a run in a process that has loaded its libraries already, where one stands by.

One such process waits for every slot that is idle. Where none is ready, fits or answers, the run
starts cold, at once. Either way it is a `LocalHandle`: the same reaper owns it from its first
moment, and the worker's end is its end.
"""

import contextlib
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.handover import READY, Handover
from training.run_directory import remove_folder
from training.stamp import installed_stamp
from worker.launchers.local import LOG_FILE, LocalHandle, LocalLauncher
from worker.memory import available_bytes
from worker.processes import TAG
from worker.relay import last_line

TRAINING = (sys.executable, "-P", "-m", "training")
"""What a command begins with that a standby can take over."""

COLD_START = "TUNESMITH_COLD_START"
"""A variable of runs that a standby is of no use to: all their work is done in other processes."""

_OF_A_RUN = frozenset({TAG, "CUDA_VISIBLE_DEVICES", "HOME", "TMPDIR"})
"""Variables of a standby that a run has its own of; nothing has used them by then."""
_LOOK_SECONDS = 2.0
_ANSWER_SECONDS = 5.0
_POLL_SECONDS = 0.001
_FAILURE_PAUSE_SECONDS = 300.0
_END_SECONDS = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How many processes are to stand by, and how.

    Attributes:
        slots: Runs that the host can train at once.
        folder: For their files; what is in it is deleted.
        tag: What their tags begin with.
        environment: From a tag and a HOME to the environment of one.
        free_bytes: Memory that must be available to start one; with less than half, none stays.
        pause_seconds: After a run's start or end, which have better uses for the machine.
    """

    slots: int
    folder: Path
    tag: str
    environment: Callable[[str, Path], dict[str, str]]
    free_bytes: int
    pause_seconds: float = 1.0


class Standby:
    """A process that stands by, or loads for it."""

    def __init__(self, program: Sequence[str], plan: Plan) -> None:
        self.folder = plan.folder / secrets.token_hex(8)
        home = self.folder / "home"
        home.mkdir(parents=True, mode=0o700)
        self._env = plan.environment(f"{plan.tag}standby-{self.folder.name}", home)
        self._stamp = installed_stamp()
        reading, self._line = os.pipe()
        os.set_blocking(self._line, False)
        try:
            self.handle = LocalLauncher().start(
                [*program, str(self.folder)], self._env, self.folder, source=reading
            )
        except OSError:
            os.close(self._line)
            raise
        finally:
            os.close(reading)

    def is_ready(self) -> bool:
        return (self.folder / READY).exists() and self.handle.poll() is None

    def is_stale(self) -> bool:
        """Whether a process that started now would run other code."""
        return self._stamp != installed_stamp()

    def fits(self, env: Mapping[str, str]) -> bool:
        """Whether all that its libraries have read of its environment is so in a run's, too."""
        return all(
            env.get(name) == value for name, value in self._env.items() if name not in _OF_A_RUN
        )

    def take_over(self, handover: Handover) -> bool:
        """Have it become a run; if it does not answer, it is killed, and no run was started."""
        self.handle.become(handover.env.get(TAG))
        if self._hand(handover.as_line()) and self._has_answered():
            os.close(self._line)
            return True
        self.dismiss()
        return False

    def dismiss(self) -> None:
        """End it."""
        os.close(self._line)
        self.handle.signal("KILL")
        if self.handle.wait(_END_SECONDS) is None:
            _log.error("standby process %d does not die", self.handle.pid)

    def _hand(self, line: bytes) -> bool:
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            return os.write(self._line, line) == len(line)
        return False

    def _has_answered(self) -> bool:
        deadline = time.monotonic() + _ANSWER_SECONDS
        while (self.folder / READY).exists():
            if time.monotonic() > deadline or self.handle.poll() is not None:
                return False
            time.sleep(_POLL_SECONDS)
        return True


@dataclass(frozen=True)
class _Training:
    """A run that holds slots; `folder` is that of the standby it was."""

    slots: int
    handle: LocalHandle
    folder: Path | None


class StandbyLauncher:
    """The `Launcher` that keeps processes standing by, from `begin` to `end`."""

    def __init__(
        self,
        program: Sequence[str] = TRAINING,
        verb: str = "run",
        standby: Sequence[str] = (*TRAINING, "standby"),
    ) -> None:
        """`[*program, verb, what]` is a command that can be taken over; `standby` starts one."""
        self._program = tuple(program)
        self._verb = verb
        self._standby = tuple(standby)
        self._cold = LocalLauncher()
        self._lock = threading.Lock()
        self._waiting: list[Standby] = []
        self._trainings: list[_Training] = []
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._not_before = 0.0
        self._thread: threading.Thread | None = None

    def begin(self, plan: Plan) -> None:
        """Keep one process standing by for every idle slot."""
        remove_folder(plan.folder)
        self._thread = threading.Thread(
            target=self._keep, args=(plan,), name="standby", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """Nobody stands by any more; runs go on."""
        self._ended.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()

    def start(self, command: Sequence[str], env: Mapping[str, str], directory: Path) -> LocalHandle:
        if tuple(command[:-1]) != (*self._program, self._verb):
            return self._cold.start(command, env, directory)
        standby = None if COLD_START in env else self._take_over(command, env, directory)
        handle = standby.handle if standby else self._cold.start(command, env, directory)
        folder = standby.folder if standby else None
        with self._lock:
            self._trainings.append(_Training(_slots(env), handle, folder))
        self._changed.set()
        return handle

    def _take_over(
        self, command: Sequence[str], env: Mapping[str, str], directory: Path
    ) -> Standby | None:
        handover = Handover(
            arguments=tuple(command[len(self._program) :]),
            env=dict(env),
            directory=str(directory),
            output=str(directory / LOG_FILE),
        )
        while (standby := self._next(env)) is not None:
            if standby.take_over(handover):
                return standby
            _log.warning("a process that stood by did not take over")
            remove_folder(standby.folder)
        return None

    def _next(self, env: Mapping[str, str]) -> Standby | None:
        with self._lock:
            for standby in self._waiting:
                if standby.is_ready() and standby.fits(env) and not standby.is_stale():
                    self._waiting.remove(standby)
                    return standby
        return None

    # The thread

    def _keep(self, plan: Plan) -> None:
        self._wait_for(plan.pause_seconds)
        try:
            while not self._ended.is_set():
                try:
                    self._look(plan)
                except OSError as error:  # a full disk, too many processes
                    _log.warning("no further process stands by for now: %s", error)
                    self._wait_for(_FAILURE_PAUSE_SECONDS)
                if self._changed.wait(_LOOK_SECONDS):
                    self._changed.clear()
                    self._wait_for(plan.pause_seconds)
        finally:
            self._keep_only(0)

    def _look(self, plan: Plan) -> None:
        if self._forget_ended():
            self._wait_for(plan.pause_seconds)
        self._drop_useless()
        free_bytes = available_bytes()
        wanted = plan.slots - sum(training.slots for training in self._trainings)
        self._keep_only(wanted if 2 * free_bytes >= plan.free_bytes else 0)
        if (
            len(self._waiting) < wanted
            and free_bytes >= plan.free_bytes
            and time.monotonic() >= self._not_before
            and all(standby.is_ready() for standby in self._waiting)
        ):
            self._waiting.append(Standby(self._standby, plan))

    def _forget_ended(self) -> bool:
        """Whether there are runs that have ended since the last look."""
        with self._lock:
            ended = [each for each in self._trainings if each.handle.poll() is not None]
            self._trainings = [each for each in self._trainings if each not in ended]
        for each in ended:
            if each.folder is not None:
                remove_folder(each.folder)
        return bool(ended)

    def _drop_useless(self) -> None:
        """Those that have ended by themselves, and those whose code was replaced."""
        for standby in list(self._waiting):
            if standby.handle.poll() is not None:
                words = last_line(standby.folder / LOG_FILE)
                _log.warning("a process that was to stand by has ended: %s", words)
                self._wait_for(_FAILURE_PAUSE_SECONDS)
                self._drop(standby)
            elif standby.is_stale():
                _log.info("a process that stood by is dropped: what is installed has changed")
                self._drop(standby)

    def _keep_only(self, number: int) -> None:
        for standby in self._waiting[max(number, 0) :]:
            self._drop(standby)

    def _drop(self, standby: Standby) -> None:
        with self._lock:
            if standby not in self._waiting:
                return  # it has become a run meanwhile
            self._waiting.remove(standby)
        standby.dismiss()
        remove_folder(standby.folder)

    def _wait_for(self, seconds: float) -> None:
        """Start no process before that."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)


def _slots(env: Mapping[str, str]) -> int:
    """A run on GPUs holds as many; one without holds the host's only one."""
    return max(1, len([name for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]))
