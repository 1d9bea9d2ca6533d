"""The whole way of a job through the front door, and through OpenAI's client."""

import hashlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from jobs.states import RunOutcome
from tests.api.deployment import ADAPTER, ROWS, Client, Deployment, adapter_archive, ok
from training.events import Metrics, Progress


def test_a_file_as_it_is_answered(admin: Client) -> None:
    assert admin.upload() | {"id": "", "created_at": 0} == {
        "id": "",
        "object": "file",
        "bytes": len(ROWS),
        "created_at": 0,
        "expires_at": None,
        "filename": "rows.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
        "status_details": None,
        "container": "jsonl",
        "format": "messages",
        "num_rows": 3,
        "sha256": hashlib.sha256(ROWS).hexdigest(),
    }


def test_from_an_upload_to_the_adapter(deployment: Deployment, admin: Client) -> None:
    file = admin.upload()
    job = admin.submit(training_file=file["id"], suffix="mine", seed=7, metadata={"team": "a"})
    assert (job["status"], job["fine_tuned_model"]) == ("queued", None)
    assert job["queue"] == {
        "position": 0,
        "pool": admin.pool,
        "priority": 0,
        "reason": f"no worker of pool {admin.pool} has been seen in the last minute",
    }
    assert (job["seed"], job["suffix"], job["metadata"]) == (7, "mine", {"team": "a"})
    assert job["training_files"] == [{"file": file["id"], "weight": 1.0}]
    assert job["organization_id"] == admin.identity.organization

    run = deployment.begin(admin)
    deployment.say(run, Progress(phase="training", step=1, total_steps=2))
    deployment.say(run, Metrics(step=1, metrics={"train_loss": 2.5, "trained_tokens": 12}))
    running = admin.job(job["id"])
    assert (running["status"], running["phase"], running["attempt"]) == ("running", "training", 1)
    assert running["progress"].items() >= {"step": 1, "total_steps": 2}.items()
    assert running["trained_tokens"] == 12
    assert running["queue"] is None
    deployment.checkpoint(run, 1)
    deployment.succeed(run)

    done = admin.job(job["id"])
    assert done["status"] == "succeeded"
    assert done["fine_tuned_model"].startswith(f"ft:tiny:{admin.identity.organization}:mine:")
    assert done["finished_at"] >= done["started_at"] >= done["created_at"]
    _check_what_it_left(admin, done)


def _check_what_it_left(admin: Client, done: dict[str, Any]) -> None:
    path = f"/fine_tuning/jobs/{done['id']}"
    events = ok(admin.http.get(f"{path}/events"))["data"]
    (metrics,) = [event for event in events if event["type"] == "metrics"]
    assert metrics["data"] == {"step": 1, "train_loss": 2.5, "trained_tokens": 12}
    checkpoints = ok(admin.http.get(f"{path}/checkpoints"))
    (checkpoint,) = checkpoints["data"]
    assert checkpoints["first_id"] == checkpoints["last_id"] == checkpoint["id"]
    assert checkpoint["step_number"] == 1
    assert checkpoint["fine_tuned_model_checkpoint"] == f"{done['fine_tuned_model']}:ckpt-step-1"
    (run_reply,) = ok(admin.http.get(f"{path}/runs"))["data"]
    assert (run_reply["attempt"], run_reply["outcome"]) == (1, "succeeded")
    assert admin.http.get(f"{path}/adapter").content == adapter_archive()
    assert done["adapter"]["url"] == f"/v1{path}/adapter"
    listed = ok(admin.http.get(f"{path}/adapter/files"))["data"]
    assert {f["name"]: f["bytes"] for f in listed} == {n: len(c) for n, c in ADAPTER.items()}
    for entry in listed:
        assert admin.http.get(entry["url"].removeprefix("/v1")).content == ADAPTER[entry["name"]]


def test_a_failed_job_says_why_and_whose_fault_it_was(
    deployment: Deployment, admin: Client
) -> None:
    job = admin.submit()
    deployment.finish(deployment.begin(admin), RunOutcome.FAILED)
    failed = admin.job(job["id"])
    assert failed["status"] == "failed"
    assert failed["error"] == {
        "code": "bad",
        "message": "it went wrong",
        "param": None,
        "remedy": "mend it",
        "fault": "data",
    }


@pytest.fixture
def client(deployment: Deployment, admin: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key=admin.secret, base_url=f"{deployment.origin}/v1", max_retries=0
    ) as made:
        yield made


def test_files_of_openais_client(client: openai.OpenAI) -> None:
    file = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert [f.id for f in client.files.list(purpose="fine-tune")] == [file.id]
    assert client.files.retrieve(file.id).filename == "rows.jsonl"
    assert client.files.content(file.id).content == ROWS
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError) as missing:
        client.files.retrieve(file.id)
    assert missing.value.request_id


def test_jobs_of_openais_client(
    deployment: Deployment, admin: Client, client: openai.OpenAI
) -> None:
    file = client.files.create(file=("rows.jsonl", ROWS), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        seed=3,
        suffix="sdk",
        metadata={"team": "a b"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        extra_body={
            "training": {"adapter": {"r": 4}},
            "resources": {"pool": admin.pool},
        },
    )
    assert job.training["adapter"]["r"] == 4  # type: ignore[attr-defined]
    assert job.hyperparameters.n_epochs == 2
    run = deployment.begin(admin)
    for step in (1, 2, 3):
        deployment.say(run, Metrics(step=step, metrics={"train_loss": 1.0}))
        deployment.checkpoint(run, step)
    deployment.succeed(run)
    assert client.fine_tuning.jobs.retrieve(job.id).status == "succeeded"
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert len(events) == len({e.id for e in events}) >= 4
    steps = [c.step_number for c in client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)]
    assert steps == sorted(steps, reverse=True) != []
    found = client.fine_tuning.jobs.list(metadata={"team": "a b"})
    assert [j.id for j in found] == [job.id]


def test_models_and_conflicts_of_openais_client(
    deployment: Deployment, admin: Client, client: openai.OpenAI
) -> None:
    job = deployment.succeeded(admin)
    tuned = client.fine_tuning.jobs.retrieve(job["id"]).fine_tuned_model
    assert tuned is not None
    assert ":" in tuned
    assert client.models.retrieve(tuned).id == tuned
    assert {"tiny", tuned} <= {m.id for m in client.models.list()}
    assert client.models.delete(tuned).deleted

    other = client.fine_tuning.jobs.create(model="tiny", training_file=job["training_file"])
    assert client.fine_tuning.jobs.cancel(other.id).status == "cancelled"
    with pytest.raises(openai.ConflictError) as conflict:
        client.fine_tuning.jobs.cancel(job["id"])
    assert conflict.value.code == "job_finished"


def test_openais_client_does_not_repeat_a_conflict(deployment: Deployment, admin: Client) -> None:
    job = deployment.succeeded(admin)
    sent: list[str] = []
    with (
        openai.OpenAI(
            api_key=admin.secret,
            base_url=f"{deployment.origin}/v1",
            http_client=openai.DefaultHttpxClient(
                event_hooks={"request": [lambda request: sent.append(request.url.path)]}
            ),
        ) as client,
        pytest.raises(openai.ConflictError),
    ):
        client.fine_tuning.jobs.cancel(job["id"])
    assert len(sent) == 1
