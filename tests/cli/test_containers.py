"""The compose file and the images, without a container engine.

Their very commands are started here on real servers; of the images, what they copy and install.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import yaml

from jobs.settings import Settings
from tests.cli.serving import ROOT, wait_until
from tests.servers import RedisServer, free_port

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PACKAGES = ("api", "cli", "jobs", "migrations", "training", "worker")
PORT = "8642"


def test_no_secret_is_kept_in_the_compose_file() -> None:
    values = {
        (service, name): value
        for service, config in SERVICES.items()
        for name, value in config.get("environment", {}).items()
        if re.search("PASSWORD|AUTH|TOKEN|DATABASE_URL|BROKER_URL", name)
    }
    assert values
    assert [where for where, value in values.items() if value and "${" not in value] == []


def test_every_server_that_can_fail_is_watched_and_started_in_order() -> None:
    assert all("healthcheck" in SERVICES[name] for name in ("postgres", "redis", "api"))
    for name in ("api", "worker"):
        needs = SERVICES[name]["depends_on"]
        assert needs["migrate"]["condition"] == "service_completed_successfully"
        assert needs["redis"]["condition"] == "service_healthy"


def test_a_worker_has_time_to_drain() -> None:
    defaults = Settings()
    minutes = int(SERVICES["worker"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 >= defaults.drain_seconds + defaults.stop_grace_seconds


@pytest.mark.parametrize("image", ["api", "worker"])
def test_an_image_copies_what_is_there_and_all_packages(image: str) -> None:
    text = (ROOT / "docker" / f"{image}.Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)", text, re.M) for word in line.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert set(PACKAGES) <= set(copied)
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} <= set(ignored)


def test_the_api_image_installs_no_torch() -> None:
    text = (ROOT / "docker" / "api.Dockerfile").read_text()
    (extras,) = re.findall(r"'\.\[(.*)\]'", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    for extra in extras.split(","):
        wanted += project["optional-dependencies"][extra]
    assert any(name.startswith("fastapi") for name in wanted)
    assert [name for name in wanted if re.match("torch|transformers|peft", name)] == []


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.redis
def test_the_commands_of_the_services_work_together(
    tmp_path: Path, postgres_url: str, redis: RedisServer
) -> None:
    port = str(free_port())
    environment = environment_of(tmp_path, new_database(postgres_url), redis.url)
    subprocess.run(command_of("migrate", port), env=environment, cwd=tmp_path, check=True)
    key = (tmp_path / "data" / "admin.key").read_text().strip()
    with running("api", port, environment), running("worker", port, environment):
        wait_until(lambda: probe(port, environment))
        asked = {"Authorization": f"Bearer {key}"}
        model = {"name": "none", "source": str(tmp_path / "no-such-folder")}
        models = f"http://127.0.0.1:{port}/v1/models"
        assert httpx.post(models, json=model, headers=asked).status_code == 200
        wait_until(
            lambda: httpx.get(f"{models}/none", headers=asked).json()["status"] == "error"
        )  # so the worker heard of it, and looked


def environment_of(folder: Path, database_url: str, broker_url: str) -> dict[str, str]:
    """What compose would set, with our servers in place of its own and folders for its volumes."""
    values = {**SERVICES["worker"]["environment"], **SERVICES["api"]["environment"]}
    assert set(values) >= {"TUNESMITH_DATABASE_URL", "TUNESMITH_BROKER_URL"}
    assert values["TUNESMITH_DATABASE_URL"].startswith("postgresql+psycopg://")
    assert values["TUNESMITH_BROKER_URL"].startswith("redis://")
    hosts = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", values["TUNESMITH_ALLOWED_HOSTS"])
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("TUNESMITH_")},
        "TUNESMITH_DATABASE_URL": database_url,
        "TUNESMITH_BROKER_URL": broker_url,
        "TUNESMITH_ARTIFACTS_URL": f"file://{folder / 'artifacts'}",
        "TUNESMITH_ALLOWED_HOSTS": hosts,
        "TUNESMITH_DATA_DIR": str(folder / "data"),
        "TUNESMITH_WARM_START": "false",
        "PYTHONPATH": str(ROOT),
    }


def command_of(service: str, port: str) -> list[str]:
    """A service's command, with the programs of this environment and a free port."""
    program, *rest = SERVICES[service]["command"]
    words = [word.replace(PORT, port) for word in rest]
    if program == "python":
        return [sys.executable, *words]
    assert program == "tunesmith"
    return [sys.executable, "-m", "cli.main", *words]


def new_database(url: str) -> str:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE compose")
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/compose?{parts.query}"


@contextmanager
def running(service: str, port: str, environment: dict[str, str]) -> Iterator[None]:
    """A service for as long as the block runs; it must end well when it is asked to."""
    with subprocess.Popen(command_of(service, port), env=environment) as process:
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) in {0, -signal.SIGTERM}
        finally:
            process.kill()


def probe(port: str, environment: dict[str, str]) -> bool:
    """The health check of the compose file."""
    kind, program, *rest = SERVICES["api"]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    command = [sys.executable, *(word.replace(PORT, port) for word in rest)]
    done = subprocess.run(command, env=environment, check=False, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def test_the_images_use_commands_that_are_installed() -> None:
    assert shutil.which("tunesmith", path=str(Path(sys.executable).parent)) is not None
