"""What the worker asks of a way to start a training process, and all it ever knows of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Signal = Literal["TERM", "KILL"]


@dataclass(frozen=True)
class ExitReport:
    """How a command ended: by an exit code, or by a signal.

    Both are None when nobody could say: the process that watched over it was killed.
    """

    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    """Whether the kernel killed a process for memory while it ran."""


class RunHandle(Protocol):
    """A started command."""

    def poll(self) -> ExitReport | None:
        """How it ended, once it and everything it started are gone; None before."""
        ...

    def signal(self, name: Signal) -> None:
        """TERM asks the command to stop; KILL ends it and everything it started."""
        ...

    def wait(self, timeout_seconds: float | None = None) -> ExitReport | None:
        """As `poll`, after waiting for the end; None when it did not come in time."""
        ...


class Launcher(Protocol):
    """A way to start commands.

    Whatever a launcher starts ends with the worker: also when that is killed.
    """

    def start(self, command: Sequence[str], env: Mapping[str, str], directory: Path) -> RunHandle:
        """Start `command` in `directory`, its output appended to `output.log` there.

        Args:
            command: Program and arguments.
            env: The whole environment; nothing is inherited.
            directory: An existing folder, only this command's.
        """
        ...
