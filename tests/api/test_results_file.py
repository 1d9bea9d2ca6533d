"""The results file of a job that succeeded, as the OpenAI client finds and reads it."""

import pytest
from openai import NotFoundError, OpenAI

from jobs.service import events
from jobs.states import RunOutcome
from tests.api.deployment import RESULTS, Client, Deployment
from training.events import Metrics, Rewound


def test_the_results_file(deployment: Deployment, admin: Client, sdk: OpenAI) -> None:
    job_id = deployment.succeeded(admin)["id"]
    (file_id,) = sdk.fine_tuning.jobs.retrieve(job_id).result_files
    file = sdk.files.retrieve(file_id)
    assert (file.purpose, file.filename) == ("fine-tune-results", "step_metrics.csv")
    assert (file.status, file.bytes) == ("processed", len(RESULTS))
    assert sdk.files.content(file_id).text == RESULTS.decode()
    assert [each.id for each in sdk.files.list(purpose="fine-tune-results")] == [file_id]
    sdk.files.delete(file_id)
    with pytest.raises(NotFoundError):
        sdk.files.content(file_id)
    assert sdk.fine_tuning.jobs.retrieve(job_id).result_files == [file_id]


def test_a_job_without_a_result_has_none(admin: Client) -> None:
    assert admin.submit()["result_files"] == []


def test_only_what_the_last_attempt_measured_counts(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    first = deployment.begin(admin)
    deployment.say(first, *[Metrics(step=n, metrics={"train_loss": float(n)}) for n in (1, 2, 3)])
    deployment.finish(first, RunOutcome.INTERRUPTED)
    again = deployment.begin(admin)
    deployment.say(again, Rewound(step=1), Metrics(step=2, metrics={"train_loss": 20.0}))
    with deployment.db.reading() as session:
        found = events.measured(session, job["id"])
    assert [(step, data["train_loss"]) for step, data in found] == [(1, 1.0), (2, 20.0)]
    deployment.succeed(again)
