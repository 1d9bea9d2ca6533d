"""The sweep: what it closes, when it believes an expiry, whom it wakes, and what it clears away."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from jobs.artifacts.base import Stored
from jobs.models import Artifact, Checkpoint, File, Job, new_id
from jobs.requests import ModelRequest
from jobs.rescue import Rescue
from jobs.service import catalogue, files, records
from jobs.service.claims import Claim
from jobs.service.endings import Ending, StoredArtifact
from jobs.settings import Settings
from jobs.states import RunOutcome
from tests.jobs.world import World, fence_of, offer

LEASE_SECONDS = 60
SWEEP_SECONDS = 5


class Host:
    """The two clocks of a host, moved by hand: the day's, and the one that sleeps with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.day = time.time()
        self.awake = time.monotonic()
        clocks = SimpleNamespace(time=lambda: self.day, monotonic=lambda: self.awake)
        monkeypatch.setattr("jobs.database.time", clocks)
        monkeypatch.setattr("jobs.rescue.time", clocks)

    def wait(self, seconds: float) -> None:
        self.day += seconds
        self.awake += seconds

    def sleep(self, seconds: float) -> None:
        self.day += seconds


class Bells:
    """Counts what is rung."""

    def __init__(self) -> None:
        self.pools: list[str] = []

    def ring(self, pool: str) -> None:
        self.pools.append(pool)


class Scene:
    """A deployment with one running job, and the sweep over it."""

    def __init__(self, world: World, host: Host) -> None:
        self.world = world
        self.host = host
        self.bells = Bells()
        world.model()
        self.file = world.file().id
        self.job = world.submit(training_file=self.file)
        self.claimed = self._claim()
        self.rescue = Rescue(world.db, world.settings, self.bells, world.store)

    def _claim(self) -> Claim:
        claimed = self.world.claim(offer())
        assert claimed is not None
        return claimed

    def sweep_for(self, seconds: float) -> None:
        """Sweeps as the thread makes them, the first of them now and the last at the end."""
        end = self.host.awake + seconds
        self.rescue.sweep()
        while self.host.awake < end:
            self.host.wait(SWEEP_SECONDS)
            self.rescue.sweep()

    def renew(self) -> None:
        with self.world.db.writing() as session:
            records.heartbeat(session, fence_of(self.claimed), self.world.settings)

    @property
    def outcome(self) -> RunOutcome | None:
        return self.world.run(self.claimed.run_id).outcome

    def store(self, key: str) -> Stored:
        with self.world.store.create(key) as writer:
            writer.write(b"bytes")
            return writer.commit()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.fixture
def scene(local_world: World, host: Host) -> Scene:
    assert local_world.settings.lease_seconds == LEASE_SECONDS
    assert local_world.settings.sweep_seconds == SWEEP_SECONDS
    return Scene(local_world, host)


def test_an_expired_lease_is_closed_and_its_job_goes_on(scene: Scene) -> None:
    scene.sweep_for(LEASE_SECONDS)
    assert scene.outcome is None
    scene.sweep_for(3 * SWEEP_SECONDS)
    assert scene.outcome == "lost"
    job = scene.world.job(scene.job.id)
    assert (job.status, job.lost_runs) == ("queued", 1)
    assert scene.bells.pools[-1] == "default"


def test_a_first_sweep_closes_nothing_for_one_lease(scene: Scene) -> None:
    scene.host.wait(10 * LEASE_SECONDS)
    scene.rescue = Rescue(scene.world.db, scene.world.settings, scene.bells, scene.world.store)
    scene.sweep_for(LEASE_SECONDS - SWEEP_SECONDS)
    assert scene.outcome is None
    scene.sweep_for(SWEEP_SECONDS)
    assert scene.outcome == "lost"


def test_one_look_at_an_expiry_closes_nothing(scene: Scene) -> None:
    scene.host.wait(10 * LEASE_SECONDS)
    scene.rescue.sweep()
    assert scene.outcome is None
    scene.rescue.sweep()
    assert scene.outcome == "lost"


