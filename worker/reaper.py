"""The tiny process that owns everything a run starts, so that nothing of it can be left behind.

    python -I -S reaper.py EXIT_FILE INPUT COMMAND…

It leads a session and a process group, adopts every orphan below it, and listens on its standard
input, a pipe from the worker: `TERM` asks the command to stop, `KILL` kills everything below, and
the end of the file, which is what a worker's death looks like, does so too. When the command has
exited, whatever it left behind is killed, and EXIT_FILE says how it ended. INPUT is the number of
an open descriptor that becomes the command's standard input, or `-` for an empty one. Only the
standard library: it is run by path, starts in some twenty milliseconds and needs a few megabytes.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_EXEC_FAILED = 127
_POLL_SECONDS = 0.02


def main(exit_file: Path, source: int | None, command: list[str]) -> int:
    """Run the command to its end, or to the worker's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, _ignore)  # a handler, unlike SIG_IGN, does not pass to the command
    woken = _wake_on_child_exit()
    child = _start(command, source)
    status = _wait(child, woken)
    _kill_descendants()
    if status is None:
        return 1
    _write(exit_file, {**_exit_report(status), "oom_kills": oom_kills()})
    return 0


def _wait(child: int, woken: int) -> int | None:
    """The command's wait status; None when the worker is gone."""
    watched = [sys.stdin.fileno(), woken]
    while True:
        ready, _, _ = select.select(watched, [], [])
        if woken in ready:
            os.read(woken, 4096)
        if (status := _reap().get(child)) is not None:
            return status
        if sys.stdin.fileno() in ready and not _obey(os.read(sys.stdin.fileno(), 4096), child):
            return None


def _obey(commands: bytes, child: int) -> bool:
    """Do what the worker says; False when it says nothing any more, for ever."""
    for command in commands.split():
        if command == b"TERM":
            os.kill(child, signal.SIGTERM)
        elif command == b"KILL":
            _kill(_descendants(os.getpid()))
    return bool(commands)


def _start(command: list[str], source: int | None) -> int:
    parent = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if source is not None:
            os.close(source)
        return child
    try:
        # A TERM that comes before the command is there is not lost on our own handler.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_EXEC_FAILED)
        os.dup2(os.open(os.devnull, os.O_RDONLY) if source is None else source, 0)
        if source is not None:
            os.close(source)
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(_EXEC_FAILED)


def _kill_descendants() -> None:
    """Until there are none: what a killed one had just forked is adopted, found and killed."""
    while remaining := list(_descendants(os.getpid())):
        _kill(remaining)
        _reap()
        time.sleep(_POLL_SECONDS)


def _kill(pids: Iterator[int] | list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _reap() -> dict[int, int]:
    """The wait statuses of all children that have exited, by process id."""
    statuses: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return statuses
        if pid == 0:
            return statuses
        statuses[pid] = status


def _descendants(root: int) -> Iterator[int]:
    """Every process below `root`, whatever session or group it moved to."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (parent := _parent(folder)) is not None:
            children.setdefault(parent, []).append(int(folder.name))
    waiting = children.get(root, [])
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting.extend(children.get(pid, []))


def _parent(process: Path) -> int | None:
    try:
        stat = (process / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[1])  # the name before may hold anything


def _exit_report(status: int) -> dict[str, int | None]:
    if os.WIFSIGNALED(status):
        return {"exit_code": None, "signal": os.WTERMSIG(status)}
    return {"exit_code": os.WEXITSTATUS(status), "signal": None}


def oom_kills() -> int:
    """Processes the kernel has killed for memory since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def _wake_on_child_exit() -> int:
    """A descriptor that becomes readable when a child exits."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _ignore)
    return reading


def _ignore(_number: int, _frame: FrameType | None) -> None:
    pass


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _write(path: Path, report: dict[str, int | None]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(report))
    temporary.replace(path)


if __name__ == "__main__":
    given = None if sys.argv[2] == "-" else int(sys.argv[2])
    sys.exit(main(Path(sys.argv[1]), given, sys.argv[3:]))
