"""`pause`, `resume` and `cancel` of `client.fine_tuning.jobs`."""

from typing import Any

import pytest

from tests.sdk.work import run, start, submit, wait_for, wait_until

METRICS = {"type": "metrics"}


def test_a_queued_job_pauses_and_resumes_at_once(client: Any) -> None:
    job_id = submit(client).id
    assert client.fine_tuning.jobs.pause(job_id).status == "paused"
    assert client.fine_tuning.jobs.pause(job_id).status == "paused"
    assert client.fine_tuning.jobs.retrieve(job_id).status == "paused"
    assert client.fine_tuning.jobs.resume(job_id).status == "queued"
    assert client.fine_tuning.jobs.resume(job_id).status == "queued"


def test_a_running_job_pauses_and_goes_on_where_it_was(client: Any) -> None:
    job_id = start(client, steps=60, save_steps=50).id
    _wait_for_a_step(client, job_id)
    asked = client.fine_tuning.jobs.pause(job_id)
    assert (asked.status, asked.intent) == ("running", "pause")
    paused = wait_for(client, job_id, "paused")
    assert paused.finished_at is None
    (checkpoint, *_) = client.fine_tuning.jobs.checkpoints.list(job_id)
    assert client.fine_tuning.jobs.resume(job_id).status == "queued"
    wait_for(client, job_id, "succeeded")
    events = list(client.fine_tuning.jobs.list_events(job_id))
    steps = sorted(event.data["step"] for event in events if event.type == "metrics")
    assert steps == list(range(1, 61))
    assert 0 < checkpoint.step_number < 60


def _wait_for_a_step(client: Any, job_id: str) -> None:
    wait_for(client, job_id, "running")
    wait_until(lambda: client.fine_tuning.jobs.list_events(job_id, extra_query=METRICS).data)


def test_a_running_job_is_stopped_and_kept(client: Any) -> None:
    """A verb of this server, by the client's own way to call any path."""
    job_id = start(client, steps=2000).id
    wait_for(client, job_id, "running")
    path = f"/fine_tuning/jobs/{job_id}/stop"
    assert client.post(path, cast_to=object)["intent"] == "stop"
    done = wait_for(client, job_id, "succeeded")
    assert client.models.retrieve(done.fine_tuned_model).id == done.fine_tuned_model


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_what_has_ended_is_a_conflict(openai: Any, client: Any, verb: str) -> None:
    job_id = run(client, steps=1).id
    with pytest.raises(openai.ConflictError) as caught:
        getattr(client.fine_tuning.jobs, verb)(job_id)
    assert caught.value.code == "job_finished"
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_a_paused_job_is_cancelled(openai: Any, client: Any) -> None:
    job_id = submit(client).id
    client.fine_tuning.jobs.pause(job_id)
    assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.resume(job_id)
