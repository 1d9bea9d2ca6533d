"""Weights & Biases beside the events of a run: the real package, in a process of its own."""

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import events, prepare
from tests.training.tracked_runs import ROOT, said, train_apart
from training.events import Finished, Metrics
from training.integration_config import WandbConfig
from training.run_directory import RunDirectory

pytestmark = pytest.mark.slow
KEY = "5ecre7" + "0123456789abcdef" * 3
TRAINING = {
    "data": {"eval_split": 0.1},
    "optimization": {"max_steps": 2},
    "reporting": {"logging_steps": 1, "report_to": []},
    "evaluation": {"sample_prompts": ["a private prompt"], "sample_max_new_tokens": 1},
}
ASKED = {"project": "tickets", "name": "first", "entity": "us", "tags": ["a", "b"]}


def train(
    folder: Path, model: Path, environment: Mapping[str, str] | None = None, **spec: Any
) -> RunDirectory:
    directory = prepare(folder, model, TRAINING, name="ft:tiny:o:s:abcd1234", **spec)
    train_apart(directory, environment)
    return directory


def records(directory: RunDirectory) -> list[Any]:
    """What the offline run holds: framed messages, all in the first 32 KiB of its file."""
    from wandb.proto import wandb_internal_pb2

    (file,) = directory.wandb.glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert len(content) < 32 << 10
    found, position = [], 7
    while position < len(content):
        _checksum, size, kind = struct.unpack_from("<IHB", content, position)
        assert kind == 1, "a whole message"
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content[position + 7 : position + 7 + size])
        found.append(record)
        position += 7 + size
    return found


@pytest.fixture(scope="module")
def offline(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return train(tmp_path_factory.mktemp("offline") / "run", tiny_model, wandb=ASKED)


def test_without_a_key_the_run_is_written_offline(offline: RunDirectory) -> None:
    assert [m.level for m in said(offline, "offline")] == ["info"]
    found = records(offline)
    (run,) = [r.run for r in found if r.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, run.entity) == ("tickets", "first", "us")
    assert list(run.tags) == ["a", "b"]
    assert run.run_id == "abcd1234"
    config = {item.key: item.value_json for item in run.config.update}
    assert config["base_model"] == '"tiny"'
    assert json.loads(config["training"])["optimization"]["max_steps"] == 2
    assert "private prompt" not in str(config)
    history = [
        {".".join(item.nested_key) or item.key: item.value_json for item in r.history.item}
        for r in found
        if r.WhichOneof("record_type") == "history"
    ]
    logged = {int(h["_step"]): h["train/train_loss"] for h in history if "train/train_loss" in h}
    told = {
        e.step: e.metrics["train_loss"]
        for e in events(offline)
        if isinstance(e, Metrics) and "train_loss" in e.metrics
    }
    assert {step: float(loss) for step, loss in logged.items()} == told
    assert list(told) == [1, 2]


def test_the_offline_run_tells_nothing_of_the_machine(offline: RunDirectory) -> None:
    (run,) = [r.run for r in records(offline) if r.WhichOneof("record_type") == "run"]
    assert (run.host, run.git.remote_url) == ("tunesmith", "")
    held = [path for path in offline.wandb.rglob("*") if path.is_file()]
    assert [path.suffix for path in held].count(".wandb") == 1
    content = b"".join(path.read_bytes() for path in held)
    for word in (str(offline.path), str(ROOT), sys.executable, "numpy"):
        assert word.encode() not in content, word


def test_a_server_that_cannot_be_reached_is_told_of(tiny_model: Path, tmp_path: Path) -> None:
    """Training goes on, offline, and the key stays where it is."""
    environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    directory = train(tmp_path, tiny_model, environment, wandb={"project": "p"})
    assert [m.level for m in said(directory, "cannot be used")] == ["warning"]
    assert list(directory.wandb.glob("offline-run-*/run-*.wandb"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_a_worker_without_the_package_trains_on(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "wandb.py").write_text("raise ImportError('not here')")
    environment = {"PYTHONPATH": f"{tmp_path / 'broken'}:{ROOT}"}
    directory = train(tmp_path / "run", tiny_model, environment, wandb={"project": "p"})
    (warning,) = said(directory, "not installed")
    assert warning.level == "warning"
    assert not directory.wandb.exists()


def test_who_does_not_ask_gets_none(tiny_model: Path, tmp_path: Path) -> None:
    directory = train(tmp_path, tiny_model, {"WANDB_API_KEY": KEY})
    assert not directory.wandb.exists()
    assert said(directory, "wandb") == []
    assert isinstance(events(directory)[-1], Finished)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"project": ""},
        {"project": "a/b"},
        {"project": "p", "entity": "a b"},
        {"project": "p", "tags": [""]},
        {"project": "p", "api_key": KEY},
    ],
)
def test_what_wandb_would_refuse_is_refused_before(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"project|entity|tags|api_key"):
        WandbConfig.model_validate(asked)
