"""Which posts are one: by idempotency key, and by the count of tries, on both databases."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.orm import Session

from jobs.doorbell import Bell
from jobs.errors import Contradiction, InvalidRequest
from jobs.identity import Identity
from jobs.models import Creation, Job
from jobs.requests import JobRequest
from jobs.rescue import Rescue
from jobs.service import creations, submission
from jobs.service.creations import Answer, Post
from tests.jobs.test_concurrency import at_once
from tests.jobs.world import World

DAY = 24 * 3600


class Poster:
    """Posts one body again and again."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.model()
        self.file = world.file().id

    def post(
        self,
        count: int = 0,
        *,
        key: str | None = None,
        body: str = "a",
        by: Identity | None = None,
        file: str | None = None,
    ) -> Answer:
        identity = by or self.world.me

        def make(session: Session) -> Job:
            request = JobRequest(model="tiny", training_file=file or self.file)
            return submission.submit(session, identity, request)

        with self.world.db.writing() as session:
            return creations.create_once(session, identity, Post(body, count, key), make)

    def job(self, count: int = 0, **how: str) -> str:
        return self.post(count, **how).job.id  # type: ignore[arg-type]

    def jobs(self) -> int:
        return len(self.world.all(Job))

    def age(self, job_id: str, seconds: float, *, replied_ago: float | None = None) -> None:
        """Let the newest post of a job have come and been answered in the past."""
        with self.world.db.reading() as session:
            at = creations.now(session)
        rows = [row for row in self.world.all(Creation) if row.job_id == job_id]
        self.world.change(
            Creation,
            max(rows, key=lambda row: row.retry_count).id,
            created_at=at - seconds,
            replied_at=None if replied_ago is None else at - replied_ago,
        )


@pytest.fixture
def poster(world: World) -> Poster:
    return Poster(world)


def test_fresh_posts_always_create(poster: Poster):
    answers = [poster.post() for _ in range(3)]
    assert len({answer.job.id for answer in answers}) == 3
    assert not any(answer.is_replay for answer in answers)


def test_a_repetition_is_answered_once_per_count(poster: Poster):
    first = poster.job()
    again = poster.post(1)
    assert (again.job.id, again.is_replay) == (first, True)
    other = poster.post(1)
    assert other.job.id != first
    assert not other.is_replay
    assert [poster.job(2), poster.job(2)] == [other.job.id, first]
    assert poster.job(2) not in {first, other.job.id}


def test_a_try_that_comes_late_still_finds_its_job(poster: Poster):
    first = poster.job()
    assert [poster.job(2), poster.job(1), poster.job(3)] == [first] * 3
    assert poster.jobs() == 1


def test_a_first_post_that_never_came_is_no_reason_to_refuse_a_repetition(poster: Poster):
    first = poster.job(1)
    assert poster.job(2) == first
    assert poster.job(1) != first


def test_others_are_never_answered_with_it(poster: Poster):
    first = poster.job()
    stranger = poster.world.stranger()
    file = poster.world.file(identity=stranger).id
    colleague = poster.world.member()
    assert poster.post(1, body="b").job.id != first
    assert poster.post(1, by=colleague).job.id != first
    assert poster.post(1, by=stranger, file=file).job.id != first
    assert poster.job(1) == first


@pytest.mark.parametrize(
    ("age", "replied_ago", "is_found"),
    [
        (659, None, True),
        (661, None, False),
        (29, 29, True),
        (31, 31, False),
        (5000, 29, True),
        (5000, 31, False),
    ],
)
def test_the_windows(
    poster: Poster,
    age: float,
    replied_ago: float | None,
    is_found: bool,  # noqa: FBT001
):
    first = poster.job()
    poster.age(first, age, replied_ago=replied_ago)
    assert (poster.job(1) == first) is is_found


def test_the_last_try_opens_the_window(poster: Poster):
    """The first reply was lost long ago; the client waits for each of its tries."""
    first = poster.job()
    assert poster.job(1) == first
    rows = {row.retry_count: row.id for row in poster.world.all(Creation)}
    poster.world.change(Creation, rows[0], created_at=1.0)
    assert poster.job(2) == first
    poster.age(first, 661)
    assert poster.job(3) != first


