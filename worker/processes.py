"""Finding and killing processes by the tag that every process of a run carries.

The tag is an environment variable, so it reaches whatever a run starts, in any session or group,
and outlives the worker that set it.
"""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from jobs.settings import Settings

TAG = "TUNESMITH_RUN"
_DEADLINE_SECONDS = 5.0
_POLL_SECONDS = 0.02


def tag_of_worker(settings: Settings, worker_id: str) -> str:
    """What the tags of this worker's runs begin with: its deployment and its name."""
    deployment = hashlib.sha256(settings.resolved_database_url.encode()).hexdigest()[:12]
    return f"{deployment}/{worker_id}/"


def kill_tagged(prefix: str) -> int:
    """Kill every process whose tag begins with `prefix`; returns how many there were.

    Raises:
        TimeoutError: Some did not die, for instance because a driver holds them.
    """
    deadline = time.monotonic() + _DEADLINE_SECONDS
    killed: set[int] = set()
    while pids := set(tagged(prefix)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {sorted(pids)} of {prefix} do not die")
        for pid in pids:
            _kill(pid)
        killed |= pids
        time.sleep(_POLL_SECONDS)
    return len(killed)


def tagged(prefix: str) -> Iterator[int]:
    """The live processes whose tag begins with `prefix`."""
    wanted = f"{TAG}={prefix}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and any(
            entry.startswith(wanted) for entry in _environment(folder)
        ):
            yield int(folder.name)


def _environment(folder: Path) -> list[bytes]:
    """Empty for zombies, for other users' processes and for those that have just ended."""
    try:
        return (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
