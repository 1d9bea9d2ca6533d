"""How often each of many names came, in memory that hostile names cannot fill."""

from training.json_lines import shown

MAX_NAMES = 100
OTHERS = "(others)"
"""Under this name the rest is counted once there are `MAX_NAMES`."""


class NameCounts:
    """Counts of names, each shortened and with control characters escaped."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        if name not in self.counts:
            name = shown(name)[1:-1]
        if name not in self.counts and len(self.counts) >= MAX_NAMES:
            name = OTHERS
        self.counts[name] = self.counts.get(name, 0) + count
