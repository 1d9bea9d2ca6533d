"""How much memory this host can still give, within the limit of a container if there is one."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """What can be had without swapping."""
    of_host = 1024 * _number(meminfo, "MemAvailable:")
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        unused_files = _number(cgroup / "memory.stat", "inactive_file")  # given up when needed
    except FileNotFoundError:
        return of_host
    return of_host if limit == "max" else min(of_host, int(limit) - used + unused_files)


def _number(path: Path, name: str) -> int:
    words = path.read_text().split()
    return int(words[words.index(name) + 1])
