"""What a run writes while it works, every write held to the fence.

A write counts only while the run is open and the lease token is ours; what concerns the job only
while the job is running, too. Zero rows: the run was taken from us, and the caller kills its own
processes and writes nothing more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.models import Checkpoint, Export, Job, Run, new_id
from jobs.service.events import Draft, append, supersede
from jobs.service.export_runs import lock_running_export
from jobs.settings import Settings
from jobs.states import ExportStatus, Intent, JobStatus
from training.config import TrainingConfig
from training.events import (
    CheckpointSaved,
    Event,
    Finished,
    Message,
    Metrics,
    Progress,
    Rewound,
    Sample,
)
from training.run_directory import Manifest

_MOST_SHOWN = 200
"""Characters of a sample's prompt and of its answer in a message; its data holds both whole."""


class Fenced(Exception):  # noqa: N818 - what happened, not an error of ours
    """The run is no longer ours."""


@dataclass(frozen=True)
class Fence:
    """What proves that a run is ours."""

    run_id: str
    lease_token: str


@dataclass(frozen=True)
class Orders:
    """What is wanted of a run by now."""

    cancelled: bool
    intent: Intent | None


def orders(session: Session, fence: Fence) -> Orders:
    """A look without a write; raises Fenced."""
    row = session.execute(
        select(Job.status, Job.intent, Export.status.label("export_status"))
        .select_from(Run)
        .outerjoin(Job, Job.id == Run.job_id)
        .outerjoin(Export, Export.id == Run.export_id)
        .where(*_held(fence))
    ).one_or_none()
    if row is None:
        raise Fenced(fence.run_id)
    cancelled = row.status not in {None, JobStatus.RUNNING} or (
        row.export_status not in {None, ExportStatus.RUNNING}
    )
    return Orders(cancelled=cancelled, intent=row.intent)


def heartbeat(session: Session, fence: Fence, settings: Settings) -> Orders:
    """Renew the lease; raises Fenced."""
    hold(session, fence, lease_expires_at=now(session) + settings.lease_seconds)
    return orders(session, fence)


def record(
    session: Session,
    fence: Fence,
    events: Sequence[Event],
    *,
    relayed_bytes: int,
    settings: Settings,
) -> Orders:
    """Keep what the training process said, and how far its file was read; raises Fenced.

    The same batch again, after a reply that was lost, changes nothing.
    """
    run = hold(session, fence, lease_expires_at=now(session) + settings.lease_seconds)
    job, export = lock_running_job(session, run), lock_running_export(session, run)
    is_new, run.relayed_bytes = relayed_bytes > run.relayed_bytes, relayed_bytes
    drafts = [draft for event in events for draft in _drafts(event, run.attempt)]
    if job is not None and is_new:
        for event in events:
            _apply(session, job, run, event)
        append(session, job.id, drafts)
    elif export is not None and is_new:
        for event in events:
            export.phase = event.phase if isinstance(event, Progress) else export.phase
        append(session, export.id, drafts)
    return orders(session, fence)


def record_log(session: Session, fence: Fence, text: str, *, log_bytes: int) -> None:
    """Keep a chunk of the process's output, and how far its file was read; raises Fenced.

    The same chunk again, after a reply that was lost, changes nothing.
    """
    run = hold(session, fence)
    if log_bytes <= run.log_bytes:
        return
    run.log_bytes = log_bytes
    stream_id = run.job_id or run.model_id or run.export_id or run.file_id
    assert stream_id is not None
    append(session, stream_id, [Draft("log", text, attempt=run.attempt)])


def record_checkpoint(
    session: Session,
    fence: Fence,
    saved: CheckpointSaved,
    *,
    key_prefix: str,
    manifest: Manifest,
) -> None:
    """Make an uploaded checkpoint exist, and hide those beyond the number to keep.

    The one it names as the best so far is kept beside them.

    Raises:
        Fenced: The run is not ours, or its job is not running.
    """
    run = hold(session, fence)
    job = lock_running_job(session, run)
    if job is None:
        raise Fenced(fence.run_id)
    step = saved.step
    same = (Checkpoint.job_id == job.id, Checkpoint.key_prefix == key_prefix)
    if session.scalar(select(Checkpoint.id).where(*same)) is not None:
        return  # we were asked before, and the reply was lost
    at = now(session)
    checkpoint = Checkpoint(
        id=new_id("ftckpt_"),
        job_id=job.id,
        attempt=run.attempt,
        step=step,
        key_prefix=key_prefix,
        manifest=manifest.model_dump(mode="json"),
        metrics=saved.metrics,
        created_at=at,
    )
    _hide_same_step(session, job, step, at)
    session.add(checkpoint)
    session.flush()
    _hide_surplus(session, job, saved.best_step, at)
    append(
        session,
        job.id,
        [
            Draft(
                "checkpoint",
                f"Checkpoint at step {step} saved",
                data={"step": step, "checkpoint": checkpoint.id, "bytes": manifest.total_bytes},
                attempt=run.attempt,
                step=step,
            )
        ],
    )


