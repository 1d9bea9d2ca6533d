"""Many hands at once, on both databases: each job once, one legal end, one sequence."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import pytest
from sqlalchemy.exc import OperationalError

from jobs.database import Database
from jobs.errors import Conflict, InvalidRequest, JobsError, NotFound
from jobs.models import ApiKey, Event, File, Job, Run
from jobs.rescue import Rescue
from jobs.service import catalogue, control, endings, events, files, keys, limits, records
from jobs.service.claims import Claim
from jobs.service.endings import Ending
from jobs.service.records import Fenced
from jobs.states import JobStatus, RunOutcome
from tests.jobs.world import VERBS, World, offer, settings_in
from tests.servers import new_postgres_database
from training.events import Metrics

A = TypeVar("A")
R = TypeVar("R")


def at_once(do: Callable[[A], R], arguments: Sequence[A]) -> list[R]:
    """`do` with each argument in a thread of its own, all let go together."""
    gate = threading.Barrier(len(arguments))

    def wait_and_do(argument: A) -> R:
        gate.wait()
        return do(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(wait_and_do, arguments))


def _submit(world: World, count: int, **body: object) -> list[Job]:
    file = world.file().id
    return [world.submit(training_file=file, **body) for _ in range(count)]


def test_each_job_is_claimed_once(world: World):
    world.model()
    jobs = _submit(world, 24)

    def work(number: int) -> list[Claim]:
        claimed = []
        while (one := world.claim(offer(f"w{number % 6}", gpus=2))) is not None:
            claimed.append(one)
        return claimed

    claimed = [one for some in at_once(work, range(12)) for one in some]
    assert len(claimed) == 12
    assert len({one.job_id for one in claimed}) == 12
    assert len({(world.run(one.run_id).worker_id, one.gpu_indices) for one in claimed}) == 12
    statuses = Counter(world.job(job.id).status for job in jobs)
    assert statuses == {JobStatus.RUNNING: 12, JobStatus.QUEUED: 12}


def test_cancel_against_claim(world: World):
    """A cancel that has answered holds, whoever claims at the same moment."""
    world.model()
    for _ in range(12):
        (job,) = _submit(world, 1)

        def act(number: int, job: Job = job) -> object:
            return world.cancel(job) if number == 0 else world.claim(offer(f"w{number}"))

        at_once(act, range(4))
        assert world.job(job.id).status == JobStatus.CANCELLED


def test_cancel_against_a_claim_that_has_chosen(world: World):
    """The claim has read the queue when the cancel commits."""
    if world.db.is_sqlite:
        return  # a claim holds the database's write lock: nothing comes between
    world.model()
    first, second = _submit(world, 2)
    with world.db.writing() as cancelling:
        control.cancel(cancelling, world.me, first.id)
        cancelling.flush()
        with ThreadPoolExecutor(1) as pool:
            claiming = pool.submit(world.claim, offer())
            claiming_is_slow = _still_running(claiming.result)
            if claiming_is_slow:
                cancelling.commit()
            claimed = claiming.result(timeout=10)
    assert world.job(first.id).status == JobStatus.CANCELLED
    assert claimed is not None
    assert claimed.job_id == second.id


def _still_running(result: Callable[..., object]) -> bool:
    try:
        result(timeout=0.5)
    except TimeoutError:
        return True
    return False


def test_two_hundred_ends_at_once(world: World):
    """Cancels and finishes race for a hundred running jobs: one legal end each."""
    world.model()
    jobs = _submit(world, 100)
    claimed = [world.claim(offer(f"w{number}")) for number in range(100)]

    def act(number: int) -> str:
        one = claimed[number // 2]
        assert one is not None
        if number % 2:
            return str(world.finish(one, RunOutcome.SUCCEEDED))
        try:
            return world.cancel(world.job(one.job_id or "")).status.value
        except Conflict:
            return "conflict"

    order = list(range(200))
    random.Random(1).shuffle(order)
    with ThreadPoolExecutor(24) as pool:
        answers = dict(zip(order, pool.map(act, order), strict=True))
    for number, one in enumerate(claimed):
        assert one is not None
        status = world.job(one.job_id or "").status
        said = (answers[2 * number], answers[2 * number + 1])
        assert said in {("cancelled", "None"), ("conflict", "succeeded")}
        assert status == ("cancelled" if said[0] == "cancelled" else "succeeded")
    types = Counter((event.stream_id, event.type) for event in world.all(Event))
    assert all(types[job.id, "status"] == 3 for job in jobs)


def test_one_sequence_from_many_writers(world: World):
    """Numbers have no gap, and a reader that follows them never sees one appear behind it."""
    world.model()
    (job,) = _submit(world, 1)

    def write(number: int) -> None:
        for turn in range(10):
            with world.db.writing() as session:
                for part in range(2):
                    drafts = [events.Draft("log", f"{number}.{turn}.{part}")]
                    events.append(session, job.id, drafts)

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_follow, world, job.id, 162)
        at_once(write, range(8))
        seen = reading.result(timeout=30)
    assert [event.seq for event in seen] == list(range(1, 163))
    texts = [event.message.split(".") for event in seen if event.type == "log"]
    assert len(texts) == 160
    assert all(one[:2] == two[:2] for one, two in zip(texts[::2], texts[1::2], strict=True))


def _follow(world: World, stream_id: str, count: int) -> list[Event]:
    """A reader's view: what comes after the last number it has seen, again and again."""
    seen: list[Event] = []
    deadline = time.monotonic() + 30
    while len(seen) < count and time.monotonic() < deadline:
        with world.db.reading() as session:
            last = seen[-1].seq if seen else 0
            seen += events.since(session, stream_id, last, limit=7)
    return seen


