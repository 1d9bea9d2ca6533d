"""Two things done to a job at once, on both databases: whichever is first, one legal end."""

import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest

from jobs.errors import Conflict
from jobs.models import Event, Job
from jobs.service import endings
from jobs.service.claims import Claim
from jobs.service.records import Fenced
from jobs.states import MOVES, Intent, JobStatus, RunOutcome
from tests.jobs.test_concurrency import at_once
from tests.jobs.world import World, offer

TURNS = 8
S = JobStatus
State = tuple[JobStatus, Intent | None]


class Race:
    """A job, its run if it has one, and what may be done to them; each answers with a word."""

    def __init__(self, world: World, *, running: bool, trained: bool) -> None:
        self.world = world
        self.job = world.submit(training_file=world.file().id)
        self.run: Claim | None = None
        if running or trained:
            self.run = self._claim()
        if trained:
            world.note_checkpoint(self._run)
        if trained and not running:
            world.finish(self._run, RunOutcome.INTERRUPTED)
            self.run = None

    def __call__(self, what: str) -> object:
        do: dict[str, Callable[[], object]] = {
            "claim": lambda: self.world.claim(offer()) is not None,
            "lose": lambda: self.world.lose(self._run),
            "interrupted": lambda: self._finish(RunOutcome.INTERRUPTED),
            "succeeded": lambda: self._finish(RunOutcome.SUCCEEDED),
            "crashed": lambda: self._finish(RunOutcome.CRASHED),
        }
        return do[what]() if what in do else self._ask(what)

    def state(self) -> State:
        job = self.world.job(self.job.id)
        return job.status, job.intent

    @property
    def _run(self) -> Claim:
        assert self.run is not None
        return self.run

    def _claim(self) -> Claim:
        claimed = self.world.claim(offer())
        assert claimed is not None
        return claimed

    def _ask(self, verb: str) -> str:
        try:
            answered = self.world.ask(verb, self.job)
        except Conflict as conflict:
            return str(conflict.code)
        return f"{answered.status} {answered.intent or ''}".strip()

    def _finish(self, outcome: RunOutcome) -> str:
        try:
            return str(self.world.finish(self._run, outcome))
        except Fenced:
            return "fenced"


def check_history(world: World, job: Job) -> None:
    """Legal moves only, told without a gap, the last of them where the job is."""
    events = sorted((e for e in world.all(Event) if e.stream_id == job.id), key=lambda e: e.seq)
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    told = [JobStatus(e.data["status"]) for e in events if e.type == "status"]
    assert all(after in MOVES[before] for before, after in itertools.pairwise(told))
    assert told[-1] == world.job(job.id).status


PAUSED, QUEUED, STOPPING = (S.PAUSED, None), (S.QUEUED, None), (S.QUEUED, Intent.STOP)
SUCCEEDED, CANCELLED = (S.SUCCEEDED, None), (S.CANCELLED, None)


@pytest.mark.parametrize(
    ("both", "trained", "ends"),
    [
        # The end of a run: a verb that comes first is its intent, and one that comes later acts.
        (("pause", "lose"), False, {PAUSED}),
        (("pause", "interrupted"), True, {PAUSED}),
        (("pause", "crashed"), True, {PAUSED}),
        (("pause", "succeeded"), True, {SUCCEEDED}),
        (("resume", "interrupted"), True, {QUEUED}),
        (("resume", "succeeded"), True, {SUCCEEDED}),
        (("stop", "lose"), True, {STOPPING}),
        (("stop", "lose"), False, {STOPPING, QUEUED}),  # later, there is nothing to keep
        (("stop", "interrupted"), True, {STOPPING}),
        (("stop", "succeeded"), True, {SUCCEEDED}),
        (("cancel", "lose"), True, {CANCELLED}),
        (("cancel", "interrupted"), True, {CANCELLED}),
        (("cancel", "succeeded"), True, {CANCELLED, SUCCEEDED}),
        (("lose", "interrupted"), True, {QUEUED}),
        (("lose", "succeeded"), True, {QUEUED, SUCCEEDED}),
        (("pause", "stop", "lose"), True, {PAUSED, STOPPING}),
        (("pause", "resume", "interrupted"), True, {PAUSED, QUEUED}),
        (("pause", "cancel", "lose"), True, {CANCELLED}),
        (("stop", "cancel", "interrupted"), True, {CANCELLED}),
    ],
)
def test_a_verb_against_the_end_of_a_run(
    world: World, both: tuple[str, ...], ends: set[State], *, trained: bool
) -> None:
    world.model()
    seen: Counter[State] = Counter()
    for turn in range(TURNS):
        race = Race(world, running=True, trained=trained)
        at_once(race, both if turn % 2 else both[::-1])
        seen[race.state()] += 1
        check_history(world, race.job)
        if race.state()[0] == S.QUEUED:
            race("cancel")
    assert set(seen) <= ends, seen


@pytest.mark.parametrize(
    ("verb", "trained", "ends"),
    [
        ("pause", False, {("paused", PAUSED), ("running pause", (S.RUNNING, Intent.PAUSE))}),
        ("stop", True, {("queued stop", (S.RUNNING, Intent.STOP)), ("queued stop", STOPPING),
                        ("running stop", (S.RUNNING, Intent.STOP))}),
        ("cancel", False, {("cancelled", CANCELLED)}),
    ],
)  # fmt: skip
def test_a_verb_against_a_claim(
    world: World, verb: str, ends: set[tuple[str, State]], *, trained: bool
) -> None:
    """A claim passes over a job that is held; one that has been claimed has heard of it."""
    world.model()
    for _ in range(TURNS):
        race = Race(world, running=False, trained=trained)
        answered, claimed = at_once(race, (verb, "claim"))
        assert (answered, race.state()) in ends
        assert claimed or race.state()[0] != S.RUNNING
        check_history(world, race.job)
        race("cancel")
        with world.db.claiming() as session:
            endings.abandon(session, "w1", world.settings)


def test_verbs_against_each_other(world: World) -> None:
    """Every order of answers is an order of verbs: the last one in it is where the job stands."""
    world.model()
    choose = random.Random(3)
    for _ in range(TURNS):
        race = Race(world, running=choose.random() < 0.5, trained=True)
        verbs = [choose.choice(["pause", "resume", "stop"]) for _ in range(6)]
        answers = at_once(race, verbs)
        status, intent = race.state()
        assert f"{status} {intent or ''}".strip() in answers
        check_history(world, race.job)
        if race.run is not None:
            race("interrupted")
        race("cancel")


def test_a_verb_that_is_sent_many_times_at_once_is_done_once(world: World) -> None:
    world.model()
    race = Race(world, running=False, trained=False)
    for verb, answer in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        assert set(at_once(race, [verb] * 6)) == {answer}
    told = [e.data["status"] for e in world.all(Event) if e.type == "status"]
    assert told == ["queued", "paused", "queued", "cancelled"]
