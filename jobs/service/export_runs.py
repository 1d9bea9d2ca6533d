"""The run of an export: which one is next, what it is to do, and what its end makes of the export.

Apart from `exports`, whose verbs are its owner's; these are called by the claim, by the records of
a run and by its end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.database import now
from jobs.models import Checkpoint, Export, Job, JobFile, Run
from jobs.names import checkpoint_name
from jobs.service.starts import TunedWeights, trained_weights
from jobs.settings import Settings
from jobs.states import ExportStatus, RunOutcome
from training.config import TrainingConfig
from training.data_config import FormatName
from training.events import Failure
from training.export_config import ExportConfig
from training.export_spec import Pushed

_BEST = 16
"""Of so many a claim takes the first that nobody has locked."""


@dataclass(frozen=True)
class ExportPlan:
    """What an export is to be made of.

    Attributes:
        name: What is exported, as it is named to users.
        step: Of its checkpoint; None: the job's result.
        formats: Of the job's training data.
    """

    export_id: str
    config: ExportConfig
    name: str
    step: int | None
    weights: TunedWeights
    training: TrainingConfig
    formats: tuple[FormatName, ...]


@dataclass(frozen=True)
class Made:
    """What came of an export: a stored file, or a commit on a hub."""

    artifact_key: str | None = None
    filename: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    pushed: Pushed | None = None


def next_export(
    session: Session, pool: str, slots: Sequence[str], requirements: Sequence[str]
) -> Export | None:
    """The export that has waited longest for one of these slots, locked.

    Args:
        session: Of a claim.
        pool: The worker's.
        slots: What it has free.
        requirements: What `requires` may be on it.
    """
    query = select(Export.id).where(
        Export.status == ExportStatus.QUEUED,
        Export.pool == pool,
        Export.slot.in_(slots),
        Export.requires.in_(requirements),
    )
    for export_id in session.scalars(query.order_by(Export.queued_at, Export.id).limit(_BEST)):
        export = session.scalar(
            select(Export)
            .where(Export.id == export_id, Export.status == ExportStatus.QUEUED)
            .with_for_update(skip_locked=True)
        )
        if export is not None:
            return export
    return None


def begin(export: Export, run: Run) -> None:
    """Give a locked export to a run."""
    export.attempt += 1
    export.status, export.phase = ExportStatus.RUNNING, "starting"
    export.started_at = export.started_at or run.started_at
    run.export_id, run.attempt = export.id, export.attempt


def plan(session: Session, export: Export, job: Job) -> ExportPlan:
    """What the run of an export needs to know beside the base model."""
    checkpoint = (
        None if export.checkpoint_id is None else session.get_one(Checkpoint, export.checkpoint_id)
    )
    tuned = job.fine_tuned_model
    formats = session.scalars(select(JobFile.format).where(JobFile.job_id == job.id).distinct())
    return ExportPlan(
        export_id=export.id,
        config=ExportConfig.model_validate(export.options),
        name=tuned if checkpoint is None else checkpoint_name(tuned, checkpoint.step),
        step=None if checkpoint is None else checkpoint.step,
        weights=trained_weights(session, job, checkpoint),
        training=TrainingConfig.kept(job.training),
        formats=tuple(sorted(format for format in formats if format is not None)),
    )


def lock_running_export(session: Session, run: Run) -> Export | None:
    """The run's export, locked; None when it has none or was cancelled meanwhile."""
    if run.export_id is None:
        return None
    export = session.get_one(Export, run.export_id, with_for_update=True, populate_existing=True)
    return export if export.status == ExportStatus.RUNNING else None


def settle_export(
    session: Session,
    export: Export,
    outcome: RunOutcome,
    made: Made | None,
    failure: Failure | None,
    settings: Settings,
) -> ExportStatus:
    """What the end of its run makes of a locked export that was running."""
    export.phase = None
    if outcome == RunOutcome.SUCCEEDED and made is not None:
        _succeed(session, export, made)
    elif outcome == RunOutcome.FAILED or _is_exhausted(export, outcome, settings):
        _fail(session, export, failure)
    else:
        export.status = ExportStatus.QUEUED
        if outcome == RunOutcome.CRASHED:
            export.queued_at = now(session)  # behind the others
    return export.status


def _succeed(session: Session, export: Export, made: Made) -> None:
    export.status, export.finished_at = ExportStatus.SUCCEEDED, now(session)
    export.artifact_key, export.filename = made.artifact_key, made.filename
    export.bytes, export.sha256 = made.bytes, made.sha256
    export.pushed = None if made.pushed is None else made.pushed.model_dump()


def _is_exhausted(export: Export, outcome: RunOutcome, settings: Settings) -> bool:
    """Charge the budget the outcome belongs to, as for a job; whether it is used up."""
    if outcome == RunOutcome.CRASHED:
        export.crashes += 1
        return export.crashes >= settings.max_crashes
    export.lost_runs += 1
    return export.lost_runs >= settings.max_lost_runs


def _fail(session: Session, export: Export, failure: Failure | None) -> None:
    found = failure or Failure(
        code="unknown",
        message="the run ended without saying why",
        fault="infrastructure",
        remedy="look at the worker's log",
    )
    export.status, export.finished_at = ExportStatus.FAILED, now(session)
    export.error = found.model_dump()
