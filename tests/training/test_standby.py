"""`python -m training standby` with the real libraries: what they read, and what it becomes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import adapter, curve, prepare
from training.handover import READY, Handover
from training.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-P", "-m", "training"]
PATIENCE_SECONDS = 120
SHORT = {
    "adapter": {"lora_dropout": 0.1, "r": 4},
    "optimization": {"max_steps": 3},
    "reporting": {"logging_steps": 1, "report_to": ["tensorboard"]},
}
OF_A_RUN = frozenset(
    {
        *("CUDA_VISIBLE_DEVICES", "HOME", "TMPDIR", "TUNESMITH_RUN", "HTTP_PROXY", "HTTPS_PROXY"),
        *("NO_PROXY", "SSL_CERT_FILE", "WANDB_API_KEY", "WANDB_BASE_URL"),
    }
)
"""Variables that a run may have and its standby not, or with another value."""

WATCHED = """
import os, sys, threading
read = set()

class Watched(type(os.environ)):
    def __getitem__(self, name):
        read.add(name)
        return super().__getitem__(name)

os.environ.__class__ = Watched
import torch
looked = []
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device"):
    def watch(*arguments, name=name, real=getattr(torch.cuda, name)):
        looked.append(name)
        return real(*arguments)
    setattr(torch.cuda, name, watch)
from training.__main__ import _prepare_process
from training.libraries import load_ahead
_prepare_process()
load_ahead()
print(*sorted(read))
print(*looked)
print(*(name for name in ("bitsandbytes", "deepspeed", "wandb", "mlflow") if name in sys.modules))
print(torch.cuda.is_initialized(), len(os.listdir("/proc/self/task")), threading.active_count())
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    home.mkdir(parents=True, exist_ok=True)
    plain = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return {**plain, "HOME": str(home), "TMPDIR": str(home), "CUDA_VISIBLE_DEVICES": "", **more}


