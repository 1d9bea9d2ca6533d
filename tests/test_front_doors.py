"""Each front door as the process it is: light, and plain about an environment it cannot use."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from jobs.requests import ModelRequest
from jobs.service import catalogue
from jobs.settings import read_settings
from tests.servers import free_port
from tests.worker.deployment import Deployment

ROOT = Path(__file__).parents[1]
PACKAGES = ("api", "cli", "jobs", "migrations", "training", "worker")
HEAVY = {
    *("accelerate", "bitsandbytes", "datasets", "numpy", "peft", "pyarrow", "safetensors"),
    *("tokenizers", "torch", "transformers"),
}
MAX_PEAK_KILOBYTES = 150_000_000 // 1024
_PATIENCE_SECONDS = 60
_IMPORTED = re.compile(r"^import time: .* \| +(\S+)$", re.MULTILINE)


def environment(folder: Path, **values: str) -> dict[str, str]:
    """What a front door is started with: it writes each import on its standard error."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TUNESMITH_")}
    return plain | {"TUNESMITH_DATA_DIR": str(folder), "PYTHONPROFILEIMPORTTIME": "1"} | values


def check_light(pid: int, log: str, *, has: str) -> None:
    """Look at a live process and at what it has imported, `has` among it."""
    assert (imported := set(_IMPORTED.findall(log))) >= {has}
    assert HEAVY & imported == set()
    assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
    # Not ru_maxrss: a child begins with the peak of the process that started it.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    assert int(peak[1]) < MAX_PEAK_KILOBYTES


def wait_until(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not true():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def api_server(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The API alone, over a new database in `folder`; its log is `folder/api.log`."""
    variables = environment(folder)
    subprocess.run([sys.executable, "-m", "cli.bootstrap"], cwd=ROOT, env=variables, check=True)
    port = free_port()
    command = [sys.executable, "-m", "api.server", "--port", str(port)]
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
    origin = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(origin), process)
        yield origin, process
    finally:
        process.terminate()
        assert process.wait(_PATIENCE_SECONDS) in {0, -15}


def answers(origin: str) -> bool:
    try:
        return httpx.get(f"{origin}/readyz").status_code == 200
    except httpx.ConnectError:
        return False


def test_the_api_and_its_command_line_are_light(tmp_path: Path) -> None:
    with api_server(tmp_path) as (origin, process):
        for path in ("/docs", "/openapi.json"):
            assert httpx.get(origin + path).status_code == 200
        key = (tmp_path / "admin.key").read_text().strip()
        rows = b'{"prompt": "a", "completion": "b"}\n' * 10_000
        reply = httpx.post(
            f"{origin}/v1/files",
            headers={"Authorization": f"Bearer {key}"},
            files={"file": ("rows.jsonl", rows)},
            data={"purpose": "fine-tune"},
        )
        assert reply.json()["status"] == "processed", reply.text
        command = cli_program("files", "list")
        listing = subprocess.run(
            [sys.executable, "-c", command],
            cwd=ROOT,
            env=environment(tmp_path, TUNESMITH_URL=origin),
            capture_output=True,
            text=True,
            check=True,
        )
        assert "rows.jsonl" in listing.stdout
        imported = set(_IMPORTED.findall(listing.stderr))
        assert imported >= {"cli.main", "httpx"}
        assert imported & (HEAVY | {"fastapi", "celery", "sqlalchemy"}) == set()
        assert int(listing.stdout.splitlines()[-1]) < MAX_PEAK_KILOBYTES
        check_light(process.pid, (tmp_path / "api.log").read_text(), has="fastapi")


def cli_program(*arguments: str) -> str:
    """Runs `tunesmith`, and says last how much memory it took at its peak, in kB."""
    return (
        "import re, runpy, sys\n"
        f"sys.argv = ['tunesmith', *{arguments!r}]\n"
        "try:\n    runpy.run_module('cli.main', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "import cli.main\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )


def test_a_worker_is_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    deployment = Deployment(tmp_path)
    try:
        worker = deployment.start_worker("worker")
        (tmp_path / "model").mkdir()
        request = ModelRequest(name="none", source=str(tmp_path / "model"))
        with deployment.database.writing() as session:
            catalogue.add(session, deployment.identity, request)
        deployment.wait_until(lambda: deployment.model("none").status == "error", 30)
        check_light(worker.pid, deployment.worker_log(), has="worker.supervisor")
        assert {"fastapi", "huggingface_hub"} & set(_IMPORTED.findall(deployment.worker_log())) == (
            set()
        )
    finally:
        deployment.close()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_nothing_by_themselves(package: str) -> None:
    files = list((ROOT / package).rglob("__init__.py"))
    assert files
    assert [file for file in files if file.stat().st_size] == []


MISTAKES = {
    "LEASE_SECONDS": ("abc", "should be a valid number"),
    "MAX_CRASHES": ("0", "should be greater than 0"),
    "ALLOWED_HOSTS": ("tunesmith.example", "should be a JSON list"),
    "HEARTBEAT_SECONDS": ("1e9", "lease_seconds must be at least three times heartbeat_seconds"),
    "BROKER_URL": ("amqp://me:secret@host//", "redis://"),
    "ARTIFACTS_URL": ("s3://me:secret@bucket", "file:///"),
    "DATABASE_URL": ("mysql://me:secret@host/db", "postgresql+psycopg://"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_setting_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, accepted = MISTAKES[name]
    monkeypatch.setenv(f"TUNESMITH_{name}", value)
    with pytest.raises(SystemExit) as ending:
        read_settings()
    line = str(ending.value)
    assert line.startswith("tunesmith: TUNESMITH_")
    assert name in line.upper()
    assert accepted in line
    assert "secret" not in line


def test_a_list_of_hosts_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_ALLOWED_HOSTS", '["tunesmith.example", "10.0.0.1"]')
    assert read_settings().allowed_hosts == ["tunesmith.example", "10.0.0.1"]


@pytest.mark.parametrize("door", ["api.server", "worker", "cli.main serve", "cli.main jobs"])
def test_a_front_door_ends_with_one_line_about_its_settings(tmp_path: Path, door: str) -> None:
    variables = environment(tmp_path, TUNESMITH_LEASE_SECONDS="abc", PYTHONPROFILEIMPORTTIME="")
    ended = subprocess.run(
        [sys.executable, "-m", *door.split()],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_SECONDS,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "TUNESMITH_LEASE_SECONDS should be a valid number" in line
    assert "'abc'" in line
    assert list(tmp_path.iterdir()) == []
