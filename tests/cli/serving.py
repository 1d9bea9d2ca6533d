"""`tunesmith serve` as a process of its own, for the tests that need the whole machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


class Serving:
    """A server on a data folder; `url` is where it answers."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "serve.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self._processes[-1]

    @property
    def url(self) -> str:
        return str(json.loads((self.data_dir / "server.json").read_text())["url"])

    def start(self) -> None:
        command = [sys.executable, "-m", "cli.main", "serve", "--port", "0"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir)],
                cwd=ROOT,
                env={**os.environ, "TUNESMITH_WARM_START": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        wait_until(lambda: self._is_up() or process.poll() is not None)
        assert process.poll() is None, self.log.read_text()

    def _is_up(self) -> bool:
        path = self.data_dir / "server.json"
        return path.exists() and json.loads(path.read_text())["pid"] == self.process.pid

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Signal the server and wait for its end; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        wait_until(lambda: not self.programs())

    def environment(self, **changes: str) -> dict[str, str]:
        plain = {k: v for k, v in os.environ.items() if not k.startswith("TUNESMITH_")}
        return {**plain, "TUNESMITH_DATA_DIR": str(self.data_dir), **changes}

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """A command of the CLI, which finds this server through its data folder."""
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *map(str, arguments)],
            cwd=ROOT,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def answer(self, *arguments: object) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def json(self, *arguments: object) -> Any:
        return json.loads(self.answer(*arguments, "-o", "json"))

    def add_model(self, folder: Path, name: str) -> None:
        """Add a tiny model, made in a process of its own: this one stays free of torch."""
        maker = [sys.executable, "tests/tiny_model.py", str(folder)]
        subprocess.run(maker, cwd=ROOT, check=True, timeout=PATIENCE_SECONDS)
        self.answer("models", "add", name, folder)

    def worker(self) -> psutil.Process:
        """The worker's process, once it is a worker."""
        found: list[psutil.Process] = []

        def look() -> bool:
            children = psutil.Process(self.process.pid).children()
            found[:] = [child for child in children if child.cmdline()[1:] == ["-m", "worker"]]
            return bool(found)

        wait_until(look)
        return found[0]

    def programs(self) -> list[psutil.Process]:
        """Living processes that work on the data folder."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            folder = process.environ().get("TUNESMITH_DATA_DIR")
            words = [*process.cmdline(), folder or ""]
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False
        return alive and any(str(self.data_dir) in word for word in words)


def wait_until(holds: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
