"""The jobs of a deployment, driven by Hypothesis through their verbs in any order.

Workers claim, work, die, come back as zombies and write on; owners submit, cancel, pause and
delete; after every step the database must still tell one consistent story.
"""

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database import Database
from jobs.errors import Conflict
from jobs.models import Artifact, Checkpoint, Event, EventCounter, File, Job, Run
from jobs.service import endings, files, records
from jobs.service import jobs as jobs_service
from jobs.service.claims import Claim
from jobs.service.records import Fenced
from jobs.states import MOVES, TERMINAL, Intent, JobStatus, RunOutcome
from tests.jobs.world import VERBS, World, fence_of, offer, settings_in
from training.events import CheckpointSaved, Message, Metrics, Progress, Rewound
from training.run_directory import Manifest

HOSTS = {"cpu": offer("cpu"), "gpus": offer("gpus", gpus=2)}
MANIFEST = Manifest(files=[])
OUTCOMES = [o for o in RunOutcome if o != RunOutcome.CANCELLED]


LEGAL = {
    *((status, None) for status in JobStatus),
    (JobStatus.RUNNING, Intent.PAUSE),
    (JobStatus.RUNNING, Intent.STOP),
    (JobStatus.QUEUED, Intent.STOP),
}


def answer_to(verb: str, job: Job, *, trained: bool) -> tuple[JobStatus, Intent | None] | None:
    """Status and intent that a verb leads to; None: a conflict."""
    running, paused = job.status == JobStatus.RUNNING, job.status == JobStatus.PAUSED
    if job.status in TERMINAL:
        return (job.status, None) if (verb, job.status) == ("cancel", "cancelled") else None
    can_stop = running or trained or job.intent == Intent.STOP
    goes_on = JobStatus.RUNNING if running else JobStatus.QUEUED
    answers = {
        "cancel": (JobStatus.CANCELLED, None),
        "pause": (JobStatus.RUNNING, Intent.PAUSE) if running else (JobStatus.PAUSED, None),
        "resume": (JobStatus.QUEUED if paused else job.status, None),
        "stop": (goes_on, Intent.STOP) if can_stop else None,
    }
    return answers[verb]


