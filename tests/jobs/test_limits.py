"""The limits a job was given: how long it may wait, and how long it may run in all its attempts."""

import pytest

from jobs.database import now
from jobs.models import Job, Run
from jobs.service.claims import Claim
from jobs.service.limits import fail_overdue
from jobs.states import RunOutcome
from tests.jobs.world import World, offer


@pytest.fixture
def ready(world: World) -> World:
    world.model()
    return world


def _sweep(world: World) -> list[str]:
    with world.db.writing() as session:
        return fail_overdue(session)


def _ago(world: World, seconds: float) -> float:
    with world.db.reading() as session:
        return now(session) - seconds


def _claim(world: World) -> Claim:
    claimed = world.claim(offer())
    assert claimed is not None
    return claimed


def test_a_job_that_waited_too_long_is_failed(ready: World) -> None:
    file = ready.file().id
    job = ready.submit(training_file=file, limits={"max_pending_seconds": 60})
    patient = ready.submit(training_file=file)
    ready.change(Job, patient.id, queued_at=_ago(ready, 9999))
    ready.change(Job, job.id, queued_at=_ago(ready, 55))
    assert _sweep(ready) == []
    ready.change(Job, job.id, queued_at=_ago(ready, 65))
    assert _sweep(ready) == [job.id]
    failed = ready.job(job.id)
    assert (failed.status, failed.finished_at is not None) == ("failed", True)
    assert failed.error is not None
    assert failed.error["code"] == "max_pending_exceeded"
    assert failed.error["message"] == "the job waited longer than 60 seconds"
    assert failed.error["param"] == "limits.max_pending_seconds"
    assert _sweep(ready) == []
    assert ready.job(patient.id).status == "queued"


def test_a_job_whose_run_has_just_ended_waits_anew(ready: World) -> None:
    job = ready.submit(training_file=ready.file().id, limits={"max_pending_seconds": 60})
    claimed = _claim(ready)
    ready.finish(claimed, RunOutcome.INTERRUPTED)
    ready.change(Job, job.id, queued_at=_ago(ready, 3600))
    assert _sweep(ready) == []
    ready.change(Run, claimed.run_id, ended_at=_ago(ready, 65))
    assert _sweep(ready) == [job.id]


def test_a_job_that_ran_too_long_in_all_its_attempts_is_failed(ready: World) -> None:
    job = ready.submit(training_file=ready.file().id, limits={"max_runtime_seconds": 60})
    first = _claim(ready)
    ready.finish(first, RunOutcome.INTERRUPTED)
    ready.change(Run, first.run_id, started_at=_ago(ready, 1040), ended_at=_ago(ready, 1000))
    second = _claim(ready)
    ready.change(Run, second.run_id, started_at=_ago(ready, 15))
    assert _sweep(ready) == []
    ready.change(Run, second.run_id, started_at=_ago(ready, 25))
    assert _sweep(ready) == [job.id]
    failed = ready.job(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error["code"] == "max_runtime_exceeded"
    assert failed.error["param"] == "limits.max_runtime_seconds"


def test_the_run_of_a_job_over_its_limit_can_still_be_closed(ready: World) -> None:
    ready.submit(training_file=ready.file().id, limits={"max_runtime_seconds": 1})
    claimed = _claim(ready)
    ready.change(Run, claimed.run_id, started_at=_ago(ready, 5))
    assert _sweep(ready) == [claimed.job_id]
    assert ready.finish(claimed, RunOutcome.SUCCEEDED) is None
    assert ready.run(claimed.run_id).outcome == "cancelled"
    assert ready.job(str(claimed.job_id)).status == "failed"
