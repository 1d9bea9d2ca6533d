"""Processes that stand by: when there are some, what they become, and that none is ever left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.worker import fake_standby
from tests.worker.fake_standby import STOOD_BY
from tests.worker.launching import plan, same_code, standby_launcher, wait_for_standbys
from training.handover import READY
from worker.launchers import standby
from worker.launchers.base import ExitReport, RunHandle
from worker.launchers.standby import COLD_START, StandbyLauncher
from worker.memory import available_bytes
from worker.processes import TAG, tagged

ROOT = Path(__file__).parents[2]
TELL = (
    "import json, os, sys, tempfile\n"
    "from pathlib import Path\n"
    "json.dump({'env': dict(os.environ), 'home': str(Path.home()), 'temporary': "
    "tempfile.gettempdir(), 'cwd': os.getcwd(), 'pid': os.getpid(), 'input': sys.stdin.read(), "
    "'descriptors': sorted(map(int, os.listdir('/proc/self/fd')))}, open('told.json', 'w'))\n"
)
STAY = "print('ready', flush=True); import time; time.sleep(1000)"
SECRET = "5ecre7-of-a-run"


class Bench:
    """A launcher, and what a test asks of it."""

    def __init__(self, folder: Path, tag: str) -> None:
        self.run = folder / "run"
        self.folder = folder / "standby"
        self.tag = tag
        self._begun: list[StandbyLauncher] = []
        for path in (self.run, self.run / "home"):
            path.mkdir()

    def begin(self, load: str = "", **values: Any) -> StandbyLauncher:
        launcher = standby_launcher(load)
        launcher.begin(plan(self.folder, self.tag, **values))
        self._begun.append(launcher)
        return launcher

    def start(self, launcher: StandbyLauncher, program: str, **env: str) -> RunHandle:
        whole = {"PATH": "/usr/bin:/bin", TAG: f"{self.tag}run", **env}
        return launcher.start([sys.executable, "-c", program], whole, self.run)

    def stood_by(self) -> bool:
        return STOOD_BY in (self.run / "output.log").read_text()

    def standbys(self) -> list[int]:
        """Process ids of those that wait or load, without their reapers."""
        found = []
        for pid in tagged(f"{self.tag}standby"):
            with suppress(OSError):  # it has ended meanwhile
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                found += [pid] if fake_standby.__file__.encode() in words[:2] else []
        return sorted(found)

    def close(self) -> None:
        for launcher in self._begun:
            launcher.end()
        wait_until(lambda: not list(tagged(self.tag)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, f"test/{tmp_path.name}-{os.getpid()}/")
    with same_code():
        yield made
        made.close()


def wait_until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_becomes_the_run(bench: Bench) -> None:
    launcher = bench.begin()
    wait_for_standbys(bench.folder, 1)
    (waiting,) = bench.standbys()
    home = bench.run / "home"
    env = {"CUDA_VISIBLE_DEVICES": "3", "HOME": str(home), "TMPDIR": str(home), "KEY": SECRET}
    assert bench.start(launcher, TELL, **env).wait(10) == ExitReport(exit_code=0)
    told = json.loads((bench.run / "told.json").read_text())
    assert told["pid"] == waiting
    own = {"PATH": "/usr/bin:/bin", TAG: f"{bench.tag}run", "LC_CTYPE": told["env"]["LC_CTYPE"]}
    assert told["env"] == own | env
    assert (told["home"], told["temporary"], told["cwd"]) == (str(home), str(home), str(bench.run))
    assert (told["input"], told["descriptors"]) == ("", [0, 1, 2, 3])


def test_paths_below_its_old_home_lead_into_the_runs(bench: Bench) -> None:
    """Libraries compute such paths when they are imported."""
    load = "from pathlib import Path; import builtins; builtins.kept = Path.home() / 'cache'"
    launcher = bench.begin(load)
    wait_for_standbys(bench.folder, 1)
    program = "import builtins; builtins.kept.write_text('x')"
    assert bench.start(launcher, program, HOME=str(bench.run / "home")).wait(10)
    assert (bench.run / "home" / "cache").read_text() == "x"


def test_a_secret_is_handed_over_out_of_sight(bench: Bench) -> None:
    launcher = bench.begin()
    wait_for_standbys(bench.folder, 1)
    handle = bench.start(launcher, STAY, KEY=SECRET)
    wait_until(lambda: "ready" in (bench.run / "output.log").read_text())
    assert bench.stood_by()
    for pid in tagged(bench.tag):
        for file in ("cmdline", "environ"):
            assert SECRET.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()
    for path in bench.folder.parent.rglob("*"):
        assert not path.is_file() or SECRET not in path.read_text()
    handle.signal("KILL")
    assert handle.wait(10)


def test_a_run_does_not_wait_for_one_that_loads(bench: Bench) -> None:
    launcher = bench.begin(load="import time; time.sleep(1000)")
    wait_until(bench.standbys)
    assert bench.start(launcher, "").wait(10) == ExitReport(exit_code=0)
    assert not bench.stood_by()


def test_who_does_not_answer_is_killed_and_the_run_starts_cold(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "_ANSWER_SECONDS", 0.3)
    launcher = bench.begin()
    wait_for_standbys(bench.folder, 1)
    (stuck,) = bench.standbys()
    os.kill(stuck, signal.SIGSTOP)
    assert bench.start(launcher, "").wait(10) == ExitReport(exit_code=0)
    assert not bench.stood_by()
    assert not Path(f"/proc/{stuck}").exists()


@pytest.mark.parametrize("name", ["the process", "its reaper"])
def test_one_that_is_killed_is_no_use_and_is_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(standby, "_FAILURE_PAUSE_SECONDS", 0)
    monkeypatch.setattr(standby, "_LOOK_SECONDS", 0.3)
    launcher = bench.begin()
    wait_for_standbys(bench.folder, 1)
    (waiting,) = bench.standbys()
    parent = int(Path(f"/proc/{waiting}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(waiting if name == "the process" else parent, signal.SIGKILL)
    wait_until(lambda: waiting not in bench.standbys())
    assert bench.start(launcher, "").wait(10) == ExitReport(exit_code=0)
    assert not bench.stood_by()
    wait_for_standbys(bench.folder, 1)
    assert bench.start(launcher, "").wait(10) == ExitReport(exit_code=0)
    assert bench.stood_by()


def test_one_of_other_code_is_never_used_and_is_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = bench.begin()
    wait_for_standbys(bench.folder, 1)
    (old,) = bench.standbys()
    monkeypatch.setattr(standby, "installed_stamp", lambda: "another")
    assert bench.start(launcher, "").wait(10) == ExitReport(exit_code=0)
    assert not bench.stood_by()
    wait_until(lambda: old not in bench.standbys())
    wait_for_standbys(bench.folder, 1)
    assert bench.start(launcher, "").wait(10) == ExitReport(exit_code=0)
    assert bench.stood_by()


@pytest.mark.parametrize("env", [{"PATH": "/bin"}, {"PYTHONPATH": "/elsewhere"}, {COLD_START: "1"}])
def test_a_run_that_differs_in_what_was_read_already_or_wants_to_starts_cold(
    bench: Bench, env: dict[str, str]
) -> None:
    def environment(tag: str, home: Path) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), TAG: tag, "HOME": str(home)}

    launcher = bench.begin(environment=environment)
    wait_for_standbys(bench.folder, 1)
    assert bench.start(launcher, "", **{"PYTHONPATH": str(ROOT), **env}).wait(10)
    assert not bench.stood_by()


def test_one_waits_for_every_idle_slot(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "_LOOK_SECONDS", 0.1)
    launcher = bench.begin(slots=3)
    wait_for_standbys(bench.folder, 3)
    handle = bench.start(launcher, STAY, CUDA_VISIBLE_DEVICES="0,1")
    wait_until(lambda: len(bench.standbys()) == 2)  # one of which is the run by now
    time.sleep(0.5)
    wait_for_standbys(bench.folder, 1)
    handle.signal("KILL")
    wait_for_standbys(bench.folder, 3)
    assert len(list(bench.folder.iterdir())) == 3, "the folder of the run is gone"


def test_nobody_stands_by_where_memory_is_short(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "_LOOK_SECONDS", 0.1)
    free = 10
    monkeypatch.setattr(standby, "available_bytes", lambda: free)
    bench.begin(free_bytes=11)
    time.sleep(0.5)
    assert bench.standbys() == []
    free = 11
    wait_for_standbys(bench.folder, 1)
    free = 6
    time.sleep(0.5)
    assert len(bench.standbys()) == 1
    free = 5
    wait_until(lambda: bench.standbys() == [])


def test_one_that_cannot_load_is_told_of_and_not_tried_again_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(standby, "_LOOK_SECONDS", 0.1)
    bench.begin(load="raise ImportError('no such library')")
    wait_until(lambda: "no such library" in caplog.text)
    time.sleep(0.5)
    assert bench.standbys() == []
    assert caplog.text.count("no such library") == 1


def test_after_the_end_nobody_stands_by_and_runs_go_on(bench: Bench) -> None:
    launcher = bench.begin(slots=2)
    wait_for_standbys(bench.folder, 2)
    handle = bench.start(launcher, STAY)
    wait_until(lambda: "ready" in (bench.run / "output.log").read_text())
    launcher.end()
    assert list(bench.folder.glob(f"*/{READY}")) == []
    assert handle.poll() is None
    handle.signal("KILL")
    assert handle.wait(10) == ExitReport(signal=signal.SIGKILL)
    assert bench.start(launcher, "").wait(10) == ExitReport(exit_code=0)


def test_what_an_earlier_worker_left_is_deleted(bench: Bench) -> None:
    (bench.folder / "old" / "home").mkdir(parents=True)
    (bench.folder / "old" / READY).touch()
    bench.begin()
    wait_until(lambda: not (bench.folder / "old").exists())


@pytest.mark.parametrize("load", ["", "import time; time.sleep(1000)"])
def test_they_end_with_their_worker(bench: Bench, load: str) -> None:
    program = (
        "import time\n"
        "from pathlib import Path\n"
        "from tests.worker.launching import plan, standby_launcher\n"
        f"standby_launcher({load!r}).begin(plan(Path({str(bench.folder)!r}), {bench.tag!r}))\n"
        "time.sleep(1000)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    wait_until(bench.standbys)
    if not load:
        wait_for_standbys(bench.folder, 1)
    worker.kill()
    worker.wait()
    wait_until(lambda: not list(tagged(bench.tag)), 1)


def test_memory_is_that_of_the_host_or_of_the_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:   50 kB\n")
    assert available_bytes(meminfo, tmp_path) == 50 * 1024
    (tmp_path / "memory.max").write_text("40000\n")
    (tmp_path / "memory.current").write_text("30000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 2000\nactive_file 3\n")
    assert available_bytes(meminfo, tmp_path) == 12_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 50 * 1024
    assert available_bytes() > 1 << 20