def test_a_lost_reply_goes_before_one_that_was_sent(poster: Poster):
    lost, answered = poster.post(), poster.post()
    assert answered.creation_id is not None
    with poster.world.db.writing() as session:
        creations.replied(session, {answered.creation_id})
    assert poster.job(1) == lost.job.id
    assert poster.job(1) == answered.job.id
    assert poster.jobs() == 2


def test_one_key_is_one_job(poster: Poster):
    first = poster.post(key="k")
    assert not first.is_replay
    again = poster.post(5, key="k")
    assert (again.job.id, again.is_replay) == (first.job.id, True)
    assert poster.post(key="k", by=poster.world.member()).job.id == first.job.id
    assert poster.post(key="other").job.id != first.job.id
    stranger = poster.world.stranger()
    file = poster.world.file(identity=stranger).id
    assert not poster.post(key="k", by=stranger, file=file).is_replay


def test_a_key_with_another_body_is_refused_by_name(poster: Poster):
    first = poster.post(key="k").job
    with pytest.raises(Contradiction, match=first.id) as refusal:
        poster.post(key="k", body="b")
    assert (refusal.value.code, refusal.value.param) == (
        "idempotency_key_reused",
        "idempotency-key",
    )
    assert poster.jobs() == 1


def test_a_key_is_remembered_for_a_day(poster: Poster):
    first = poster.job(key="k")
    poster.age(first, DAY - 60)
    assert poster.job(key="k") == first
    poster.age(first, DAY + 1)
    second = poster.job(key="k", body="b")
    assert second != first
    assert poster.job(key="k", body="b") == second


def test_a_refused_post_keeps_nothing(poster: Poster):
    with pytest.raises(InvalidRequest):
        poster.post(key="k", body="b", file="file-none")
    assert poster.world.all(Creation) == []
    assert not poster.post(key="k").is_replay


def test_a_post_with_a_key_is_no_try_of_one_without(poster: Poster):
    assert poster.job(key="k") != poster.job(1)


def test_the_sweep_forgets_what_no_post_can_repeat(poster: Poster):
    old, young = poster.job(), poster.job()
    poster.age(old, DAY + 1)
    bell = Bell(poster.world.settings)
    try:
        Rescue(poster.world.db, poster.world.settings, bell, poster.world.store).sweep()
    finally:
        bell.close()
    assert [row.job_id for row in poster.world.all(Creation)] == [young]
    assert poster.jobs() == 2


def test_two_hundred_at_once_with_one_key_are_one_job(poster: Poster):
    answers = at_once(lambda _: poster.post(key="k"), range(200))
    assert poster.jobs() == 1
    assert len({answer.job.id for answer in answers}) == 1
    assert Counter(answer.is_replay for answer in answers) == {True: 199, False: 1}


def test_repetitions_at_once_take_a_job_each(poster: Poster):
    first = {poster.job() for _ in range(10)}
    answers = at_once(lambda _: poster.job(1), range(20))
    assert first < set(answers)
    assert poster.jobs() == len(set(answers)) == 20


def test_fresh_posts_at_once_all_create(poster: Poster):
    assert len(set(at_once(lambda _: poster.job(), range(30)))) == 30


@pytest.mark.parametrize("key", [None, "k"])
def test_a_repetition_waits_for_the_post_that_is_under_way(poster: Poster, key: str | None):
    """The first one has its job, and has not committed yet."""
    made, go_on = threading.Event(), threading.Event()
    world = poster.world

    def slow(session: Session) -> Job:
        request = JobRequest(model="tiny", training_file=poster.file)
        job = submission.submit(session, world.me, request)
        made.set()
        assert go_on.wait(20)
        return job

    def first() -> str:
        with world.db.writing() as session:
            return creations.create_once(session, world.me, Post("a", 0, key), slow).job.id

    with ThreadPoolExecutor(2) as pool:
        under_way = pool.submit(first)
        assert made.wait(20)
        again = pool.submit(poster.job, 1, key=key)
        time.sleep(0.3)
        assert not again.done()
        go_on.set()
        assert again.result() == under_way.result()
    assert poster.jobs() == 1
