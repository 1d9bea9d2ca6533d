"""What every launcher keeps to; a new row of the registry gets these tests for free."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.fake_standby import STOOD_BY
from tests.worker.launching import ready_launcher, same_code
from worker.launchers.base import ExitReport, Launcher
from worker.launchers.local import LocalHandle
from worker.launchers.registry import LAUNCHERS
from worker.launchers.standby import StandbyLauncher
from worker.processes import TAG, tagged

PYTHON = sys.executable
FAMILY = (
    "import subprocess, sys, time\n"
    "for detached in (True, True, False):\n"
    "    subprocess.Popen(['sleep', '1000'], start_new_session=detached)\n"
    "subprocess.Popen(['setsid', 'sh', '-c', 'sleep 1000 & sleep 1000'])\n"
    "print('ready', flush=True)\n"
)
STAY = "time.sleep(1000)\n"


@pytest.fixture
def worker_tag(tmp_path: Path) -> Iterator[str]:
    made = f"test/{tmp_path.name}-{os.getpid()}/"
    yield made
    assert_gone(made)


@pytest.fixture
def tag(worker_tag: str) -> str:
    return worker_tag + "run"


@pytest.fixture(params=sorted(LAUNCHERS))
def launcher(request: pytest.FixtureRequest, tmp_path: Path, worker_tag: str) -> Iterator[Launcher]:
    with same_code():
        made = ready_launcher(request.param, tmp_path, worker_tag)
        yield made
    if isinstance(made, StandbyLauncher):
        made.end()
        said = (tmp_path / "output.log").read_text()
        assert STOOD_BY in said or "/no/such/program" in said


def env(tag: str, **more: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", TAG: tag, **more}


def assert_gone(tag: str, seconds: float = 3) -> None:
    deadline = time.monotonic() + seconds
    while left := list(tagged(tag)):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def wait_for_output(directory: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in (directory / "output.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("code", [0, 1, 77])
def test_the_exit_code_is_reported(launcher: Launcher, tmp_path: Path, tag: str, code: int) -> None:
    handle = launcher.start([PYTHON, "-c", f"raise SystemExit({code})"], env(tag), tmp_path)
    assert handle.wait(10) == ExitReport(exit_code=code)
    assert handle.poll() == ExitReport(exit_code=code)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_signal_is_reported(launcher: Launcher, tmp_path: Path, tag: str, number: int) -> None:
    program = f"import os; os.kill(os.getpid(), {int(number)})"
    handle = launcher.start([PYTHON, "-c", program], env(tag), tmp_path)
    assert handle.wait(10) == ExitReport(signal=number)


def test_a_program_that_is_not_there_is_an_exit(
    launcher: Launcher, tmp_path: Path, tag: str
) -> None:
    report = launcher.start(["/no/such/program"], env(tag), tmp_path).wait(10)
    assert report == ExitReport(exit_code=127)
    assert "/no/such/program" in (tmp_path / "output.log").read_text()


def test_environment_folder_and_output_are_as_given(
    launcher: Launcher, tmp_path: Path, tag: str
) -> None:
    program = (
        "import os, sys; print(sorted(os.environ)); print(os.getcwd());"
        "print('and errors', file=sys.stderr); print(repr(sys.stdin.read()))"
    )
    assert launcher.start([PYTHON, "-c", program], env(tag, WORD="x"), tmp_path).wait(10)
    said = (tmp_path / "output.log").read_text()
    assert "['LC_CTYPE', 'PATH', 'TUNESMITH_RUN', 'WORD']" in said
    assert str(tmp_path) in said
    assert "and errors" in said
    assert "''" in said


def test_term_asks_the_command(launcher: Launcher, tmp_path: Path, tag: str) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\n"
        "time.sleep(1000)\n"
    )
    handle = launcher.start([PYTHON, "-c", program], env(tag), tmp_path)
    wait_for_output(tmp_path, "ready")
    assert handle.poll() is None
    assert handle.wait(0.05) is None
    handle.signal("TERM")
    assert handle.wait(10) == ExitReport(exit_code=5)


def test_kill_ends_the_command_and_all_it_started(
    launcher: Launcher, tmp_path: Path, tag: str
) -> None:
    handle = launcher.start([PYTHON, "-c", FAMILY + STAY], env(tag), tmp_path)
    wait_for_output(tmp_path, "ready")
    handle.signal("KILL")
    assert handle.wait(10) == ExitReport(signal=signal.SIGKILL)
    assert list(tagged(tag)) == []


def test_what_a_command_leaves_behind_is_gone_before_its_end_is_told(
    launcher: Launcher, tmp_path: Path, tag: str
) -> None:
    handle = launcher.start([PYTHON, "-c", FAMILY], env(tag), tmp_path)
    assert handle.wait(10) == ExitReport(exit_code=0)
    assert list(tagged(tag)) == []


def test_signals_after_the_end_are_ignored(launcher: Launcher, tmp_path: Path, tag: str) -> None:
    handle = launcher.start([PYTHON, "-c", ""], env(tag), tmp_path)
    handle.wait(10)
    handle.signal("TERM")
    handle.signal("KILL")
    assert handle.poll() == ExitReport(exit_code=0)


@pytest.mark.parametrize("name", sorted(LAUNCHERS))
def test_everything_ends_with_the_worker(
    name: str, tmp_path: Path, worker_tag: str, tag: str
) -> None:
    """`kill -9` of the process that launched: a pipe it held is all that tells."""
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.worker.launching import ready_launcher\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"ready_launcher({name!r}, folder, {worker_tag!r}).start("
        f"[sys.executable, '-c', {FAMILY + STAY!r}], {env(tag)!r}, folder)\n"
        "time.sleep(1000)\n"
    )
    parent = subprocess.Popen([PYTHON, "-c", program], cwd=Path(__file__).parents[2])
    while not (tmp_path / "output.log").exists():
        time.sleep(0.02)
    wait_for_output(tmp_path, "ready")
    assert len(list(tagged(worker_tag))) >= 6
    parent.kill()
    parent.wait()
    assert_gone(worker_tag)


def test_nothing_is_left_when_the_reaper_is_killed(
    launcher: Launcher, tmp_path: Path, tag: str
) -> None:
    handle = launcher.start([PYTHON, "-c", FAMILY + STAY], env(tag), tmp_path)
    assert isinstance(handle, LocalHandle)
    wait_for_output(tmp_path, "ready")
    os.kill(handle.pid, signal.SIGKILL)
    assert handle.wait(10) == ExitReport()
    assert list(tagged(tag)) == []


def test_a_reaper_that_does_not_answer_is_killed_too(
    launcher: Launcher, tmp_path: Path, tag: str
) -> None:
    handle = launcher.start([PYTHON, "-c", FAMILY + STAY], env(tag), tmp_path)
    assert isinstance(handle, LocalHandle)
    wait_for_output(tmp_path, "ready")
    os.kill(handle.pid, signal.SIGSTOP)
    handle.signal("KILL")
    assert handle.wait(0.2) is None
    handle.signal("KILL")
    assert handle.wait(10) == ExitReport()
    assert list(tagged(tag)) == []