class Deployment(RuleBasedStateMachine):
    """One database, two hosts; the model kept beside it is what each claim may still do."""

    template: Path
    jobs = Bundle("jobs")
    runs = Bundle("runs")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        url = f"sqlite:///{shutil.copy(self.template, self.folder / 'tunesmith.db')}"
        self.settings = settings_in(
            self.folder, database_url=url, max_crashes=2, max_lost_runs=3, lease_seconds=1000
        )
        self.world = World(Database(url), self.settings)
        self.world.model()
        self.owners = {"first": self.world.me, "second": self.world.member()}
        self.seen: dict[str, tuple[JobStatus, int]] = {}
        self.ended: set[str] = set()  # runs that were closed, whoever still believes in them
        self.written: Counter[str] = Counter()  # by run: bytes relayed

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.db.close()
            shutil.rmtree(self.folder)

    # What owners do.

    @rule(target=jobs, owner=st.sampled_from(["first", "second"]), priority=st.integers(-1, 1))
    def submit(self, owner: str, priority: int) -> str:
        file = self.world.file(identity=self.owners[owner])
        job = self.world.submit(
            identity=self.owners[owner], training_file=file.id, priority=priority
        )
        assert job.status == JobStatus.QUEUED
        return job.id

    @rule(job_id=jobs, verb=st.sampled_from(sorted(VERBS)))
    def ask(self, job_id: str, verb: str) -> None:
        """A verb does what the model says; once more it changes nothing."""
        job = self.world.job(job_id)
        expected = answer_to(verb, job, trained=self._is_trained(job_id))
        before = self._everything()
        if expected is None:
            with pytest.raises(Conflict):
                self.world.ask(verb, job)
            assert self._everything() == before
            return
        answered = self.world.ask(verb, job)
        assert (answered.status, answered.intent) == expected
        after = self._everything()
        self.world.ask(verb, job)
        assert self._everything() == after

    @rule(job_id=jobs)
    def delete_its_file(self, job_id: str) -> None:
        with self.world.db.reading() as session:
            (pin,) = jobs_service.files_of(session, [job_id])[job_id]
            there = session.get_one(File, pin.file_id).deleted_at is None
        if there:
            with self.world.db.writing() as session:
                files.delete(session, self.world.me, pin.file_id)

    # What workers do.

    @rule(target=runs, host=st.sampled_from(sorted(HOSTS)))
    def claim(self, host: str) -> Claim | MultipleResults[Claim]:
        held = {run.job_id for run in self.world.all(Run) if run.ended_at is None}
        waiting = {
            job.id: job.priority
            for job in self.world.all(Job)
            if job.status == JobStatus.QUEUED and job.id not in held
        }
        claimed = self.world.claim(HOSTS[host])
        if claimed is None:
            return multiple()
        assert waiting[str(claimed.job_id)] == max(waiting.values())
        return claimed

    @rule(run=runs)
    def heartbeat(self, run: Claim) -> None:
        self._write(run, lambda s, f: records.heartbeat(s, f, self.settings))

    @rule(run=runs, step=st.integers(1, 5))
    def record(self, run: Claim, step: int) -> None:
        self.written[run.run_id] += 10
        said = [
            Progress(phase="training", step=step),
            Metrics(step=step, metrics={"train_loss": 1.0}),
            Message(level="info", message="hello"),
            Rewound(step=step),
        ]
        self._write(
            run,
            lambda s, f: records.record(
                s, f, said, relayed_bytes=self.written[run.run_id], settings=self.settings
            ),
        )

    @rule(run=runs, step=st.integers(1, 5))
    def save_checkpoint(self, run: Claim, step: int) -> None:
        prefix = f"jobs/{run.job_id}/attempt-{run.attempt}/checkpoint-{step}"
        cancelled = self.world.job(str(run.job_id)).status != JobStatus.RUNNING
        self._write(
            run,
            lambda s, f: records.record_checkpoint(
                s,
                f,
                CheckpointSaved(step=step, name="checkpoint", bytes=1),
                key_prefix=prefix,
                manifest=MANIFEST,
            ),
            refused=cancelled,
        )

    @rule(run=runs)
    def free_slots(self, run: Claim) -> None:
        self._write(run, records.free_slots)

    @rule(run=runs, outcome=st.sampled_from(OUTCOMES))
    def finish(self, run: Claim, outcome: RunOutcome) -> None:
        if run.run_id in self.ended:
            before = self._everything()
            with pytest.raises(Fenced):
                self.world.finish(run, outcome)
            assert self._everything() == before
        else:
            before = self.world.job(str(run.job_id))
            self.world.finish(run, outcome)
            self.ended.add(run.run_id)
            self._check_what_was_wanted(before, outcome)

    # What happens to them.

    @rule(run=runs)
    def lose(self, run: Claim) -> None:
        """The lease expires, and the rescue closes it; the worker does not know."""
        if run.run_id in self.ended:
            return
        expires_at = self.world.run(run.run_id).lease_expires_at
        job = self.world.job(str(run.job_id))
        with self.world.db.writing() as session:
            assert not endings.close_expired(session, run.run_id, expires_at - 1, self.settings)
            assert endings.close_expired(session, run.run_id, expires_at, self.settings)
        self.ended.add(run.run_id)
        self._check_what_was_wanted(job, RunOutcome.LOST)

    @rule(host=st.sampled_from(sorted(HOSTS)))
    def restart(self, host: str) -> None:
        with self.world.db.claiming() as session:
            self.ended.update(endings.abandon(session, host, self.settings))

    # What must hold.

    @invariant()
    def statuses_move_legally(self) -> None:
        for job in self.world.all(Job):
            before, attempt = self.seen.get(job.id, (job.status, job.attempt))
            assert job.status == before or job.status in MOVES[before]
            assert job.attempt >= attempt
            assert (job.status, job.intent) in LEGAL
            assert (job.finished_at is not None) == (job.status in TERMINAL)
            assert (job.error is not None) == (job.status == JobStatus.FAILED)
            self.seen[job.id] = (job.status, job.attempt)

    @invariant()
    def runs_and_jobs_agree(self) -> None:
        open_runs = [r for r in self.world.all(Run) if r.ended_at is None]
        assert {r.id for r in open_runs}.isdisjoint(self.ended)
        assert all(count == 1 for count in Counter(r.job_id for r in open_runs).values())
        holding = [r for r in open_runs if r.slots_freed_at is None]
        slots = Counter((r.worker_id, i) for r in holding for i in r.gpu_indices or [r.slot])
        assert all(count == 1 for count in slots.values())
        running = {job.id for job in self.world.all(Job) if job.status == JobStatus.RUNNING}
        assert running <= {r.job_id for r in open_runs}

    @invariant()
    def the_sequence_has_no_gap_and_tells_the_status(self) -> None:
        counters = {c.stream_id: c.last_seq for c in self.world.all(EventCounter)}
        events = sorted(self.world.all(Event), key=lambda e: e.seq)
        for job in self.world.all(Job):
            mine = [e for e in events if e.stream_id == job.id]
            assert [e.seq for e in mine] == list(range(1, counters[job.id] + 1))
            told = [JobStatus(e.data["status"]) for e in mine if e.type == "status"]
            assert told[0] == JobStatus.QUEUED
            assert told[-1] == job.status
            assert all(b in MOVES[a] for a, b in itertools.pairwise(told))

    @invariant()
    def success_has_an_artifact(self) -> None:
        made = {a.job_id for a in self.world.all(Artifact)}
        done = {j.id for j in self.world.all(Job) if j.status == JobStatus.SUCCEEDED}
        assert made == done

    def _write(
        self,
        run: Claim,
        verb: Callable[[Session, records.Fence], object],
        *,
        refused: bool = False,
    ) -> None:
        """A write of a worker: it counts while the run is open, and else changes nothing."""
        if not refused and run.run_id not in self.ended:
            with self.world.db.writing() as session:
                verb(session, fence_of(run))
            return
        before = self._everything()
        with pytest.raises(Fenced), self.world.db.writing() as session:
            verb(session, fence_of(run))
        assert self._everything() == before

    def _check_what_was_wanted(self, before: Job, outcome: RunOutcome) -> None:
        """A pause holds however the run ended, and a stop is not forgotten before it happened."""
        after = self.world.job(before.id)
        if before.status != JobStatus.RUNNING:
            assert after.status == before.status
        elif outcome in {RunOutcome.INTERRUPTED, RunOutcome.CRASHED, RunOutcome.LOST}:
            if before.intent == Intent.PAUSE:
                assert after.status == JobStatus.PAUSED
            elif after.status != JobStatus.FAILED:
                assert (after.status, after.intent) == (JobStatus.QUEUED, before.intent)

    def _is_trained(self, job_id: str) -> bool:
        return any(c.job_id == job_id and not c.deleted_at for c in self.world.all(Checkpoint))

    def _everything(self) -> list[object]:
        with self.world.db.reading() as session:
            return [
                row
                for table in (Job, Run, Event, EventCounter, Artifact)
                for row in session.execute(select(*table.__table__.columns)).all()
            ]


FAST = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_any_order_of_verbs(sqlite_template: Path) -> None:
    _run(sqlite_template, FAST)


@pytest.mark.slow
def test_many_orders_of_verbs(sqlite_template: Path) -> None:
    _run(sqlite_template, settings(FAST, max_examples=300, derandomize=False))


def _run(template: Path, how: settings) -> None:
    machine = type("Deployment", (Deployment,), {"template": template})
    run_state_machine_as_test(machine, settings=how)