def test_a_lease_renewed_between_two_sweeps_is_kept(scene: Scene) -> None:
    scene.host.wait(10 * LEASE_SECONDS)
    scene.rescue.sweep()
    scene.renew()
    scene.host.wait(LEASE_SECONDS + 1)
    scene.rescue.sweep()
    assert scene.outcome is None
    scene.rescue.sweep()
    assert scene.outcome == "lost"


def _the_machine_sleeps(scene: Scene) -> None:
    scene.host.sleep(8 * 3600)


def _the_clock_is_set_forward(scene: Scene) -> None:
    scene.host.day += 600


def _the_clock_is_set_back(scene: Scene) -> None:
    scene.host.day -= 600
    with scene.world.db.writing() as session:
        session.execute(text("UPDATE runs SET lease_expires_at = lease_expires_at - 1200"))


@pytest.mark.parametrize(
    "disturb", [_the_machine_sleeps, _the_clock_is_set_forward, _the_clock_is_set_back]
)
def test_a_disturbed_clock_gives_one_lease_time_to_renew(scene: Scene, disturb) -> None:
    for _ in range(2):
        scene.sweep_for(LEASE_SECONDS)
        scene.renew()
    disturb(scene)
    scene.sweep_for(LEASE_SECONDS - SWEEP_SECONDS)
    assert scene.outcome is None
    scene.renew()
    scene.sweep_for(2 * SWEEP_SECONDS)
    assert scene.outcome is None
    scene.sweep_for(LEASE_SECONDS + SWEEP_SECONDS)
    assert scene.outcome == "lost"


@pytest.fixture
def sweeping(scene: Scene) -> Iterator[Scene]:
    """The thread itself, as fast as it can, with a job that waits and so a bell at each sweep."""
    changes = {"sweep_seconds": 0.01}
    settings = Settings(**(scene.world.settings.model_dump() | changes))
    scene.world.submit(training_file=scene.file)
    scene.rescue = Rescue(scene.world.db, settings, scene.bells, scene.world.store)
    scene.rescue.start()
    yield scene
    scene.rescue.stop()


def _await_sweeps(scene: Scene, count: int) -> None:
    wanted = len(scene.bells.pools) + count
    deadline = time.perf_counter() + 20
    while len(scene.bells.pools) < wanted:
        assert time.perf_counter() < deadline, "the thread does not sweep any more"
        time.sleep(0.005)