def free_slots(session: Session, fence: Fence) -> None:
    """Give the slots back before the run ends: training has exited; raises Fenced."""
    hold(session, fence, slots_freed_at=now(session))


def hold(session: Session, fence: Fence, **values: object) -> Run:
    """Pass the fence: update the open run that is ours and lock it until the commit.

    Raises:
        Fenced: There is no such run any more.
    """
    held = session.execute(
        update(Run)
        .where(*_held(fence))
        .values(values or {"lease_token": fence.lease_token})
        .returning(Run.id)
    ).one_or_none()
    if held is None:
        raise Fenced(fence.run_id)
    return session.get_one(Run, fence.run_id, populate_existing=True)


def lock_running_job(session: Session, run: Run) -> Job | None:
    """The run's job, locked; None when it has none or was cancelled meanwhile."""
    if run.job_id is None:
        return None
    job = session.get_one(Job, run.job_id, with_for_update=True, populate_existing=True)
    return job if job.status == JobStatus.RUNNING else None


def _held(fence: Fence) -> tuple[Any, ...]:
    return (Run.id == fence.run_id, Run.lease_token == fence.lease_token, Run.ended_at.is_(None))


def _apply(session: Session, job: Job, run: Run, event: Event) -> None:
    """What an event changes on the job itself."""
    if isinstance(event, Progress):
        _note_progress(session, job, event)
    elif isinstance(event, Metrics) and (tokens := event.metrics.get("trained_tokens")):
        job.trained_tokens = int(tokens)
    elif isinstance(event, Rewound):
        # Who begins anew measures the model before its first step anew, too.
        _rewind(session, job, run.attempt, event.step or -1)


def _note_progress(session: Session, job: Job, event: Progress) -> None:
    told = event.model_dump(exclude={"type", "phase"}, exclude_none=True)
    before = {"phase": job.phase, **(job.progress or {}), "at": None}
    if {"phase": event.phase, **told, "at": None} != before:  # else it is a sign of life
        job.progressed_at = now(session)
    job.phase, job.progress = event.phase, told


def _rewind(session: Session, job: Job, attempt: int, step: int) -> None:
    supersede(session, job.id, after_step=step, before_attempt=attempt)
    session.execute(
        update(Checkpoint)
        .where(
            Checkpoint.job_id == job.id,
            Checkpoint.step > step,
            Checkpoint.attempt < attempt,
            Checkpoint.deleted_at.is_(None),
        )
        .values(deleted_at=now(session))
    )


def _hide_same_step(session: Session, job: Job, step: int, at: float) -> None:
    session.execute(
        update(Checkpoint)
        .where(
            Checkpoint.job_id == job.id, Checkpoint.step == step, Checkpoint.deleted_at.is_(None)
        )
        .values(deleted_at=at)
    )


def _hide_surplus(session: Session, job: Job, best_step: int | None, at: float) -> None:
    keep = TrainingConfig.kept(job.training).checkpoints.keep
    query = select(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.deleted_at.is_(None))
    for checkpoint in session.scalars(query.order_by(Checkpoint.step.desc()).offset(keep)):
        if checkpoint.step != best_step:
            checkpoint.deleted_at = at


def _drafts(event: Event, attempt: int) -> Iterator[Draft]:
    """An event as its owner reads it; progress is kept on the job, checkpoints once uploaded."""
    match event:
        case Metrics(step=step, metrics=metrics):
            yield Draft(
                "metrics",
                _sentence(step, metrics),
                "info",
                {"step": step, **metrics},
                attempt,
                step,
            )
        case Message(level=level, message=message, data=data):
            yield Draft("message", message, level, data or None, attempt)
        case Sample(step=step, prompt=prompt, completion=completion):
            data = {"step": step, "prompt": prompt, "completion": completion}
            said = f"Sample at step {step}: {_in_a_line(prompt)} → {_in_a_line(completion)}"
            yield Draft("sample", said, "info", data, attempt, step)
        case Rewound(step=step):
            yield Draft("rewound", f"Going on from step {step}", "info", {"step": step}, attempt)
        case Progress() | CheckpointSaved() | Finished():
            return


def _in_a_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _MOST_SHOWN else f"{words[:_MOST_SHOWN]} …"


def _sentence(step: int, metrics: dict[str, float | int | None]) -> str:
    shown = [
        f"{label}={value:.4g}"
        for key, label in (("train_loss", "training loss"), ("valid_loss", "validation loss"))
        if (value := metrics.get(key)) is not None
    ]
    return f"Step {step}: {', '.join(shown)}" if shown else f"Step {step}"
