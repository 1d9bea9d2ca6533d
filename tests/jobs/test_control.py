"""Pause, resume, stop and cancel: what each does to a job in each state."""

from collections.abc import Callable

import pytest

from jobs.errors import Conflict, NotFound
from jobs.models import Checkpoint, Event, Job
from jobs.service import records
from jobs.service.claims import Claim
from jobs.states import Intent, JobStatus, RunOutcome
from tests.jobs.world import VERBS, World, fence_of, offer

S, O = JobStatus, RunOutcome  # noqa: E741 - the tables below are read more easily


def claim(world: World) -> Claim:
    claimed = world.claim(offer())
    assert claimed is not None
    return claimed


class Stage:
    """Brings a job into a state by the verbs that lead there in life."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.model()

    def __call__(self, state: str) -> Job:
        job = self.world.submit(training_file=self.world.file().id)
        make: dict[str, Callable[[Job], object]] = {
            "validating_files": self._validating,
            "queued": lambda _job: None,
            "queued, trained": lambda _job: self._trained(),
            "queued, to stop": self._to_stop,
            "running": lambda _job: claim(self.world),
            "running, to pause": lambda job: self._running(job, "pause"),
            "running, to stop": lambda job: self._running(job, "stop"),
            "paused": lambda job: self.world.ask("pause", job),
            "paused, trained": self._paused,
            "succeeded": lambda _job: self._ended(O.SUCCEEDED),
            "failed": lambda _job: self._ended(O.FAILED),
            "cancelled": lambda job: self.world.ask("cancel", job),
        }
        make[state](job)
        return self.world.job(job.id)

    def _validating(self, job: Job) -> None:
        self.world.change(Job, job.id, status=S.VALIDATING_FILES)

    def _running(self, job: Job, verb: str) -> None:
        claim(self.world)
        self.world.ask(verb, job)

    def _trained(self) -> None:
        claimed = claim(self.world)
        self.world.note_checkpoint(claimed)
        self.world.finish(claimed, O.INTERRUPTED)

    def _to_stop(self, job: Job) -> None:
        self._trained()
        self.world.ask("stop", job)

    def _paused(self, job: Job) -> None:
        self._trained()
        self.world.ask("pause", job)

    def _ended(self, outcome: RunOutcome) -> None:
        self.world.finish(claim(self.world), outcome)


@pytest.fixture
def stage(local_world: World) -> Stage:
    return Stage(local_world)


TABLE = {
    "pause": {
        "validating_files": (S.PAUSED, None),
        "queued": (S.PAUSED, None),
        "queued, trained": (S.PAUSED, None),
        "queued, to stop": (S.PAUSED, None),
        "running": (S.RUNNING, Intent.PAUSE),
        "running, to pause": (S.RUNNING, Intent.PAUSE),
        "running, to stop": (S.RUNNING, Intent.PAUSE),
        "paused": (S.PAUSED, None),
        "succeeded": "job_finished",
        "failed": "job_finished",
        "cancelled": "job_finished",
    },
    "resume": {
        "validating_files": (S.VALIDATING_FILES, None),
        "queued": (S.QUEUED, None),
        "queued, to stop": (S.QUEUED, None),
        "running": (S.RUNNING, None),
        "running, to pause": (S.RUNNING, None),
        "running, to stop": (S.RUNNING, None),
        "paused": (S.QUEUED, None),
        "paused, trained": (S.QUEUED, None),
        "succeeded": "job_finished",
        "failed": "job_finished",
        "cancelled": "job_finished",
    },
    "stop": {
        "validating_files": "nothing_trained",
        "queued": "nothing_trained",
        "queued, trained": (S.QUEUED, Intent.STOP),
        "queued, to stop": (S.QUEUED, Intent.STOP),
        "running": (S.RUNNING, Intent.STOP),
        "running, to pause": (S.RUNNING, Intent.STOP),
        "running, to stop": (S.RUNNING, Intent.STOP),
        "paused": "nothing_trained",
        "paused, trained": (S.QUEUED, Intent.STOP),
        "succeeded": "job_finished",
        "failed": "job_finished",
        "cancelled": "job_finished",
    },
    "cancel": {
        "validating_files": (S.CANCELLED, None),
        "queued": (S.CANCELLED, None),
        "queued, to stop": (S.CANCELLED, None),
        "running": (S.CANCELLED, None),
        "running, to pause": (S.CANCELLED, None),
        "paused": (S.CANCELLED, None),
        "succeeded": "job_finished",
        "failed": "job_finished",
        "cancelled": (S.CANCELLED, None),
    },
}


@pytest.mark.parametrize(
    ("verb", "state"), [(verb, state) for verb, row in TABLE.items() for state in row]
)
def test_every_verb_in_every_state(stage: Stage, verb: str, state: str) -> None:
    """What it does, and that a second time changes nothing: clients repeat a lost request."""
    job, expected = stage(state), TABLE[verb][state]
    if isinstance(expected, str):
        before = stage.world.all(Event)
        with pytest.raises(Conflict) as refused:
            stage.world.ask(verb, job)
        assert refused.value.code == expected
        assert len(stage.world.all(Event)) == len(before)
        return
    answered = stage.world.ask(verb, job)
    assert (answered.status, answered.intent) == expected
    stored, told = stage.world.job(job.id), len(stage.world.all(Event))
    assert (stored.status, stored.intent) == expected
    stage.world.ask(verb, job)
    again = stage.world.job(job.id)
    assert (again.status, again.intent, again.queued_at) == (*expected, stored.queued_at)
    assert len(stage.world.all(Event)) == told


@pytest.mark.parametrize("verb", VERBS)
def test_a_job_of_another_project_does_not_exist(stage: Stage, verb: str) -> None:
    job, stranger = stage("running"), stage.world.stranger()
    with pytest.raises(NotFound):
        stage.world.ask(verb, job, stranger)


@pytest.mark.parametrize("outcome", [O.INTERRUPTED, O.CRASHED, O.LOST])
def test_a_pause_holds_whatever_ends_the_run(stage: Stage, outcome: RunOutcome) -> None:
    job = stage("queued")
    claimed = claim(stage.world)
    stage.world.ask("pause", job)
    assert stage.world.finish(claimed, outcome) == S.PAUSED
    assert stage.world.job(job.id).intent is None
    assert stage.world.claim(offer()) is None


@pytest.mark.parametrize("outcome", [O.INTERRUPTED, O.CRASHED, O.LOST])
def test_a_stop_outlives_a_run_that_could_not_heed_it(stage: Stage, outcome: RunOutcome) -> None:
    job = stage("queued")
    claimed = claim(stage.world)
    stage.world.ask("stop", job)
    assert stage.world.finish(claimed, outcome) == S.QUEUED
    second = claim(stage.world)
    with stage.world.db.reading() as session:
        assert records.orders(session, fence_of(second)).intent == Intent.STOP
    assert stage.world.finish(second, O.SUCCEEDED) == S.SUCCEEDED
    assert stage.world.job(job.id).intent is None


@pytest.mark.parametrize("intent", [None, "stop"])
def test_a_job_that_keeps_being_interrupted_is_given_up(stage: Stage, intent: str | None) -> None:
    job = stage("queued")
    for _ in range(stage.world.settings.max_lost_runs):
        claimed = claim(stage.world)
        if intent:
            stage.world.ask(intent, job)
        status = stage.world.finish(claimed, O.INTERRUPTED)
    assert status == S.FAILED
    assert stage.world.job(job.id).intent is None


def test_pauses_cost_nothing(stage: Stage) -> None:
    job = stage("queued")
    for _ in range(stage.world.settings.max_lost_runs + 1):
        claimed = claim(stage.world)
        stage.world.ask("pause", job)
        assert stage.world.finish(claimed, O.INTERRUPTED) == S.PAUSED
        stage.world.ask("resume", job)
    found = stage.world.job(job.id)
    assert (found.lost_runs, found.crashes) == (0, 0)


def test_a_resumed_job_waits_behind_those_that_wait(stage: Stage) -> None:
    first = stage("paused")
    second = stage("queued")
    stage.world.ask("resume", first)
    assert claim(stage.world).job_id == second.id


def test_a_hidden_checkpoint_is_nothing_to_keep(stage: Stage) -> None:
    job = stage("paused, trained")
    (checkpoint,) = stage.world.all(Checkpoint)
    stage.world.change(Checkpoint, checkpoint.id, deleted_at=1.0)
    with pytest.raises(Conflict, match="cancel the job instead"):
        stage.world.ask("stop", job)


def test_the_events_tell_what_was_asked(stage: Stage) -> None:
    job = stage("running")
    for verb in ("pause", "stop", "resume", "pause"):
        stage.world.ask(verb, job)
    told = [e.message for e in stage.world.all(Event) if e.type == "message"][2:]
    assert [sentence.split(":")[0] for sentence in told] == [
        "A pause was requested",
        "A stop was requested",
        "The request to stop was withdrawn",
        "A pause was requested",
    ]
