"""MLflow beside the events of a run: its real client, with files and with a server."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.mlflow_server import TrackingServer, tracking_server
from tests.training.runs import events, prepare, train
from tests.training.tracked_runs import ROOT, said, train_apart
from training import mlflow_run
from training.events import Finished, Metrics, Progress
from training.integration_config import MlflowConfig
from training.run_directory import RunDirectory

pytestmark = pytest.mark.slow
TOKEN = "70ken" + "fedcba9876543210" * 2
TRAINING = {
    "data": {"eval_split": 0.1},
    "optimization": {"max_steps": 4},
    "reporting": {"logging_steps": 1, "report_to": []},
    "evaluation": {"eval_steps": 2, "sample_prompts": ["a private prompt"]},
}
ASKED = {"experiment": "tickets", "name": "first", "tags": {"team": "a"}}
NAME = "ft:tiny:o:s:abcd1234"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run sets for the package goes with the test."""
    monkeypatch.setattr("training.reporting.PROGRESS_SECONDS", 0)
    for name, value in mlflow_run._ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingServer]:
    monkeypatch.setattr(mlflow_run, "_PAUSE_SECONDS", 0.0)
    with tracking_server() as found:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", found.url)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
        yield found


def asking(folder: Path, model: Path) -> RunDirectory:
    return prepare(folder, model, TRAINING, name=NAME, mlflow=ASKED)


def told(directory: RunDirectory) -> dict[str, list[tuple[int, float]]]:
    """The newest value of every metric at every step, under MLflow's names."""
    found: dict[str, dict[int, float]] = {}
    for event in events(directory):
        if isinstance(event, Metrics):
            for name, value in event.metrics.items():
                if value is not None:
                    group = "valid" if "valid" in name else "train"
                    found.setdefault(f"{group}/{name}", {})[event.step] = value
    return {name: sorted(points.items()) for name, points in found.items()}


def without_speeds(points: dict[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in points.items() if "per_second" not in name}


def pause_after(step: int) -> Any:
    return lambda event: isinstance(event, Progress) and event.step == step


@pytest.fixture(scope="module")
def filed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run without a server, in a process of its own."""
    directory = asking(tmp_path_factory.mktemp("filed") / "run", tiny_model)
    train_apart(directory)
    return directory


def test_without_a_server_the_run_is_written_to_files(filed: RunDirectory) -> None:
    from mlflow import MlflowClient

    assert [m.level for m in said(filed, "to files")] == ["info"]
    client = MlflowClient(tracking_uri=filed.mlflow.as_uri())
    (experiment,) = client.search_experiments()
    assert experiment.name == "tickets"
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.tags["team"] == "a"
    assert run.data.params["base_model"] == "tiny"
    assert run.data.params["name"] == NAME
    assert run.data.params["optimization.max_steps"] == "4"
    history = {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    assert history == told(filed)
    assert [step for step, _ in history["valid/valid_loss"]] == [2, 4]


def test_the_files_tell_nothing_of_the_machine(filed: RunDirectory) -> None:
    content = b"".join(path.read_bytes() for path in filed.mlflow.rglob("*") if path.is_file())
    names = " ".join(map(str, filed.mlflow.rglob("*"))).replace(str(filed.path), "")
    for word in (str(filed.path), str(ROOT), os.uname().nodename, "private prompt", "run.py"):
        assert word.encode() not in content, word
        assert word not in names


def test_the_attempts_of_a_job_are_one_run(
    server: TrackingServer, tiny_model: Path, tmp_path: Path
) -> None:
    directory = asking(tmp_path, tiny_model)
    assert train(directory, stop_when=pause_after(2), reason="pause").outcome == "interrupted"
    (paused,) = server.runs.values()
    assert paused["status"] == "FINISHED"

    assert train(directory).outcome == "succeeded"

    assert server.experiments == {"tickets": "0"}
    ((run_id, run),) = server.runs.items()
    assert (run["name"], run["status"]) == ("first", "FINISHED")
    assert {each["key"] for each in run["tags"]} == {"team", "tunesmith.id"}
    assert without_speeds(server.points(run_id)) == without_speeds(told(directory))
    assert server.authorizations == {f"Bearer {TOKEN}"}
    assert [m.level for m in said(directory, "mlflow")] == ["info", "info"]


def test_what_a_server_has_of_a_lost_attempt_is_not_sent_again(
    server: TrackingServer, tiny_model: Path, tmp_path: Path
) -> None:
    first, second = (asking(tmp_path / name, tiny_model) for name in ("first", "second"))
    assert train(first).outcome == "succeeded"
    assert train(second).outcome == "succeeded"
    ((run_id, _run),) = server.runs.items()
    assert server.points(run_id) == told(first)
    assert [m.level for m in said(second, "mlflow")] == ["info"]


def test_a_server_that_is_away_for_a_while_misses_nothing(
    server: TrackingServer, tiny_model: Path, tmp_path: Path
) -> None:
    directory = asking(tmp_path, tiny_model)

    def interrupt(event: Any) -> bool:
        if isinstance(event, Progress) and event.phase == "training":
            server.is_away = event.step in (1, 2)
        return False

    assert train(directory, stop_when=interrupt).outcome == "succeeded"
    ((run_id, run),) = server.runs.items()
    assert run["status"] == "FINISHED"
    assert server.points(run_id) == told(directory)
    (warning,) = said(directory, "tried again")
    assert warning.level == "warning"
    assert "[redacted]" in warning.message  # the server has answered with what it was sent


def test_a_server_that_stays_away_is_told_of(
    server: TrackingServer, tiny_model: Path, tmp_path: Path
) -> None:
    directory = asking(tmp_path, tiny_model)

    def leave(event: Any) -> bool:
        server.is_away |= isinstance(event, Progress) and event.step == 3
        return False

    assert train(directory, stop_when=leave).outcome == "succeeded"
    assert [m.level for m in said(directory, "could not be sent")] == ["warning"]
    assert server.runs["0" * 32]["status"] == "RUNNING"


def test_a_worker_without_the_package_trains_on(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "mlflow.py").write_text("raise ImportError('not here')")
    directory = asking(tmp_path / "run", tiny_model)
    train_apart(directory, {"PYTHONPATH": f"{tmp_path / 'broken'}:{ROOT}"})
    (warning,) = said(directory, "not installed")
    assert warning.level == "warning"
    assert not directory.mlflow.exists()
    assert isinstance(events(directory)[-1], Finished)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"experiment": " "},
        {"experiment": "a\nb"},
        {"experiment": "e", "name": ""},
        {"experiment": "e", "tags": {"mlflow.user": "somebody"}},
        {"experiment": "e", "tracking_uri": "http://somewhere"},
    ],
)
def test_what_mlflow_would_refuse_or_trust_is_refused_before(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"experiment|name|tags|tracking_uri"):
        MlflowConfig.model_validate(asked)
