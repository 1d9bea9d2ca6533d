"""Proof that a worker is the only live one of its name, and so may kill what older ones left."""

import fcntl
import time
from pathlib import Path
from typing import IO

_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.1


class NameTaken(Exception):  # noqa: N818 - what was found
    """Another worker lives on this data folder."""


def hold_name(data_dir: Path) -> IO[str]:
    """Lock the data folder for as long as the returned file stays open.

    A predecessor that is just leaving is waited for.

    Raises:
        NameTaken: It does not leave.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    file = (data_dir / "worker.lock").open("w")
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise NameTaken(
                    f"another worker is running on {data_dir}; give this one a data folder of "
                    "its own (TUNESMITH_DATA_DIR)"
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return file
