"""Leaving out an installed package that a run has no use for: importing it would cost seconds.

Libraries import whatever optional packages they find. Light.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def left_out(name: str) -> Iterator[None]:
    """A block in which a package counts as not installed, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    leave_out(name)
    try:
        yield
    finally:
        del sys.modules[name]


def leave_out(name: str) -> None:
    """Have a package count as not installed from now on, unless it is imported already."""
    sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # what the import system looks for
