"""What a run writes: held to the fence, kept once though a reply was lost, never out of order."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from jobs.models import Checkpoint, Event, Run
from jobs.service import endings, events, records
from jobs.service import jobs as jobs_service
from jobs.service.claims import Claim, TrainAssignment, assignment
from jobs.service.endings import Ending
from jobs.service.records import Fence, Fenced, Orders
from jobs.states import RunOutcome
from tests.jobs.world import World, fence_of, offer
from training.events import CheckpointSaved, Message, Metrics, Progress, Rewound, Sample
from training.run_directory import FileEntry, Manifest

Write = Callable[[Session, Fence, World], Any]


@pytest.fixture
def started(world: World) -> tuple[World, Claim]:
    world.model()
    world.submit(training_file=world.file().id, training={"checkpoints": {"keep": 2}})
    claimed = world.claim(offer())
    assert claimed is not None
    return world, claimed


def _manifest(step: int) -> Manifest:
    return Manifest(files=(FileEntry(path="adapter", bytes=step, sha256="0"),), step=step)


def _save(
    session: Session, fence: Fence, step: int, attempt: int = 1, best_step: int | None = None
) -> None:
    records.record_checkpoint(
        session,
        fence,
        CheckpointSaved(step=step, name=f"checkpoint-{step}", bytes=1, best_step=best_step),
        key_prefix=f"jobs/j/attempt-{attempt}/checkpoint-{step}",
        manifest=_manifest(step),
    )


WRITES: dict[str, Write] = {
    "heartbeat": lambda s, f, w: records.heartbeat(s, f, w.settings),
    "orders": lambda s, f, _: records.orders(s, f),
    "record": lambda s, f, w: records.record(
        s, f, [Message(message="late")], relayed_bytes=9, settings=w.settings
    ),
    "record_log": lambda s, f, _: records.record_log(s, f, "late", log_bytes=9),
    "record_checkpoint": lambda s, f, _: _save(s, f, 5),
    "free_slots": lambda s, f, _: records.free_slots(s, f),
    "finish": lambda s, f, w: endings.finish(s, f, Ending(RunOutcome.SUCCEEDED), w.settings),
}


def _rows(world: World) -> list[Any]:
    """Everything that a run could have changed."""
    with world.db.reading() as session:
        return [
            [tuple(row) for row in session.execute(select(table))]
            for table in (Run.__table__, Event.__table__, Checkpoint.__table__)
        ]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_stale_run_is_fenced(started: tuple[World, Claim], write: Write):
    world, stale = started
    world.finish(stale, RunOutcome.LOST)
    current = world.claim(offer("w2"))
    assert current is not None
    before = _rows(world)
    forged = Fence(current.run_id, stale.lease_token)
    for fence in (fence_of(stale), forged, Fence("run-none", stale.lease_token)):
        with pytest.raises(Fenced), world.db.writing() as session:
            write(session, fence, world)
    assert _rows(world) == before
    with world.db.writing() as session:
        write(session, fence_of(current), world)


def test_a_cancelled_jobs_run_goes_on_to_hold_its_slot(started: tuple[World, Claim]):
    world, claimed = started
    fence = fence_of(claimed)
    job = world.cancel(world.job(claimed.job_id or ""))
    before = len(world.all(Event))
    with world.db.writing() as session:
        told = records.record(
            session, fence, [Message(message="x")], relayed_bytes=5, settings=world.settings
        )
    assert told == Orders(cancelled=True, intent=None)
    assert len(world.all(Event)) == before
    with pytest.raises(Fenced), world.db.writing() as session:
        _save(session, fence, 1)
    assert world.claim(offer()) is None
    assert world.finish(claimed, RunOutcome.SUCCEEDED) is None
    assert world.job(job.id).status == "cancelled"
    assert world.run(claimed.run_id).outcome == RunOutcome.CANCELLED
    with world.db.reading() as session:
        assert jobs_service.artifacts(session, world.me, job.id) == []


def test_events_become_what_their_owner_reads(started: tuple[World, Claim]):
    world, claimed = started
    said = [
        Progress(phase="training", step=3, total_steps=9, train_loss=1.5),
        Metrics(step=3, metrics={"train_loss": 1.23456, "trained_tokens": 70}),
        Message(level="warning", message="slow", data={"seconds": 2}),
        Sample(step=3, prompt="One\n plus one?", completion="2" * 300),
        CheckpointSaved(step=3, name="checkpoint-3", bytes=1),
    ]
    with world.db.writing() as session:
        records.record(session, fence_of(claimed), said, relayed_bytes=50, settings=world.settings)
    job = world.job(claimed.job_id or "")
    assert (job.phase, job.trained_tokens) == ("training", 70)
    assert job.progress is not None
    assert {key: job.progress[key] for key in ("step", "total_steps", "train_loss")} == {
        "step": 3,
        "total_steps": 9,
        "train_loss": 1.5,
    }
    with world.db.reading() as session:
        page = events.page(session, world.me, job.id, limit=3)
    assert [(e.type, e.message) for e in reversed(page.items)] == [
        ("metrics", "Step 3: training loss=1.235"),
        ("message", "slow"),
        ("sample", f"Sample at step 3: One plus one? → {'2' * 200} …"),
    ]
    assert page.items[1].level == "warning"
    assert {event.attempt for event in page.items} == {1}


def test_a_batch_whose_reply_was_lost_is_kept_once(started: tuple[World, Claim]):
    world, claimed = started
    for text, relayed in (("one", 10), ("one", 10), ("two", 20)):
        with world.db.writing() as session:
            records.record(
                session,
                fence_of(claimed),
                [Message(message=text)],
                relayed_bytes=relayed,
                settings=world.settings,
            )
    for text, read in (("log one", 5), ("log one", 5), ("log two", 9)):
        with world.db.writing() as session:
            records.record_log(session, fence_of(claimed), text, log_bytes=read)
    kept = [event.message for event in world.all(Event) if event.message.split()[-1] in "one two"]
    assert sorted(kept) == ["log one", "log two", "one", "two"]


def test_a_checkpoint_whose_reply_was_lost_exists_once(started: tuple[World, Claim]):
    """Its bytes lie under one prefix: a hidden twin's end would be the end of both."""
    world, claimed = started
    for _ in range(2):
        with world.db.writing() as session:
            _save(session, fence_of(claimed), 4)
    (only,) = world.all(Checkpoint)
    assert only.deleted_at is None


