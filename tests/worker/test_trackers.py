"""A job that asks for trackers: what its training process gets, and what of it is kept."""

import io
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from jobs.models import Artifact, Event
from jobs.redaction import Redactor
from jobs.service.claims import TrainAssignment
from jobs.settings import Settings
from tests.worker.deployment import ROOT, ROW, Deployment
from tests.worker.launching import ready_standbys
from training.integration_config import MlflowConfig, WandbConfig
from worker.environment import trackers_environment

KEY = "5ecre7" + "0123456789abcdef" * 3
TOKEN = "70ken" + "fedcba9876543210" * 2
ASKED = [
    {"type": "wandb", "wandb": {"project": "tickets"}},
    {"type": "mlflow", "mlflow": {"experiment": "tickets"}},
]
WANDB, MLFLOW = WandbConfig(project="p"), MlflowConfig(experiment="e")


@dataclass
class Asked:
    """Of an assignment what decides the environment."""

    wandb: WandbConfig | None = None
    mlflow: MlflowConfig | None = None


def environment_of(settings: Settings, asked: Asked) -> dict[str, str]:
    return trackers_environment(settings, cast("TrainAssignment", asked))


def test_the_keys_and_the_way_to_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes to the jobs that ask for it, and nothing does to those that do not."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/ca.pem")
    both = Asked(WANDB, MLFLOW)
    assert environment_of(Settings(), both) == {}
    settings = Settings(
        wandb_api_key=KEY,
        wandb_base_url="https://wandb.example",
        mlflow_tracking_uri="https://mlflow.example/at",
        mlflow_tracking_token=TOKEN,
    )
    way = {"HTTPS_PROXY": "http://proxy:1", "SSL_CERT_FILE": "/ca.pem"}
    wandb = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "https://wandb.example"}
    mlflow = {
        "MLFLOW_TRACKING_URI": "https://mlflow.example/at",
        "MLFLOW_TRACKING_TOKEN": TOKEN,
        "MLFLOW_TRACKING_SERVER_CERT_PATH": "/ca.pem",
    }
    assert environment_of(settings, Asked()) == {}
    assert environment_of(settings, Asked(wandb=WANDB)) == wandb | way
    assert environment_of(settings, Asked(mlflow=MLFLOW)) == mlflow | way
    assert environment_of(settings, both) == wandb | mlflow | way
    assert set(settings.worker_secrets) == {KEY, TOKEN}


@pytest.mark.parametrize("uri", ["http://me:secret@a", "file:///srv/runs", "databricks", "http://"])
def test_a_server_is_named_without_its_secrets(uri: str) -> None:
    with pytest.raises(ValueError, match="settings of their own"):
        Settings(mlflow_tracking_uri=uri)


def test_known_secrets_are_cut_out_of_events_and_nothing_else() -> None:
    redact = Redactor(Settings(wandb_api_key=KEY).worker_secrets)
    line = f'{{"url":"http://a","at":"b:c@d","key":"{KEY}"}}'
    assert redact.known(line) == '{"url":"http://a","at":"b:c@d","key":"[redacted]"}'
    assert Redactor([]).known(line) == line


@pytest.mark.slow
@pytest.mark.parametrize("warm_start", [False, True])
def test_the_keys_stay_with_the_training_process(tmp_path: Path, *, warm_start: bool) -> None:
    """No server answers: the runs are written here and kept as artifacts."""
    real = Deployment(
        tmp_path,
        wandb_api_key=KEY,
        wandb_base_url="http://127.0.0.1:9",
        mlflow_tracking_uri="http://127.0.0.1:9",
        mlflow_tracking_token=TOKEN,
        warm_start=warm_start,
        warm_start_free_bytes=1,
    )
    try:
        model = tmp_path / "model"
        subprocess.run([sys.executable, "tests/tiny_model.py", str(model)], cwd=ROOT, check=True)
        real.start_worker("worker")
        real.add_model(model, seconds=120)
        if warm_start:
            real.wait_until(lambda: ready_standbys(real.settings.data_dir / "standby"), 120)
        training = {"optimization": {"max_steps": 2}, "reporting": {"logging_steps": 1}}
        body = {"model": "tiny", "training_file": real.upload([ROW] * 4), "training": training}
        job_id = real.submit_body(body | {"integrations": ASKED})
        assert real.wait_for_end(job_id, 240) == "succeeded", real.job(job_id).error
        assert [n for n in _kept(real, job_id, "wandb.zip") if n.endswith(f"{job_id[-8:]}.wandb")]
        assert [n for n in _kept(real, job_id, "mlflow.zip") if n.endswith("/train/train_loss")]
        messages = [e.message for e in real.events(job_id, "message")]
        assert [m for m in messages if "cannot be used, so the metrics are written offline" in m]
        assert [m for m in messages if "cannot be used, so the metrics are written to files" in m]
        words = " ".join(map(_words, real.events(job_id)))
        assert not [secret for secret in (KEY, TOKEN) if secret in words]
    finally:
        real.close()  # before the search: a worker at work removes the run's folder under it
    for path in real.settings.data_dir.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in (KEY, TOKEN) if secret.encode() in content], path


def _kept(real: Deployment, job_id: str, name: str) -> list[str]:
    with real.database.reading() as session:
        key = session.get_one(Artifact, (job_id, name)).key
    with zipfile.ZipFile(io.BytesIO(real.content(key))) as archive:
        return archive.namelist()


def _words(event: Event) -> str:
    return f"{event.message}{event.data}"
