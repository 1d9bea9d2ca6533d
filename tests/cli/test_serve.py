"""`tunesmith serve`: what it leaves on disk, what it does with its worker, how it stops."""

import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cli.errors import CliError
from cli.serving import serve
from tests.cli.serving import ROOT, Serving, wait_until

pytestmark = pytest.mark.slow

ROWS = [
    {"messages": [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]}
] * 8


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    made = Serving(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def job_file(serving: Serving, tmp_path: Path) -> Path:
    """A job for a tiny model, whose steps are left to the test."""
    serving.add_model(tmp_path / "model", "tiny")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path / "job.json"


def write_job(path: Path, max_steps: int) -> None:
    training = {
        "model": {"dtype": "float32"},
        "optimization": {"max_steps": max_steps},
        "reporting": {"logging_steps": 1, "report_to": []},
    }
    body = {"model": "tiny", "training_file": "rows.jsonl", "suffix": "tiny", "training": training}
    path.write_text(json.dumps(body))


def test_it_answers_keeps_its_key_secret_and_leaves_nothing_running(serving: Serving) -> None:
    key = serving.data_dir / "admin.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(serving.data_dir.stat().st_mode) == 0o700
    assert httpx.get(f"{serving.url}/readyz").status_code == 200
    assert serving.url in serving.log.read_text()
    assert serving.stop() == 0
    assert not (serving.data_dir / "server.json").exists()
    assert serving.programs() == []
    secret = key.read_text()
    serving.start()
    assert key.read_text() == secret
    assert serving.answer("jobs").startswith("ID")


def test_a_worker_that_died_is_started_again(serving: Serving) -> None:
    first = serving.worker()
    first.kill()
    wait_until(lambda: not first.is_running())
    assert serving.worker().pid != first.pid
    assert "The worker ended (SIGKILL); starting it again" in serving.log.read_text()


def test_a_killed_server_takes_its_worker_with_it(serving: Serving) -> None:
    worker = serving.worker()
    assert serving.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not worker.is_running(), 5)
    assert serving.programs() == []


def test_a_folder_and_a_port_have_one_server(serving: Serving, tmp_path: Path) -> None:
    same_folder = serving.run("serve", "--port", "0")
    assert same_folder.returncode == 1
    assert same_folder.stderr.startswith("tunesmith: another `tunesmith serve` uses ")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        same_port = serving.run("serve", "--port", port, "--data-dir", tmp_path / "other")
    assert same_port.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in same_port.stderr


def test_a_port_out_of_range_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_DATA_DIR", str(tmp_path / "data"))
    with pytest.raises(CliError, match=r"^--port must be 0 to 65535, but is 99999$"):
        serve("127.0.0.1", 99999)


@pytest.mark.parametrize("name", ["afile", "afile/x"])
def test_a_data_folder_that_cannot_be_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "afile").touch()
    monkeypatch.setenv("TUNESMITH_DATA_DIR", str(tmp_path / name))
    with pytest.raises(CliError, match=r"cannot use the data folder .*; choose another --data-dir"):
        serve("127.0.0.1", 0)


def test_ctrl_c_drains_and_the_job_goes_on_at_the_next_start(
    serving: Serving, job_file: Path
) -> None:
    write_job(job_file, 100_000)
    job_id = serving.answer("submit", job_file)
    wait_until(lambda: (serving.json("job", job_id)["progress"] or {}).get("step", 0) > 2)
    assert serving.stop(signal.SIGINT) == 0
    assert serving.programs() == []
    assert "the worker saves what it trains" in serving.log.read_text()

    serving.start()
    wait_until(lambda: serving.json("job", job_id)["attempt"] == 2)
    *_, saved = serving.json("checkpoints", job_id)  # the oldest; others may have come since
    wait_until(lambda: (serving.json("job", job_id)["progress"] or {}).get("step", 0) > 2)
    job = serving.json("job", job_id)
    assert job["crashes"] == 0
    assert job["progress"]["step"] >= saved["step_number"]
    assert serving.answer("cancel", job_id) == f"{job_id} cancelled"


def test_the_whole_way_on_a_terminal(serving: Serving, job_file: Path, tmp_path: Path) -> None:
    write_job(job_file, 30)
    shown = on_a_terminal(serving, "submit", str(job_file), "--wait")
    assert "\x1b[" in shown, "a line that moves"
    assert "loss" in shown
    assert "tokens/s" in shown
    (job,) = serving.json("jobs")
    assert job["status"] == "succeeded"

    folder = tmp_path / "adapter"
    assert serving.answer("download", job["id"][:12], "-o", folder) == str(folder)
    assert (folder / "adapter_model.safetensors").stat().st_size > 0
    assert not list(tmp_path.glob("*.zip"))
    again = serving.run("download", job["id"], "-o", folder)
    assert again.stderr == (
        f"tunesmith: {folder} is there and not empty: remove it, or choose another -o\n"
    )
    (saved,) = serving.json("checkpoints", job["id"])
    other = tmp_path / "checkpoint"
    serving.answer("download", job["id"], "--checkpoint", saved["step_number"], "-o", other)
    assert (other / "adapter_config.json").exists()
    assert "training" in serving.answer("logs", job["id"])


def on_a_terminal(serving: Serving, *arguments: str) -> str:
    """Everything a command draws on a terminal of its own; it must succeed."""
    mine, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=ROOT,
        env=serving.environment(TERM="xterm", COLUMNS="120"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        drawn = bytearray()
        try:
            while piece := os.read(mine, 1 << 16):
                drawn += piece
        except OSError:  # the other end is closed: it has ended
            pass
        os.close(mine)
    assert process.returncode == 0, drawn.decode()
    return drawn.decode()
