"""No secret of a process that trains is written anywhere, whatever its trackers do or are told."""

from pathlib import Path

import pytest

from tests.training.mlflow_server import tracking_server
from tests.training.runs import prepare
from tests.training.tracked_runs import said, train_apart

pytestmark = pytest.mark.slow
SECRETS = {
    "WANDB_API_KEY": "5ecre7" + "0123456789abcdef" * 3,
    "HF_TOKEN": "hf_" + "aB3" * 12,
    "OPENAI_API_KEY": "sk-" + "Zy9" * 14,
    "SOME_PASSWORD": "pa55" + "w0rd" * 6,
}
SENT = {
    "token": {"MLFLOW_TRACKING_TOKEN": "70ken" + "fedcba9876543210" * 2},
    "password": {"MLFLOW_TRACKING_USERNAME": "a-user", "MLFLOW_TRACKING_PASSWORD": "5esame" * 4},
}
TRAINING = {
    "optimization": {"max_steps": 2},
    "checkpoints": {"save_steps": 1},
    "reporting": {"logging_steps": 1, "report_to": ["tensorboard"]},
}
INTEGRATIONS = {"wandb": {"project": "p"}, "mlflow": {"experiment": "e"}}


@pytest.mark.parametrize(("answer", "sent"), [("refused", "password"), ("served", "token")])
def test_secrets_are_in_no_byte_of_a_run(
    tiny_model: Path, tmp_path: Path, answer: str, sent: str
) -> None:
    """MLflow's server serves, or refuses with what it was sent; that of wandb is not there."""
    directory = prepare(tmp_path, tiny_model, TRAINING, name="ft:tiny:o:s:abcd1234", **INTEGRATIONS)
    with tracking_server() as server:
        server.is_away = answer == "refused"
        at_server = {"MLFLOW_TRACKING_URI": server.url, "WANDB_BASE_URL": "http://127.0.0.1:9"}
        train_apart(directory, SECRETS | at_server | SENT[sent])
        (authorization,) = server.authorizations
        assert authorization.startswith({"token": "Bearer ", "password": "Basic "}[sent])
        assert bool(server.runs) == (answer == "served")
    assert len(said(directory, "mlflow cannot be used")) == (answer == "refused")
    assert directory.mlflow.exists() == (answer == "refused")
    assert said(directory, "wandb cannot be used")
    assert directory.wandb.exists()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"events.jsonl", "output.log", "run.json", "README.md"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for secret in (*SECRETS.values(), *SENT[sent].values(), authorization.split()[1]):
            assert secret.encode() not in content, (path, secret)
