"""What a queued job is said to wait for, and when a running one is said to end."""

import random

import pytest

from jobs.models import Job, Worker
from jobs.service import claims, jobs, records, waiting
from jobs.service.claims import Claim, Offer
from jobs.states import Intent, RunOutcome
from tests.jobs.world import World, fence_of, offer
from training.events import Event, Metrics, Phase, Progress, Rewound


def see(world: World, *offers: Offer) -> None:
    for offered in offers:
        with world.db.writing() as session:
            claims.register(session, offered)


def reason(world: World, job: Job) -> str:
    with world.db.reading() as session:
        return waiting.places(session, [session.get_one(Job, job.id)])[job.id].reason


def taken(world: World, offered: Offer) -> Claim:
    claimed = world.claim(offered)
    assert claimed is not None
    return claimed


@pytest.fixture
def ready(world: World) -> World:
    world.model()
    return world


def test_a_pool_without_workers_is_named(ready: World) -> None:
    job = ready.submit(training_file=ready.file().id, resources={"pool": "big"})
    nobody = "no worker of pool big has been seen in the last minute"
    assert reason(ready, job) == nobody
    see(ready, offer("elsewhere"))
    assert reason(ready, job) == nobody
    see(ready, offer("w1", pool="big"))
    assert reason(ready, job) == "next in pool big: about to start"
    seen_at = next(w.seen_at for w in ready.all(Worker) if w.id == "w1")
    ready.change(Worker, "w1", seen_at=seen_at - 61)
    assert reason(ready, job) == nobody
    see(ready, offer("w1", pool="big"))  # it looks for work again
    assert reason(ready, job) != nobody


def test_what_no_worker_has_is_named(ready: World) -> None:
    file = ready.file().id
    cuda = ready.submit(training_file=file, training={"model": {"dtype": "float16"}})
    gpu = ready.submit(training_file=file, resources={"gpus": 1})
    see(ready, offer("cpu"))
    assert reason(ready, cuda) == "no worker of pool default offers cuda"
    assert reason(ready, gpu) == "no worker of pool default has 1 GPU"
    see(ready, offer("gpu", gpus=1, provides="cuda"))
    assert reason(ready, cuda) == "next in pool default: about to start"
    assert reason(ready, gpu) == "1 ahead in pool default"


def test_a_job_without_a_gpu_needs_a_worker_without(ready: World) -> None:
    job = ready.submit(training_file=ready.file().id, resources={"gpus": 0})
    see(ready, offer("gpu", gpus=1, provides="cuda"))
    assert reason(ready, job) == "no worker of pool default runs jobs without a GPU"
    assert ready.claim(offer("gpu", gpus=1, provides="cuda")) is None
    see(ready, offer("cpu"))
    assert reason(ready, job) == "next in pool default: about to start"


def test_those_ahead_are_counted_then_what_the_next_one_waits_for(ready: World) -> None:
    file = ready.file().id
    running, first, second, third = (ready.submit(training_file=file) for _ in range(4))
    see(ready, offer())
    claimed = taken(ready, offer())
    assert claimed.job_id == running.id
    assert reason(ready, first) == "next in pool default: waiting for a free slot"
    assert reason(ready, second) == "1 ahead in pool default"
    assert reason(ready, third) == "2 ahead in pool default"
    ready.cancel(first)
    assert reason(ready, third) == "1 ahead in pool default"
    ready.finish(claimed, RunOutcome.SUCCEEDED)
    assert reason(ready, second) == "next in pool default: about to start"


def test_gpus_in_use_are_waited_for(ready: World) -> None:
    file = ready.file().id
    host = offer("gpu", gpus=2, provides="cuda")
    for _ in range(2):
        ready.submit(training_file=file)
    waits = ready.submit(training_file=file, resources={"gpus": 1})
    see(ready, host)
    taken(ready, host)
    assert reason(ready, waits) == "1 ahead in pool default"
    claimed = taken(ready, host)
    assert reason(ready, waits) == "next in pool default: waiting for 1 GPU"
    with ready.db.writing() as session:
        records.free_slots(session, fence_of(claimed))
    assert reason(ready, waits) == "next in pool default: about to start"


def test_a_run_that_is_still_open_is_named(ready: World) -> None:
    job = ready.submit(training_file=ready.file().id)
    see(ready, offer("w1"), offer("w2"))
    taken(ready, offer("w1"))
    ready.change(Job, job.id, status="queued")
    assert reason(ready, job) == "its last run is still being ended on w1"
    assert ready.claim(offer("w2")) is None


