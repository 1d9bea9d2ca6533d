"""Real shortages: a disk that is full, memory that is refused. The process says what was missing.

The file systems are of this test alone: mounted in a namespace that ends with its process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.runs import events, prepare
from training.events import Finished, parse_event

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
_MEMORY = """
import resource, sys
import training.run
from training.__main__ import main
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]),) * 2)
sys.exit(main(["run", sys.argv[1]]))
"""


@pytest.mark.parametrize("when", ["120000", "200000", "300000", "later"])
def test_a_full_disk_is_told_with_the_last_words(
    tiny_model: Path, tmp_path: Path, when: str
) -> None:
    """At the first weights, at the optimizer, at later files, and while events are written."""
    small = tmp_path / "small"
    small.mkdir()
    script = f'mount -t tmpfs -o size=2m tmpfs {small} && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"),
            *(sys.executable, "-m", "tests.training.small_disk", small, tiny_model, when),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    code, last = done.stdout.splitlines()
    finished = parse_event(last.encode())
    assert isinstance(finished, Finished), done.stderr
    assert (code, finished.outcome) == ("1", "failed")
    assert finished.failure is not None
    assert finished.failure.code == "disk_full", done.stderr


def test_memory_that_is_refused_is_told_as_the_hosts(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "x" * 10},
                {"role": "assistant", "content": "y z " * 200},
            ]
        }
    ] * 64
    settings = {
        "data": {"max_length": 256, "overlong": "truncate_end"},
        "optimization": {
            "max_steps": 2,
            "per_device_train_batch_size": 64,
            "gradient_checkpointing": False,
        },
    }
    directory = prepare(tmp_path, tiny_model, settings, rows=rows)
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(tmp_path), str(40 << 20)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    last = events(directory)[-1]
    assert isinstance(last, Finished), done.stderr
    assert last.failure is not None
    assert last.failure.code == "host_out_of_memory", done.stderr[-3000:]
    assert last.failure.fault == "resources"