@pytest.mark.slow
def test_no_deadlock_between_everything(world: World):
    """Cancel, record, finish, rescue, limits, restarts and claims in random order."""
    world.model()
    jobs = _submit(world, 12, limits={"max_runtime_seconds": 1, "max_pending_seconds": 3})

    def act(number: int) -> None:
        choose = random.Random(number)
        for _ in range(40):
            try:
                _any_step(world, choose, jobs)
            except (Fenced, JobsError):
                continue

    at_once(act, range(16))
    for job in jobs:
        open_runs = [run for run in world.all(Run) if run.job_id == job.id and not run.ended_at]
        assert len(open_runs) <= 1
        numbers = sorted(event.seq for event in world.all(Event) if event.stream_id == job.id)
        assert numbers == list(range(1, len(numbers) + 1))


def _any_step(world: World, choose: random.Random, jobs: Sequence[Job]) -> None:
    open_runs = [run for run in world.all(Run) if run.ended_at is None]
    run = choose.choice(open_runs) if open_runs else None
    fence = records.Fence(run.id, run.lease_token) if run else records.Fence("none", "none")
    step = choose.randrange(8)
    if step == 0:
        world.claim(offer(f"w{choose.randrange(4)}", gpus=3))
        return
    with world.db.claiming() if step == 1 else world.db.writing() as session:
        if step == 1:
            endings.abandon(session, f"w{choose.randrange(4)}", world.settings)
        elif step == 2:
            limits.fail_overdue(session)
        elif step == 3:
            verb = choose.choice(sorted(VERBS))
            VERBS[verb](session, world.me, choose.choice(jobs).id)
        elif step == 4:
            outcome = choose.choice([RunOutcome.INTERRUPTED, RunOutcome.LOST])
            endings.finish(session, fence, Ending(outcome), world.settings)
        elif step == 5 and run is not None:
            endings.close_expired(session, run.id, run.lease_expires_at, world.settings)
        elif step == 6:
            metrics = Metrics(step=1, metrics={"train_loss": 1.0})
            records.record(session, fence, [metrics], relayed_bytes=1, settings=world.settings)
        else:
            records.record_log(session, fence, "text", log_bytes=1)
            records.heartbeat(session, fence, world.settings)


def test_two_admins_who_revoke_each_other_leave_one(world: World):
    for _ in range(5):
        with world.db.writing() as session:
            keys.create(session, world.me, name="other", role="admin")

        def revoke(key_id: str) -> bool:
            with world.db.writing() as session:
                try:
                    keys.revoke(session, world.me, key_id)
                except Conflict:
                    return False
                return True

        mine = [key.id for key in world.all(ApiKey) if key.revoked_at is None]
        at_once(revoke, mine)
        left = [key for key in world.all(ApiKey) if key.revoked_at is None]
        assert len(left) == 1


def test_one_deployment_is_begun_once(database_url, tmp_path):
    settings = settings_in(tmp_path)
    databases = [Database(database_url) for _ in range(4)]

    def begin(database: Database) -> str | None:
        with database.claiming() as session:
            return keys.bootstrap(session, settings)

    secrets = at_once(begin, databases)
    assert sum(secret is not None for secret in secrets) == 1
    for database in databases:
        database.close()


@pytest.mark.postgres
def test_who_stands_still_in_a_claim_holds_up_the_others_for_a_while_only(
    postgres_template: str, monkeypatch: pytest.MonkeyPatch
):
    patience = {"lock_timeout": "200ms", "idle_in_transaction_session_timeout": "600ms"}
    monkeypatch.setattr("jobs.database._PATIENCE", patience)
    url = new_postgres_database(postgres_template)
    still, other = Database(url), Database(url)

    def stand_still() -> None:
        with still.claiming():
            with pytest.raises(OperationalError, match="lock timeout"):
                take_turn(other)
            time.sleep(1)
            take_turn(other)

    with pytest.raises(OperationalError, match="idle-in-transaction"):
        stand_still()
    take_turn(still)
    for database in (still, other):
        database.close()


def take_turn(database: Database) -> None:
    with database.claiming():
        pass


def test_a_file_deleted_while_a_job_is_made_of_it(world: World):
    """Either the job is refused, or it has its bytes."""
    world.model()
    rescue = Rescue(world.db, world.settings, bell=Silence(), store=world.store)
    for _ in range(8):
        file = world.file()

        def act(number: int, file: File = file) -> bool:
            if number == 0:
                with world.db.writing() as session:
                    files.delete(session, world.me, file.id)
                rescue._purge_files()
                return False
            try:
                world.submit(training_file=file.id)
            except InvalidRequest:
                return False
            return True

        if any(at_once(act, range(3))):
            assert file.artifact_key in list(world.store.keys("files/"))


class Silence:
    def ring(self, pool: str) -> None:
        pass


def test_a_model_removed_while_a_job_is_made_of_it(world: World):
    """Either the job is refused, or the removal."""
    file = world.file().id
    for _ in range(8):
        world.model()

        def act(number: int) -> bool:
            try:
                if number == 0:
                    with world.db.writing() as session:
                        catalogue.remove(session, world.me, "tiny")
                else:
                    world.submit(training_file=file)
            except (Conflict, InvalidRequest):
                return False
            return True

        removed, submitted = at_once(act, range(2))
        assert removed != submitted
        for job in world.all(Job):
            if job.status == JobStatus.QUEUED:
                world.cancel(job)
        with suppress(NotFound), world.db.writing() as session:
            catalogue.remove(session, world.me, "tiny")