@contextmanager
def standing_by(folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that loads; its output is in `folder`."""
    folder.mkdir()
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(
            [*PROGRAM, "standby", str(folder)],
            env=environment(folder / "home"),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_ready(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (folder / READY).exists():
        assert process.poll() is None, (folder / "output.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def hand_over(
    process: "subprocess.Popen[bytes]", directory: RunDirectory, env: Mapping[str, str]
) -> int:
    """Have it become the run of a directory; returns its exit code."""
    handover = Handover(
        arguments=("run", str(directory.path)),
        env=dict(env),
        directory=str(directory.path),
        output=str(directory.log_file),
    )
    process.communicate(handover.as_line(), timeout=PATIENCE_SECONDS)
    return process.returncode


def priority(process: "subprocess.Popen[bytes]", thread: int) -> int:
    stat = Path(f"/proc/{process.pid}/task/{thread}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[16])


def group_priority(process: "subprocess.Popen[bytes]") -> int | None:
    """What counts between sessions, on a kernel that has such a thing."""
    try:
        return int(Path(f"/proc/{process.pid}/autogroup").read_text().split()[-1])
    except FileNotFoundError:
        return None


@pytest.mark.slow
def test_it_runs_as_a_process_that_was_started_for_the_run(
    tiny_model: Path, tmp_path: Path
) -> None:
    cold = prepare(tmp_path / "cold", tiny_model, SHORT)
    subprocess.run(
        [*PROGRAM, "run", str(cold.path)],
        env=environment(cold.path / "home"),
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    warm = prepare(tmp_path / "warm", tiny_model, SHORT)
    with standing_by(tmp_path / "standby") as process:
        wait_until_ready(process, tmp_path / "standby")
        status = Path(f"/proc/{process.pid}/status").read_text()
        kilobytes = int(status.partition("VmRSS:")[2].split()[0])
        code = hand_over(process, warm, environment(warm.path / "home"))
    assert code == 0, warm.log_file.read_text()
    assert not (tmp_path / "standby" / READY).exists()
    assert curve(warm) == curve(cold)
    left, right = adapter(warm.result), adapter(cold.result)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert "finished: succeeded" in warm.log_file.read_text()
    assert (tmp_path / "standby" / "output.log").read_text() == ""
    assert list(warm.tensorboard.iterdir())
    assert kilobytes < 470_000


@pytest.mark.slow
def test_what_loading_reads_and_touches_is_nothing_of_a_run(tmp_path: Path) -> None:
    """HOME and TMPDIR are read; `training.standby` says what becomes of that."""
    env = environment(tmp_path)
    del env["CUDA_VISIBLE_DEVICES"]  # libraries go through all there are
    result = subprocess.run(
        [sys.executable, "-P", "-c", WATCHED],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    read, looked, loaded, state = result.stdout.split("\n")[-5:-1]
    assert {"HOME", "PATH", "HF_HOME"} <= set(read.split()), "nothing was watched"
    assert set(read.split()) & OF_A_RUN <= {"HOME", "TMPDIR"}
    assert looked == "", "a library has looked for a GPU"
    assert loaded == ""
    assert state == "False 1 1", "CUDA is untouched, and nothing was computed in several threads"


FLASH_ATTENTION = """
from transformers.utils import is_flash_attn_2_available
torch.cuda.is_available = lambda: True
print(*looked, is_flash_attn_2_available())
"""


def test_flash_attention_is_looked_for_when_the_gpus_are_known(tmp_path: Path) -> None:
    """A package of its name stands in: it is not imported, only found."""
    metadata = tmp_path / "flash_attn-2.8.3.dist-info"
    for folder in (metadata, tmp_path / "flash_attn"):
        folder.mkdir()
        (folder / "__init__.py").touch()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.3\n")
    (metadata / "top_level.txt").write_text("flash_attn\n")
    result = subprocess.run(
        [sys.executable, "-P", "-c", WATCHED + FLASH_ATTENTION],
        env=environment(tmp_path / "home", PYTHONPATH=f"{tmp_path}:{ROOT}"),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    assert result.stdout.splitlines()[-1] == "True", "nobody has looked before, and it is there"


@pytest.mark.slow
def test_it_loads_out_of_the_way_and_ends_with_its_input(tmp_path: Path) -> None:
    with standing_by(tmp_path / "standby") as process:
        threads = Path(f"/proc/{process.pid}/task")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(list(threads.iterdir())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (loading,) = [int(p.name) for p in threads.iterdir() if p.name != str(process.pid)]
        time.sleep(0.1)
        assert priority(process, loading) == 5
        assert priority(process, process.pid) == 0
        assert group_priority(process) in {5, None}
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(1) == 0
        assert not (tmp_path / "standby" / READY).exists()
        process.stdin = None


@pytest.mark.slow
@pytest.mark.parametrize("line", [None, b'{"arguments": ["run"'])
def test_a_term_or_half_a_line_ends_one_that_waits(tmp_path: Path, line: bytes | None) -> None:
    with standing_by(tmp_path / "standby") as process:
        wait_until_ready(process, tmp_path / "standby")
        assert group_priority(process) in {0, None}
        if line is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(line, timeout=5)
        assert process.returncode == (-signal.SIGTERM if line is None else 0)


@pytest.mark.slow
def test_what_a_plain_run_has_no_use_for_is_not_imported(tiny_model: Path, tmp_path: Path) -> None:
    """bitsandbytes alone takes longer to import than a small model to load."""
    directory = prepare(tmp_path / "run", tiny_model, SHORT)
    program = (
        "import sys; from training.__main__ import main; "
        f"assert main(['run', {str(directory.path)!r}]) == 0; "
        "print(*(n for n in ('bitsandbytes', 'deepspeed') if sys.modules.get(n)))"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    assert result.stdout.split() == []


@pytest.mark.slow
def test_a_quantised_run_finds_bitsandbytes(tiny_model: Path, tmp_path: Path) -> None:
    training: dict[str, Any] = {**SHORT, "model": {"dtype": "float32", "quantization": {"bits": 4}}}
    directory = prepare(tmp_path / "run", tiny_model, training)
    with standing_by(tmp_path / "standby") as process:
        wait_until_ready(process, tmp_path / "standby")
        assert hand_over(process, directory, environment(tmp_path / "run" / "home")) == 0, (
            directory.log_file.read_text()
        )
    config = json.loads((directory.result / "adapter_config.json").read_text())
    assert config["r"] == 4
