"""A result on its way to a hub: what is there afterwards, and where the token never is."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker.hub import TOKEN, Hub, running_hub
from training.events import Failure, Finished, read_events
from training.export_config import ExportConfig
from training.export_spec import ExportSpec, Pushed
from training.run_directory import RunDirectory, complete_folder

ROOT = Path(__file__).parents[2]
RESULT = {
    "adapter_config.json": b'{"r": 8}',
    "adapter_model.safetensors": bytes(range(256)) * 40,
    "README.md": b"---\nbase_model: tiny\n---\n# x\n",
    "nested/tokenizer.json": b"{}",
}
_PROGRAM = (
    "import os, sys\nfrom training.__main__ import main\ncode = main(['export', sys.argv[1]])\n"
    "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    "assert 'HF_TOKEN' not in os.environ\nsys.exit(code)"
)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.path.mkdir()
    write_result(made, RESULT)
    return made


def write_result(directory: RunDirectory, files: dict[str, bytes]) -> None:
    with complete_folder(directory.result) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)


def push(
    directory: RunDirectory, url: str, *, token: str | None = TOKEN, **options: Any
) -> Finished:
    """What `python -m training export` says of a push, in a process of its own."""
    export = ExportConfig.model_validate({"kind": "hub", "repo_id": "acme/tickets", **options})
    directory.write_export(
        ExportSpec(
            export=export,
            model_path="/nowhere",
            adapter_path="/nowhere",
            base_model="tiny",
            name="ft:tiny:acme::1",
        )
    )
    environment = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HOME": str(directory.path)}
    environment |= {} if token is None else {"HF_TOKEN": token}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(directory.path)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert TOKEN not in done.stdout + done.stderr
    *_, (last, _) = read_events(directory.events_file)
    assert isinstance(last, Finished), done.stderr
    assert (done.returncode == 0) == (last.outcome == "succeeded"), done.stderr
    return last


def failure(finished: Finished) -> Failure:
    assert finished.outcome == "failed"
    assert finished.failure is not None
    return finished.failure


def test_the_repository_holds_the_result_and_the_token_is_nowhere(
    directory: RunDirectory, hub: Hub
) -> None:
    assert push(directory, hub.url).outcome == "succeeded"
    repository = hub.pushed["acme/tickets"]
    assert repository.private
    assert repository.branches == {"main": RESULT}
    assert repository.commits == ["ft:tiny:acme::1 (adapter)"]
    assert hub.tokens == {f"Bearer {TOKEN}"}
    pushed = Pushed.model_validate_json(directory.pushed_file.read_bytes())
    assert pushed.commit == repository.head
    assert pushed.url == f"{hub.url}/acme/tickets/commit/{repository.head}"
    for path in directory.path.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path


def test_the_same_again_changes_nothing(directory: RunDirectory, hub: Hub) -> None:
    for _ in range(2):
        assert push(directory, hub.url, private=False).outcome == "succeeded"
    repository = hub.pushed["acme/tickets"]
    assert not repository.private
    assert len(repository.commits) == 1
    pushed = json.loads(directory.pushed_file.read_bytes())
    assert pushed["commit"] == repository.head


def test_weights_of_before_go_and_other_files_stay(directory: RunDirectory, hub: Hub) -> None:
    push(directory, hub.url)
    hub.pushed["acme/tickets"].branches["main"]["notes.txt"] = b"mine"
    merged = {"model.safetensors": b"weights" * 99, "config.json": b"{}", "README.md": b"# y"}
    write_result(directory, merged)
    assert push(directory, hub.url, content="merged").outcome == "succeeded"
    kept = {"notes.txt": b"mine", "nested/tokenizer.json": b"{}"}
    assert hub.pushed["acme/tickets"].branches["main"] == merged | kept


def test_a_branch_of_its_own(directory: RunDirectory, hub: Hub) -> None:
    assert push(directory, hub.url, revision="step-3").outcome == "succeeded"
    assert hub.pushed["acme/tickets"].branches == {"main": {}, "step-3": RESULT}


def test_a_hub_that_refuses(directory: RunDirectory, hub: Hub) -> None:
    hub.mood = "forbidden"
    refused = failure(push(directory, hub.url))
    assert (refused.code, refused.param) == ("hub_refused", "repo_id")
    assert "acme/tickets" in refused.message
    assert failure(push(directory, hub.url, token="hf_other")).code == "hub_refused"
    hub.mood = "open"
    assert failure(push(directory, hub.url, token=None)).code == "hub_refused"
    assert hub.pushed == {}


def test_a_hub_that_is_away_may_come_back(directory: RunDirectory, hub: Hub) -> None:
    hub.mood = "broken"
    assert failure(push(directory, hub.url)).code == "hub_push_failed"
    away = failure(push(directory, "http://127.0.0.1:9"))
    assert (away.code, away.fault) == ("hub_push_failed", "infrastructure")


def test_what_arrived_otherwise_is_told(directory: RunDirectory, hub: Hub) -> None:
    hub.loses_bytes = True
    broken = failure(push(directory, hub.url))
    assert broken.code == "broken_result"
    assert "adapter_model.safetensors" in broken.message
    assert not directory.pushed_file.exists()


def test_only_a_whole_result_is_pushed(directory: RunDirectory, hub: Hub) -> None:
    (directory.result / "README.md").write_text("changed")
    assert failure(push(directory, hub.url)).code == "result_invalid"
    assert hub.requests == []
