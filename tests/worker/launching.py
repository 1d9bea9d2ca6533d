"""Launchers as they are when a run begins, for this process and for those that tests kill."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.worker import fake_standby
from training.handover import READY
from worker.launchers import standby
from worker.launchers.base import Launcher
from worker.launchers.registry import LAUNCHERS
from worker.launchers.standby import Plan, StandbyLauncher
from worker.processes import TAG

_PATIENCE_SECONDS = 10


@contextmanager
def same_code() -> Iterator[None]:
    """A block in which nobody is seen to install anything."""
    kept, standby.installed_stamp = standby.installed_stamp, lambda: "the same"
    try:
        yield
    finally:
        standby.installed_stamp = kept


def ready_launcher(name: str, folder: Path, tag: str) -> Launcher:
    """A launcher of the registry; what it keeps standing by is there, with a tag below `tag`."""
    if name != "standby":
        return LAUNCHERS[name]()
    launcher = standby_launcher()
    launcher.begin(plan(folder / "standby", tag))
    wait_for_standbys(folder / "standby", 1)
    return launcher


def standby_launcher(load: str = "") -> StandbyLauncher:
    """It takes over `python -c PROGRAM`; its standbys run `load` first."""
    command = [sys.executable, fake_standby.__file__, load]
    return StandbyLauncher(program=[sys.executable], verb="-c", standby=command)


def plan(folder: Path, tag: str, **values: Any) -> Plan:
    def environment(tag: str, home: Path) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", TAG: tag, "HOME": str(home), "TMPDIR": str(home)}

    plain = {"slots": 1, "free_bytes": 1, "pause_seconds": 0, "environment": environment}
    return Plan(**{"folder": folder, "tag": tag, **plain, **values})


def wait_for_standbys(folder: Path, number: int) -> None:
    """Until so many are ready."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while ready_standbys(folder) != number:
        assert time.monotonic() < deadline, [p.read_text() for p in folder.glob("*/output.log")]
        time.sleep(0.01)


def ready_standbys(folder: Path) -> int:
    return len(list(folder.glob(f"*/{READY}")))