def test_an_outage_of_the_database_gives_one_lease_time_to_renew(
    sweeping: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    _await_sweeps(sweeping, 2)
    with sweeping.world.db.writing() as session:
        session.execute(text("ALTER TABLE runs RENAME TO away"))
    sweeping.host.wait(10 * LEASE_SECONDS)
    deadline = time.perf_counter() + 20
    while "the sweep failed and is tried again" not in caplog.text:
        assert time.perf_counter() < deadline, "an outage was not noticed"
        time.sleep(0.005)
    with sweeping.world.db.writing() as session:
        session.execute(text("ALTER TABLE away RENAME TO runs"))
    _await_sweeps(sweeping, 3)
    assert sweeping.outcome is None
    sweeping.host.wait(LEASE_SECONDS)
    _await_sweeps(sweeping, 3)
    assert sweeping.outcome == "lost"


def test_a_job_whose_workers_keep_dying_is_given_up(scene: Scene) -> None:
    lives = scene.world.settings.max_lost_runs
    scene.world.change(Job, scene.job.id, lost_runs=lives - 1)
    scene.sweep_for(LEASE_SECONDS + 3 * SWEEP_SECONDS)
    job = scene.world.job(scene.job.id)
    assert (job.status, job.lost_runs) == ("failed", lives)
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert job.error["fault"] == "infrastructure"
    assert job.error["message"] == "the worker stopped answering (given up after 1 attempts)"
    assert "then run the job again" in job.error["remedy"]


def test_bells_ring_where_somebody_waits(scene: Scene) -> None:
    scene.rescue.sweep()
    assert scene.bells.pools == []
    for pool in ("big", "big", "small"):
        scene.world.submit(training_file=scene.file, resources={"pool": pool})
    scene.rescue.sweep()
    assert sorted(scene.bells.pools) == ["big", "small"]
    with scene.world.db.writing() as session:
        request = ModelRequest(name="other", source="/models/other")
        catalogue.add(session, scene.world.me, request)
    scene.rescue.sweep()
    assert sorted(scene.bells.pools[2:]) == ["big", "default", "small"]


def test_a_hidden_file_goes_when_no_open_job_reads_it(scene: Scene) -> None:
    key = files.artifact_key(scene.file)
    with scene.world.db.writing() as session:
        files.delete(session, scene.world.me, scene.file)
    scene.rescue.sweep()
    assert list(scene.world.store.keys("files/")) == [key]
    scene.world.cancel(scene.job)
    scene.rescue.sweep()
    assert list(scene.world.store.keys("files/")) == []
    [file] = scene.world.all(File)
    assert file.purged_at == scene.host.day


def _hidden_checkpoint(scene: Scene) -> str:
    """The id of one that is hidden now; its only file is below `jobs/…/attempt-1/step-4/`."""
    prefix = f"jobs/{scene.job.id}/attempt-1/step-4"
    scene.store(f"{prefix}/state.bin")
    checkpoint_id = new_id("ftckpt_")
    with scene.world.db.writing() as session:
        session.add(
            Checkpoint(
                id=checkpoint_id,
                job_id=scene.job.id,
                attempt=1,
                step=4,
                key_prefix=prefix,
                manifest={"files": [{"path": "state.bin"}]},
                metrics={},
                created_at=scene.host.day,
                deleted_at=scene.host.day,
            )
        )
    return checkpoint_id


def test_a_hidden_checkpoint_goes_one_lease_later(scene: Scene) -> None:
    _hidden_checkpoint(scene)
    prefix = f"jobs/{scene.job.id}/attempt-1/step-4/"
    scene.rescue.sweep()
    scene.host.wait(LEASE_SECONDS)
    scene.rescue.sweep()
    assert list(scene.world.store.keys(prefix)) == [f"{prefix}state.bin"]
    scene.host.wait(1)
    scene.rescue.sweep()
    assert list(scene.world.store.keys(prefix)) == []


def test_a_hidden_checkpoint_stays_while_a_job_starts_from_it(scene: Scene) -> None:
    checkpoint_id = _hidden_checkpoint(scene)
    prefix = f"jobs/{scene.job.id}/attempt-1/step-4/"
    child = scene.world.submit(training_file=scene.file)
    scene.world.change(Job, child.id, start_checkpoint_id=checkpoint_id)
    scene.host.wait(LEASE_SECONDS + 1)
    scene.rescue.sweep()
    assert list(scene.world.store.keys(prefix)) == [f"{prefix}state.bin"]
    scene.world.cancel(child)
    scene.rescue.sweep()
    assert list(scene.world.store.keys(prefix)) == []


def test_what_an_ended_run_stored_and_nobody_names_goes(scene: Scene) -> None:
    prefix = f"jobs/{scene.job.id}/attempt-1/"
    names = ("adapter.zip", "half.zip", "table.csv")
    named, leftover, table = (scene.store(f"{prefix}{name}") for name in names)
    results = StoredArtifact("table.csv", table.key, table.bytes, table.sha256)
    scene.world.finish(scene.claimed, Ending(RunOutcome.SUCCEEDED, results=results))
    with scene.world.db.writing() as session:
        row = Artifact(
            job_id=scene.job.id,
            name="adapter.zip",
            key=named.key,
            bytes=named.bytes,
            sha256=named.sha256,
            created_at=scene.host.day,
        )
        session.add(row)
    scene.rescue.sweep()
    assert sorted(scene.world.store.keys(prefix)) == [named.key, leftover.key, table.key]
    scene.host.wait(LEASE_SECONDS + 1)
    scene.rescue.sweep()
    assert sorted(scene.world.store.keys(prefix)) == [named.key, table.key]
    assert scene.world.run(scene.claimed.run_id).cleaned_at == scene.host.day
    file_id = scene.world.job(scene.job.id).result_file_id
    assert file_id is not None
    with scene.world.db.writing() as session:
        files.delete(session, scene.world.me, file_id)
    scene.rescue.sweep()
    assert list(scene.world.store.keys(prefix)) == [named.key]
