"""Every way to start a training process, by name."""

from collections.abc import Mapping

from worker.launchers.base import Launcher
from worker.launchers.local import LocalLauncher
from worker.launchers.standby import StandbyLauncher

LAUNCHERS: Mapping[str, type[Launcher]] = {"local": LocalLauncher, "standby": StandbyLauncher}
