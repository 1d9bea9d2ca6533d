"""A deployment per test, with everything it started ended at the end."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.schema import upgrade
from tests.jobs.conftest import local_worlds
from tests.jobs.world import World
from tests.worker.deployment import ROOT, Deployment


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def fake(deployment: Deployment, tmp_path: Path) -> Deployment:
    """A deployment with a worker that trains fakes, and a model to train."""
    deployment.start_worker()
    deployment.add_model(tmp_path / "model")
    return deployment


@pytest.fixture
def real(deployment: Deployment, tmp_path: Path) -> Deployment:
    """A deployment with a worker that trains in earnest, and a tiny model."""
    model = tmp_path / "model"
    subprocess.run(
        [sys.executable, "tests/tiny_model.py", str(model)], cwd=ROOT, check=True, timeout=120
    )
    deployment.start_worker("worker")
    deployment.add_model(model, seconds=120)
    return deployment


@pytest.fixture
def local_world(tmp_path: Path) -> Iterator[World]:
    """A deployment without processes, for what needs only its database."""
    template = tmp_path / "template.db"
    upgrade(f"sqlite:///{template}")
    yield from local_worlds(template, tmp_path)
