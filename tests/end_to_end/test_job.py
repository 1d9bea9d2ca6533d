"""The main job over HTTP, the same on one machine and in a team: the settings are the difference.

Every process is the one that the compose file starts: bootstrap, API, worker.
"""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import RedisServer, free_port, new_postgres_database

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120
FAST = {
    "HEARTBEAT_SECONDS": "1",
    "LEASE_SECONDS": "6",
    "SWEEP_SECONDS": "1",
    "WARM_START": "false",
    "WORKER_GPUS": "0",
}
ROWS = "".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"What is the number after {n}?"},
                {"role": "assistant", "content": f"The number is {n + 1}."},
            ]
        }
    )
    + "\n"
    for n in range(24)
)
TRAINING = {
    "model": {"dtype": "float32"},
    "adapter": {"r": 4},
    "optimization": {"max_steps": 12, "per_device_train_batch_size": 4, "learning_rate": 5e-3},
    "checkpoints": {"save_steps": 5},
    "reporting": {"logging_steps": 1},
}
LOADS = (
    "import sys; from peft import PeftModel; from transformers import AutoModelForCausalLM as M; "
    "model = PeftModel.from_pretrained(M.from_pretrained(sys.argv[1]), sys.argv[2]); "
    "print(sum(p.abs().sum().item() > 0 for n, p in model.named_parameters() if 'lora_B' in n))"
)

pytestmark = pytest.mark.slow


class Service:
    """The processes of a deployment, and a client with its first key."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        named = {"DATA_DIR": str(folder / "data"), **FAST, **settings}
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("TUNESMITH_")},
            **{f"TUNESMITH_{key}": value for key, value in named.items()},
            "OMP_NUM_THREADS": "1",
        }
        subprocess.run([sys.executable, "-m", "cli.bootstrap"], cwd=ROOT, env=self._env, check=True)
        port = free_port()
        self._start("api.server", "--port", str(port))
        self._start("worker")
        key = (folder / "data" / "admin.key").read_text().strip()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        )
        self.wait_until(self._is_ready)

    def add_model(self) -> Path:
        model = self.folder / "model"
        maker = [sys.executable, "tests/tiny_model.py", str(model)]
        subprocess.run(maker, cwd=ROOT, check=True)
        self.post("/v1/models", json={"name": "tiny", "source": str(model)})
        self.wait_until(lambda: self.get("/v1/models/tiny")["status"] == "ready")
        return model

    def submit(self) -> dict[str, Any]:
        files = {"file": ("rows.jsonl", ROWS)}
        file = self.post("/v1/files", files=files, data={"purpose": "fine-tune"})
        body = {"model": "tiny", "training_file": file["id"], "seed": 1, "training": TRAINING}
        return self.post("/v1/fine_tuning/jobs", json=body)

    def job(self, job_id: str) -> dict[str, Any]:
        return self.get(f"/v1/fine_tuning/jobs/{job_id}")

    def wait_for_end(self, job_id: str) -> dict[str, Any]:
        ended = ("succeeded", "failed", "cancelled")
        self.wait_until(lambda: self.job(job_id)["status"] in ended)
        return self.job(job_id)

    def get(self, path: str) -> dict[str, Any]:
        return self._ok(self.http.get(path))

    def post(self, path: str, **content: Any) -> dict[str, Any]:
        return self._ok(self.http.post(path, **content))

    def wait_until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def close(self) -> None:
        self.http.close()
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) in {0, -signal.SIGTERM}  # uvicorn passes it on

    def _start(self, *module: str) -> None:
        command = [sys.executable, "-m", *module]
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=self._env, stdout=log, stderr=log)
        self._processes.append(process)

    def _is_ready(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.ConnectError:
            return False

    def _ok(self, reply: httpx.Response) -> dict[str, Any]:
        assert reply.status_code == 200, reply.text
        body: dict[str, Any] = reply.json()
        return body


@pytest.fixture
def one_machine(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.fixture
def team(tmp_path: Path, postgres_url: str, redis: RedisServer) -> Iterator[Service]:
    artifacts = tmp_path / "shared"
    service = Service(
        tmp_path,
        DATABASE_URL=new_postgres_database(postgres_url),
        BROKER_URL=redis.url,
        ARTIFACTS_URL=f"file://{artifacts}",
    )
    yield service
    service.close()


@pytest.mark.parametrize(
    "mode",
    ["one_machine", pytest.param("team", marks=[pytest.mark.postgres, pytest.mark.redis])],
)
def test_from_post_to_adapter(mode: str, request: pytest.FixtureRequest) -> None:
    service: Service = request.getfixturevalue(mode)
    model = service.add_model()
    job_id = service.submit()["id"]
    job = service.wait_for_end(job_id)
    assert job["status"] == "succeeded", job["error"]
    assert job["trained_tokens"] > 0
    path = f"/v1/fine_tuning/jobs/{job_id}"
    _check_history(service, path)
    _check_adapter(service, job, model)


def _check_history(service: Service, path: str) -> None:
    events = service.get(f"{path}/events?limit=100")["data"]
    losses = [e["data"]["train_loss"] for e in events if e["type"] == "metrics"]
    assert len(losses) == 12
    assert losses[0] < losses[-1]  # the newest comes first
    checkpoints = service.get(f"{path}/checkpoints")["data"]
    assert [c["step_number"] for c in checkpoints] == [12, 10, 5]
    (run,) = service.get(f"{path}/runs")["data"]
    assert run["outcome"] == "succeeded"
    assert "tokens" in service.http.get(f"{path}/logs").text


def _check_adapter(service: Service, job: dict[str, Any], model: Path) -> None:
    reply = service.http.get(f"/v1/fine_tuning/jobs/{job['id']}/adapter")
    assert len(reply.content) == job["adapter"]["bytes"] == int(reply.headers["content-length"])
    assert hashlib.sha256(reply.content).hexdigest() == job["adapter"]["sha256"]
    folder = service.folder / "adapter"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        archive.extractall(folder)
    loaded = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADS, str(model), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(loaded.stdout.split()[-1]) == 14  # seven projections in two layers


@pytest.mark.postgres
@pytest.mark.redis
def test_a_job_posted_without_redis_runs(team: Service, redis: RedisServer) -> None:
    team.add_model()
    redis.kill()
    waiting = team.submit()["id"]
    assert team.wait_for_end(waiting)["status"] == "succeeded"
    redis.start()
    assert team.wait_for_end(team.submit()["id"])["status"] == "succeeded"
