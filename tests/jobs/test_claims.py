"""Who gets what: order, fairness, what a worker must offer, and what it has free."""

import pytest

from jobs.errors import Conflict
from jobs.models import Job, Run, Worker
from jobs.service import catalogue, claims, waiting
from jobs.service.claims import Claim, ModelSource, TrainAssignment, assignment
from jobs.service.endings import Ending
from jobs.states import JobStatus, RunKind, RunOutcome
from tests.jobs.world import FAILURE, World, fence_of, offer

HALF = {"model": {"dtype": "float16"}}


@pytest.fixture
def ready(world: World) -> World:
    world.model()
    return world


@pytest.fixture
def file(ready: World) -> str:
    return ready.file().id


def _drain(world: World, count: int, **offered) -> list[str | None]:
    """The jobs of as many claims, each by a worker of its own."""
    claimed = [world.claim(offer(f"w{number}", **offered)) for number in range(count)]
    return [one and one.job_id for one in claimed]


def test_the_oldest_first_and_priority_before_age(ready: World, file: str):
    first = ready.submit(training_file=file)
    second = ready.submit(training_file=file)
    urgent = ready.submit(training_file=file, priority=1)
    idle = ready.submit(training_file=file, priority=-1)
    order = [urgent.id, first.id, second.id, idle.id]
    with ready.db.reading() as session:
        found = waiting.places(session, [ready.job(job_id) for job_id in order])
        assert [found[job_id].position for job_id in order] == [0, 1, 2, 3]
    assert _drain(ready, 5) == [*order, None]


def test_who_has_less_running_comes_first(ready: World, file: str):
    busy = [ready.submit(training_file=file).id for _ in range(3)]
    member = ready.member()
    modest = [ready.submit(training_file=file, identity=member).id for _ in range(2)]
    assert _drain(ready, 5) == [busy[0], modest[0], busy[1], modest[1], busy[2]]


@pytest.mark.parametrize(
    ("offered", "body", "fits"),
    [
        ({}, {}, True),
        ({"gpus": 1, "provides": "cuda"}, {}, True),
        ({"pool": "big"}, {}, False),
        ({"pool": "big"}, {"resources": {"pool": "big"}}, True),
        ({}, {"resources": {"gpus": 1}}, False),
        ({"gpus": 1}, {"resources": {"gpus": 1}}, True),
        ({}, {"resources": {"gpus": 0}}, True),
        ({"gpus": 1}, {"resources": {"gpus": 0}}, False),
        ({}, {"training": HALF}, False),
        ({"gpus": 1}, {"training": HALF}, False),
        ({"gpus": 1, "provides": "cuda"}, {"training": HALF}, True),
        ({"gpus": 1, "provides": "bf16,cuda"}, {"training": HALF}, True),
    ],
)
def test_what_fits(ready: World, file: str, offered, body, fits):
    job = ready.submit(training_file=file, **body)
    claimed = ready.claim(offer(**offered))
    assert (claimed is not None) == fits
    assert ready.job(job.id).status == ("running" if fits else "queued")


def test_what_does_not_fit_holds_nobody_up(ready: World, file: str):
    ready.submit(training_file=file, priority=5, resources={"gpus": 1})
    small = ready.submit(training_file=file)
    assert _drain(ready, 2) == [small.id, None]


def test_slots_of_a_host(ready: World, file: str):
    for _ in range(4):
        ready.submit(training_file=file)
    claimed = [ready.claim(offer("w1", gpus=2)) for _ in range(3)]
    assert [one and one.gpu_indices for one in claimed] == [(0,), (1,), None]
    assert claimed[0] is not None
    ready.finish(claimed[0], RunOutcome.SUCCEEDED)
    again = ready.claim(offer("w1", gpus=2))
    assert again is not None
    assert (again.slot, again.gpu_indices) == (claims.GPU, (0,))
    cpu = ready.claim(offer("w2"))
    assert cpu is not None
    assert (cpu.slot, cpu.gpu_indices) == (claims.CPU, ())
    assert ready.claim(offer("w2")) is None


def test_a_job_is_not_claimed_while_a_run_of_it_is_open(ready: World, file: str):
    job = ready.submit(training_file=file)
    ready.claim(offer("w1"))
    ready.change(Job, job.id, status=JobStatus.QUEUED)
    assert ready.claim(offer("w2")) is None