def test_places_of_a_page_are_those_of_each(ready: World) -> None:
    """Counted from neighbour to neighbour, ties and priorities included."""
    file = ready.file().id
    made = [
        ready.submit(training_file=file, priority=priority, resources={"pool": pool})
        for priority in (0, 0, 5, 5, -1, 0)
        for pool in ("default", "other")
    ]
    ready.change(Job, made[0].id, queued_at=1.0)
    for job in made[4:8]:
        ready.change(Job, job.id, queued_at=2.0)
    with ready.db.reading() as session:
        rows = [session.get_one(Job, job.id) for job in made]
        alone = {row.id: waiting.places(session, [row])[row.id].position for row in rows}
        page = random.Random(1).sample(rows, 9)
        together = waiting.places(session, page)
        whole = waiting.places(session, rows)
    assert {i: place.position for i, place in whole.items()} == alone
    assert {i: place.position for i, place in together.items()} == {
        row.id: alone[row.id] for row in page
    }
    for pool in ("default", "other"):
        positions = sorted(alone[row.id] for row in rows if row.pool == pool)
        assert positions == list(range(6))


def test_only_queued_jobs_have_a_place(ready: World) -> None:
    job = ready.submit(training_file=ready.file().id)
    ready.cancel(job)
    with ready.db.reading() as session:
        assert waiting.places(session, [session.get_one(Job, job.id)]) == {}


def say(world: World, claimed: Claim, *events: Event) -> None:
    with world.db.writing() as session:
        position = world.run(claimed.run_id).relayed_bytes + 1
        records.record(
            session,
            fence_of(claimed),
            events,
            relayed_bytes=position,
            settings=world.settings,
        )


def pace(step: int, eta: float | None, phase: Phase = "training") -> Progress:
    return Progress(phase=phase, step=step, total_steps=10, eta_seconds=eta)


def estimate(world: World, job: Job) -> float | None:
    with world.db.reading() as session:
        return jobs.estimated_finish(session, session.get_one(Job, job.id))


@pytest.fixture
def trained(ready: World) -> tuple[World, Job, Claim]:
    job = ready.submit(training_file=ready.file().id)
    return ready, job, taken(ready, offer())


def test_an_estimate_needs_a_measured_pace(trained: tuple[World, Job, Claim]) -> None:
    world, job, claimed = trained
    assert estimate(world, job) is None
    for event in (pace(0, None, "tokenizing"), pace(0, None)):
        say(world, claimed, event)
        assert estimate(world, job) is None
    say(world, claimed, pace(1, 900.0))
    row = world.job(job.id)
    assert row.progressed_at is not None
    assert estimate(world, job) == row.progressed_at + 900
    say(world, claimed, pace(2, 900.0, "evaluating"))
    assert estimate(world, job) is None


def test_a_sign_of_life_does_not_move_the_estimate(trained: tuple[World, Job, Claim]) -> None:
    world, job, claimed = trained
    say(world, claimed, pace(1, 900.0))
    world.change(Job, job.id, progressed_at=world.job(job.id).progressed_at - 100)
    before = estimate(world, job)
    say(world, claimed, pace(1, 900.0))  # said again, of the same step
    assert estimate(world, job) == before
    say(world, claimed, pace(2, 900.0))
    after = estimate(world, job)
    assert before is not None
    assert after is not None
    assert after > before + 99


def test_an_estimate_never_lies_in_the_past(trained: tuple[World, Job, Claim]) -> None:
    world, job, claimed = trained
    say(world, claimed, pace(1, 5.0))
    at = world.job(job.id).progressed_at
    assert at is not None
    world.change(Job, job.id, progressed_at=at - 100)
    found = estimate(world, job)
    assert found is not None
    assert found >= at


@pytest.mark.parametrize("intent", list(Intent))
def test_what_will_not_go_on_has_no_estimate(
    trained: tuple[World, Job, Claim], intent: Intent
) -> None:
    world, job, claimed = trained
    say(world, claimed, pace(1, 900.0))
    world.change(Job, job.id, intent=intent)
    assert estimate(world, job) is None


@pytest.mark.parametrize("outcome", [RunOutcome.INTERRUPTED, RunOutcome.CRASHED])
def test_after_a_resume_nothing_of_the_run_before_is_shown(
    trained: tuple[World, Job, Claim], outcome: RunOutcome
) -> None:
    world, job, claimed = trained
    say(world, claimed, pace(4, 900.0))
    world.finish(claimed, outcome)
    row = world.job(job.id)
    assert (row.phase, row.progressed_at) == (None, None)
    assert row.progress is not None
    assert "eta_seconds" not in row.progress
    claimed = taken(world, offer())
    row = world.job(job.id)
    assert (row.phase, row.progress, row.progressed_at) == ("starting", None, None)
    say(world, claimed, Rewound(step=4), Progress(phase="loading_model", step=4))
    assert estimate(world, job) is None
    say(world, claimed, pace(5, 30.0))
    found = estimate(world, job)
    assert found is not None
    assert found == (world.job(job.id).progressed_at or 0) + 30


def test_attempts_say_from_which_step_they_went_on(trained: tuple[World, Job, Claim]) -> None:
    world, job, claimed = trained
    say(world, claimed, Metrics(step=3, metrics={"train_loss": 1.0}))
    world.finish(claimed, RunOutcome.INTERRUPTED)
    say(world, taken(world, offer()), Rewound(step=3))
    with world.db.reading() as session:
        assert jobs.resumed_steps(session, world.me, job.id) == {2: 3}
