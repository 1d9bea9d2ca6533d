"""Runs a command on this host, under a reaper."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from worker import reaper
from worker.launchers.base import ExitReport, Signal
from worker.processes import TAG, kill_tagged

_EXIT_FILE = "exit.json"
LOG_FILE = "output.log"


class LocalLauncher:
    """The `Launcher` of processes on this host."""

    def start(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        directory: Path,
        *,
        source: int | None = None,
    ) -> "LocalHandle":
        """As every launcher; `source` is a descriptor that becomes the command's standard input."""
        exit_file = directory / _EXIT_FILE
        exit_file.unlink(missing_ok=True)
        given, passed = ("-", ()) if source is None else (str(source), (source,))
        with (directory / LOG_FILE).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own reaper, and a command of ours
                [sys.executable, "-I", "-S", reaper.__file__, str(exit_file), given, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(env),
                cwd=directory,
                start_new_session=True,
                pass_fds=passed,
            )
        return LocalHandle(process, exit_file, env.get(TAG))


class LocalHandle:
    """The `RunHandle` of a command under a reaper; usable from several threads."""

    def __init__(self, process: subprocess.Popen[bytes], exit_file: Path, tag: str | None) -> None:
        self._process = process
        self._exit_file = exit_file
        self._tags = [] if tag is None else [tag]
        self._oom_kills = reaper.oom_kills()
        self._lock = threading.Lock()
        self._report: ExitReport | None = None
        self._killed = False

    @property
    def pid(self) -> int:
        """The reaper's process id, which is also the session's and the group's."""
        return self._process.pid

    def become(self, tag: str | None) -> None:
        """From now on it is another run: what it starts has another tag."""
        self._tags += [] if tag is None else [tag]
        self._oom_kills = reaper.oom_kills()

    def poll(self) -> ExitReport | None:
        with self._lock, contextlib.suppress(TimeoutError):  # not all gone yet: ask again
            if self._report is None and self._process.poll() is not None:
                self._report = self._settle()
        return self._report

    def signal(self, name: Signal) -> None:
        if name == "KILL" and self._killed:
            self._process.kill()  # the reaper itself does not answer; `poll` clears up after it
        self._killed = self._killed or name == "KILL"
        pipe = self._process.stdin
        assert pipe is not None
        with self._lock, contextlib.suppress(BrokenPipeError, ValueError):
            pipe.write(f"{name}\n".encode())
            pipe.flush()

    def wait(self, timeout_seconds: float | None = None) -> ExitReport | None:
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None
        return self.poll()

    def _settle(self) -> ExitReport:
        """Called once, when the reaper is gone."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        if self._process.returncode != 0:
            self._kill_orphans()
        try:
            report = json.loads(self._exit_file.read_bytes())
        except FileNotFoundError:
            return ExitReport()
        return ExitReport(
            exit_code=report["exit_code"],
            signal=report["signal"],
            out_of_memory=report["signal"] == signal.SIGKILL
            and report["oom_kills"] > self._oom_kills,
        )

    def _kill_orphans(self) -> None:
        """The reaper was killed, so nobody below did what it does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for tag in self._tags:
            kill_tagged(tag)
