"""What all runs of one worker process share."""

from collections.abc import Callable
from dataclasses import dataclass

from jobs.artifacts.base import ArtifactStore
from jobs.database import Database
from jobs.doorbell import Bell
from jobs.settings import Settings
from worker.drain import Drain
from worker.launchers.base import Launcher


@dataclass(frozen=True)
class Host:
    """One worker's connections, devices and state of mind."""

    settings: Settings
    worker_id: str
    database: Database
    store: ArtifactStore
    bell: Bell
    launcher: Launcher
    devices: tuple[str, ...]
    """What CUDA_VISIBLE_DEVICES calls each GPU on offer; empty on a host without one."""
    drain: Drain
    slots_freed: Callable[[], None]
    """Called when a run has given its slots back."""
