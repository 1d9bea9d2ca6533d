"""Train on a file system that gets full: `python -m tests.training.small_disk FOLDER MODEL WHEN`.

FOLDER is the file system's root. WHEN is a number of bytes to leave free at the start, or `later`:
everything is taken away once a step was done. Prints the exit code and the last event.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.training.runs import prepare
from training.events import Metrics, read_events
from training.run_directory import RunDirectory

_PATIENCE_SECONDS = 60


def main(folder: Path, model: Path, when: str) -> None:
    steps = 100_000 if when == "later" else 4
    save = steps if when == "later" else 2
    settings = {"optimization": {"max_steps": steps}, "checkpoints": {"save_steps": save}}
    settings["reporting"] = {"logging_steps": 1, "report_to": []}
    directory = prepare(folder / "run", model, settings)
    if when != "later":
        _leave_free(folder, int(when))
    training = subprocess.Popen(
        [sys.executable, "-m", "training", "run", str(directory.path)],
        env={**os.environ, "TMPDIR": str(folder)},
    )
    if when == "later":
        _wait_for_a_step(directory)
        _leave_free(folder, 0)
    code = training.wait(_PATIENCE_SECONDS)
    *_, last = directory.events_file.read_text().splitlines()
    sys.stdout.write(f"{code}\n{last}\n")


def _leave_free(folder: Path, num_bytes: int) -> None:
    state = os.statvfs(folder)
    with (folder / "ballast").open("wb") as ballast:
        ballast.write(bytes(max(0, state.f_bavail * state.f_frsize - num_bytes)))


def _wait_for_a_step(directory: RunDirectory) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if directory.events_file.exists() and any(
            isinstance(event, Metrics) for event, _ in read_events(directory.events_file)
        ):
            return
        time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
