"""Runs in a process of their own, with an environment that a test decides alone."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.training.runs import events
from training.events import Message
from training.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]


def train_apart(directory: RunDirectory, environment: Mapping[str, str] | None = None) -> str:
    """Do the run; returns what its process has printed, which is kept in its folder as well."""
    home = directory.path / "home"
    home.mkdir(parents=True)
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    result = subprocess.run(
        [sys.executable, "-P", "-m", "training", "run", str(directory.path)],
        env={
            **kept,
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    directory.log_file.write_text(result.stdout + result.stderr)
    return directory.log_file.read_text()


def said(directory: RunDirectory, word: str) -> list[Message]:
    return [e for e in events(directory) if isinstance(e, Message) and word in e.message]
