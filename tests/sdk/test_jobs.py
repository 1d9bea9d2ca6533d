"""`client.fine_tuning.jobs`: what is asked for, what is answered, and what is found again."""

from typing import Any

import pytest

from tests.sdk.service import Team
from tests.sdk.work import WAITING, run, start, submit, upload, wait_for

SUPERVISED = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
AUTO = dict.fromkeys(SUPERVISED, "auto")


def test_a_new_job(client: Any, team: Team) -> None:
    training, validation = upload(client), upload(client)
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=training.id,
        validation_file=validation.id,
        suffix="tickets",
        seed=42,
        metadata={"team": "support"},
        method={"type": "supervised", "supervised": {"hyperparameters": SUPERVISED}},
        extra_body=WAITING,
    )
    assert job.id.startswith("ftjob-")
    assert (job.object, job.status, job.model) == ("fine_tuning.job", "queued", "tiny")
    assert (job.training_file, job.validation_file) == (training.id, validation.id)
    assert (job.suffix, job.seed, job.metadata) == ("tickets", 42, {"team": "support"})
    assert job.organization_id == team.organization
    assert job.created_at > 0
    assert (job.finished_at, job.fine_tuned_model, job.error) == (None, None, None)
    assert (job.result_files, job.estimated_finish) == ([], None)
    assert client.fine_tuning.jobs.retrieve(job.id) == job


@pytest.mark.parametrize("asked", [SUPERVISED, AUTO])
@pytest.mark.parametrize("spelling", ["hyperparameters", "method"])
def test_hyperparameters_are_echoed_resolved(
    client: Any, spelling: str, asked: dict[str, Any]
) -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": asked}}
    job = submit(client, **{spelling: asked if spelling == "hyperparameters" else method})
    echoed = job.hyperparameters
    assert job.method.type == "supervised"
    assert job.method.supervised.hyperparameters.to_dict() == echoed.to_dict()
    numbers = [echoed.n_epochs, echoed.batch_size, echoed.learning_rate_multiplier]
    assert all(isinstance(number, int | float) for number in numbers)
    if asked is SUPERVISED:
        assert echoed.to_dict() == SUPERVISED


def test_everything_else_goes_into_extra_body(client: Any) -> None:
    training = {"adapter": {"r": 64, "lora_alpha": 16}, "data": {"max_length": 32}}
    job = submit(client, extra_body={"training": training, "priority": 7, **WAITING})
    assert job.priority == 7
    assert job.training["adapter"]["r"] == 64
    assert job.training["adapter"]["lora_alpha"] == 16
    assert job.training["data"]["max_length"] == 32


def test_what_is_none_is_as_what_is_not_given(client: Any) -> None:
    unset = ("validation_file", "suffix", "seed", "metadata", "integrations")
    job = submit(client, **dict.fromkeys(unset))
    assert (job.validation_file, job.suffix, job.metadata) == (None, None, None)
    assert isinstance(job.seed, int)


def test_jobs_are_listed_over_several_pages(client: Any) -> None:
    file_id = upload(client).id
    made = [submit(client, training_file=file_id).id for _ in range(23)]
    assert [job.id for job in client.fine_tuning.jobs.list()] == made[::-1]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=7)] == made[::-1]
    page = client.fine_tuning.jobs.list(limit=2, after=made[20])
    assert [job.id for job in page.data] == [made[19], made[18]]
    assert page.has_more


def test_jobs_are_found_by_metadata(client: Any) -> None:
    file_id = upload(client).id

    def made(metadata: dict[str, str] | None) -> str:
        return str(submit(client, training_file=file_id, metadata=metadata).id)

    def found(metadata: Any) -> list[str]:
        return [job.id for job in client.fine_tuning.jobs.list(metadata=metadata)]

    first, second = made({"team": "a b", "run": "1"}), made({"team": "a b", "run": "2/3&x=[y]"})
    neither = made(None)
    assert found({"team": "a b"}) == [second, first]
    assert found({"team": "a b", "run": "2/3&x=[y]"}) == [second]
    assert found({"team": "A B"}) == []
    listed = client.fine_tuning.jobs.list(extra_query={"metadata": "null"})
    assert [job.id for job in listed] == [neither]


def test_a_job_may_be_cancelled_twice(client: Any) -> None:
    job_id = submit(client).id
    first = client.fine_tuning.jobs.cancel(job_id)
    assert first.status == "cancelled"
    assert first.finished_at is not None
    assert client.fine_tuning.jobs.cancel(job_id) == first


def test_a_running_job_is_cancelled_at_once(client: Any) -> None:
    job_id = start(client, steps=2000).id
    wait_for(client, job_id, "running")
    assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"


def test_a_job_to_its_end(client: Any, team: Team) -> None:
    job = run(client, steps=4, suffix="tickets")
    assert job.fine_tuned_model.startswith(f"ft:tiny:{team.organization}:tickets:")
    assert job.finished_at >= job.created_at
    assert job.trained_tokens == 1234
    assert (job.error, job.estimated_finish) == (None, None)
    _check_events(client, job.id)
    _check_checkpoints(client, job)


def _check_events(client: Any, job_id: str) -> None:
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=2))
    assert events == list(client.fine_tuning.jobs.list_events(job_id))
    assert [event.created_at for event in events] == sorted(
        (event.created_at for event in events), reverse=True
    )
    assert {event.object for event in events} == {"fine_tuning.job.event"}
    assert {event.level for event in events} <= {"info", "warn", "error"}
    assert len({event.id for event in events}) == len(events)
    measured = [event for event in events if event.type == "metrics"]
    assert [event.data["step"] for event in measured] == [4, 3, 2, 1]
    assert all("train_loss" in event.data for event in measured)


def _check_checkpoints(client: Any, job: Any) -> None:
    page = client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)
    assert page.has_next_page()
    checkpoints = list(page)
    assert [each.step_number for each in checkpoints] == [4, 2]
    assert [each.metrics.step for each in checkpoints] == [4, 2]
    for each in checkpoints:
        name = f"{job.fine_tuned_model}:ckpt-step-{each.step_number}"
        assert each.fine_tuned_model_checkpoint == name
        assert each.fine_tuning_job_id == job.id
        assert each.object == "fine_tuning.job.checkpoint"


async def test_the_asynchronous_client(openai: Any, service: Any, team: Team) -> None:
    async with openai.AsyncOpenAI(api_key=team.secret, base_url=service.url) as client:
        file = await client.files.create(file=("rows.jsonl", b"{}\n"), purpose="user_data")
        assert [each.id async for each in client.files.list()] == [file.id]
        assert (await client.files.content(file.id)).read() == b"{}\n"
        assert [job async for job in client.fine_tuning.jobs.list()] == []
        with pytest.raises(openai.NotFoundError):
            await client.fine_tuning.jobs.retrieve("ftjob-none")
