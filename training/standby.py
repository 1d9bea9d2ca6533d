"""A process that has loaded what every run needs, and waits to be told which run it is.

    python -m training standby FOLDER

It serves one run. A line on standard input (`training.handover`) says what it would have been
started with; it becomes that, removes FOLDER/ready, and goes on as if it had been. If standard
input ends first, its worker is gone or has no use for it, and it ends too. A TERM ends it while it
waits. It loads with a low priority, in a thread of its own: the thread that will train keeps
its own priority, and hears at once when its worker is gone.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from training.handover import READY, Handover, parse_line

log = logging.getLogger("training")

_LOW_PRIORITY, _ORDINARY_PRIORITY = 5, 0  # a third of the share of whoever works
_AUTOGROUP = Path("/proc/self/autogroup")
_CHUNK_BYTES = 1 << 16
_KEPT = "LC_CTYPE"  # the interpreter's own, as it sets it at every start


def stand_by(folder: Path, load: Callable[[], None]) -> tuple[str, ...]:
    """Load, wait, and become what the line says; returns its arguments.

    The process ends here when its standard input does.

    Args:
        folder: Of this process alone; its HOME may lie in it.
        load: What to do ahead.
    """
    loading = threading.Thread(target=_load, args=(load, folder / READY), daemon=True)
    loading.start()
    line = _read_line()
    if not line.endswith(b"\n"):
        os._exit(0)  # at once, whatever is being loaded
    loading.join()
    handover = parse_line(line)
    _become(handover)
    (folder / READY).unlink()
    return handover.arguments


def _load(load: Callable[[], None], ready: Path) -> None:
    """The edge of the thread: a process that cannot load is of no use."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
        _set_group_priority(_LOW_PRIORITY)
        load()
        _set_group_priority(_ORDINARY_PRIORITY)
        ready.touch()
    except BaseException:
        log.exception("cannot stand by")
        os._exit(1)


def _set_group_priority(nice: int) -> None:
    """Where Linux shares the processor between sessions first, this counts and no thread's own."""
    with suppress(OSError):
        _AUTOGROUP.write_text(str(nice))


def _read_line() -> bytes:
    """Up to its end, or to that of standard input."""
    line = b""
    while not line.endswith(b"\n") and (chunk := os.read(0, _CHUNK_BYTES)):
        line += chunk
    return line


def _become(handover: Handover) -> None:
    home = os.environ.get("HOME")
    kept = {_KEPT: os.environ[_KEPT]} if _KEPT in os.environ else {}
    os.environ.clear()
    os.environ.update(kept | handover.env)
    tempfile.tempdir = None  # it was found under the old environment
    if home is not None and "HOME" in handover.env:
        _lead(Path(home), Path(handover.env["HOME"]))
    os.chdir(handover.directory)
    _redirect(os.open(os.devnull, os.O_RDONLY), 0)
    _redirect(os.open(handover.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), 1, 2)


def _redirect(opened: int, *targets: int) -> None:
    for target in targets:
        os.dup2(opened, target)
    os.close(opened)


def _lead(old: Path, new: Path) -> None:
    """Whoever has noted a path below the old HOME while it was imported ends up in the new one."""
    old.rename(old.with_name(f"{old.name}.loading"))
    old.symlink_to(new)