def test_what_a_training_run_is_told(ready: World, file: str):
    job = ready.submit(training_file=file, validation_file=file, seed=9)
    claimed = ready.claim(offer())
    assert claimed is not None
    with ready.db.reading() as session:
        todo = assignment(session, claimed)
    assert isinstance(todo, TrainAssignment)
    assert todo.seed == 9
    assert todo.training.model_dump(mode="json") == job.training
    assert (todo.model.source, todo.model.sha256) == ("/models/tiny", job.model_sha256)
    assert [(one.role, one.format) for one in todo.files] == [
        ("training", "messages"),
        ("validation", "messages"),
    ]
    assert {one.artifact_key for one in todo.files} == {f"files/{file}"}
    assert todo.fine_tuned_model == job.fine_tuned_model
    assert ready.job(job.id).started_at is not None


def test_a_worker_is_registered_again(ready: World):
    for gpus in (0, 2):
        with ready.db.writing() as session:
            claims.register(session, offer("w1", gpus=gpus, provides="cuda"))
    (worker,) = ready.all(Worker)
    assert (worker.gpus, worker.provides) == (2, "cuda")


def _add_model(world: World, name: str = "new") -> None:
    from jobs.requests import ModelRequest

    with world.db.writing() as session:
        catalogue.add(session, world.me, ModelRequest(name=name, source="/models/new"))


def _inspection(world: World, worker: str = "w1") -> Claim:
    claimed = world.claim(offer(worker))
    assert claimed is not None
    assert (claimed.kind, claimed.slot) == (RunKind.INSPECT, claims.LIGHT)
    return claimed


def _status(world: World, name: str = "new") -> str:
    with world.db.reading() as session:
        return catalogue.get(session, world.me, name).status


def test_a_model_is_inspected_beside_training_and_once_at_a_time(ready: World, file: str):
    ready.submit(training_file=file)
    assert ready.claim(offer("w1")) is not None
    _add_model(ready)
    claimed = _inspection(ready)
    with ready.db.reading() as session:
        todo = assignment(session, claimed)
    assert isinstance(todo, ModelSource)
    assert (todo.name, todo.source, todo.sha256) == ("new", "/models/new", None)
    assert ready.claim(offer("w2")) is None
    _add_model(ready, "other")
    assert ready.claim(offer("w1")) is None
    assert _inspection(ready, "w2").model_id != claimed.model_id


def test_a_model_that_cannot_be_read_is_in_error(ready: World):
    _add_model(ready)
    ready.finish(_inspection(ready), Ending(RunOutcome.FAILED, FAILURE))
    assert _status(ready) == "error"
    assert ready.claim(offer()) is None


def test_an_inspection_that_dies_is_tried_again_within_a_budget(ready: World):
    _add_model(ready)
    outcomes = [RunOutcome.LOST, RunOutcome.CRASHED, RunOutcome.INTERRUPTED]
    statuses = []
    for outcome in outcomes:
        ready.finish(_inspection(ready), Ending(outcome, FAILURE))
        statuses.append(_status(ready))
    assert statuses == ["pending", "pending", "error"]


def test_a_base_model_in_use_stays(ready: World, file: str):
    job = ready.submit(training_file=file)
    with pytest.raises(Conflict, match=job.id), ready.db.writing() as session:
        catalogue.remove(session, ready.me, "tiny")
    ready.cancel(job)
    with ready.db.writing() as session:
        catalogue.remove(session, ready.me, "tiny")
    _add_model(ready, "tiny")


def test_a_tuned_model_is_removed_by_its_project(ready: World, file: str):
    job = ready.submit(training_file=file, identity=ready.member())
    claimed = ready.claim(offer())
    assert claimed is not None
    ready.finish(claimed, RunOutcome.SUCCEEDED)
    colleague = ready.member("another")
    with ready.db.writing() as session:
        catalogue.remove(session, colleague, job.fine_tuned_model)
    with ready.db.reading() as session:
        names = [model.name for model in catalogue.list_models(session, ready.me)]
    assert names == ["tiny"]


def test_a_restarted_worker_gives_up_its_runs(ready: World, file: str):
    from jobs.service import endings

    mine, other = (ready.submit(training_file=file) for _ in range(2))
    first = ready.claim(offer("w1"))
    ready.claim(offer("w2"))
    assert first is not None
    with ready.db.claiming() as session:
        assert endings.abandon(session, "w1", ready.settings) == [first.run_id]
    assert (ready.job(mine.id).status, ready.job(other.id).status) == ("queued", "running")
    assert ready.run(first.run_id).outcome == RunOutcome.LOST
    assert fence_of(first).run_id in {run.id for run in ready.all(Run) if run.ended_at}
