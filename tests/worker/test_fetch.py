"""Fetching a base model from a hub, and what is said when it cannot be had."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.deployment import ROOT
from tests.worker.hub import FILES, REVISION, TOKEN, Hub, Mood, running_hub
from training.events import Failure


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as made:
        yield made


def fetch(
    hub: Hub,
    folder: Path,
    token: str = TOKEN,
    *,
    target: Path | None = None,
    before: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Fetch into `folder/model`; a failure is told in `folder/failure.json`."""
    program = [sys.executable, "-m", "worker.fetch", "org/model", REVISION]
    return subprocess.run(
        [*before, *program, str(target or folder / "model"), str(folder / "failure.json")],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
        },
        capture_output=True,
        timeout=60,
    )


def failure_in(folder: Path) -> Failure:
    return Failure.model_validate_json((folder / "failure.json").read_bytes())


def test_only_what_is_safe_to_open_is_fetched_and_only_once(hub: Hub, tmp_path: Path) -> None:
    hub.wants_token = True
    done = fetch(hub, tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    found = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert found == {name: FILES[name] for name in ("config.json", "model.safetensors")}
    asked = len(hub.requests)
    assert fetch(hub, tmp_path).returncode == 0
    assert len(hub.requests) == asked
    assert not (tmp_path / "failure.json").exists()


@pytest.mark.parametrize(
    ("mood", "code"),
    [
        ("gated", "model_gated"),
        ("gated files", "model_gated"),
        ("forbidden", "model_gated"),
        ("gone", "model_missing"),
        ("no revision", "model_missing"),
        ("broken", "model_fetch_failed"),
    ],
)
def test_what_cannot_be_fetched_leaves_no_folder_and_a_reason(
    hub: Hub, tmp_path: Path, mood: Mood, code: str
) -> None:
    hub.mood = mood
    assert fetch(hub, tmp_path).returncode == 1
    assert not (tmp_path / "model").exists()
    failure = failure_in(tmp_path)
    assert (failure.code, failure.fault, failure.param) == (code, "infrastructure", "model")
    assert f"org/model@{REVISION}" in failure.message
    assert failure.remedy


def test_a_wrong_token_is_told_as_no_access(hub: Hub, tmp_path: Path) -> None:
    hub.wants_token = True
    assert fetch(hub, tmp_path, token="hf_" + "w" * 20).returncode == 1
    assert failure_in(tmp_path).code == "model_gated"


def test_a_hub_that_is_away_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.url = "http://127.0.0.1:9"
    assert fetch(hub, tmp_path).returncode == 1
    assert failure_in(tmp_path).code == "model_fetch_failed"


@pytest.mark.parametrize("mood", ["broken", "gated", "gated files"])
def test_half_a_model_is_not_taken_for_a_whole_one(hub: Hub, tmp_path: Path, mood: Mood) -> None:
    """What an earlier fetch has left lies there when the hub does not answer."""
    incoming = tmp_path / ".model.incoming"
    incoming.mkdir()
    (incoming / "config.json").write_bytes(FILES["config.json"])
    hub.mood = mood
    assert fetch(hub, tmp_path).returncode == 1
    assert not (tmp_path / "model").exists()
    hub.mood = "open"
    assert fetch(hub, tmp_path).returncode == 0
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


@pytest.mark.slow  # needs to mount a file system
def test_a_full_disk_is_told_as_one(hub: Hub, tmp_path: Path) -> None:
    """On a file system that has 8 KiB left, of which the weights need 7 and the rest more."""
    small = tmp_path / "small"
    small.mkdir()
    script = (
        f"mount -t tmpfs -o size=64k tmpfs {small}"
        f' && head -c 57000 /dev/zero > {small}/ballast && exec "$@"'
    )
    before = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    done = fetch(hub, tmp_path, target=small / "model", before=before)
    assert done.returncode == 1, done.stderr.decode()
    assert failure_in(tmp_path).code == "disk_full", done.stderr.decode()