def _kept(world: World, claimed: Claim) -> list[int]:
    with world.db.reading() as session:
        page = jobs_service.checkpoints(session, world.me, claimed.job_id or "")
    return [checkpoint.step for checkpoint in page.items]


def test_the_newest_checkpoints_are_kept(started: tuple[World, Claim]):
    world, claimed = started
    for step in (1, 2, 3):
        with world.db.writing() as session:
            _save(session, fence_of(claimed), step)
    assert _kept(world, claimed) == [3, 2]


def test_the_best_checkpoint_is_kept_beside_them(started: tuple[World, Claim]) -> None:
    world, claimed = started
    for step, best_step in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        with world.db.writing() as session:
            _save(session, fence_of(claimed), step, best_step=best_step)
    assert _kept(world, claimed) == [5, 4, 2]
    with world.db.writing() as session:
        _save(session, fence_of(claimed), 6, best_step=6)
    assert _kept(world, claimed) == [6, 5]


def test_a_resumed_run_voids_what_it_does_again(started: tuple[World, Claim]):
    world, first = started
    with world.db.writing() as session:
        for step in (2, 4):
            _save(session, fence_of(first), step)
        steps = [Metrics(step=step, metrics={"train_loss": 1.0}) for step in (1, 2, 3, 4)]
        records.record(session, fence_of(first), steps, relayed_bytes=9, settings=world.settings)
    world.finish(first, RunOutcome.CRASHED)
    second = world.claim(offer("w2"))
    assert second is not None
    with world.db.reading() as session:
        todo = assignment(session, second)
        assert isinstance(todo, TrainAssignment)
        assert [checkpoint.step for checkpoint in todo.checkpoints] == [4, 2]
    with world.db.writing() as session:
        again = [Rewound(step=2), Metrics(step=3, metrics={"train_loss": 2.0})]
        records.record(session, fence_of(second), again, relayed_bytes=9, settings=world.settings)
        _save(session, fence_of(second), 4, attempt=2)
    with world.db.reading() as session:
        page = events.page(session, world.me, second.job_id or "", types=["metrics"])
        shown = [(event.step, event.attempt) for event in page.items]
        count = session.scalar(select(func.count()).where(Event.type == "metrics"))
        kept = jobs_service.checkpoints(session, world.me, second.job_id or "").items
    assert shown == [(3, 2), (2, 1), (1, 1)]
    assert count == 5
    assert [(checkpoint.step, checkpoint.attempt) for checkpoint in kept] == [(4, 2), (2, 1)]


def test_a_heartbeat_and_a_record_renew_the_lease(started: tuple[World, Claim]):
    world, claimed = started
    for write in (WRITES["heartbeat"], WRITES["record"]):
        world.change(Run, claimed.run_id, lease_expires_at=1.0)
        with world.db.writing() as session:
            write(session, fence_of(claimed), world)
        run = world.run(claimed.run_id)
        assert run.lease_expires_at > run.started_at


def test_freed_slots_serve_the_next_job_while_the_run_goes_on(started: tuple[World, Claim]):
    world, claimed = started
    world.submit(training_file=world.file().id)
    assert world.claim(offer()) is None
    with world.db.writing() as session:
        records.free_slots(session, fence_of(claimed))
    following = world.claim(offer())
    assert following is not None
    assert following.job_id != claimed.job_id
    assert world.finish(claimed, RunOutcome.SUCCEEDED) == "succeeded"
